"""What PPO sees of its answers, token by token, as a page of coloured text.

    python experiments/inspect_tokens.py configs/tiny.toml

Takes the end of the stage "ppo_ptx", lets its policy answer the first evaluate.shown held-out prompts, and writes
tokens.html: the KL, reward, value and advantage of each token, and the ratio after one more update on these very answers.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.decoder import language_model, scalar_model
from experiments.ppo_ptx import (
    coefficients,
    final_state,
    form_of,
    frozen_of,
    optimisers_of,
    plan_of,
    rollout,
)
from experiments.recipe import Config, configured, material, prompts_that_fit, role_key, tokenizer
from rlhf_jax.data import encode_prompts
from rlhf_jax.equations import gae, linear, token_rewards, whiten
from rlhf_jax.evals import Inspected, write_inspector
from rlhf_jax.runtime import run
from rlhf_jax.steps import Models, ppo_step, reading, response_values
from rlhf_jax.types import Experience


def inspect_tokens(config: Config) -> Path:
    t, plan, form, coef, models = (
        tokenizer(config),
        plan_of(config),
        form_of(config),
        coefficients(config.ppo),
        Models(language_model(config), scalar_model(config)),
    )
    state, frozen = final_state(config, "ppo_ptx"), frozen_of(config)
    models = frozen.adapt(models)
    shown = [material(config).prompts["test"][i] for i in prompts_that_fit(config, "test")[: config.evaluate.shown]]

    @jax.jit
    def look(state, prompts, key):
        x = rollout(state, prompts, key, coef, frozen, models=models, plan=plan, form=form)
        tokens, mask, y = x.tokens, x.mask, x.y
        V = response_values(state.value, tokens, mask, plan.max_tokens, model=models.value)
        beta = coef.beta * state.kl_scale * linear(state.step, coef.beta_steps, coef.beta_end)
        r = token_rewards(x.score, x.kl[form.kl_reward], beta, y.mask)
        if form.whiten_rewards:
            r = whiten(r, y.mask, shift_mean=False)
        adv, returns = gae(r, V, y.mask, coef.discount, coef.lam)
        white = adv if form.whiten == "off" else whiten(adv, y.mask, unbiased=form.whiten == "unbiased")
        experience = Experience(tokens, mask, y, x.logp_sft, V, white, returns, None)
        after, _ = ppo_step(
            state, experience, coef, models=models, optimisers=optimisers_of(config), form=form, reference=frozen.sft
        )
        moved = reading(after.policy, tokens, mask, y, model=models.policy).logp
        mean_value = jnp.sum(jnp.where(y.mask, V, 0.0)) / jnp.sum(y.mask)
        return (
            y,
            x.score,
            {
                "KL": x.kl["k1"],
                "exact KL": x.kl["exact"],
                "reward": r,
                "value": V - mean_value,
                "advantage": adv,
                "ratio": jnp.exp(moved - y.logp),
            },
        )

    prompts = encode_prompts(shown, t, config.model.prompt_tokens)
    y, score, numbers = jax.device_get(look(state, prompts, role_key(config, "inspect")))
    answers = [
        Inspected(
            prompt.text.strip(),
            float(score[i]),
            [t.decode([int(token)]) or "⏎" for token in y.tokens[i][y.mask[i]]],
            {name: np.asarray(each[i][y.mask[i]]) for name, each in numbers.items()},
        )
        for i, prompt in enumerate(shown)
    ]
    path = Path(config.out) / "tokens.html"
    write_inspector(path, f"{Path(config.out).name}: PPO-ptx, token by token", answers)
    return path


def main() -> None:
    print(f"The page is at {inspect_tokens(configured())}")


if __name__ == "__main__":
    run(main)
