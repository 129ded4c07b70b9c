"""What a language model thinks of given texts: multiple choice, last words, closed tasks, pronouns."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree
from numpy import ndarray

from rlhf_jax.equations import entropy, token_logps
from rlhf_jax.models import LanguageModel, hidden_states, over_logits, replicate_rows
from rlhf_jax.types import AnyArray, TextBatch


class Continuation(NamedTuple):
    """Tokens, and the tokens whose probability after them is asked for."""

    context: list[int]
    target: list[int]


class Likelihood(NamedTuple):
    total: Float[ndarray, " N"]  # Σ log p over the target, nats
    tokens: Float[ndarray, " N"]  # of the target
    greedy: Bool[ndarray, " N"]  # each token of the target was the most likely one


def likelihood(
    model: LanguageModel, params: PyTree, rows: Sequence[Continuation], *, batch: int, length: int
) -> Likelihood:
    """log p(target | context) of each row. Rows longer than `length` lose the beginning of their context; the last token of a
    row is predicted and not read, so that `length` may be the model's context and one.

    Rows of about one length share a batch, and a batch is as wide as its longest row, in one of a few widths, for each of
    which a program is compiled.

    Raises ValueError for a row without context or with a target that does not fit.
    """
    for i, row in enumerate(rows):
        if not row.context or len(row.target) >= length:
            raise ValueError(f"row {i} has {len(row.context)} tokens of context and {len(row.target)} to predict")
    joined = [[*row.context, *row.target][-length:] for row in rows]
    order = sorted(
        range(len(rows)), key=lambda i: -len(joined[i])
    )  # the longest first, so that memory runs out at once
    found = [np.zeros(len(rows), dtype) for dtype in (np.float32, np.float32, bool)]
    for start in range(0, len(rows), batch):
        here = order[start : start + batch]
        # A row's last token is predicted and not read.
        tokens = np.zeros((batch, 1 + width_of(len(joined[here[0]]) - 1, length - 1)), np.int32)
        target = np.zeros(tokens.shape, bool)
        for at, i in enumerate(here):
            end = len(joined[i])
            tokens[at, :end] = joined[i]
            target[at, end - len(rows[i].target) : end] = True
        for column, values in zip(found, per_row(model, params, TextBatch(tokens, target), batch=batch), strict=True):
            column[here] = values[: len(here)]
    return Likelihood(*found)


def width_of(longest: int, most: int) -> int:
    """The width of a batch whose longest row has so many tokens: 16, 24, 32, 48, 64, 96, …, and `most` at most."""
    width = 16
    while width < longest:
        width = width * 3 // 2 if width & (width - 1) == 0 else width * 4 // 3
    return min(width, most)


def likeliest(
    model: LanguageModel, params: PyTree, questions: Sequence[Sequence[Continuation]], *, batch: int, length: int
) -> list[int]:
    """Of each question the index of the choice with the highest total log p. The choices of all questions share batches."""
    total = likelihood(model, params, [c for choices in questions for c in choices], batch=batch, length=length).total
    ends = np.cumsum([len(choices) for choices in questions])
    return [int(np.argmax(of_one)) for of_one in np.split(total, ends[:-1])]


def per_row(
    model: LanguageModel, params: PyTree, rows: TextBatch, *, batch: int
) -> tuple[Float[ndarray, " N"], Float[ndarray, " N"], Bool[ndarray, " N"]]:
    """Of each row of text: Σ log p of the predicted tokens, their number, and whether all were the most likely. Parameters
    may be cut over a mesh, as in answers.py."""
    N, parts = len(rows.tokens), []
    for start in range(0, N, batch):
        at = np.arange(start, start + batch) % N
        parts.append(jax.device_get(replicate_rows(_score(params, rows.tokens[at], rows.predict[at], model))))
    total, tokens, greedy = (np.concatenate(column)[:N] for column in zip(*parts, strict=True))
    return total, tokens, greedy


@partial(jax.jit, static_argnames="model")
def _score(params, tokens: Int[AnyArray, "B T"], predict: Bool[AnyArray, "B T"], model: LanguageModel):
    read = tokens[:, :-1]
    before, _ = hidden_states(model, params, read, jnp.ones(read.shape, bool))
    logp, greedy = over_logits(
        lambda scored, token: (token_logps(scored, token), jnp.argmax(scored, axis=-1) == token),
        model,
        [(params, before)],
        tokens[:, 1:],
    )
    predict = predict[:, 1:]
    total = jnp.sum(jnp.where(predict, logp, 0.0), axis=1)
    return total, jnp.sum(predict, axis=1, dtype=jnp.float32), jnp.all(greedy | ~predict, axis=1)


def choice_entropy_bits(log_likelihoods: Float[ndarray, "N C"]) -> Float[ndarray, " N"]:
    """H = −Σ Pᵢ log₂ Pᵢ over the choices, Pᵢ ∝ the probability of the whole sequence (InstructGPT, App. D).

    1 bit for two equally likely choices: the higher, the less biased.
    """
    return np.asarray(entropy(jnp.asarray(log_likelihoods, jnp.float32))) / np.log(2.0)


def win_scores(ours: Float[ndarray, " N"], theirs: Float[ndarray, " N"]) -> Float[ndarray, " N"]:
    """1 where our answer is judged better, 0 where worse, ½ for a tie."""
    return np.where(ours > theirs, 1.0, np.where(ours == theirs, 0.5, 0.0))
