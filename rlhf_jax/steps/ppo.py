"""PPO-ptx: what a policy and a value network say of answers, and the update of both from a minibatch of experience."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from rlhf_jax.equations import (
    Mean,
    averaged,
    clipped_policy_loss,
    clipped_value_loss,
    ema,
    ensemble_score,
    entropy,
    kl_exact,
    kl_k1,
    kl_k2,
    kl_k3,
    linear_warmup,
    masked_mean,
    mean,
    normalised,
    nothing_seen,
    seen,
    states_before,
    token_logps,
)
from rlhf_jax.models import (
    AnyLanguageModel,
    AnyScalarModel,
    by_rows,
    hidden_states,
    over_logits,
    processors_of,
    reprocess_logits,
    scalars,
)
from rlhf_jax.steps.language_model import text_logps
from rlhf_jax.steps.optimiser import SCHEDULES, Schedule, descend, gradient
from rlhf_jax.types import AnyArray, Experience, Moments, PPOState, PromptBatch, Response, Scalar, TextBatch

Estimator = Literal["k1", "k2", "k3", "exact"]


class PPOCoef(NamedTuple):
    """Everything about PPO-ptx that is a number and that a researcher sweeps: a grid of them costs one compilation."""

    beta: Float[Scalar, "*S"]  # of the KL in the reward, per nat
    beta_loss: Float[Scalar, "*S"]  # of the KL in the loss, per nat
    beta_end: Float[Scalar, "*S"]  # factor on both that a linear schedule ends at; 1 is no schedule
    beta_steps: Float[Scalar, "*S"]  # iterations until then
    kl_target: Float[Scalar, "*S"]  # nats an answer
    kl_horizon: Float[Scalar, "*S"]  # episodes; infinite keeps β from adapting
    gamma: Float[Scalar, "*S"]  # of the pretraining loss, per nat
    clip_low: Float[Scalar, "*S"]  # of the policy's ratio, below 1
    clip_high: Float[Scalar, "*S"]  # and above
    dual_clip: Float[Scalar, "*S"]  # of the ratio where the advantage is negative; infinite is off
    entropy: Float[Scalar, "*S"]  # bonus, per nat a token
    stop_kl: Float[Scalar, "*S"]  # nats a token from the sampler at which an iteration's updates end; infinite is off
    value_clip: Float[Scalar, "*S"]  # of the value's change; infinite is off
    value_coef: Float[Scalar, "*S"]  # on the value loss
    value_warmup: Float[Scalar, "*S"]  # iterations in which the value learns alone
    discount: Float[Scalar, "*S"]
    lam: Float[Scalar, "*S"]  # λ of GAE
    lr: Float[Scalar, "*S"]  # of the policy
    value_lr: Float[Scalar, "*S"]
    warmup: Float[Scalar, "*S"]  # iterations from a tenth of both rates to the whole
    ema: Float[Scalar, "*S"]  # decay of the policy's moving average, an update
    missing_eos_penalty: Float[Scalar, "*S"]  # off the score of an answer that does not come to its EOS
    score_clip: Float[Scalar, "*S"]  # of the score's absolute value; infinite is off
    uncertainty: Float[Scalar, "*S"]  # of the variance over an ensemble of reward models
    # Of both rates, where form.schedule is not "constant":
    lr_steps: Float[Scalar, "*S"] = np.float32(np.inf)  # iterations, the last of which is at the floor; infinite: never
    lr_floor: Float[Scalar, "*S"] = np.float32(0.1)  # share of the peak


class Form(NamedTuple):
    """What of PPO-ptx is a formula and not a number: another choice is another program.

    The policy gradient is that of E[r] − β·KL(π‖π_SFT) over whole answers, up to the factor 1/T, with k1 in the reward, or
    with "exact" in the reward and, at the same β, in the loss; policy_mean "constant", λ = 1, no whitening, and a ratio of
    1. Everything else is biased (tests/steps/test_optimum.py has the figures): another estimator in the reward leaves out
    how the KL itself moves with π; the KL in the loss alone, what a token does to the KL of those after it, and there k1
    has no gradient on average and k3 has that of KL(π_SFT‖π); a mean over tokens or answers weighs answers by their
    length; λ < 1 trusts the value network; whitening rescales and recentres by the batch itself.
    """

    kl_reward: Estimator  # of the KL in the reward
    kl_loss: Estimator  # of the KL in the loss
    policy_mean: Literal["token", "answer", "constant"]  # `averaged`
    pretrain_mean: Literal["token", "example"]  # `pretrain_loss`
    whiten: Literal["biased", "unbiased", "off"]  # the advantages, by that variance
    whiten_rewards: bool  # their mean stays, as in Ziegler et al. 2019
    score_norm: Literal["running", "fixed", "off"]  # by the moments of all scores so far, or of those in the state
    ensemble: Literal["mean", "minimum"]  # of several reward models
    schedule: Schedule = "constant"  # of both learning rates, from the end of the warm-up on


# log π and log π_old of each token, advantages, mask, coef → each token's loss, and metrics
Objective = Callable[
    [Float[Array, "B T"], Float[Array, "B T"], Float[Array, "B T"], Bool[Array, "B T"], PPOCoef],
    tuple[Float[Array, "B T"], dict[str, Mean]],
]


def clipped(
    logp: Float[Array, "B T"],
    logp_old: Float[Array, "B T"],
    advantages: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    coef: PPOCoef,
) -> tuple[Float[Array, "B T"], dict[str, Mean]]:
    """PPO's clipped loss of each token, see `clipped_policy_loss`."""
    return clipped_policy_loss(logp, logp_old, advantages, mask, coef.clip_low, coef.clip_high, coef.dual_clip)


