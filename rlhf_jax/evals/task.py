"""A task: items, what a model is asked about each, and the row that its replies make. A task knows of no model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rlhf_jax.data import Prompt
from rlhf_jax.evals.intervals import Estimate, Scale
from rlhf_jax.evals.measured import Row
from rlhf_jax.models import Sampling

Context = str | Prompt  # a document's beginning, or a conversation after which the assistant speaks


class Likely(NamedTuple):
    """How likely is a text after its context? Behind a document's beginning it starts with the space that it needs."""

    context: Context
    text: str


class Write(NamedTuple):
    """What does the model write after its context?"""

    context: Context


class LogProb(NamedTuple):
    """The reply to Likely."""

    logp: float  # Σ log p over the text's tokens, nats
    tokens: int  # of the text
    greedy: bool  # each of its tokens was the most likely one


class Said(NamedTuple):
    """The reply to Write."""

    text: str  # up to the first of the task's stops, which is cut off
    ended: bool  # the model came to its end, or to a stop, within the tokens that it had


Ask = Likely | Write
Reply = LogProb | Said


@dataclass(frozen=True)
class Task:
    """One way of measuring any model.

    asks: an item → what the model is asked about it, which may be nothing.
    rows: several items, and the replies to each → a row each. A function of several, so that a scorer or a judge sees them
    at once. What it returns for an item must not depend on the others beside it.
    scales: as for `figures_of`. more: figures that are no means of values, from all rows.
    """

    name: str
    items: Sequence[Any]  # tuples, as JSON has them: by their content an unfinished folder is recognised
    asks: Callable[[Any], Sequence[Ask]]
    rows: Callable[[Sequence[Any], Sequence[Sequence[Any]]], Sequence[Row]]
    scales: Mapping[str, Scale | None]
    sampling: Sampling = Sampling(0.0, 0, 1.0)  # of what is written (App. D: temperature 0)
    max_tokens: int | None = None  # of what is written; None: the model's format.answer_tokens
    stops: tuple[str, ...] = ()  # texts at which it is cut off
    more: Callable[[Sequence[Row]], dict[str, Estimate]] | None = None
