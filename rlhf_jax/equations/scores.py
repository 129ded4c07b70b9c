"""From the reward models' scores of an answer to the one that the policy is trained on."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.types import Moments, Scalar


def ensemble_score(
    scores: Float[Array, "E B"], how: Literal["mean", "minimum"], uncertainty: Float[Scalar, ""]
) -> Float[Array, " B"]:
    """What E reward models say together: mean − uncertainty·variance, or the minimum (Coste et al. 2023,
    arXiv:2310.02743, §4.2). The variance is over the models, biased; one model has none."""
    if how == "minimum":
        return jnp.min(scores, axis=0)
    return jnp.mean(scores, axis=0) - uncertainty * jnp.var(scores, axis=0)


def nothing_seen() -> Moments:
    """The moments of no number at all."""
    return Moments(*(jnp.zeros((), jnp.float32) for _ in range(3)))


def seen(moments: Moments, x: Float[Array, " B"]) -> Moments:
    """The moments of everything seen before and of x (Chan et al. 1983, pairwise update)."""
    count = jnp.asarray(x.size, jnp.float32)
    both = moments.count + count
    delta = jnp.mean(x) - moments.mean
    squares = moments.squares + jnp.sum((x - jnp.mean(x)) ** 2) + delta**2 * moments.count * count / both
    return Moments(both, moments.mean + delta * count / both, squares)


def normalised(x: Float[Array, " B"], moments: Moments) -> Float[Array, " B"]:
    """(x − mean) / standard deviation (biased). Unchanged where nothing was seen, or nothing but one value."""
    variance = moments.squares / jnp.maximum(moments.count, 1.0)
    return (x - moments.mean) / jnp.sqrt(jnp.where(variance > 0, variance, 1.0))
