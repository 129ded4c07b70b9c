"""What PPO sees of its answers, token by token, as a page of coloured text.

    python experiments/inspect_tokens.py configs/inspect_tokens.toml

Takes the end of a stage of PPO, lets its policy answer the first evaluate.shown held-out prompts, and writes tokens.html:
the KL, reward, value and advantage of each token, and the ratio after one more update on these very answers. Seconds on two
cores, from the models of configs/tiny.toml.
"""

from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.data import encode_prompts
from rlhf_jax.equations import gae, linear, token_rewards, whiten
from rlhf_jax.evals import Inspected, write_inspector
from rlhf_jax.models import LanguageModel, ScalarModel
from rlhf_jax.runtime import Checkpoints, run
from rlhf_jax.stages import (
    PPO,
    Evaluate,
    Files,
    Program,
    World,
    begin,
    data_of,
    networks,
    prompts_that_fit,
    trained,
    trained_in,
)
from rlhf_jax.steps import (
    Models,
    initial_state,
    ppo_step,
    reading,
    response_values,
    reward_scores,
    sample,
    training_score,
)
from rlhf_jax.types import Experience


@dataclass(frozen=True)
class Given:
    """Folders of trained models, of any run."""

    policy: str = "runs/tiny/ppo_ptx"  # the folder of the stage of PPO
    start: str = "runs/tiny/rl_init"  # of the model that it started from
    reward: str = "runs/tiny/reward_model"  # of its reward model; several, with commas between, are an ensemble


@dataclass(frozen=True)
class Config(Program):
    given: Given = Given()
    world: World = World()  # the built-in world
    files: Files | None = None  # the user's own data, in its place
    ppo: PPO = PPO()
    evaluate: Evaluate = Evaluate()


def inspect_tokens(c: Config) -> Path:
    start, rewards, policy = trained(c.given.start), trained_in(c.given.reward), trained(c.given.policy)
    data = data_of(policy, c.files or c.world, c.seed)
    frozen, value, value_model = networks(start, rewards, None, c.run, c.mesh.mesh(), "inspect")
    models = frozen.adapt(Models(LanguageModel(start.decoder), ScalarModel(value_model.decoder)))
    optimisers, coef, form, plan = c.run.optimisers(), c.ppo.coefficients, c.ppo.form, c.ppo.plan(start)
    shapes = jax.eval_shape(lambda: initial_state(frozen.sft, value, optimisers, jax.random.key(0)))
    restored = Checkpoints(policy.folder / "checkpoints", None).restore(shapes, policy.step)
    assert restored is not None
    state = restored[0]
    shown = prompts_that_fit(data.prompts.test, start, "test")[: c.evaluate.shown]

    @jax.jit
    def look(state, prompts):
        x = sample(state, prompts, frozen, models=models, plan=plan)
        tokens, mask, y = x.tokens, x.mask, x.y
        score, _ = training_score(reward_scores(x, frozen, model=models.value), x.ended, state.scores, coef, form)
        V = response_values(state.value, tokens, mask, plan.max_tokens, model=models.value)
        beta = coef.beta * state.kl_scale * linear(state.step, coef.beta_steps, coef.beta_end)
        r = token_rewards(score, x.kl[form.kl_reward], beta, y.mask)
        if form.whiten_rewards:
            r = whiten(r, y.mask, shift_mean=False)
        adv, returns = gae(r, V, y.mask, coef.discount, coef.lam)
        white = adv if form.whiten == "off" else whiten(adv, y.mask, unbiased=form.whiten == "unbiased")
        experience = Experience(tokens, mask, y, x.logp_sft, V, white, returns, None)
        after, _ = ppo_step(
            state, experience, coef, models=models, optimisers=optimisers, form=form, reference=frozen.sft
        )
        moved = reading(after.policy, tokens, mask, y, model=models.policy).logp
        mean_value = jnp.sum(jnp.where(y.mask, V, 0.0)) / jnp.sum(y.mask)
        numbers = {
            "KL": x.kl["k1"],
            "exact KL": x.kl["exact"],
            "reward": r,
            "value": V - mean_value,
            "advantage": adv,
            "ratio": jnp.exp(moved - y.logp),
        }
        return y, score, numbers

    t = start.tokenizer
    y, score, numbers = jax.device_get(look(state, encode_prompts(shown, t, start.format.prompt_tokens)))
    answers = [
        Inspected(
            prompt.text.strip(),
            float(score[i]),
            [t.decode([int(token)]) or "⏎" for token in y.tokens[i][y.mask[i]]],
            {name: np.asarray(each[i][y.mask[i]]) for name, each in numbers.items()},
        )
        for i, prompt in enumerate(shown)
    ]
    path = c.folder / "tokens.html"
    write_inspector(path, f"{policy.folder}: token by token", answers)
    return path


if __name__ == "__main__":
    run(lambda: print(f"The page is at {inspect_tokens(begin(Config, __file__, __doc__))}"))
