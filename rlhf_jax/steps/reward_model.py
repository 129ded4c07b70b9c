"""The reward model: one forward pass for each answer, all C(K,2) comparisons of a prompt together."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from rlhf_jax.equations import Mean, pair_accuracy, ranking_loss
from rlhf_jax.models import AnyScalarModel, by_rows, last_token_score, scalars
from rlhf_jax.steps.optimiser import Schedule, TextCoef, gradient, update
from rlhf_jax.types import RankingBatch, TrainState

Objective = Callable[[Float[Array, "B K"], Int[Array, "B K"]], Mean]  # of scores and ranks


def reward(
    params: PyTree, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"], *, model: AnyScalarModel
) -> Float[Array, " B"]:
    """r_θ(x, y): the scalar at the answer's last token. The same with padding on either side."""
    return by_rows(lambda t, m: last_token_score(scalars(model, params, t, m), m), model, tokens, mask)


def reward_loss(
    params: PyTree,
    batch: RankingBatch,
    coef: TextCoef,
    *,
    model: AnyScalarModel,
    objective: Objective = ranking_loss,
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """objective of the answers' scores and ranks: by default the mean over prompts of the K-wise loss (InstructGPT, Eq. 1);
    `plackett_luce_loss`, `partial(ranking_loss, pair_loss=hinge)`, or one's own.

    Where answers are made up (rank −1), they add a term of their own: the objective of rankings in which all others tie above
    them. The comparisons that people made weigh as they do without, and accuracy/train is over these alone.
    """
    B, K, T = batch.tokens.shape
    tokens, mask = jnp.asarray(batch.tokens), jnp.asarray(batch.mask)
    ranks = jnp.asarray(batch.ranks)
    scores = reward(params, tokens.reshape(B * K, T), mask.reshape(B * K, T), model=model).reshape(B, K)
    made_up, ranked = ranks < 0, jnp.maximum(ranks, 0)
    loss, some = objective(scores, ranked), jnp.any(made_up)
    # Without any it is people's rankings once more, which have pairs: an objective need not be finite where all tie.
    below = objective(scores, jnp.where(some, jnp.where(made_up, 2, jnp.minimum(ranked, 1)), ranked))
    below = jax.tree.map(lambda x: jnp.where(some, x, 0.0), below)
    metrics = {"loss/train": loss, "made_up/loss": below, "accuracy/train": pair_accuracy(scores, ranked)}
    return loss.value + below.value, metrics


def reward_step(
    state: TrainState,
    batch: RankingBatch,
    coef: TextCoef,
    *,
    model: AnyScalarModel,
    optimiser: optax.GradientTransformation,
    schedule: Schedule = "cosine",
    objective: Objective = ranking_loss,
) -> tuple[TrainState, dict[str, Mean]]:
    """One update of the transformer and its scalar head."""
    loss = partial(reward_loss, model=model, objective=objective)
    grads, metrics = gradient(loss, model)(state.params, batch, coef)
    state, rate = update(state, grads, coef, optimiser, schedule)
    return state, metrics | rate


def centred(params: dict, scores: Float[Array, " B"]) -> dict:
    """The same model with its bias moved so that these scores (of demonstrations) average 0 (InstructGPT, App. C.2)."""
    return {**params, "bias": params["bias"] - jnp.mean(scores)}
