"""LAMBADA (Paperno et al. 2016, arXiv:1606.06031): the last word of a passage, which its last sentence does not tell."""

import re
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from rlhf_jax.data import read_rows
from rlhf_jax.errors import InputError
from rlhf_jax.evals.choices import context_of, text_after
from rlhf_jax.evals.intervals import SHARE, Estimate
from rlhf_jax.evals.measured import Row, figures_of
from rlhf_jax.evals.task import Likely, LogProb, Task

SCALES = {"lambada/acc": SHARE, "lambada/nats_per_word": None}


class LastWord(NamedTuple):
    id: str
    context: str
    word: str


def read_lambada(source: str) -> list[LastWord]:
    """The passages of a text file, one a line (lambada_test_plain_text.txt, also .gz), or of rows {"text"} (the hub's
    "EleutherAI/lambada_openai:test"). The last word is what stands behind the last space.

    InputError, with the line: a passage of one word, or that ends in a space.
    """
    found = []
    for where, text in _passages(source):
        context, _, word = text.rpartition(" ")
        if not context.strip() or not word.strip():
            raise InputError(f"{where}: a passage needs a last word behind a space, and words before it: mend the line")
        found.append(LastWord(str(len(found) + 1), context, word))
    return found


def lambada(items: Sequence[LastWord], shots: Sequence[LastWord] = (), chat: bool = False) -> Task:
    """lambada/acc: each token of the last word is the likeliest one. lambada/nats_per_word: −log p of the last word, and
    lambada/perplexity its exp, over words: exp(Σ nats / words), as lm-evaluation-harness has both.

    With shots, and in a conversation, where a passage alone asks for nothing, the passage is "… _____. ->" behind
    "Fill in blank:" (Brown et al. 2020, Fig. G.21).
    """
    cloze = bool(shots) or chat
    opening = "Fill in blank:\n\n" + "".join(f"{_blank(shot)} {shot.word}\n\n" for shot in shots) if cloze else ""
    name = f"lambada_{len(shots)}_shot{'_chat' if chat else ''}"
    return Task(name, items, partial(_asks, opening, chat), _rows, SCALES, more=_perplexity)


def _passages(source: str) -> Iterator[tuple[str, str]]:
    """Where, and the passage. A text file is one row, whose blank lines are no passages; others' may hold newlines."""
    lines = re.search(r"\.txt(\.gz|\.xz)?$", source, re.IGNORECASE) is not None
    for row in read_rows(source):
        if not lines:
            yield row.where, row.text("text")
            continue
        for number, line in enumerate(row.text("text").split("\n"), 1):
            if line:
                yield f"{row.where}, line {number}", line


def _blank(item: LastWord) -> str:
    return f"{item.context} _____. ->"


def _asks(opening: str, chat: bool, item: LastWord) -> list[Likely]:
    text = f"{opening}{_blank(item)}" if opening else item.context
    return [Likely(context_of(text, chat), text_after(item.word, chat))]


def _rows(items: Sequence[LastWord], replies: Sequence[Sequence[LogProb]]) -> list[Row]:
    return [
        Row(item.id, item.id, {"lambada/acc": float(r.greedy), "lambada/nats_per_word": -r.logp}, {"word": item.word})
        for item, (r,) in zip(items, replies, strict=True)
    ]


def _perplexity(rows: Sequence[Row]) -> dict[str, Estimate]:
    """exp of the mean of nats, and of its bounds."""
    mean, low, high, n = figures_of(rows, SCALES)["lambada/nats_per_word"]
    low, high = (None if bound is None else float(np.exp(bound)) for bound in (low, high))
    return {"lambada/perplexity": Estimate(float(np.exp(mean)), low, high, n)}
