"""Moving averages of parameters."""

import jax
from jaxtyping import Float, PyTree

from rlhf_jax.types import Scalar


def ema(
    average: PyTree, params: PyTree, decay: Float[Scalar, ""], weight: Float[Scalar, ""]
) -> tuple[PyTree, Float[Scalar, ""]]:
    """w ← 1 + decay·w and θ̄ ← (1 − 1/w)·θ̄ + θ/w, from w = 0: the mean of θ₁ … θₜ in which θₛ weighs decayᵗ⁻ˢ.

    It is θ̄ ← decay·θ̄ + (1 − decay)·θ (InstructGPT, App. C.4: decay 0.992 an update), corrected for its start as Adam's
    moments are (Kingma and Ba 2014, §3): the first update leaves θ₁, and nothing of what stood there before. A decay of 0
    gives θ itself, one of 1 the plain mean. weight: w, which comes back with the average.
    """
    weight = 1.0 + decay * weight
    share = 1.0 / weight
    return jax.tree.map(lambda a, p: (1.0 - share) * a + share * p, average, params), weight
