"""HellaSwag (Zellers et al. 2019, arXiv:1905.07830): which of four endings continues a description?"""

import re
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from rlhf_jax.data import read_rows
from rlhf_jax.data.sources import name_of
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.evals.choices import context_of, likeliest_is, text_after, total_logps
from rlhf_jax.evals.intervals import SHARE
from rlhf_jax.evals.measured import Row
from rlhf_jax.evals.task import Likely, LogProb, Task


class Ending(NamedTuple):
    id: str
    cluster: str  # the video or the article that it is from: validation has several descriptions of one
    context: str
    endings: tuple[str, ...]
    right: int


def read_hellaswag(source: str) -> list[Ending]:
    """The descriptions of hellaswag_val.jsonl, or of the hub's "Rowan/hellaswag:validation", prepared as
    lm-evaluation-harness has them (`prepared`): "{activity_label}: {ctx_a} {Ctx_b}".

    InputError, with the line: a key that is missing, a label that is no number of an ending (the test split has none).
    """
    found = []
    for number, row in enumerate(read_rows(source), 1):
        endings = row.fields.get("endings")
        if not isinstance(endings, list) or not all(isinstance(ending, str) for ending in endings):
            raise InputError(f"{row.where}: 'endings' holds {shortened(endings)}: make it a list of strings")
        label = name_of(row, "label")
        if not label.isdecimal() or int(label) >= len(endings):
            raise InputError(
                f"{row.where}: the label is {label!r}, and there are {len(endings)} endings from 0 on: take a labelled split"
            )
        activity, ctx_a, ctx_b = (row.text(key) for key in ("activity_label", "ctx_a", "ctx_b"))
        context = prepared(f"{activity}: {ctx_a} {ctx_b.capitalize()}")
        id = str(number)  # `ind` is of an article or a video, and not unique
        found.append(Ending(id, name_of(row, "source_id") or id, context, tuple(map(prepared, endings)), int(label)))
    return found


def prepared(text: str) -> str:
    """Without the brackets that WikiHow's part of the data has, and what they leave: "[header] Ice [title] Melt it" is
    "Ice. Melt it"."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def hellaswag(items: Sequence[Ending], shots: Sequence[Ending] = (), chat: bool = False) -> Task:
    """hellaswag/acc: the right ending has the highest Σ log p. hellaswag/acc_norm: the highest Σ log p per character of the
    ending. Both as lm-evaluation-harness has them. hellaswag/acc_token: the highest per token (InstructGPT, App. D).

    shots: others with their endings, before the description, a blank line between.
    """
    opening = "".join(f"{shot.context} {shot.endings[shot.right]}\n\n" for shot in shots)
    scales = {f"hellaswag/{name}": SHARE for name in ("acc", "acc_norm", "acc_token")}
    name = f"hellaswag_{len(shots)}_shot{'_chat' if chat else ''}"
    return Task(name, items, partial(_asks, opening, chat), _rows, scales)


def _asks(opening: str, chat: bool, item: Ending) -> list[Likely]:
    context = context_of(f"{opening}{item.context}", chat)
    return [Likely(context, text_after(ending, chat)) for ending in item.endings]


def _rows(items: Sequence[Ending], replies: Sequence[Sequence[LogProb]]) -> list[Row]:
    rows = []
    for item, found in zip(items, replies, strict=True):
        logps = total_logps(found)
        characters, tokens = np.array([len(e) for e in item.endings]), np.array([reply.tokens for reply in found])
        values = {
            "hellaswag/acc": likeliest_is(item.right, logps),
            "hellaswag/acc_norm": likeliest_is(item.right, logps / characters),
            "hellaswag/acc_token": likeliest_is(item.right, logps / tokens),
        }
        rows.append(Row(item.id, item.cluster, values, {"context": item.context, "logp": logps.tolist()}))
    return rows
