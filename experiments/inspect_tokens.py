"""What PPO sees of its answers, token by token, as a page of coloured text.

    python experiments/inspect_tokens.py configs/tiny.toml

Takes the end of the stage "ppo_ptx", lets its policy answer the first evaluate.shown held-out prompts, and writes
tokens.html: the KL, reward, value and advantage of each token, and the ratio after one more update on these very answers.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from experiments.ppo_ptx import (
    coefficients,
    final_state,
    form_of,
    frozen_of,
    models_of,
    optimisers_of,
    plan_of,
)
from experiments.recipe import Config, material, prompts_that_fit, role_key, tokenizer
from rlhf_jax.config import load_config
from rlhf_jax.data import encode_prompts
from rlhf_jax.equations import gae, linear, token_rewards, whiten
from rlhf_jax.evals import Inspected, write_inspector
from rlhf_jax.models import generate
from rlhf_jax.runtime import run
from rlhf_jax.steps import (
    divergences,
    join,
    ppo_step,
    response_logits,
    response_logps,
    response_values,
    reward,
    training_score,
)
from rlhf_jax.types import Experience


def inspect_tokens(config: Config) -> Path:
    t, plan, form, coef, models = (
        tokenizer(config),
        plan_of(config),
        form_of(config),
        coefficients(config.ppo),
        models_of(config),
    )
    state, frozen, T = final_state(config, "ppo_ptx"), frozen_of(config), plan.max_tokens
    shown = [material(config).prompts["test"][i] for i in prompts_that_fit(config, "test")[: config.evaluate.shown]]

    @jax.jit
    def look(state, prompts, key):
        y = generate(models.policy, state.policy, prompts, key, T, plan.sampling, plan.eos, plan.pad)
        tokens, mask = join(prompts, y)
        raw = jnp.stack([reward(r, tokens, mask, model=models.value) for r in frozen.reward])
        ended = jnp.any((y.tokens == plan.eos) & y.mask, axis=1)
        score, _ = training_score(raw, ended, state.scores, coef, form)
        logits, logits_sft = (
            response_logits(p, tokens, mask, y, model=models.policy) for p in (state.policy, frozen.sft)
        )
        kl, V = divergences(logits, logits_sft, y), response_values(state.value, tokens, mask, T, model=models.value)
        beta = coef.beta * state.kl_scale * linear(state.step, coef.beta_steps, coef.beta_end)
        r = token_rewards(score, kl[form.kl_reward], beta, y.mask)
        adv, returns = gae(r, V, y.mask, coef.discount, coef.lam)
        experience = Experience(tokens, mask, y, response_logps(logits_sft, y), V, whiten(adv, y.mask), returns, None)
        after, _ = ppo_step(
            state, experience, coef, models=models, optimisers=optimisers_of(config), form=form, reference=frozen.sft
        )
        moved = response_logps(response_logits(after.policy, tokens, mask, y, model=models.policy), y)
        mean_value = jnp.sum(jnp.where(y.mask, V, 0.0)) / jnp.sum(y.mask)
        return (
            y,
            score,
            {
                "KL": kl["k1"],
                "exact KL": kl["exact"],
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
    print(f"The page is at {inspect_tokens(load_config(Config))}")


if __name__ == "__main__":
    run(main)
