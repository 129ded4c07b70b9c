"""Adam with InstructGPT's constants; the learning rate stays outside, so that it is an argument of the step."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from rlhf_jax.equations import Mean, cosine, mean
from rlhf_jax.models import AnyLanguageModel, AnyScalarModel, averaged_over
from rlhf_jax.types import Scalar, TrainState


class TextCoef(NamedTuple):
    """The learning rate of supervised training, as numbers that can be swept."""

    lr: Float[Scalar, "*S"]  # at the peak
    steps: Float[Scalar, "*S"]  # where the cosine reaches the floor
    floor: Float[Scalar, "*S"]  # share of the peak
    warmup: Float[Scalar, "*S"]  # steps


def text_coef(lr: float, steps: float, floor: float, warmup: float = 0.0) -> TextCoef:
    """TextCoef of float32 scalars."""
    return TextCoef(*(np.float32(x) for x in (lr, steps, floor, warmup)))


def adam(eps: float, clip_norm: float) -> optax.GradientTransformation:
    """Clip the global norm, then Adam with β₁ = 0.9, β₂ = 0.95 (InstructGPT, App. C), without a learning rate."""
    return optax.chain(optax.clip_by_global_norm(clip_norm), optax.scale_by_adam(b1=0.9, b2=0.95, eps=eps))


def gradient(loss: Callable[..., tuple[Float[Array, ""], dict[str, Mean]]], model: AnyLanguageModel | AnyScalarModel):
    """(params, batch, coef) → (gradient, metrics) of a loss that reads the model by rows."""

    def of(params: PyTree, batch: PyTree, coef: Any) -> tuple[PyTree, dict[str, Mean]]:
        grads, metrics = jax.grad(loss, has_aux=True)(params, batch, coef)
        return averaged_over(grads, model.config.axis_name), metrics

    return of


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


def update(
    state: TrainState, grads: PyTree, coef: TextCoef, optimiser: optax.GradientTransformation
) -> tuple[TrainState, dict[str, Mean]]:
    """One update of all parameters at the rate that the schedule has for this step, and its metrics."""
    lr = coef.lr * cosine(state.step, coef.steps, coef.floor, coef.warmup)
    params, opt_state, norm = descend(optimiser, grads, state.opt_state, state.params, lr)
    state = replace(state, step=state.step + 1, params=params, opt_state=opt_state)
    return state, {"lr": mean(lr), "grad_norm": mean(norm)}
