"""Which rows make up the batch of a step: a pure function of the seed and the step."""

import dataclasses
from functools import lru_cache
from typing import TypeVar

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from rlhf_jax.errors import InputError
from rlhf_jax.types import LabelBatch, MaskedTextBatch, PromptBatch, RankingBatch, TextBatch

Batch = TypeVar("Batch", TextBatch, MaskedTextBatch, PromptBatch, RankingBatch, LabelBatch)
Rows = TypeVar("Rows", TextBatch, RankingBatch, LabelBatch)  # padded on the right


def batch_indices(n: int, batch: int, seed: int, step: int) -> Int[ndarray, "batch"]:
    """The rows of step `step` (0, 1, ...), int64, out of `n`.

    The endless stream of permutations of range(n), each seeded by [seed, epoch], holds them at positions
    step·batch to (step + 1)·batch. A batch may span epochs, so `n` may be smaller than it. The state of a
    sampler is its step, and nothing else. InputError: no rows.
    """
    if n < 1:
        raise InputError("there are no rows to draw a batch from: check the data that are left after filtering")
    position = step * batch + np.arange(batch)
    epochs = position // n
    rows = np.empty(batch, np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        rows[here] = _permutation(n, seed, int(epoch))[position[here] % n]
    return rows


def take(batch: Batch, indices: Int[ndarray, "N"]) -> Batch:
    """The rows of `batch` at `indices`, in that order."""
    rows = {field.name: getattr(batch, field.name)[indices] for field in dataclasses.fields(batch)}
    return dataclasses.replace(batch, **rows)


def without_padding(batch: Rows) -> Rows:
    """The batch without the columns on the right that none of its rows needs: those past the last token of a text, or of a
    ranking's answers, or past the last that is to be predicted. Widths are multiples of an eighth of the whole, rounded up to
    one of 8, so that a step is compiled for eight of them at most."""
    used = batch.predict if isinstance(batch, TextBatch) else batch.mask
    width = used.shape[-1]
    piece = -(-width // 64) * 8
    last = np.flatnonzero(used.reshape(-1, width).any(axis=0)).max(initial=0)
    kept = min((last // piece + 1) * piece, width)
    columns = [field.name for field in dataclasses.fields(batch) if field.name in ("tokens", "mask", "predict")]
    return dataclasses.replace(batch, **{name: getattr(batch, name)[..., :kept] for name in columns})


@lru_cache(maxsize=4)  # consecutive steps ask for the same epoch
def _permutation(n: int, seed: int, epoch: int) -> Int[ndarray, "n"]:
    order = np.random.default_rng([seed, epoch]).permutation(n)
    order.flags.writeable = False
    return order
