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
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from experiments.decoder import language_model, scalar_model
from experiments.devices import mesh_of, rule
from experiments.lora import frozen_base, lora_scale, on_base, whole
from experiments.pretrain import packed
from experiments.recipe import (
    PPO,
    Config,
    configured,
    material,
    prompts_that_fit,
    role_key,
    role_seed,
    stage,
    tokenizer,
)
from experiments.reward_model import (
    member_name,
    reward_stage,
    score_rows,
    trained_reward,
    untrained_reward,
)
from experiments.sft import sft_stage, trained
from experiments.sft import untrained as untrained_policy
from rlhf_jax.data import batch_indices, encode_prompts, take
from rlhf_jax.equations import (
    Mean,
    adapted_scale,
    ensemble_score,
    explained_variance,
    gae,
    linear,
    masked_mean,
    mean,
    nothing_seen,
    row_sums,
    seen,
    summed,
    token_rewards,
    values,
    whiten,
)
from rlhf_jax.errors import InputError
from rlhf_jax.evals import Answers, answer, per_row, scores
from rlhf_jax.models import Sampling, generate
from rlhf_jax.runtime import Stage, Watch, mapped, place, run, shard_rows
from rlhf_jax.steps import (
    Estimator,
    Form,
    Models,
    Optimisers,
    PPOCoef,
    adam,
    divergences,
    initial_state,
    join,
    minibatches,
    ppo_step,
    reading,
    response_values,
    reward,
    training_score,
)
from rlhf_jax.types import Experience, Moments, PPOBatch, PPOState, PromptBatch, Response, Scalar, TextBatch

Name = Literal["ppo", "ppo_ptx"]
SAMPLE, SHUFFLE = 0, 1  # what a key is for


class Frozen(NamedTuple):
    """Models that do not learn: the reference π_SFT and the reward models r_θ, one or an ensemble; with LoRA the base that
    these and the models that learn are corrections of, and the factor on those."""

    sft: PyTree
    reward: tuple[PyTree, ...]
    base: PyTree = None
    scale: Float[Scalar, ""] = np.float32(1.0)

    def adapt(self, models: Models) -> Models:
        return Models(*(on_base(model, self.base, self.scale) for model in models))


class Plan(NamedTuple):
    """What fixes the shapes of an iteration; everything that is a number is in PPOCoef, every formula in Form."""

    max_tokens: int
    sampling: Sampling
    epochs: int
    minibatches: int
    eos: int
    pad: int


class Rollout(NamedTuple):
    """Answers, and what the frozen models make of them."""

    tokens: Int[Array, "B L"]  # x ⊕ y
    mask: Bool[Array, "B L"]
    y: Response
    raw: Float[Array, "E B"]  # r_θ(x, y) of each reward model
    score: Float[Array, " B"]  # that the answer is trained on
    moments: Moments  # of the scores
    ended: Bool[Array, " B"]
    kl: dict[Estimator, Float[Array, "B T"]]  # KL(π_RL‖π_SFT) of each token
    logp_sft: Float[Array, "B T"]


def rollout(
    state: PPOState,
    prompts: PromptBatch,
    key: Key[Array, ""],
    coef: PPOCoef,
    frozen: Frozen,
    *,
    models: Models,
    plan: Plan,
    form: Form,
) -> Rollout:
    """y ~ π_RL(·|x), with its log-probabilities as it was drawn; r_θ(x, y); log π_SFT and the KL of each token."""
    y = generate(models.policy, state.policy, prompts, key, plan.max_tokens, plan.sampling, plan.eos, plan.pad)
    tokens, mask = join(prompts, y)
    raw = jnp.stack([reward(r, tokens, mask, model=models.value) for r in frozen.reward])
    ended = jnp.any((y.tokens == plan.eos) & y.mask, axis=1)
    score, moments = training_score(raw, ended, state.scores, coef, form)
    read = reading(state.policy, tokens, mask, y, model=models.policy, reference=frozen.sft)
    return Rollout(tokens, mask, y, raw, score, moments, ended, divergences(read, y.mask), read.logp_ref)


