"""PPO and PPO-ptx against the reward model, with a KL penalty towards the model that RL starts from.

    python experiments/ppo_ptx.py configs/tiny.toml

InstructGPT, §3.5 and App. C.4: Figure 1's step 3. Runs the stage "ppo" (γ = 0) and the stage "ppo_ptx".
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from experiments.pretrain import first_state as pretraining_state
from experiments.pretrain import language_model, packed
from experiments.recipe import PPO, Config, material, prompts_that_fit, role_key, role_seed, stage, tokenizer
from experiments.reward_model import first_state as reward_state
from experiments.reward_model import reward_params, reward_stage, scalar_model
from experiments.sft import fine_tuned, sft_stage
from rlhf_jax.config import load_config
from rlhf_jax.data import batch_indices, encode_prompts, take
from rlhf_jax.equations import (
    Mean,
    adapted_scale,
    gae,
    kl_k1,
    masked_mean,
    mean,
    row_sums,
    summed,
    token_rewards,
    values,
    whiten,
)
from rlhf_jax.evals import answer, per_row
from rlhf_jax.models import Sampling, generate
from rlhf_jax.runtime import Stage, Watch, make_mesh, replicate, run, shard_rows
from rlhf_jax.steps import (
    Models,
    Optimisers,
    PPOCoef,
    adam,
    join,
    minibatches,
    ppo_step,
    response_logps,
    response_values,
    reward,
)
from rlhf_jax.types import Experience, PPOBatch, PPOState, TextBatch

Name = Literal["ppo", "ppo_ptx"]
SAMPLE, SHUFFLE = 0, 1  # what a key is for


class Frozen(NamedTuple):
    """Models that do not learn: the reference π_SFT and the reward model r_θ."""

    sft: PyTree
    reward: PyTree


class Plan(NamedTuple):
    """What fixes the shapes of an iteration; everything that is a number is in PPOCoef."""

    max_tokens: int
    temperature: float
    epochs: int
    minibatches: int
    eos: int
    pad: int


def iteration(
    state: PPOState,
    batch: PPOBatch,
    coef: PPOCoef,
    frozen: Frozen,
    *,
    models: Models,
    optimisers: Optimisers,
    plan: Plan,
) -> tuple[PPOState, dict[str, Mean]]:
    """Answers from the policy, a reward for each token, advantages, and the clipped updates with the pretraining mix."""
    policy, value, T = models.policy, models.value, plan.max_tokens
    key = jax.random.fold_in(state.key, state.step)
    sampling = Sampling(plan.temperature, top_k=0, top_p=1.0)

    # y ~ π_RL(·|x), log π_RL(yₜ|…) as it was drawn
    y = generate(policy, state.policy, batch.prompts, jax.random.fold_in(key, SAMPLE), T, sampling, plan.eos, plan.pad)
    tokens, mask = join(batch.prompts, y)
    # r_θ(x, y), less for an answer that was cut off; log π_SFT(yₜ|…), V(sₜ)
    ended = jnp.any((y.tokens == plan.eos) & y.mask, axis=1)
    score = reward(frozen.reward, tokens, mask, model=value) - coef.missing_eos_penalty * ~ended
    logp_sft, _ = response_logps(frozen.sft, tokens, mask, y, model=policy, temperature=plan.temperature)
    V = response_values(state.value, tokens, mask, T, model=value)
    # rₜ = −β log(π_RL/π_SFT), and r_θ(x, y) at the last token (Eq. 2)
    kl = kl_k1(y.logp, logp_sft)
    beta = coef.beta * state.kl_scale
    r = token_rewards(score, kl, beta, y.mask)
    # Âₜ by GAE, whitened over the batch; returns for the value
    adv, returns = gae(r, V, y.mask, coef.discount, coef.lam)
    experience = Experience(tokens, mask, y, V, whiten(adv, y.mask), returns, batch.pretrain)
    # Minibatches: max(−Âρ, −Â clip(ρ)) + γ·(−log π_RL(x_pretrain)); value ½(V − R)²; EMA
    step = partial(ppo_step, coef=coef, models=models, optimisers=optimisers, temperature=plan.temperature)
    parts = minibatches(jax.random.fold_in(key, SHUFFLE), experience, plan.epochs, plan.minibatches)
    state, losses = jax.lax.scan(step, state, parts)

    episodes = score.shape[0]
    kl_sum, entropy_sum = row_sums(kl, y.mask), row_sums(-y.logp, y.mask)
    scale = adapted_scale(state.kl_scale, jnp.mean(kl_sum), coef.kl_target, episodes, coef.kl_horizon)
    state = replace(state, step=state.step + 1, kl_scale=scale)
    return state, summed(losses) | {
        "objective/kl": mean(kl_sum),
        "objective/entropy": mean(entropy_sum),
        "objective/scores": mean(score),
        "objective/non_score_reward": mean(-beta * kl_sum),
        "objective/rlhf_reward": mean(score - beta * kl_sum),
        "objective/beta": mean(beta),
        "val/mean": masked_mean(V, y.mask),
        "answer/length": mean(jnp.sum(y.mask, axis=1)),
        "answer/ended": mean(ended),
        "episode": mean(state.step * episodes),
    }


def coefficients(c: PPO) -> PPOCoef:
    return PPOCoef(*(jnp.float32(getattr(c, name)) for name in PPOCoef._fields))


def plan_of(config: Config) -> Plan:
    c, t = config.ppo, tokenizer(config)
    return Plan(config.model.answer_tokens, c.temperature, c.epochs, c.minibatches, t.eos, t.pad)


def models_of(config: Config) -> Models:
    return Models(language_model(config), scalar_model(config))


def optimisers_of(config: Config) -> Optimisers:
    o = config.optimiser
    return Optimisers(adam(o.eps, o.clip_norm), adam(o.eps, o.clip_norm))


def first_state(config: Config, name: Name, policy: PyTree, value: PyTree) -> PPOState:
    """The policy starts as the RL initialisation, the value network as the reward model."""
    optimisers = optimisers_of(config)
    return PPOState(
        step=jnp.int32(0),
        policy=policy,
        policy_opt=optimisers.policy.init(policy),
        value=value,
        value_opt=optimisers.value.init(value),
        ema=policy,
        kl_scale=jnp.float32(1.0),
        key=role_key(config, name),
    )


def variant(config: Config, name: Name) -> Config:
    """PPO is PPO-ptx with γ = 0, for which no pretraining text is read."""
    return config if name == "ppo_ptx" else replace(config, ppo=replace(config.ppo, gamma=0.0, pretrain_examples=0))


def ppo_stage(config: Config, name: Name) -> Stage:
    sections = variant(config, name).sections("pretrain", "sft", "rl_init", "reward", "ppo")
    parents = {"rl_init": sft_stage(config, "rl_init").sha256, "reward_model": reward_stage(config).sha256}
    return stage(config, name, config.ppo.iterations, sections, parents)


def policy_of(config: Config, name: Name) -> PyTree:
    """The policy that a finished stage is reported with: the moving average (App. C.4)."""

    def fresh() -> PPOState:
        language_params = pretraining_state(config).params
        return first_state(config, name, language_params, reward_state(config, language_params).params)

    shapes = jax.eval_shape(fresh)
    return ppo_stage(config, name).load(shapes)[0].ema


def ppo(config: Config, name: Name) -> None:
    this = ppo_stage(config, name)
    if this.finished:
        return
    config = variant(config, name)
    c, mesh, batches = config.ppo, make_mesh(config.runtime.devices), batches_of(config, name)
    frozen = replicate(Frozen(fine_tuned(config, "rl_init"), reward_params(config)), mesh)
    step = jax.jit(
        partial(iteration, models=models_of(config), optimisers=optimisers_of(config), plan=plan_of(config)),
        donate_argnums=0,
    )
    look = held_out_look(config)
    state = this.resume(replicate(first_state(config, name, frozen.sft, frozen.reward), mesh))
    for i in this.steps(int(state.step), Watch(kl=100.0, entropy=0.5, factor=5.0, window=10)):
        state, metrics = step(state, shard_rows(batches(i), mesh), coefficients(c), frozen)
        metrics = values(metrics)
        if i == 0 or (i + 1) % config.runtime.look_every == 0:
            metrics |= look(state.policy)
        this.log(i, metrics)
        this.save(i, state, config.runtime.save_every)


def batches_of(config: Config, name: Name) -> Callable[[int], PPOBatch]:
    """The batch of iteration i: prompts, and pretraining rows for each of them."""
    c, t = config.ppo, tokenizer(config)
    given = material(config).prompts["train"]
    fit = [given[i] for i in prompts_that_fit(config, "train")]
    prompts = encode_prompts(fit, t, config.model.prompt_tokens)
    text = packed(config, "train") if c.pretrain_examples else None
    seed = role_seed(config, "ppo")  # the same prompts in the same order for both stages

    def batch(i: int) -> PPOBatch:
        x = take(prompts, batch_indices(len(fit), c.batch, seed, i))
        if text is None:
            return PPOBatch(x, None)
        rows = take(text, batch_indices(len(text.tokens), c.batch * c.pretrain_examples, seed, i))
        by_episode = jax.tree.map(lambda leaf: leaf.reshape(c.batch, c.pretrain_examples, -1), rows)
        return PPOBatch(x, by_episode)

    return batch


def held_out_look(config: Config) -> Callable[[PyTree], dict[str, float]]:
    """How the policy does on validation prompts and validation text, for the curves."""
    t, model, c = tokenizer(config), language_model(config), config.evaluate
    source, text = material(config), packed(config, "valid")
    text = TextBatch(text.tokens[: c.batch], text.predict[: c.batch])
    fit = prompts_that_fit(config, "valid")[: c.batch]
    prompts = encode_prompts([source.prompts["valid"][i] for i in fit], t, config.model.prompt_tokens)
    as_trained = Sampling(config.ppo.temperature, top_k=0, top_p=1.0)

    def look(params: PyTree) -> dict[str, float]:
        total, tokens, _ = per_row(model, params, text, batch=c.batch)
        seen = {"pretrain/loss": float(-total.sum() / tokens.sum())}
        if source.truth is not None:
            truth, questions = source.truth, source.truth.questions["valid"]
            written = answer(
                model,
                params,
                prompts,
                role_key(config, "look"),
                batch=c.batch,
                max_tokens=config.model.answer_tokens,
                sampling=as_trained,
                eos=t.eos,
                pad=t.pad,
            )
            texts = [t.decode(ids).strip() for ids in written.ids(t.eos)]
            gold = [truth.gold(questions[i], text) for i, text in zip(fit, texts, strict=True)]
            seen["gold/mean"] = float(np.mean(gold))
        return seen

    return look


def main() -> None:
    config = load_config(Config)
    ppo(config, "ppo")
    ppo(config, "ppo_ptx")


if __name__ == "__main__":
    run(main)