class Models(NamedTuple):
    policy: AnyLanguageModel
    value: AnyScalarModel  # the reward model has the same shape


class Optimisers(NamedTuple):
    policy: optax.GradientTransformation
    value: optax.GradientTransformation


def initial_state(policy: PyTree, value: PyTree, optimisers: Optimisers, key: Key[Array, ""]) -> PPOState:
    """Before the first iteration: the moving average is a copy of the policy, so that a step can be given the state's memory
    (jax.jit's donate_argnums). Without a value network, value is None."""
    return PPOState(
        step=jnp.int32(0),
        policy=policy,
        policy_opt=optimisers.policy.init(policy),
        value=value,
        value_opt=None if value is None else optimisers.value.init(value),
        ema=jax.tree.map(jnp.copy, policy),
        ema_weight=jnp.float32(0.0),
        kl_scale=jnp.float32(1.0),
        scores=nothing_seen(),
        stopped=jnp.bool_(False),
        key=key,
    )


def join(prompts: PromptBatch, response: Response) -> tuple[Int[Array, "B L"], Bool[Array, "B L"]]:
    """x ⊕ y: tokens and mask."""
    tokens = jnp.concatenate([jnp.asarray(prompts.tokens), jnp.asarray(response.tokens)], axis=1)
    return tokens, jnp.concatenate([jnp.asarray(prompts.mask), jnp.asarray(response.mask)], axis=1)


class Reading(NamedTuple):
    """What a policy makes of each token of a response, in nats and float32, under the transform that the response was
    drawn through: temperature, truncation, penalty. What was not asked for is None."""

    logp: Float[Array, "B T"]  # log π(yₜ|x, y₍<ₜ₎), 0 outside the response
    entropy: Float[AnyArray, "B T"]  # of π(·|x, y₍<ₜ₎), outside the response too
    logp_ref: Float[AnyArray, "B T"]  # log π_ref(yₜ|x, y₍<ₜ₎), 0 outside the response
    kl_exact: Float[AnyArray, "B T"]  # KL(π‖π_ref) after x, y₍<ₜ₎, outside the response too