def rollout_metrics(x: Rollout) -> dict[str, Mean]:
    """All estimates of the KL side by side, in nats an answer, whichever trains."""
    nats = {name: mean(row_sums(each, x.y.mask)) for name, each in x.kl.items()}
    return {
        "objective/kl": nats["k1"],
        "objective/kl_k2": nats["k2"],
        "objective/kl_k3": nats["k3"],
        "objective/kl_exact": nats["exact"],
        "objective/entropy": mean(row_sums(-x.y.logp, x.y.mask)),
        "objective/reward_model": mean(x.raw),
        "objective/scores": mean(x.score),
        "answer/length": mean(jnp.sum(x.y.mask, axis=1)),
        "answer/ended": mean(x.ended),
    }


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
) -> tuple[PPOState, dict[str, Mean]]:
    """Answers from the policy, a reward for each token, advantages, and the clipped updates with the pretraining mix."""
    key, T, models = jax.random.fold_in(state.key, state.step), plan.max_tokens, frozen.adapt(models)

    # y ~ π_RL(·|x); r_θ(x, y); KL(π_RL‖π_SFT) of each token; V(sₜ)
    sample_key = jax.random.fold_in(key, SAMPLE)
    x = rollout(state, batch.prompts, sample_key, coef, frozen, models=models, plan=plan, form=form)
    V, mask = response_values(state.value, x.tokens, x.mask, T, model=models.value), x.y.mask
    # rₜ = −β·KLₜ, and r_θ(x, y) at the last token (Eq. 2)
    scale = state.kl_scale * linear(state.step, coef.beta_steps, coef.beta_end)
    r = token_rewards(x.score, x.kl[form.kl_reward], coef.beta * scale, mask)
    if form.whiten_rewards:
        r = whiten(r, mask, shift_mean=False)
    # Âₜ by GAE, whitened over the batch; returns for the value
    adv, returns = gae(r, V, mask, coef.discount, coef.lam)
    if form.whiten != "off":
        adv = whiten(adv, mask, unbiased=form.whiten == "unbiased")
    experience = Experience(x.tokens, x.mask, x.y, x.logp_sft, V, adv, returns, batch.pretrain)
    # Minibatches: max(−Âρ, −Â clip(ρ)) + γ·(−log π_RL(x_pretrain)); value ½(V − R)²; EMA
    now = coef._replace(beta_loss=coef.beta_loss * scale)
    step = partial(ppo_step, coef=now, models=models, optimisers=optimisers, form=form, reference=frozen.sft)
    parts = minibatches(jax.random.fold_in(key, SHUFFLE), experience, plan.epochs, plan.minibatches)
    state, losses = jax.lax.scan(step, replace(state, scores=x.moments, stopped=jnp.bool_(False)), parts)

    episodes, nats = x.score.shape[0], jnp.mean(row_sums(x.kl["k1"], mask))
    penalty = coef.beta * scale * row_sums(x.kl[form.kl_reward], mask)
    kl_scale = adapted_scale(state.kl_scale, nats, coef.kl_target, episodes, coef.kl_horizon)
    state = replace(state, step=state.step + 1, kl_scale=kl_scale)
    return state, summed(losses) | rollout_metrics(x) | {
        "objective/non_score_reward": mean(-penalty),
        "objective/rlhf_reward": mean(x.score - penalty),
        "objective/beta": mean(coef.beta * scale),
        "val/mean": masked_mean(V, mask),
        "val/explained_variance": mean(explained_variance(V, returns, mask)),
        "episode": mean(state.step * episodes),
    }


def coefficients(c: PPO) -> PPOCoef:
    return PPOCoef(*(np.float32(getattr(c, name)) for name in PPOCoef._fields))


