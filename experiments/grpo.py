"""Policy gradients without a value network: K answers to each prompt are one another's baseline.

    python experiments/grpo.py configs/tiny.toml --group.advantage grpo --ppo.beta 0 --ppo.beta-loss 0.3 --ppo.kl-loss k3

Runs the stage "group" from the same models as PPO, with [ppo]'s coefficients and the pretraining mix. group.advantage:
    reinforce   rₖ − the mean of all scores of earlier iterations (Williams 1992)
    rloo        rₖ − the mean of the other K − 1 (Ahmadian et al. 2024, arXiv:2402.14740)
    grpo        (rₖ − group mean) / group deviation (Shao et al. 2024, arXiv:2402.03300), with ppo.policy_mean "answer"
    grpo_batch  the same over the whole batch's deviation (Hu et al. 2025, arXiv:2501.03262)
    best        1 for the best of the K, 0 for the others: fine-tuning on one's own best answers, which is expert iteration
                (Anthony et al. 2017, arXiv:1705.08439; RAFT, Dong et al. 2023, arXiv:2304.06767)
    dr_grpo     rₖ − group mean (Liu et al. 2025, arXiv:2503.20783), with ppo.policy_mean "constant"
DAPO (Yu et al. 2025, arXiv:2503.14476) is grpo with ppo.policy_mean "token" and ppo.clip_high above ppo.clip_low, without its
dynamic sampling. rₖ is the score less β times the answer's KL; GRPO's KL in the loss is ppo.beta_loss. What [ppo] says of
values, GAE and whitening is not read; what would change the policy's updates without them is refused.
"""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from experiments.devices import mesh_of, rule
from experiments.lora import whole
from experiments.ppo_ptx import (
    SAMPLE,
    SHUFFLE,
    Frozen,
    Plan,
    batches_of,
    coefficients,
    form_of,
    frozen_of,
    held_out_look,
    models_of,
    optimisers_of,
    parents_of,
    plan_of,
    rollout,
    rollout_metrics,
)
from experiments.recipe import Advantage, Config, Group, configured, role_key, stage
from rlhf_jax.equations import (
    Mean,
    adapted_scale,
    group_relative,
    leave_one_out,
    linear,
    mean,
    row_sums,
    seen,
    summed,
    values,
)
from rlhf_jax.errors import InputError
from rlhf_jax.runtime import Stage, Watch, mapped, place, run, shard_rows
from rlhf_jax.steps import Form, Models, Optimisers, PPOCoef, initial_state, minibatches, ppo_step
from rlhf_jax.types import Experience, Moments, PPOBatch, PPOState