def reading(
    params: PyTree,
    tokens: Int[Array, "B L"],
    mask: Bool[Array, "B L"],
    response: Response,
    *,
    model: AnyLanguageModel,
    entropies: bool = False,
    reference: PyTree = None,
) -> Reading:
    """Of the policy with these parameters. tokens, mask: x ⊕ y, see `join`.

    entropies: whether to take them too. reference: parameters of π_ref, for log π_ref and the exact KL. [B, T, V] exists
    only where model.config.logit_rows is 0 or at least B·T; see `over_logits`.
    """

    def read(*logits_tokens_drawn) -> Reading:
        *each, y, through = logits_tokens_drawn
        processed, *refs = (reprocess_logits(logits, through) for logits in each)
        return Reading(
            token_logps(processed, y),
            entropy(processed) if entropies else None,
            token_logps(refs[0], y) if refs else None,
            kl_exact(processed, refs[0]) if refs else None,
        )

    def rows(tokens: Int[Array, "B L"], mask: Bool[Array, "B L"], response: Response) -> Reading:
        both = [params] if reference is None else [params, reference]
        hidden = [states_before(hidden_states(model, p, tokens, mask)[0], response.tokens.shape[1]) for p in both]
        spoken = list(zip(both, hidden, strict=True))
        return over_logits(read, model, spoken, jnp.asarray(response.tokens), processors_of(response))

    found = by_rows(rows, model, tokens, mask, response)
    logp, logp_ref = (None if x is None else jnp.where(response.mask, x, 0.0) for x in (found.logp, found.logp_ref))
    return found._replace(logp=logp, logp_ref=logp_ref)


def response_values(
    params: PyTree, tokens: Int[Array, "B L"], mask: Bool[Array, "B L"], T: int, *, model: AnyScalarModel
) -> Float[Array, "B T"]:
    """V(sₜ): the value of the prompt and the answer so far, before token yₜ."""
    return by_rows(lambda t, m: states_before(scalars(model, params, t, m), T), model, tokens, mask)


def divergences(read: Reading, mask: Bool[Array, "B T"]) -> dict[Estimator, Float[Array, "B T"]]:
    """KL(π‖π_ref) of each token by every estimator, in nats, 0 outside the response.

    read: with a reference. mask: the response's.
    """
    return {
        "k1": kl_k1(read.logp, read.logp_ref),
        "k2": kl_k2(read.logp, read.logp_ref),
        "k3": kl_k3(read.logp, read.logp_ref),
        "exact": jnp.where(mask, read.kl_exact, 0.0),
    }


def training_score(
    scores: Float[Array, "E B"], ended: Bool[Array, " B"], moments: Moments, coef: PPOCoef, form: Form
) -> tuple[Float[Array, " B"], Moments]:
    """The score that an answer is trained on, from what E reward models say of it: put together, normalised, clipped,
    and less for an answer that was cut off. The moments are those of all scores so far where form.score_norm is
    "running", else the ones given."""
    score = ensemble_score(scores, form.ensemble, coef.uncertainty)
    if form.score_norm == "running":
        moments = seen(moments, score)
    if form.score_norm != "off":
        score = normalised(score, moments)
    return jnp.clip(score, -coef.score_clip, coef.score_clip) - coef.missing_eos_penalty * ~ended, moments


def policy_loss(
    params: PyTree,
    batch: Experience,
    coef: PPOCoef,
    *,
    model: AnyLanguageModel,
    form: Form,
    reference: PyTree = None,
    objective: Objective = clipped,
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """The mean of the objective over the tokens of the answers + beta_loss·KL(π‖π_SFT) − entropy·H(π).

    reference: the parameters of π_SFT, read only where form.kl_loss is "exact"; ValueError if they are missing there.
    objective: `clipped`, or one's own; what it returns outside the mask is not read. Whatever its metrics,
    policy/approxkl_avg, by which an iteration's updates may end, is among ours.
    """
    y = jax.tree.map(jnp.asarray, batch.response)
    tokens, mask = jnp.asarray(batch.tokens), jnp.asarray(batch.mask)
    exact = form.kl_loss == "exact"
    if exact and reference is None:
        raise ValueError("the exact KL in the loss needs the parameters of the reference")
    read = reading(params, tokens, mask, y, model=model, entropies=True, reference=reference if exact else None)
    losses, metrics = objective(read.logp, y.logp, jnp.asarray(batch.advantages), y.mask, coef)
    if exact:
        kl = read.kl_exact
    else:
        kl = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}[form.kl_loss](read.logp, jnp.asarray(batch.logp_sft))
    policy, penalty, bonus = (averaged(x, y.mask, form.policy_mean) for x in (losses, kl, read.entropy))
    loss = policy.value + coef.beta_loss * penalty.value - coef.entropy * bonus.value
    moved = masked_mean(kl_k2(read.logp, y.logp), y.mask)
    return loss, {"policy/approxkl_avg": moved} | metrics | {
        "loss/policy_avg": policy,
        "loss/kl_avg": penalty,
        "policy/entropy_avg": masked_mean(read.entropy, y.mask),
    }