def plan_of(config: Config) -> Plan:
    c, t = config.ppo, tokenizer(config)
    return Plan(config.model.answer_tokens, sampling_of(config), c.epochs, c.minibatches, t.eos, t.pad)


def sampling_of(config: Config) -> Sampling:
    if config.ppo.temperature == 0:
        raise InputError("ppo.temperature is 0: greedy answers have no other ones to be compared with; set it above 0")
    return Sampling(config.ppo.temperature, config.ppo.top_k, config.ppo.top_p)


def optimisers_of(config: Config) -> Optimisers:
    o = config.optimiser
    return Optimisers(adam(o.eps, o.clip_norm), adam(o.eps, o.clip_norm))


def frozen_of(config: Config, mesh: Mesh | None = None) -> Frozen:
    rewards = tuple(trained_reward(config, i, mesh) for i in range(config.ppo.reward_models))
    return Frozen(trained(config, "rl_init", mesh=mesh), rewards, frozen_base(config, mesh), lora_scale(config))


def iteration_of(config: Config) -> Callable[..., tuple[PPOState, dict[str, Mean]]]:
    return partial(
        iteration,
        models=models_of(config),
        optimisers=optimisers_of(config),
        plan=plan_of(config),
        form=form_of(config),
    )


def models_of(config: Config) -> Models:
    return Models(language_model(config, training=True), scalar_model(config, training=True))


def form_of(config: Config) -> Form:
    return Form(*(getattr(config.ppo, name) for name in Form._fields))


def first_state(config: Config, role: str, frozen: Frozen) -> PPOState:
    """The policy starts as the RL initialisation, the value network as the (first) reward model."""
    return initial_state(frozen.sft, frozen.reward[0], optimisers_of(config), role_key(config, role))


def starting_state(config: Config, role: str, frozen: Frozen, mesh: Mesh) -> PPOState:
    """The first state, with the moments that ppo.score_norm = "fixed" normalises by."""
    state = first_state(config, role, frozen)
    fixed = config.ppo.score_norm == "fixed"
    return replace(state, scores=reference_moments(config, frozen, mesh)) if fixed else state


def variant(config: Config, name: Name) -> Config:
    """PPO is PPO-ptx with γ = 0, for which no pretraining text is read."""
    return config if name == "ppo_ptx" else replace(config, ppo=replace(config.ppo, gamma=0.0, pretrain_examples=0))


def ppo_stage(config: Config, name: Name) -> Stage:
    sections = variant(config, name).sections("pretrain", "sft", "rl_init", "reward", "ppo")
    return stage(config, name, config.ppo.iterations, sections, parents_of(config), best=config.runtime.best)


def parents_of(config: Config) -> dict[str, str]:
    rewards = {member_name(i): reward_stage(config, i).sha256 for i in range(config.ppo.reward_models)}
    return {"rl_init": sft_stage(config, "rl_init").sha256} | rewards


def untrained(config: Config) -> Frozen:
    """Of the shapes that `frozen_of` loads."""
    return Frozen(untrained_policy(config, "rl_init").params, (untrained_reward(config).params,))


def final_state(config: Config, name: Name, step: int | None = None) -> PPOState:
    """Of a finished stage, or as it was after a step."""
    shapes = jax.eval_shape(lambda: first_state(config, name, untrained(config)))
    return ppo_stage(config, name).load(shapes, step)[0]


def policy_of(config: Config, name: Name) -> PyTree:
    """The policy that a finished stage is reported with: the moving average (App. C.4)."""
    return whole(config, final_state(config, name).ema, frozen_base(config))


def best_policy_of(config: Config, name: Name) -> PyTree:
    """The same where runtime.best was largest, among the checkpoints."""
    return whole(config, final_state(config, name, ppo_stage(config, name).best).ema, frozen_base(config))


