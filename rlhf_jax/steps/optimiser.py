"""Adam with InstructGPT's constants; the learning rate stays outside, so that it is an argument of the step."""

import jax
import optax
from jaxtyping import Array, Float, PyTree

from rlhf_jax.types import Scalar


def adam(eps: float, clip_norm: float) -> optax.GradientTransformation:
    """Clip the global norm, then Adam with β₁ = 0.9, β₂ = 0.95 (InstructGPT, App. C), without a learning rate."""
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.scale_by_adam(b1=0.9, b2=0.95, eps=eps))


def descend(
    optimiser: optax.GradientTransformation,
    grads: PyTree,
    opt_state: PyTree,
    params: PyTree,
    lr: Float[Scalar, ""],
) -> tuple[PyTree, PyTree, Float[Array, ""]]:
    """θ ← θ − lr · update. Returns parameters, optimiser state and the gradient's norm before clipping."""
    updates, opt_state = optimiser.update(grads, opt_state, params)
    params = jax.tree.map(lambda p, u: p - lr * u, params, updates)
    return params, opt_state, optax.tree.norm(grads)
