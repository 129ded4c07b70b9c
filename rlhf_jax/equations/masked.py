"""Every masked reduction of the library. An empty mask gives 0 with zero gradients, never NaN."""

from collections.abc import Mapping
from typing import Literal

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Shaped

from rlhf_jax.types import PerAnswer


@struct.dataclass
class Mean:
    """A mean kept as numerator and denominator: adding two of them is the mean over both sets of entries, so that
    micro-batches, minibatches, padding and the number of devices do not change it."""

    total: Float[Array, "*S"]
    count: Float[Array, "*S"]

    def __add__(self, other: "Mean") -> "Mean":
        return Mean(self.total + other.total, self.count + other.count)

    @property
    def value(self) -> Float[Array, "*S"]:
        return self.total / jnp.maximum(self.count, 1.0)


def masked_mean(x: Float[Array, "*S"], mask: Bool[Array, "*S"]) -> Mean:
    """Mean over the entries where the mask is True."""
    return Mean(masked_sum(x, mask), jnp.sum(mask, dtype=jnp.float32))


def masked_sum(x: Float[Array, "*S"], mask: Bool[Array, "*S"]) -> Float[Array, ""]:
    """Sum over the entries where the mask is True; what stands elsewhere, NaN included, has no influence."""
    return jnp.sum(jnp.where(mask, x, 0.0))


def averaged(x: Float[Array, "*B T"], mask: Bool[Array, "*B T"], over: Literal["token", "answer", "constant"]) -> Mean:
    """What the mean of a loss over ragged rows is taken over.

    token: all tokens alike (PPO in TRL; DAPO, Yu et al. 2025, arXiv:2503.14476, Eq. 12). answer: each row's mean over its
    tokens, all rows alike, so that a token of a long answer weighs less (GRPO, Shao et al. 2024, arXiv:2402.03300, Eq. 3).
    constant: the rows' sums, divided by B·T, the same for every mask (Dr. GRPO, Liu et al. 2025, arXiv:2503.20783): of the
    three the only one whose policy gradient is that of the expected reward, up to the factor 1/T.
    """
    if over == "token":
        return masked_mean(x, mask)
    sums, lengths = row_sums(x, mask), jnp.sum(mask, axis=-1)
    if over == "answer":
        return masked_mean(sums / jnp.maximum(lengths, 1), lengths > 0)
    return Mean(jnp.sum(sums), jnp.asarray(mask.size, jnp.float32))


def mean(x: Shaped[Array, "*S"]) -> Mean:
    """Mean over all entries."""
    return Mean(jnp.sum(x, dtype=jnp.float32), jnp.asarray(x.size, jnp.float32))


def row_sums(x: Float[Array, "*B T"], mask: Bool[Array, "*B T"]) -> Float[Array, "*B"]:
    """Sum over the tokens of each row."""
    return jnp.sum(jnp.where(mask, x, 0.0), axis=-1)


def masked_variance(x: Float[Array, "*S"], mask: Bool[Array, "*S"], unbiased: bool) -> Float[Array, ""]:
    """Σ (x − x̄)² / n, or / (n − 1) when unbiased (n at least 2 is assumed there; one entry gives 0)."""
    x = jnp.where(mask, x, 0.0)  # before the square, whose gradient would carry a NaN from outside the mask
    squares = masked_mean((x - masked_mean(x, mask).value) ** 2, mask)
    count = squares.count - 1.0 if unbiased else squares.count
    return squares.total / jnp.maximum(count, 1.0)


def whiten(
    x: Float[Array, "*S"], mask: Bool[Array, "*S"], shift_mean: bool = True, unbiased: bool = False
) -> Float[Array, "*S"]:
    """(x − x̄) / √(var + 1e-8) over the masked entries of the whole batch, 0 elsewhere.

    shift_mean=False puts the mean back (Ziegler et al. 2019, code: rewards); the biased variance is theirs as well.
    """
    x = jnp.where(mask, x, 0.0)
    average = masked_mean(x, mask).value
    white = (x - average) / jnp.sqrt(masked_variance(x, mask, unbiased) + 1e-8)
    return jnp.where(mask, white if shift_mean else white + average, 0.0)


def values(metrics: Mapping[str, Mean | PerAnswer]) -> dict[str, Float[Array, "*S"]]:
    """The metrics as numbers, for whoever writes them down; not what there is for each answer."""
    return {name: metric.value for name, metric in metrics.items() if isinstance(metric, Mean)}


def summed(metrics: dict[str, Mean]) -> dict[str, Mean]:
    """Metrics with a leading axis of minibatches → the metrics of all of them together."""
    return {name: Mean(jnp.sum(m.total, axis=0), jnp.sum(m.count, axis=0)) for name, m in metrics.items()}
