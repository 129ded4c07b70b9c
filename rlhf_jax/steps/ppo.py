"""PPO-ptx: what a policy and a value network say of answers, and the update of both from a minibatch of experience."""

from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from rlhf_jax.equations import (
    Mean,
    clipped_policy_loss,
    clipped_value_loss,
    ema,
    entropy,
    linear_warmup,
    masked_mean,
    mean,
    states_before,
    token_logps,
)
from rlhf_jax.models import LanguageModel, ScalarModel, hidden_states, logits, scalars
from rlhf_jax.steps.language_model import text_logps
from rlhf_jax.steps.optimiser import descend
from rlhf_jax.types import Experience, PPOState, PromptBatch, Response, Scalar, TextBatch


class PPOCoef(NamedTuple):
    """Everything about PPO-ptx that a researcher sweeps, as numbers: a grid of them costs one compilation."""

    beta: Float[Scalar, "*S"]  # of the KL penalty, per nat
    gamma: Float[Scalar, "*S"]  # of the pretraining loss, per nat a token
    clip: Float[Scalar, "*S"]  # of the policy's ratio
    value_clip: Float[Scalar, "*S"]  # of the value's change; infinite is off
    value_coef: Float[Scalar, "*S"]  # on the value loss
    discount: Float[Scalar, "*S"]
    lam: Float[Scalar, "*S"]  # λ of GAE
    lr: Float[Scalar, "*S"]  # of the policy
    value_lr: Float[Scalar, "*S"]
    warmup: Float[Scalar, "*S"]  # iterations from a tenth of both rates to the whole
    ema: Float[Scalar, "*S"]  # decay of the policy's moving average, an update
    missing_eos_penalty: Float[Scalar, "*S"]  # off the score of an answer that does not come to its EOS
    kl_target: Float[Scalar, "*S"]  # nats an answer
    kl_horizon: Float[Scalar, "*S"]  # episodes; infinite keeps β fixed


class Models(NamedTuple):
    policy: LanguageModel
    value: ScalarModel  # the reward model has the same shape


class Optimisers(NamedTuple):
    policy: optax.GradientTransformation
    value: optax.GradientTransformation


def join(prompts: PromptBatch, response: Response) -> tuple[Int[Array, "B L"], Bool[Array, "B L"]]:
    """x ⊕ y: tokens and mask."""
    tokens = jnp.concatenate([jnp.asarray(prompts.tokens), jnp.asarray(response.tokens)], axis=1)
    return tokens, jnp.concatenate([jnp.asarray(prompts.mask), jnp.asarray(response.mask)], axis=1)


def response_logps(
    params: PyTree,
    tokens: Int[Array, "B L"],
    mask: Bool[Array, "B L"],
    response: Response,
    *,
    model: LanguageModel,
    temperature: float,
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """log π(yₜ|x, y₍<ₜ₎) and the entropy of π(·|x, y₍<ₜ₎), in nats, under the temperature that answers are drawn at.

    Both are 0 outside the response.
    """
    hidden, _ = hidden_states(model, params, tokens, mask)
    before = states_before(hidden, response.tokens.shape[1])
    warped = logits(model, params, before) / temperature
    logp = jnp.where(response.mask, token_logps(warped, jnp.asarray(response.tokens)), 0.0)
    return logp, jnp.where(response.mask, entropy(warped), 0.0)


def response_values(
    params: PyTree, tokens: Int[Array, "B L"], mask: Bool[Array, "B L"], T: int, *, model: ScalarModel
) -> Float[Array, "B T"]:
    """V(sₜ): the value of the prompt and the answer so far, before token yₜ."""
    return states_before(scalars(model, params, tokens, mask), T)


def policy_loss(
    params: PyTree, batch: Experience, coef: PPOCoef, *, model: LanguageModel, temperature: float
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """The clipped loss over the tokens of the answers."""
    logp, entropies = response_logps(
        params,
        jnp.asarray(batch.tokens),
        jnp.asarray(batch.mask),
        batch.response,
        model=model,
        temperature=temperature,
    )
    mask = jnp.asarray(batch.response.mask)
    loss, metrics = clipped_policy_loss(
        logp, jnp.asarray(batch.response.logp), jnp.asarray(batch.advantages), mask, coef.clip
    )
    return loss.value, metrics | {"loss/policy_avg": loss, "policy/entropy_avg": masked_mean(entropies, mask)}


def pretrain_loss(
    params: PyTree, batch: TextBatch, coef: PPOCoef, *, model: LanguageModel
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """γ · −mean over tokens of log π(x), the second expectation of InstructGPT's Eq. 2.

    γ is per nat a token: both terms of the update are means over tokens, so that γ means the same at every batch size
    and every number of pretraining examples an episode.
    """
    rows = jax.tree.map(lambda x: jnp.asarray(x).reshape(-1, x.shape[-1]), batch)
    nll = masked_mean(-text_logps(params, rows, model=model), rows.predict[:, 1:])
    return coef.gamma * nll.value, {"loss/pretrain": nll}


def value_loss(
    params: PyTree, batch: Experience, coef: PPOCoef, *, model: ScalarModel
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
    temperature: float,
) -> tuple[PPOState, dict[str, Mean]]:
    """One update of policy, value and moving average. The pretraining gradient joins PPO's in the same update
    (InstructGPT, App. C.4). state.step counts iterations and stays."""
    grads, metrics = jax.grad(partial(policy_loss, model=models.policy, temperature=temperature), has_aux=True)(
        state.policy, batch, coef
    )
    if batch.pretrain is not None:
        ptx_grads, ptx_metrics = jax.grad(partial(pretrain_loss, model=models.policy), has_aux=True)(
            state.policy, batch.pretrain, coef
        )
        grads, metrics = jax.tree.map(jnp.add, grads, ptx_grads), metrics | ptx_metrics
    value_grads, value_metrics = jax.grad(partial(value_loss, model=models.value), has_aux=True)(
        state.value, batch, coef
    )
    rate = linear_warmup(state.step, coef.warmup)
    policy, policy_opt, norm = descend(optimisers.policy, grads, state.policy_opt, state.policy, coef.lr * rate)
    value, value_opt, value_norm = descend(
        optimisers.value, value_grads, state.value_opt, state.value, coef.value_lr * rate
    )
    state = replace(
        state,
        policy=policy,
        policy_opt=policy_opt,
        value=value,
        value_opt=value_opt,
        ema=ema(state.ema, policy, coef.ema),
    )
    return state, metrics | value_metrics | {
        "lr": mean(coef.lr * rate),
        "policy/grad_norm": mean(norm),
        "val/grad_norm": mean(value_norm),
    }


def minibatches(key: Key[Array, ""], experience: Experience, epochs: int, count: int) -> Experience:
    """Each epoch in a new order, cut into `count` equal minibatches: leaves [epochs · count, B / count, …].

    B must be divisible by count.
    """
    B = experience.tokens.shape[0]
    orders = jax.vmap(lambda k: jax.random.permutation(k, B))(jax.random.split(key, epochs))
    rows = orders.reshape(epochs * count, B // count)
    return jax.tree.map(lambda x: jnp.asarray(x)[rows], experience)