def advantages(r: Float[Array, "B K"], how: Advantage, before: Moments) -> Float[Array, "B K"]:
    """Of K answers to each of B prompts, from what each of them earned."""
    if how == "reinforce":
        return r - before.mean
    if how == "rloo":
        return leave_one_out(r)
    if how == "best":
        return jax.nn.one_hot(jnp.argmax(r, axis=1), r.shape[1])
    if how == "grpo":
        return group_relative(r, "group")
    return group_relative(r, "batch" if how == "grpo_batch" else "none")


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
    advantage: Advantage,
    answers: int,
) -> tuple[PPOState, dict[str, Mean]]:
    """K answers to each prompt, what each earned, its advantage over the others, and the clipped updates with the mix.
    The rows of the batch are prompts, K times each, one after the other."""
    key, models = jax.random.fold_in(state.key, state.step), frozen.adapt(models)

    # y₁ … y_K ~ π(·|x); r_θ(x, yₖ); KL(π‖π_SFT) of each token
    sample_key = jax.random.fold_in(key, SAMPLE)
    x = rollout(state, batch.prompts, sample_key, coef, frozen, models=models, plan=plan, form=form)
    # rₖ = r_θ(x, yₖ) − β·KL(π‖π_SFT)
    scale = state.kl_scale * linear(state.step, coef.beta_steps, coef.beta_end)
    r = x.score - coef.beta * scale * row_sums(x.kl[form.kl_reward], x.y.mask)
    # Aₖ, the same for every token of the answer
    A = advantages(r.reshape(-1, answers), advantage, state.scores).reshape(-1)
    adv = jnp.where(x.y.mask, A[:, None], 0.0)
    experience = Experience(x.tokens, x.mask, x.y, x.logp_sft, None, adv, None, batch.pretrain)
    # Minibatches: max(−Aρ, −A clip(ρ)) + β_loss·KL + γ·(−log π(x_pretrain)); EMA
    now = coef._replace(beta_loss=coef.beta_loss * scale)
    step = partial(ppo_step, coef=now, models=models, optimisers=optimisers, form=form, reference=frozen.sft)
    parts = minibatches(jax.random.fold_in(key, SHUFFLE), experience, plan.epochs, plan.minibatches)
    state = replace(state, scores=seen(state.scores, r), stopped=jnp.bool_(False))
    state, losses = jax.lax.scan(step, state, parts)

    episodes, nats = r.shape[0], jnp.mean(row_sums(x.kl["k1"], x.y.mask))
    kl_scale = adapted_scale(state.kl_scale, nats, coef.kl_target, episodes, coef.kl_horizon)
    state = replace(state, step=state.step + 1, kl_scale=kl_scale)
    return state, summed(losses) | rollout_metrics(x) | {
        "objective/rlhf_reward": mean(r),
        "group/deviation": mean(jnp.std(r.reshape(-1, answers), axis=1)),
        "episode": mean(state.step * episodes),
    }


def section(config: Config) -> Group:
    group, batch = config.group, config.ppo.batch
    if group is None:
        raise InputError("the config has no [group] section; add one, see configs/tiny.toml")
    if group.answers < 2 or batch % group.answers:
        raise InputError(
            f"group.answers is {group.answers}; it must be at least 2 and divide ppo.batch, which is {batch}"
        )
    c = config.ppo
    for key, value, off in (
        ("value_warmup", c.value_warmup, 0),
        ("whiten_rewards", c.whiten_rewards, False),
        ("score_norm", c.score_norm, "off"),
    ):
        if value != off:
            raise InputError(f"ppo.{key} is {value!r} and has no meaning without a value network; set it to {off!r}")
    return group


def group_stage(config: Config) -> Stage:
    sections = config.sections("pretrain", "sft", "rl_init", "reward", "ppo", "group")
    return stage(config, "group", config.ppo.iterations, sections, parents_of(config), best=config.runtime.best)


def group(config: Config) -> None:
    c, this = section(config), group_stage(config)
    if this.finished:
        return
    mesh, batches, look = mesh_of(config), batches_of(config, "group", c.answers), held_out_look(config)
    frozen = frozen_of(config, mesh)
    one = partial(
        iteration,
        models=models_of(config),
        optimisers=optimisers_of(config),
        plan=plan_of(config),
        form=form_of(config),
        advantage=c.advantage,
        answers=c.answers,
    )
    step, coef = mapped(one, mesh, config.mesh.pmap), place(coefficients(config.ppo), mesh)
    state = initial_state(frozen.sft, None, optimisers_of(config), role_key(config, "group"))
    state, frozen = this.resume(place(state, mesh, rule(config))), place(frozen, mesh, rule(config))
    for i in this.steps(int(state.step), Watch(kl=100.0, entropy=0.5, factor=5.0, window=10)):
        state, metrics = step(state, shard_rows(batches(i), mesh), coef, frozen)
        metrics = values(metrics)
        if i == 0 or (i + 1) % config.runtime.look_every == 0:
            with jax.set_mesh(mesh):
                metrics |= look(whole(config, state.policy, frozen.base))
        this.log(i, metrics)
        this.save(i, state, config.runtime.save_every)


if __name__ == "__main__":
    run(lambda: group(configured()))
