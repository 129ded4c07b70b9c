"""Adam with InstructGPT's constants; the learning rate stays outside, so that it is an argument of the step."""

import operator
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from rlhf_jax.equations import Mean, constant, cosine, linear_decay, mean
from rlhf_jax.errors import InputError
from rlhf_jax.models import AnyModel, averaged_over
from rlhf_jax.types import Scalar, TrainState

Schedule = Literal["constant", "linear", "cosine"]  # a formula and not a number: another choice is another program
SCHEDULES: dict[Schedule, Callable[..., Float[Array, ""]]] = {
    "constant": constant,
    "linear": linear_decay,
    "cosine": cosine,
}


class TextCoef(NamedTuple):
    """The learning rate of supervised training, as numbers that can be swept."""

    lr: Float[Scalar, "*S"]  # at the peak
    steps: Float[Scalar, "*S"]  # the last of which is at the floor
    floor: Float[Scalar, "*S"]  # share of the peak
    warmup: Float[Scalar, "*S"]  # steps


def text_coef(lr: float, steps: int | float, floor: float, warmup: int | float = 0) -> TextCoef:
    """TextCoef of float32 scalars."""
    return TextCoef(*(np.float32(x) for x in (lr, steps, floor, warmup)))


def adam(
    eps: float = 1e-8,
    clip_norm: float = 1.0,
    b1: float = 0.9,
    b2: float = 0.95,
    weight_decay: float = 0.0,
    frozen: str = "",
) -> optax.GradientTransformation:
    """Clip the global norm, then Adam, by default with β₁ = 0.9, β₂ = 0.95 (InstructGPT, App. C), without a learning rate.

    weight_decay: λ of AdamW, whose update is Adam's + λ·θ (Loshchilov & Hutter 2017, arXiv:1711.05101, Alg. 2): the learning
    rate multiplies both. Norms and biases do not decay.
    frozen: a regular expression. A parameter in whose path, such as "transformer/block_0/attention/query/kernel", it is
    found never moves: it has no moments and no decay, and its gradient is no part of the norm that is clipped.

    InputError: frozen is no regular expression, or, at `init`, is found in no parameter's path.
    """
    parts = [optax.clip_by_global_norm(clip_norm), optax.scale_by_adam(b1=b1, b2=b2, eps=eps)]
    if weight_decay:
        parts.append(optax.add_decayed_weights(weight_decay, mask=_decays))
    if not frozen:
        return optax.chain(*parts)
    try:
        pattern = re.compile(frozen)
    except re.error as error:
        raise InputError(f"frozen = {frozen!r} is not a regular expression: {error}") from error

    def stays(params: PyTree) -> PyTree:
        found = _by_path(lambda path: bool(pattern.search(path)), params)
        if not any(jax.tree.leaves(found)):
            raise InputError(
                f"frozen = {frozen!r} is found in no parameter's path; paths look like transformer/block_0/mlp/up/kernel"
            )
        return found

    def moves(params: PyTree) -> PyTree:
        return jax.tree.map(operator.not_, stays(params))

    return optax.chain(optax.masked(optax.chain(*parts), moves), optax.masked(optax.set_to_zero(), stays))


def _decays(params: PyTree) -> PyTree:
    """False for norms and biases, by their names: with config.scan their arrays have an axis of layers in front."""
    return _by_path(lambda path: re.search(r"(^|/)bias$|_norm/[^/]*$", path) is None, params)


def _by_path(says: Callable[[str], bool], params: PyTree) -> PyTree:
    """What is said of each parameter's path, its names joined by slashes."""

    def one(path: tuple[Any, ...], _: Any) -> bool:
        return says(jax.tree_util.keystr(path, simple=True, separator="/"))

    return jax.tree_util.tree_map_with_path(one, params)


def gradient(loss: Callable[..., tuple[Float[Array, ""], dict[str, Mean]]], model: AnyModel):
    """(params, batch, coef) → (gradient, metrics) of a loss that reads the model by rows. InputError: the model computes in
    float16, whose numbers end at 6e-8, below most of a gradient: nothing here scales losses up for it."""
    if model.config.compute == "float16":
        raise InputError(
            "compute is float16, in which gradients vanish; train in bfloat16 or float32 (float16 samples and evaluates)"
        )

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
    """θ ← θ − lr · update. Returns parameters, optimiser state and the norm of the whole gradient: before clipping, and with
    what the optimiser freezes."""
    updates, opt_state = optimiser.update(grads, opt_state, params)
    params = jax.tree.map(lambda p, u: p - lr * u, params, updates)
    return params, opt_state, optax.tree.norm(grads)


def update(
    state: TrainState,
    grads: PyTree,
    coef: TextCoef,
    optimiser: optax.GradientTransformation,
    schedule: Schedule = "cosine",
) -> tuple[TrainState, dict[str, Mean]]:
    """One update of all parameters at the rate that the schedule has for this step, and its metrics."""
    lr = coef.lr * SCHEDULES[schedule](state.step, coef.steps, coef.floor, coef.warmup)
    params, opt_state, norm = descend(optimiser, grads, state.opt_state, state.params, lr)
    state = replace(state, step=state.step + 1, params=params, opt_state=opt_state)
    return state, {"lr": mean(lr), "grad_norm": mean(norm)}
