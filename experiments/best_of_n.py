"""Best-of-n: the answer of n that the reward, a model or functions, likes best, from the model that RL starts from.

    python experiments/best_of_n.py configs/best_of_n.toml

Stiennon et al. 2020 (arXiv:2009.01325) and Gao et al. 2022 (arXiv:2210.10760): how far choosing goes, as a baseline for
PPO. Seconds on two cores, from the models of configs/tiny.toml. Writes best_of_n.json: for n = 1, 2, 4 … the mean reward, the
judge's verdict, both against one more answer of the model, which is none of the n, and the KL from the model, at most
log n − (n − 1)/n nats. Where reward and verdict have nothing to do with each other, every n wins half of the time.

Differences from these papers: 1. the judge is the built-in world's gold preference, or the reward itself on files.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rlhf_jax.config import Count
from rlhf_jax.data import encode_prompts
from rlhf_jax.equations import best_of_n_kl
from rlhf_jax.evals import SHARE, Estimate, Scale, mean_interval, paired_interval, win_scores
from rlhf_jax.labelers import RANGE
from rlhf_jax.runtime import run, write_atomically
from rlhf_jax.stages import (
    Evaluate,
    Files,
    Format,
    Memory,
    Program,
    World,
    answers_of,
    begin,
    data_of,
    decoded,
    judge_of,
    model_in,
    read_as_text,
    require_belonging,
    require_prompts,
    rewarded,
    rewards_in,
)


@dataclass(frozen=True)
class Given:
    """Folders of trained models, of any run, and rewards."""

    start: str = "runs/tiny/rl_init"  # the folder of the model that answers
    reward: str = (
        "runs/tiny/reward_model"  # or my_rewards.py:name, a function, which chooses; several with commas between
    )
    weights: str = ""  # of each, with commas between; "" is 1 each


@dataclass(frozen=True)
class Config(Program):
    given: Given = Given()
    format: Format = Format()  # of models from Hugging Face folders; a stage's has its own
    memory: Memory = Memory()
    best_of: Count = 16  # answers to a prompt, at most
    world: World = World()  # the built-in world
    files: Files | None = None  # the user's own data, in its place
    evaluate: Evaluate = Evaluate()


def best_of_n(c: Config) -> dict[int, dict[str, Estimate | float]]:
    model, batch = model_in(c.given.start, c.format, c.memory), c.runtime.batch
    data = data_of(model, c.files or c.world, c.seed)
    rewards = read_as_text(rewards_in(c.given.reward, c.given.weights, model, data.truth), model, None)
    require_belonging(model, rewards.models)
    require_prompts(data.prompts.test, model)
    judge = judge_of(data, model, rewards, c.evaluate)
    prompts, params = encode_prompts(judge.prompts, model.tokenizer, model.format.prompt_tokens), model.params()
    scored, verdicts = [], []
    for draw in range(c.best_of + 1):
        key = c.run.key(f"best of n, {draw}")
        answers = answers_of(model, params, prompts, key, c.evaluate.sampling, batch)
        texts = decoded(model, answers)
        scored.append(rewarded(judge, answers, texts, c.run))
        if judge.truth is None or judge.questions is None:
            verdicts.append(scored[-1])
        else:
            asked = zip(judge.questions, texts, strict=True)
            verdicts.append(np.array([judge.truth.gold(question, text) for question, text in asked]))
    score, verdict, asked = np.stack(scored), np.stack(verdicts), [prompt.text for prompt in judge.prompts]
    scale, found = None if judge.truth is None else RANGE, {}
    n = 1
    while n <= c.best_of:
        found[n] = {**chosen(n, score, verdict, asked, scale), "kl": best_of_n_kl(n)}
        n *= 2
    return found


def chosen(
    n: int, score: Float[ndarray, "N P"], verdict: Float[ndarray, "N P"], prompts: Sequence[str], scale: Scale | None
) -> dict[str, Estimate]:
    """Of the answer that has the highest score of the first n < N to each of P prompts. The last of the N, which is never
    among those to choose from, is what it is compared with. scale: of the verdict."""
    best, every = score[:n].argmax(axis=0), np.arange(len(prompts))
    ours, another = verdict[best, every], verdict[-1]
    return {
        "reward": mean_interval(score[best, every], prompts),
        "verdict": mean_interval(ours, prompts, scale),
        "verdict/minus_another": paired_interval(ours, another, prompts, scale),
        "win_rate/vs_another": mean_interval(win_scores(ours, another), prompts, SHARE),
    }


def main(c: Config) -> None:
    found = best_of_n(c)
    as_json = {
        n: {k: e._asdict() if isinstance(e, Estimate) else e for k, e in row.items()} for n, row in found.items()
    }
    write_atomically(c.folder / "best_of_n.json", json.dumps(as_json, indent=1))
    for n, row in found.items():
        figures = (f"{name} {e if isinstance(e, Estimate) else f'{e:.3f}'}" for name, e in row.items())
        print(f"n = {n}: " + ", ".join(figures))


if __name__ == "__main__":
    run(lambda: main(begin(Config, __file__, __doc__)))
