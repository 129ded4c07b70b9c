"""PPO-ptx from a given policy and a given reward model: step 3 of the paper's Figure 2, alone.

    python experiments/ppo_ptx.py configs/ppo_ptx.toml --ppo.beta 0.05 --out runs/beta-0.05

InstructGPT, §3.5 and App. C.4. It takes about a minute on two cores from the models of configs/tiny.toml, which
experiments/instructgpt.py trains; nothing before PPO is trained again. To change a term, copy this file: `learn` follows the
order of the paper's algorithm, and what it leaves out (how an update is made from the losses) is rlhf_jax/steps/ppo.py.

Differences from the paper: 1. λ of GAE, the value's clip and its coefficient are not printed there, and are those of Ziegler
et al. 2019; 2. advantages are whitened, as in Huang et al. 2024; 3. one size of model for policy, value and reward.
"""

from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp

from rlhf_jax.equations import (
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
from rlhf_jax.steps import (
    SHUFFLE,
    Iteration,
    minibatches,
    ppo_step,
    response_values,
    rollout_metrics,
    sample,
    training_score,
)
from rlhf_jax.types import Experience, PerAnswer


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
    evaluate: Evaluate = Evaluate()


def learn(state, x, scores, text, coef, frozen, *, models, optimisers, plan, form):
    """From answers x and their scores [E, B]: a reward for each token, advantages, and the clipped updates with the mix."""
    key, models, mask = jax.random.fold_in(state.key, state.step), frozen.adapt(models), x.y.mask

    # The score that an answer is trained on; V(sₜ)
    score, moments = training_score(scores, x.ended, state.scores, coef, form)
    V = response_values(state.value, x.tokens, x.mask, plan.max_tokens, model=models.value)
    # rₜ = −β·KL(π_RL‖π_SFT)ₜ, and r_θ(x, y) at the last token (Eq. 2)
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
    step = partial(ppo_step, coef=now, models=models, optimisers=optimisers, form=form, reference=frozen.sft)
    parts = minibatches(jax.random.fold_in(key, SHUFFLE), experience, plan.epochs, plan.minibatches)
    state, losses = jax.lax.scan(step, replace(state, scores=moments, stopped=jnp.bool_(False)), parts)

    episodes, penalty = score.shape[0], coef.beta * scale * row_sums(x.kl[form.kl_reward], mask)
    nats = jnp.mean(row_sums(x.kl["k1"], mask))
    kl_scale = adapted_scale(state.kl_scale, nats, coef.kl_target, episodes, coef.kl_horizon)
    state = replace(state, step=state.step + 1, kl_scale=kl_scale)
    return state, summed(losses) | rollout_metrics(x, scores, score) | {
        "objective/rlhf_reward": mean(score - penalty),
        "objective/beta": mean(coef.beta * scale),
        "val/mean": masked_mean(V, mask),
        "val/explained_variance": mean(explained_variance(V, returns, mask)),
        "episode": mean(state.step * episodes),
        **{name: PerAnswer(x) for name, x in (("score", score), ("value", V), ("advantage", adv))},
    }


def main(c: Config) -> None:
    start = model_in(c.given.start, c.format, c.memory, c.lora)
    data = data_of(start, c.files or c.world, c.seed)
    environment = environment_in(c.given.environment)
    rewards = rewards_in(c.given.reward, c.given.weights, start, data.truth, environment)
    talk = {"environment": environment, "episodes": c.episodes}
    data = replace(data, prompts=prompts_that_fit_all(data.prompts, start))
    judge = data.truth.judge if data.truth else None
    policy_of = partial(policy, text=data.text, judge=judge, iteration=Iteration(sample, learn), **talk)
    found = policy_of(c.folder / "ppo_ptx", start, rewards, data.prompts, c.ppo, c.run)
    others = trained_in(c.given.against, c.format, c.memory)
    compare(c.folder / "ppo_ptx.json", "ppo_ptx", found, others, start, data, rewards, c.evaluate, c.run, **talk)


if __name__ == "__main__":
    run(lambda: main(begin(Config, __file__, __doc__)))
