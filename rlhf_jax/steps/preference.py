"""Direct preference optimisation and its relatives: a policy learns from pairs of answers, without a reward model."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

from rlhf_jax.equations import (
    Mean,
    dpo_loss,
    hinge_loss,
    ipo_loss,
    kto_loss,
    log_ratio_margin,
    masked_mean,
    mean,
    mismatched_kl,
    odds_ratio_loss,
    simpo_loss,
)
from rlhf_jax.models import AnyLanguageModel
from rlhf_jax.steps.language_model import text_logps
from rlhf_jax.steps.optimiser import Schedule, TextCoef, gradient, update
from rlhf_jax.types import JudgedBatch, PairBatch, Scalar, TextBatch, TrainState


class PreferenceCoef(NamedTuple):
    """Everything about the losses on pairs that a researcher sweeps, as numbers."""

    beta: Float[Scalar, "*S"]  # of the log-ratio, per nat
    smoothing: Float[Scalar, "*S"]  # share of labels thought to be flipped (dpo)
    margin: Float[Scalar, "*S"]  # that the pairs should keep (simpo)
    sft: Float[Scalar, "*S"]  # on −log π(y_w|x) per token, beside the preference; ORPO has 1
    rate: TextCoef


class KTOCoef(NamedTuple):
    """Everything about KTO that a researcher sweeps, as numbers."""

    beta: Float[Scalar, "*S"]  # of the log-ratio, per nat
    desirable: Float[Scalar, "*S"]  # weight of answers that were liked
    undesirable: Float[Scalar, "*S"]
    rate: TextCoef


class PairLogps(NamedTuple):
    """log π of both answers under the policy and the reference, each summed over its tokens or their mean."""

    chosen: Float[Array, " B"]
    rejected: Float[Array, " B"]
    ref_chosen: Float[Array, " B"]
    ref_rejected: Float[Array, " B"]


Objective = Callable[[PairLogps, PreferenceCoef], Mean]


def dpo(logps: PairLogps, coef: PreferenceCoef) -> Mean:
    """DPO; with coef.smoothing conservative DPO. Over summed log-probabilities."""
    return dpo_loss(log_ratio_margin(*logps), coef.beta, coef.smoothing)


def ipo(logps: PairLogps, coef: PreferenceCoef) -> Mean:
    """IPO. The paper sums the log-probabilities, TRL means them."""
    return ipo_loss(log_ratio_margin(*logps), coef.beta)


def slic(logps: PairLogps, coef: PreferenceCoef) -> Mean:
    """SLiC's hinge on log-ratios, over summed log-probabilities."""
    return hinge_loss(log_ratio_margin(*logps), coef.beta)


def simpo(logps: PairLogps, coef: PreferenceCoef) -> Mean:
    """SimPO, over mean log-probabilities; the reference is not read."""
    return simpo_loss(logps.chosen, logps.rejected, coef.beta, coef.margin)


def orpo(logps: PairLogps, coef: PreferenceCoef) -> Mean:
    """ORPO's odds-ratio term times coef.beta, over mean log-probabilities; its other term is coef.sft = 1. The reference
    is not read."""
    loss = odds_ratio_loss(logps.chosen, logps.rejected)
    return Mean(coef.beta * loss.total, loss.count)


def answer_logps(
    params: PyTree, batch: TextBatch, *, model: AnyLanguageModel, per_token: bool
) -> tuple[Float[Array, " B"], Mean]:
    """log π(y|x) of each row in nats, or its mean over the tokens of y; and −log π(y|x) a token over the batch."""
    logps, mask = text_logps(params, batch, model=model), jnp.asarray(batch.predict)[:, 1:]
    total, tokens = jnp.sum(jnp.where(mask, logps, 0.0), axis=1), jnp.sum(mask, axis=1)
    return total / jnp.maximum(tokens, 1) if per_token else total, masked_mean(-logps, mask)


def preference_loss(
    params: PyTree,
    batch: PairBatch,
    coef: PreferenceCoef,
    *,
    model: AnyLanguageModel,
    objective: Objective,
    per_token: bool,
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """objective (dpo, ipo, slic, simpo, orpo or one's own) + coef.sft · −log π(y_w|x) a token.

    Metrics under TRL's names: rewards/… are β·log(π/π_ref), the reward that the policy stands for (Rafailov et al. 2023,
    Eq. 5 up to a constant of the prompt).
    """
    chosen, nll = answer_logps(params, batch.chosen, model=model, per_token=per_token)
    rejected, _ = answer_logps(params, batch.rejected, model=model, per_token=per_token)
    logps = PairLogps(chosen, rejected, jnp.asarray(batch.ref_chosen), jnp.asarray(batch.ref_rejected))
    loss = objective(logps, coef)
    reward_chosen = coef.beta * (logps.chosen - logps.ref_chosen)
    reward_rejected = coef.beta * (logps.rejected - logps.ref_rejected)
    return loss.value + coef.sft * nll.value, {
        "loss/train": loss,
        "loss/sft": nll,
        "rewards/chosen": mean(reward_chosen),
        "rewards/rejected": mean(reward_rejected),
        "rewards/margins": mean(reward_chosen - reward_rejected),
        "rewards/accuracies": mean((reward_chosen > reward_rejected).astype(jnp.float32)),
        "logps/chosen": mean(chosen),
        "logps/rejected": mean(rejected),
    }


def preference_step(
    state: TrainState,
    batch: PairBatch,
    coef: PreferenceCoef,
    *,
    model: AnyLanguageModel,
    optimiser: optax.GradientTransformation,
    objective: Objective,
    per_token: bool,
    schedule: Schedule = "cosine",
) -> tuple[TrainState, dict[str, Mean]]:
    """One update of all parameters."""
    loss = partial(preference_loss, model=model, objective=objective, per_token=per_token)
    grads, metrics = gradient(loss, model)(state.params, batch, coef)
    state, rate = update(state, grads, coef.rate, optimiser, schedule)
    return state, metrics | rate


def judged_loss(
    params: PyTree, batch: JudgedBatch, coef: KTOCoef, *, model: AnyLanguageModel
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """KTO, over summed log-probabilities of single answers. Metrics as in `preference_loss`."""
    logp, _ = answer_logps(params, batch.rows, model=model, per_token=False)
    apart, _ = answer_logps(jax.lax.stop_gradient(params), batch.mismatched, model=model, per_token=False)
    log_ratio, liked = logp - jnp.asarray(batch.ref), jnp.asarray(batch.desirable)
    kl = mismatched_kl(apart, jnp.asarray(batch.ref_mismatched))
    loss = kto_loss(log_ratio, liked, kl, coef.beta, coef.desirable, coef.undesirable)
    return loss.value, {
        "loss/train": loss,
        "kl": mean(kl),
        "rewards/chosen": masked_mean(coef.beta * log_ratio, liked),
        "rewards/rejected": masked_mean(coef.beta * log_ratio, ~liked),
    }


def judged_step(
    state: TrainState,
    batch: JudgedBatch,
    coef: KTOCoef,
    *,
    model: AnyLanguageModel,
    optimiser: optax.GradientTransformation,
    schedule: Schedule = "cosine",
) -> tuple[TrainState, dict[str, Mean]]:
    """One update of all parameters."""
    grads, metrics = gradient(partial(judged_loss, model=model), model)(state.params, batch, coef)
    state, rate = update(state, grads, coef.rate, optimiser, schedule)
    return state, metrics | rate
