"""Best-of-n: the answer of n that the reward model likes best, from the model that RL starts from.

    python experiments/best_of_n.py configs/tiny.toml

Stiennon et al. 2020 (arXiv:2009.01325) and Gao et al. 2022 (arXiv:2210.10760): how far choosing goes, as a baseline for
PPO. Writes best_of_n.json: for n = 1, 2, 4 … evaluate.best_of the mean reward, the judge's verdict, the win rate against
n = 1, and the KL from the model, at most log n − (n − 1)/n nats.
"""

import json
from pathlib import Path

import numpy as np

from experiments.evaluate import judge_of
from experiments.ppo_ptx import answers_of
from experiments.recipe import Config, configured, role_key, tokenizer
from experiments.reward_model import reward_params, score_rows
from experiments.sft import fine_tuned
from rlhf_jax.data import encode_prompts
from rlhf_jax.equations import best_of_n_kl
from rlhf_jax.evals import Estimate, mean_interval, proportion_interval, scores, win_scores
from rlhf_jax.runtime import run, write_atomically


def best_of_n(config: Config) -> dict[int, dict[str, Estimate | float]]:
    judge, t, c = judge_of(config), tokenizer(config), config.evaluate
    params, reward = fine_tuned(config, "rl_init"), reward_params(config)
    prompts = encode_prompts(judge.prompts, t, config.model.prompt_tokens)
    scored, verdicts = [], []
    for draw in range(c.best_of):
        answers = answers_of(config, params, prompts, role_key(config, f"best of n, {draw}"))
        scored.append(scores(score_rows(config), reward, *answers.concat(), batch=c.batch))
        texts = [t.decode(ids).strip() for ids in answers.ids(t.eos)]
        if judge.truth is None or judge.questions is None:
            verdicts.append(scored[-1])
        else:
            verdicts.append(
                np.array([judge.truth.gold(q, text) for q, text in zip(judge.questions, texts, strict=True)])
            )
    score, verdict, every = np.stack(scored), np.stack(verdicts), np.arange(len(judge.prompts))
    found: dict[int, dict[str, Estimate | float]] = {}
    n = 1
    while n <= c.best_of:
        best = score[:n].argmax(axis=0)
        found[n] = {
            "reward": mean_interval(score[best, every]),
            "verdict": mean_interval(verdict[best, every]),
            "win_rate/vs_1": proportion_interval(win_scores(verdict[best, every], verdict[0])),
            "kl": best_of_n_kl(n),
        }
        n *= 2
    return found


def main() -> None:
    config = configured()
    found = best_of_n(config)
    as_json = {
        n: {k: e._asdict() if isinstance(e, Estimate) else e for k, e in row.items()} for n, row in found.items()
    }
    write_atomically(Path(config.out) / "best_of_n.json", json.dumps(as_json, indent=1))
    for n, row in found.items():
        print(
            f"n = {n}: "
            + ", ".join(f"{name} {e if isinstance(e, Estimate) else f'{e:.3f}'}" for name, e in row.items())
        )


if __name__ == "__main__":
    run(main)