def pretrain_loss(
    params: PyTree, batch: TextBatch, coef: PPOCoef, *, model: AnyLanguageModel, form: Form
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """γ · −E log π(x), the second expectation of InstructGPT's Eq. 2, as a mean over tokens or over examples (rows).

    What γ is worth depends on both terms' means, whose ratio is all that Adam sees. Beside a policy loss that is a mean
    over tokens, γ per token means the same at every length of answers and rows. Let T̄ be the mean length of an answer
    and L that of a row. A policy loss summed over each answer is T̄ times the mean over tokens, a pretraining loss
    summed over each row L times. The paper prints γ = 27.8 and not which means it has (App. C.4); as γ per token beside
    a mean over tokens, 27.8 is
        27.8          if both of theirs are means over tokens,
        27.8 / T̄      if the policy's is per answer and the pretraining per token,
        27.8 · L / T̄  if both are per example, which is Eq. 2 to the letter.
    """
    rows = jax.tree.map(lambda x: jnp.asarray(x).reshape(-1, x.shape[-1]), batch)
    nll = masked_mean(-text_logps(params, rows, model=model), rows.predict[:, 1:])
    per_example = Mean(nll.total, jnp.asarray(rows.tokens.shape[0], jnp.float32))
    loss = nll if form.pretrain_mean == "token" else per_example
    return coef.gamma * loss.value, {"loss/pretrain": nll}


def value_loss(
    params: PyTree, batch: Experience, coef: PPOCoef, *, model: AnyScalarModel
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """value_coef · the clipped squared error against the returns."""
    T = batch.response.tokens.shape[1]
    values = response_values(params, jnp.asarray(batch.tokens), jnp.asarray(batch.mask), T, model=model)
    loss, metrics = clipped_value_loss(
        values,
        jnp.asarray(batch.values),
        jnp.asarray(batch.returns),
        jnp.asarray(batch.response.mask),
        coef.value_clip,
    )
    return coef.value_coef * loss.value, metrics | {"loss/value_avg": loss}


def ppo_step(
    state: PPOState,
    batch: Experience,
    coef: PPOCoef,
    *,
    models: Models,
    optimisers: Optimisers,
    form: Form,
    reference: PyTree = None,
    objective: Objective = clipped,
) -> tuple[PPOState, dict[str, Mean]]:
    """One update of the policy and, where there is one, the value network. state.step counts iterations and stays."""
    policy = partial(policy_step, model=models.policy, optimiser=optimisers.policy, form=form)
    state, metrics = policy(state, batch, coef, reference=reference, objective=objective)
    if batch.returns is None:
        return state, metrics
    value = partial(value_step, model=models.value, optimiser=optimisers.value, schedule=form.schedule)
    state, value_metrics = value(state, batch, coef)
    return state, metrics | value_metrics


def policy_step(
    state: PPOState,
    batch: Experience,
    coef: PPOCoef,
    *,
    model: AnyLanguageModel,
    optimiser: optax.GradientTransformation,
    form: Form,
    reference: PyTree = None,
    objective: Objective = clipped,
) -> tuple[PPOState, dict[str, Mean]]:
    """One update of the policy and its moving average. The pretraining gradient joins PPO's in the same update
    (InstructGPT, App. C.4).

    Nothing is updated while the value network warms up, nor once the policy is coef.stop_kl nats a token away from the
    one that wrote the answers, until the iteration ends.
    """
    loss = partial(policy_loss, model=model, form=form, reference=reference, objective=objective)
    grads, metrics = gradient(loss, model)(state.policy, batch, coef)
    if batch.pretrain is not None:
        ptx = partial(pretrain_loss, model=model, form=form)
        ptx_grads, ptx_metrics = gradient(ptx, model)(state.policy, batch.pretrain, coef)
        metrics |= ptx_metrics | _compared(grads, ptx_grads)
        grads = jax.tree.map(jnp.add, grads, ptx_grads)
    lr = coef.lr * _rate(state.step, coef, form.schedule)
    policy, policy_opt, norm = descend(optimiser, grads, state.policy_opt, state.policy, lr)
    stopped = state.stopped | (metrics["policy/approxkl_avg"].value > coef.stop_kl)
    learns = jnp.logical_and(~stopped, state.step >= coef.value_warmup)
    updated = policy, policy_opt, ema(state.ema, policy, coef.ema, state.ema_weight)
    before = state.policy, state.policy_opt, (state.ema, state.ema_weight)
    policy, policy_opt, (average, weight) = jax.tree.map(partial(jnp.where, learns), updated, before)
    state = replace(state, policy=policy, policy_opt=policy_opt, ema=average, ema_weight=weight, stopped=stopped)
    return state, metrics | {
        "lr": mean(lr),
        "policy/grad_norm": mean(norm),
        "policy/updated": mean(learns),
    }


def ema_lag(state: PPOState, start: PyTree) -> Mean:
    """‖θ − θ̄‖ / ‖θ − θ_start‖: how much of its way from the parameters that it started from the policy is ahead of its
    moving average. 0 where the average is the policy, 1 where it has not left the start."""
    behind, way = (optax.tree.norm(optax.tree.sub(state.policy, other)) for other in (state.ema, start))
    return mean(behind / jnp.maximum(way, 1e-12))


def _compared(grads: PyTree, ptx_grads: PyTree) -> dict[str, Mean]:
    """How long PPO's and the pretraining gradient are, and whether they pull the same way."""
    ppo, ptx = optax.tree.norm(grads), optax.tree.norm(ptx_grads)
    cosine = jnp.asarray(optax.tree.vdot(grads, ptx_grads)) / jnp.maximum(ppo * ptx, 1e-12)
    return {
        "policy/grad_norm_ppo": mean(ppo),
        "policy/grad_norm_ptx": mean(ptx),
        "policy/grad_cosine": mean(cosine),
    }


def value_step(
    state: PPOState,
    batch: Experience,
    coef: PPOCoef,
    *,
    model: AnyScalarModel,
    optimiser: optax.GradientTransformation,
    schedule: Schedule = "constant",
) -> tuple[PPOState, dict[str, Mean]]:
    """One update of the value network."""
    grads, metrics = gradient(partial(value_loss, model=model), model)(state.value, batch, coef)
    lr = coef.value_lr * _rate(state.step, coef, schedule)
    value, value_opt, norm = descend(optimiser, grads, state.value_opt, state.value, lr)
    return replace(state, value=value, value_opt=value_opt), metrics | {"val/grad_norm": mean(norm)}


def _rate(step: Int[Scalar, ""], coef: PPOCoef, schedule: Schedule) -> Float[Array, ""]:
    """The share of the peak rates in this iteration: a rise from a tenth (InstructGPT, App. C.4), then the schedule over
    what is left of coef.lr_steps."""
    after = jnp.maximum(step - coef.warmup, 0.0)
    left = SCHEDULES[schedule](after, coef.lr_steps - coef.warmup, coef.lr_floor, 0.0)
    return linear_warmup(step, coef.warmup) * left


def minibatches(key: Key[Array, ""], experience: Experience, epochs: int, count: int) -> Experience:
    """Each epoch in a new order, cut into `count` equal minibatches: leaves [epochs · count, B / count, …].

    B must be divisible by count.
    """
    B = experience.tokens.shape[0]
    orders = jax.vmap(lambda k: jax.random.permutation(k, B))(jax.random.split(key, epochs))
    rows = orders.reshape(epochs * count, B // count)
    return jax.tree.map(lambda x: jnp.asarray(x)[rows], experience)
