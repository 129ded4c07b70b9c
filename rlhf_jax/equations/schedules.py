"""Learning rates as factors of the step, between 0 and 1."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from rlhf_jax.types import Scalar


def cosine(
    step: Int[Scalar, ""],
    steps: Float[Scalar, ""],
    floor: Float[Scalar, ""],
    warmup: Float[Scalar, ""],
) -> Float[Array, ""]:
    """A linear warm-up over the first steps, then a cosine from 1 down to the floor at the last of `steps` steps.

    InstructGPT, App. C.1 and C.2: floor 0.1, no warm-up.
    """
    ramp = jnp.minimum((step + 1.0) / jnp.maximum(warmup, 1.0), 1.0)
    progress = jnp.clip((step - warmup) / jnp.maximum(steps - 1.0 - warmup, 1.0), 0.0, 1.0)
    return ramp * (floor + (1.0 - floor) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress)))


def linear(step: Int[Scalar, ""], steps: Float[Scalar, ""], end: Float[Scalar, ""]) -> Float[Array, ""]:
    """From 1, linearly, to `end` after so many steps, then constant. An end of 1 is no schedule."""
    return 1.0 + (end - 1.0) * jnp.minimum(step / jnp.maximum(steps, 1.0), 1.0)


def linear_warmup(step: Int[Scalar, ""], steps: Float[Scalar, ""], start: Float[Scalar, ""] = 0.1) -> Float[Array, ""]:
    """From a tenth of the peak, linearly, to 1 after so many steps, then constant (InstructGPT, App. C.4: 10)."""
    return jnp.minimum(start + (1.0 - start) * step / jnp.maximum(steps, 1.0), 1.0)