def ppo(config: Config, name: Name) -> None:
    this = ppo_stage(config, name)
    if this.finished:
        return
    config = variant(config, name)
    mesh = mesh_of(config)
    batches = batches_of(config, "ppo")  # the same prompts in the same order for both stages
    frozen, step = frozen_of(config, mesh), mapped(iteration_of(config), mesh, config.mesh.pmap)
    state = this.resume(place(starting_state(config, name, frozen, mesh), mesh, rule(config)))
    frozen, coef, look = place(frozen, mesh, rule(config)), place(coefficients(config.ppo), mesh), held_out_look(config)
    for i in this.steps(int(state.step), Watch(kl=100.0, entropy=0.5, factor=5.0, window=10)):
        state, metrics = step(state, shard_rows(batches(i), mesh), coef, frozen)
        metrics = values(metrics)
        if i == 0 or (i + 1) % config.runtime.look_every == 0:
            with jax.set_mesh(mesh):
                metrics |= look(whole(config, state.policy, frozen.base))
        this.log(i, metrics)
        this.save(i, state, config.runtime.save_every)


def batches_of(config: Config, role: str, answers: int = 1) -> Callable[[int], PPOBatch]:
    """The batch of iteration i: ppo.batch prompts, each so many times, one after the other, and pretraining rows for each
    row; the role deals out their order."""
    c, t = config.ppo, tokenizer(config)
    given = material(config).prompts["train"]
    fit = [given[i] for i in prompts_that_fit(config, "train")]
    prompts = encode_prompts(fit, t, config.model.prompt_tokens)
    text = packed(config, "train") if c.pretrain_examples else None
    seed = role_seed(config, role)

    def batch(i: int) -> PPOBatch:
        x = take(prompts, batch_indices(len(fit), c.batch // answers, seed, i).repeat(answers))
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

    def look(params: PyTree) -> dict[str, float]:
        total, tokens, _ = per_row(model, params, text, batch=c.batch)
        figures = {"pretrain/loss": float(-total.sum() / tokens.sum())}
        if source.truth is not None:
            truth, questions = source.truth, source.truth.questions["valid"]
            written = answers_of(config, params, prompts, role_key(config, "look"))
            texts = [t.decode(ids).strip() for ids in written.ids(t.eos)]
            gold = [truth.gold(questions[i], text) for i, text in zip(fit, texts, strict=True)]
            figures["gold/mean"] = float(np.mean(gold))
        return figures

    return look


def answers_of(config: Config, params: PyTree, prompts: PromptBatch, key: Key[Array, ""]) -> Answers:
    """Drawn as in training."""
    t = tokenizer(config)
    return answer(
        language_model(config),
        params,
        prompts,
        key,
        batch=config.evaluate.batch,
        max_tokens=config.model.answer_tokens,
        sampling=sampling_of(config),
        eos=t.eos,
        pad=t.pad,
    )


def reference_moments(config: Config, frozen: Frozen, mesh: Mesh, count: int = 256) -> Moments:
    """Of the scores that π_SFT's own answers to training prompts get (Ziegler et al. 2019, code: 256 samples)."""
    fit = [material(config).prompts["train"][i] for i in prompts_that_fit(config, "train")[:count]]
    prompts = encode_prompts(fit, tokenizer(config), config.model.prompt_tokens)
    policy, *models = (whole(config, params, frozen.base) for params in (frozen.sft, *frozen.reward))
    with jax.set_mesh(mesh):
        rows = answers_of(config, policy, prompts, role_key(config, "reference scores")).concat()
        each = [scores(score_rows(config), params, *rows, batch=config.evaluate.batch) for params in models]
    score = ensemble_score(jnp.asarray(np.stack(each)), config.ppo.ensemble, config.ppo.uncertainty)
    return seen(nothing_seen(), score)


def main() -> None:
    config = configured()
    ppo(config, "ppo")
    ppo(config, "ppo_ptx")


if __name__ == "__main__":
    run(main)
