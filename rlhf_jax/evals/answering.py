"""Answers to prompts, which somebody is to judge: what a model writes, how long it is, and whether it came to an end."""

import hashlib
from collections.abc import Sequence
from typing import Any, NamedTuple

from rlhf_jax.data import Messages, Prompt
from rlhf_jax.errors import InputError
from rlhf_jax.evals.intervals import SHARE
from rlhf_jax.evals.measured import Row
from rlhf_jax.evals.task import Said, Task, Write
from rlhf_jax.models import Sampling


class Asked(NamedTuple):
    """A prompt, and the id of its answer's row: a hash of what it says, with a number behind it where it comes again."""

    id: str
    prompt: Prompt


class Answered(NamedTuple):
    """A row of `answering`, read back."""

    id: str
    prompt: Prompt
    answer: str


def answering(
    prompts: Sequence[Prompt],
    *,
    name: str = "answers",
    sampling: Sampling = Sampling(0.0, 0, 1.0),
    max_tokens: int | None = None,
) -> Task:
    """A row each prompt: the answer is in `shown`, "length" its characters, and "ended" whether the model ended it.

    Rows of one user are a cluster, or of one prompt where nobody is named. sampling, max_tokens: as for `Task`.
    """
    seen: dict[str, int] = {}
    items = []
    for prompt in prompts:
        said = hashlib.sha256(prompt.text.encode(errors="surrogatepass")).hexdigest()[:16]
        seen[said] = seen.get(said, 0) + 1
        items.append(Asked(said if seen[said] == 1 else f"{said}-{seen[said]}", prompt))
    return Task(name, items, _asks, _rows, {"length": None, "ended": SHARE}, sampling, max_tokens)


def answered(row: Row) -> Answered:
    """The prompt and the answer of a row that `answering` made. InputError: it has none."""
    try:
        said, answer = row.shown["prompt"], row.shown["answer"]
    except KeyError:
        raise InputError(f"the row {row.id} shows no prompt and answer: give the rows of `answering`") from None
    conversation = said if isinstance(said, str) else Messages(said)
    more = {key: row.shown[key] for key in ("category", "user") if key in row.shown}
    prompt = Prompt(conversation, **more)
    if row.shown.get("columns"):
        prompt = prompt._replace(columns=type(prompt.columns)(row.shown["columns"]))
    return Answered(row.id, prompt, answer)


def _asks(item: Asked) -> list[Write]:
    return [Write(item.prompt)]


def _rows(items: Sequence[Asked], replies: Sequence[Sequence[Said]]) -> list[Row]:
    return [_row(item, said) for item, (said,) in zip(items, replies, strict=True)]


def _row(item: Asked, said: Said) -> Row:
    prompt = item.prompt
    conversation: Any = prompt.conversation if isinstance(prompt.conversation, str) else list(prompt.conversation)
    more = {"category": prompt.category, "user": prompt.user, "columns": dict(prompt.columns)}
    shown = {"prompt": conversation, "answer": said.text} | {key: value for key, value in more.items() if value}
    values = {"length": float(len(said.text)), "ended": float(said.ended)}
    return Row(item.id, prompt.user or prompt.text, values, shown)
