"""Learning rates as factors of the step, between 0 and 1.

Three shapes share one signature: (step, steps, floor, warmup). The warm-up rises linearly over its steps, the last of which
is at the peak; of `steps` steps the last is at the floor, a share of the peak. A warm-up of 0 is none.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Real

from rlhf_jax.types import Scalar


def constant(
    step: Real[Scalar, ""],
    steps: Float[Scalar, ""],
    floor: Float[Scalar, ""],
    warmup: Float[Scalar, ""],
) -> Float[Array, ""]:
    """1 after the warm-up; steps and floor are not read."""
    return _ramp(step, warmup)


def linear_decay(
    step: Real[Scalar, ""],
    steps: Float[Scalar, ""],
    floor: Float[Scalar, ""],
    warmup: Float[Scalar, ""],
) -> Float[Array, ""]:
    """A linear warm-up over the first steps, then a straight line from 1 down to the floor at the last of `steps` steps."""
    return _ramp(step, warmup) * (floor + (1.0 - floor) * (1.0 - _progress(step, steps, warmup)))


def cosine(
    step: Real[Scalar, ""],
    steps: Float[Scalar, ""],
    floor: Float[Scalar, ""],
    warmup: Float[Scalar, ""],
) -> Float[Array, ""]:
    """A linear warm-up over the first steps, then a cosine from 1 down to the floor at the last of `steps` steps
    (Loshchilov & Hutter 2016, arXiv:1608.03983, Eq. 5).

    InstructGPT, App. C.1 and C.2: floor 0.1, no warm-up.
    """
    progress = _progress(step, steps, warmup)
    return _ramp(step, warmup) * (floor + (1.0 - floor) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress)))


def linear(step: Int[Scalar, ""], steps: Float[Scalar, ""], end: Float[Scalar, ""]) -> Float[Array, ""]:
    """From 1, linearly, to `end` after so many steps, then constant; `end` throughout where steps is 0. An end of 1 is no
    schedule."""
    return 1.0 + (end - 1.0) * jnp.where(steps > 0, jnp.minimum(step / jnp.maximum(steps, 1.0), 1.0), 1.0)


def linear_warmup(step: Int[Scalar, ""], steps: Float[Scalar, ""], start: Float[Scalar, ""] = 0.1) -> Float[Array, ""]:
    """From a tenth of the peak, linearly, to 1 after so many steps, then constant (InstructGPT, App. C.4: 10); 1
    throughout where steps is 0."""
    return jnp.where(steps > 0, jnp.minimum(start + (1.0 - start) * step / jnp.maximum(steps, 1.0), 1.0), 1.0)


def _ramp(step: Real[Scalar, ""], warmup: Float[Scalar, ""]) -> Float[Array, ""]:
    return jnp.minimum((step + 1.0) / jnp.maximum(warmup, 1.0), 1.0)


def _progress(step: Real[Scalar, ""], steps: Float[Scalar, ""], warmup: Float[Scalar, ""]) -> Float[Array, ""]:
    """0 until the warm-up is over, 1 from the last step on."""
    return jnp.clip((step - warmup) / jnp.maximum(steps - 1.0 - warmup, 1.0), 0.0, 1.0)
