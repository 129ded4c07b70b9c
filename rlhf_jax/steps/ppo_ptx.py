"""An iteration of RL as two pure halves, and PPO-ptx as the second of them (InstructGPT, §3.5 and App. C.4)."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.equations import (
    Mean,
    adapted_scale,
    explained_variance,
    gae,
    linear,
    masked_mean,
    mean,
    row_sums,
    summed,
    token_rewards,
    whiten,
)
from rlhf_jax.steps.ppo import (
    Form,
    Models,
    Objective,
    Optimisers,
    PPOCoef,
    clipped,
    ema_lag,
    minibatches,
    ppo_step,
    response_values,
    training_score,
)
from rlhf_jax.steps.rollout import SHUFFLE, Frozen, Plan, Rollout, reward_scores, rollout_metrics, sample
from rlhf_jax.types import Experience, PerAnswer, PPOBatch, PPOState, TextBatch

Metrics = dict[str, Mean | PerAnswer]


class Iteration(NamedTuple):
    """The two halves of an iteration. Between them stand the scores: of reward models, in one program with the first half
    or with both, or of a Python function of the text. Where the halves are two programs, what goes from one to the other can
    be recorded, and learned from again.

    sample(state, prompts, frozen, *, models, plan) → Rollout
    learn(state, rollout, scores [E, B], text, coef, frozen, *, models, optimisers, plan, form) → (state, metrics); a metric
    is a Mean, or PerAnswer for records
    has_value: whether learn trains a value network.
    """

    sample: Callable[..., Rollout]
    learn: Callable[..., tuple[PPOState, Metrics]]
    has_value: bool = True


def learn(
    state: PPOState,
    x: Rollout,
    scores: Float[Array, "E B"],
    text: TextBatch | None,
    coef: PPOCoef,
    frozen: Frozen,
    *,
    models: Models,
    optimisers: Optimisers,
    plan: Plan,
    form: Form,
    objective: Objective = clipped,
) -> tuple[PPOState, Metrics]:
    """A reward for each token, advantages, and the clipped updates with the pretraining mix.

    scores: what each of E reward models, or functions, gives the answers. text: rows for each answer, [B, rows, T], or
    None for no mix.
    """
    key, models, mask = jax.random.fold_in(state.key, state.step), frozen.adapt(models), x.y.mask

    # The score that an answer is trained on; V(sₜ)
    score, moments = training_score(scores, x.ended, state.scores, coef, form)
    V = response_values(state.value, x.tokens, x.mask, plan.max_tokens, model=models.value)
    # rₜ = −β·KLₜ, and r_θ(x, y) at the last token (Eq. 2); what earlier turns of an episode earned, at theirs
    scale = state.kl_scale * linear(state.step, coef.beta_steps, coef.beta_end)
    r = token_rewards(score, x.kl[form.kl_reward], coef.beta * scale, mask, x.earned)
    if form.whiten_rewards:
        r = whiten(r, mask, shift_mean=False)
    # Âₜ by GAE, whitened over the batch; returns for the value
    adv, returns = gae(r, V, mask, coef.discount, coef.lam)
    if form.whiten != "off":
        adv = whiten(adv, mask, unbiased=form.whiten == "unbiased")
    experience = Experience(x.tokens, x.mask, x.y, x.logp_sft, V, adv, returns, text)
    # Minibatches: max(−Âρ, −Â clip(ρ)) + γ·(−log π_RL(x_pretrain)); value ½(V − R)²; EMA
    now = coef._replace(beta_loss=coef.beta_loss * scale)
    step = partial(
        ppo_step, coef=now, models=models, optimisers=optimisers, form=form, reference=frozen.sft, objective=objective
    )
    parts = minibatches(jax.random.fold_in(key, SHUFFLE), experience, plan.epochs, plan.minibatches)
    state, losses = jax.lax.scan(step, replace(state, scores=moments, stopped=jnp.bool_(False)), parts)

    episodes, nats = score.shape[0], jnp.mean(row_sums(x.kl["k1"], mask))
    penalty = coef.beta * scale * row_sums(x.kl[form.kl_reward], mask)
    kl_scale = adapted_scale(state.kl_scale, nats, coef.kl_target, episodes, coef.kl_horizon)
    state = replace(state, step=state.step + 1, kl_scale=kl_scale)
    return state, summed(losses) | rollout_metrics(x, scores, score) | {
        "objective/non_score_reward": mean(-penalty),
        "objective/rlhf_reward": mean(score - penalty),
        "objective/beta": mean(coef.beta * scale),
        "val/mean": masked_mean(V, mask),
        "val/explained_variance": mean(explained_variance(V, returns, mask)),
        "episode": mean(state.step * episodes),
        **{name: PerAnswer(x) for name, x in (("score", score), ("value", V), ("advantage", adv))},
    }


PPO_PTX = Iteration(sample, learn)


def iteration(
    state: PPOState,
    batch: PPOBatch,
    coef: PPOCoef,
    frozen: Frozen,
    *,
    models: Models,
    optimisers: Optimisers,
    plan: Plan,
    form: Form,
    halves: Iteration = PPO_PTX,
) -> tuple[PPOState, Metrics]:
    """Both halves as one program, the scores being those of the reward models in `frozen`."""
    x = halves.sample(state, batch.prompts, frozen, models=models, plan=plan)
    scores = reward_scores(x, frozen, model=frozen.adapt(models).value)
    state, metrics = halves.learn(
        state, x, scores, batch.pretrain, coef, frozen, models=models, optimisers=optimisers, plan=plan, form=form
    )
    return state, metrics | {"policy/ema_lag": ema_lag(state, frozen.sft)}
