"""Do shuffled pairs overfit where rankings do not? A reward model learns from rankings of K = 4..9 answers, each a batch
element, and another one from the same comparisons, each by itself, shuffled.

    python experiments/studies/kwise_against_pairs.py alpaca-eval-prefs/prefs.jsonl.xz runs/kwise_against_pairs

InstructGPT, §3.5: "if we simply shuffle the comparisons into one dataset, a single pass over the dataset caused the reward
model to overfit". Rows are {instruction, responses: [{output, gpt4turbo_vs_gpt4_1106}, ...]}: answers to AlpacaEval's
prompts, and how far GPT-4-turbo prefers each to GPT-4's. Of each prompt's answers some that fit are drawn into rankings;
figures are shares of pairs of answers to held-out prompts, and to those learned from, over all seeds, with intervals over
prompts. Both arms start from one language model and make as many updates of as many comparisons each; the rate is constant,
so that each pass of several is what so many passes would end with.

Differences from the paper: 1. preferences are a model's; 2. the language model is small and pretrained on the training
prompts' answers; 3. answers that are too long for it are left out; 4. batch and rate are configs/tiny.toml's (of the paper's
64 rankings there would be two updates a pass).
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np

from rlhf_jax import runtime, stages
from rlhf_jax.data import Layout, Ranking, ranking_fits, read_rankings, split_of, text_of
from rlhf_jax.evals import Estimate, ratio_interval

LAYOUT = Layout(prompt="instruction", answers="responses.output", scores="responses.gpt4turbo_vs_gpt4_1106")
SHAPE = stages.Decoder(width=128, layers=2, heads=4, kv_heads=4, hidden=512, position="rope")
FORMAT = stages.Format(prompt_tokens=40, answer_tokens=56)
VOCABULARY = stages.TokenizerSettings(vocab_size=2_000)
PRETRAIN = stages.Pretrain(steps=400, batch=24, lr=3e-3, warmup=20)
REWARD = stages.Reward(epochs=4, batch=4, lr=5e-4, schedule="constant", cut_off=False)


def drawn(rows: Sequence[Ranking], model: stages.Model, each: int) -> list[Ranking]:
    """Of each prompt's answers those that fit, at random in so many rankings of 4 to 9, no answer in two of them. How many
    are left out is said; of a prompt with few that fit there are fewer rankings."""
    rng, found, fit = np.random.default_rng(0), [], 0
    for row in rows:
        left = [
            (answer, rank)
            for answer, rank in zip(row.answers, row.ranks, strict=True)
            if ranking_fits(row._replace(answers=(answer,)), model.tokenizer, model.format.context)
        ]
        fit, left = fit + len(left), [left[i] for i in rng.permutation(len(left))]
        for K in rng.integers(4, 10, each):
            taken, left = left[:K], left[K:]
            if len(taken) >= 4 and len({rank for _, rank in taken}) > 1:
                answers, ranks = zip(*taken, strict=True)
                found.append(row._replace(answers=answers, ranks=ranks))
    there, used = (sum(len(row.answers) for row in of) for of in (rows, found))
    runtime.info(f"{len(found)} rankings of {used} answers; of {there} to {len(rows)} prompts {fit} fit")
    return found


def as_pairs(rankings: Sequence[Ranking]) -> list[Ranking]:
    """Each comparison as a ranking of its own: C(K, 2) of a ranking of K, less its ties."""
    return [
        row._replace(answers=(a, b), ranks=(i, j))
        for row in rankings
        for (a, i), (b, j) in combinations(zip(row.answers, row.ranks, strict=True), 2)
        if i != j
    ]


def before(
    out: Path, file: str, shape=SHAPE, format=FORMAT, vocabulary=VOCABULARY, pretrain=PRETRAIN, run=stages.RUN
) -> tuple[stages.Trained, stages.Parts[Ranking]]:
    """What both arms share: the language model that they start from, and rankings."""
    rows = read_rankings(file, "drop", LAYOUT)
    train, test = split_of((0.7, 0.3), 0, (), (), rows).rows(rows)
    text = [f"{text_of(row.prompt)} {answer}" for row in train for answer in row.answers]
    tokenizer = stages.run_tokenizer(vocabulary, out, lambda: text[::10])
    start = stages.pretrain(out / "pretrain", stages.described(shape, tokenizer, format), text, pretrain, run)
    return start, stages.Parts(drawn(train, start, 1), test=drawn(test, start, 2))


def by_pass(
    folder: Path, start: stages.Trained, rows: Sequence[Ranking], updates: int, reward: stages.Reward, run: stages.Run
) -> Iterator[stages.Loaded]:
    """The reward model after each pass of so many updates. What a pass leaves over, less than one for each update, comes in
    the next, so that a look may come so much early."""
    its = replace(run, runtime=replace(run.runtime, save_every=updates, keep=len(rows)))
    stages.reward_model(folder, start, rows, replace(reward, batch=len(rows) // updates), its)
    for epoch in range(1, reward.epochs + 1):
        yield stages.loaded(stages.trained(folder, epoch * updates))


def study(
    out: Path, start: stages.Trained, rankings: stages.Parts[Ranking], reward=REWARD, run=stages.RUN, seeds=3
) -> dict[str, Estimate]:
    updates = max(len(rankings.train) // reward.batch, 1)
    arms = {"kwise": rankings.train, "pairs": as_pairs(rankings.train)}
    counts: dict[tuple[str, str, int], list[stages.Ordered]] = {}
    for seed in range(seeds):
        for arm, rows in arms.items():
            folder = out / arm / f"seed_{seed}" / "reward_model"
            for epoch, judge in enumerate(by_pass(folder, start, rows, updates, reward, replace(run, seed=seed)), 1):
                for part, on in (("train", rankings.train), ("test", rankings.test)):
                    counts.setdefault((part, arm, epoch), []).extend(stages.ordered(judge, on, run))
    figures = {"/".join(map(str, key)): stages.accuracy_over_prompts(counts[key]) for key in sorted(counts)}
    for epoch in range(1, reward.epochs + 1):
        figures[f"test/lead/{epoch}"] = lead(counts["test", "kwise", epoch], counts["test", "pairs", epoch])
    return figures


def lead(ours: Sequence[stages.Ordered], theirs: Sequence[stages.Ordered]) -> Estimate:
    """By what share of all pairs ours order more of them right, of the same rankings. The interval is over prompts."""
    index = {prompt: i for i, prompt in enumerate(dict.fromkeys(one.prompt for one in ours))}
    at = [index[one.prompt] for one in ours]
    more = [a.right - b.right for a, b in zip(ours, theirs, strict=True)]
    return ratio_interval(np.bincount(at, more), np.bincount(at, [one.pairs for one in ours]))


def main() -> None:
    out = Path(sys.argv[2])
    for name, figure in study(out, *before(out, sys.argv[1])).items():
        print(f"{name} {figure}")


if __name__ == "__main__":
    runtime.run(main)
