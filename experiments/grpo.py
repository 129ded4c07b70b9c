"""Policy gradients without a value network: K answers to each prompt are one another's baseline.

    python experiments/grpo.py configs/grpo.toml --group.advantage grpo --ppo.beta 0 --ppo.beta-loss 0.3 --ppo.kl-loss k3

It takes about a minute on two cores, from the models of configs/tiny.toml, with [ppo]'s coefficients and the pretraining
mix. group.advantage:
    reinforce   rₖ − the mean of all scores of earlier iterations (Williams 1992)
    rloo        rₖ − the mean of the other K − 1 (Ahmadian et al. 2024, arXiv:2402.14740)
    grpo        (rₖ − group mean) / group deviation (Shao et al. 2024, arXiv:2402.03300), with ppo.policy_mean "answer"
    grpo_batch  the same over the whole batch's deviation (Hu et al. 2025, arXiv:2501.03262)
    best        1 for the best of the K, 0 for the others: fine-tuning on one's own best answers, which is expert iteration
                (Anthony et al. 2017, arXiv:1705.08439; RAFT, Dong et al. 2023, arXiv:2304.06767)
    dr_grpo     rₖ − group mean (Liu et al. 2025, arXiv:2503.20783), with ppo.policy_mean "constant"
DAPO (Yu et al. 2025, arXiv:2503.14476) is grpo with ppo.policy_mean "token" and ppo.clip_high above ppo.clip_low, without its
dynamic sampling. rₖ is the score less β times the answer's KL; GRPO's KL in the loss is ppo.beta_loss.

Differences from these papers: 1. the pretraining mix of InstructGPT may be on; 2. what [ppo] says of values, GAE and
whitening is not read, and what would change the policy's updates without them is refused.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.config import Checked, Several
from rlhf_jax.equations import adapted_scale, group_relative, leave_one_out, linear, mean, row_sums, seen, summed
from rlhf_jax.errors import InputError
from rlhf_jax.runtime import run
from rlhf_jax.stages import (
    PPO,
    Episodes,
    Evaluate,
    Files,
    Format,
    Lora,
    Memory,
    Program,
    World,
    begin,
    compare,
    data_of,
    environment_in,
    model_in,
    policy,
    prompts_that_fit_all,
    rewards_in,
    trained_in,
)
from rlhf_jax.steps import SHUFFLE, Iteration, minibatches, ppo_step, rollout_metrics, sample, training_score
from rlhf_jax.types import Experience, Moments, PerAnswer

Advantage = Literal["reinforce", "rloo", "grpo", "grpo_batch", "dr_grpo", "best"]


@dataclass(frozen=True)
class Group(Checked):
    """Answers that are compared with each other."""

    answers: Several = 4  # to a prompt; DeepSeekMath has 64
    advantage: Advantage = "rloo"  # see the docstring of experiments/grpo.py


@dataclass(frozen=True)
class Given:
    """Folders of trained models, of any run, and rewards."""

    start: str = "runs/tiny/rl_init"  # the folder of the policy that RL starts from, and the KL's reference
    reward: str = "runs/tiny/reward_model"  # or my_rewards.py:name, a function; several with commas between
    weights: str = ""  # of each, with commas between; "" is 1 each
    environment: str = ""  # my_env.py, with start and reply; the reward, or "", is then of whole episodes
    against: str = "runs/tiny/sft, runs/tiny/pretrain"  # of models that the policy is compared with


@dataclass(frozen=True)
class Config(Program):
    given: Given = Given()
    format: Format = Format()  # of models from Hugging Face folders; a stage's has its own
    memory: Memory = Memory()
    lora: Lora | None = None
    world: World = World()  # the built-in world
    files: Files | None = None  # the user's own data, in its place
    ppo: PPO = PPO()
    episodes: Episodes = Episodes()  # where there is an environment
    group: Group = Group()
    evaluate: Evaluate = Evaluate()


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


def learn(state, x, scores, text, coef, frozen, *, models, optimisers, plan, form, advantage: Advantage, answers: int):
    """From answers x and their scores [E, B]: what each earned, its advantage over the others, and the clipped updates with
    the mix. The rows are prompts, K times each, one after the other."""
    key, models, mask = jax.random.fold_in(state.key, state.step), frozen.adapt(models), x.y.mask

    # rₖ = r_θ(x, yₖ) − β·KL(π‖π_SFT)
    score, _ = training_score(scores, x.ended, state.scores, coef, form)
    scale = state.kl_scale * linear(state.step, coef.beta_steps, coef.beta_end)
    r = score - coef.beta * scale * row_sums(x.kl[form.kl_reward], mask)
    # Aₖ, the same for every token of the answer
    A = advantages(r.reshape(-1, answers), advantage, state.scores).reshape(-1)
    adv = jnp.where(mask, A[:, None], 0.0)
    experience = Experience(x.tokens, x.mask, x.y, x.logp_sft, None, adv, None, text)
    # Minibatches: max(−Aρ, −A clip(ρ)) + β_loss·KL + γ·(−log π(x_pretrain)); EMA
    now = coef._replace(beta_loss=coef.beta_loss * scale)
    step = partial(ppo_step, coef=now, models=models, optimisers=optimisers, form=form, reference=frozen.sft)
    parts = minibatches(jax.random.fold_in(key, SHUFFLE), experience, plan.epochs, plan.minibatches)
    state = replace(state, scores=seen(state.scores, r), stopped=jnp.bool_(False))
    state, losses = jax.lax.scan(step, state, parts)

    episodes, nats = r.shape[0], jnp.mean(row_sums(x.kl["k1"], mask))
    kl_scale = adapted_scale(state.kl_scale, nats, coef.kl_target, episodes, coef.kl_horizon)
    state = replace(state, step=state.step + 1, kl_scale=kl_scale)
    return state, summed(losses) | rollout_metrics(x, scores, score) | {
        "objective/rlhf_reward": mean(r),
        "group/no_difference": mean(jnp.ptp(score.reshape(-1, answers), axis=1) == 0),
        "group/deviation": mean(jnp.std(r.reshape(-1, answers), axis=1)),
        "episode": mean(state.step * episodes),
        **{name: PerAnswer(x) for name, x in (("score", score), ("advantage", adv))},
    }


def require_groups(group: Group, ppo: PPO) -> None:
    """InputError: groups that do not fill a batch, or settings of PPO that mean nothing here."""
    if group.answers < 2 or ppo.batch % group.answers:
        raise InputError(
            f"group.answers is {group.answers}; it must be at least 2 and divide ppo.batch, which is {ppo.batch}"
        )
    for key, value, off in (
        ("value_warmup", ppo.value_warmup, 0),
        ("whiten_rewards", ppo.whiten_rewards, False),
        ("score_norm", ppo.score_norm, "off"),
    ):
        if value != off:
            raise InputError(f"ppo.{key} is {value!r} and has no meaning without a value network; set it to {off!r}")


def main(c: Config) -> None:
    require_groups(c.group, c.ppo)
    start = model_in(c.given.start, c.format, c.memory, c.lora)
    data = data_of(start, c.files or c.world, c.seed)
    environment = environment_in(c.given.environment)
    rewards = rewards_in(c.given.reward, c.given.weights, start, data.truth, environment)
    talk = {"environment": environment, "episodes": c.episodes}
    data = replace(data, prompts=prompts_that_fit_all(data.prompts, start))
    judge = data.truth.judge if data.truth else None
    halves = Iteration(sample, partial(learn, advantage=c.group.advantage, answers=c.group.answers), has_value=False)
    policy_of = partial(policy, text=data.text, judge=judge, order="group", iteration=halves, **talk)
    found = policy_of(c.folder / "group", start, rewards, data.prompts, c.ppo, c.run, answers=c.group.answers)
    others = trained_in(c.given.against, c.format, c.memory)
    compare(c.folder / "group.json", "group", found, others, start, data, rewards, c.evaluate, c.run, **talk)


if __name__ == "__main__":
    run(lambda: main(begin(Config, __file__, __doc__)))
