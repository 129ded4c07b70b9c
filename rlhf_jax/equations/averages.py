"""Moving averages of parameters."""

import jax
from jaxtyping import Float, PyTree

from rlhf_jax.types import Scalar


def ema(average: PyTree, params: PyTree, decay: Float[Scalar, ""]) -> PyTree:
    """θ̄ ← decay·θ̄ + (1 − decay)·θ (InstructGPT, App. C.4: decay 0.992 a PPO iteration's update)."""
    return jax.tree.map(lambda a, p: decay * a + (1.0 - decay) * p, average, params)
