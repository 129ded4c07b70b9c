"""Does a reward model know what labelers prefer whom it has not learned from? Groups of them are held out in turn.

    python experiments/studies/labeler_groups.py runs/tiny/rl_init runs/labeler_groups

InstructGPT, §4.1 and App. E.2: five groups, five folds, three seeds. Here the labelers are the built-in world's, and every
other one is contrary. They are grouped twice: dealt at random into five groups, and by what they prefer. Where two groups
disagree, a reward model of all labelers knows what neither prefers: a pooled one, which learned from all, stands beside
each group's own, an ensemble by group. Figures are shares of pairs of answers to held-out prompts, over all folds and
seeds, with intervals over prompts.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from rlhf_jax import runtime, stages
from rlhf_jax.data import Ranking, not_held_out
from rlhf_jax.evals import Estimate
from rlhf_jax.labelers import make_labelers

# Times a labeler's weights on what an answer says and how: content, constraint, brevity, falsehood, rudeness.
OPPOSED = {"usual": (1, 1, 1, 1, 1), "contrary": (-1, -1, -1, -1, -1)}
WORLD = stages.World(prompts=8_000, demonstrations=2_600)  # of configs/tiny.toml
ANSWERS = stages.AnswersToRank(prompts=1_000)
REWARD = stages.Reward(epochs=4, batch=4, lr=5e-4)


def labeled(out: Path, sft: stages.Trained, data: stages.DataSets, labelers, answers, run) -> stages.Parts[Ranking]:
    def asked(part: str) -> list[Ranking]:
        written = stages.sample_answers(out / f"{part}_answers", sft, data.prompts.each()[part], answers, run)
        return stages.ask(out / f"{part}_rankings", written, labelers, run)

    return stages.Parts(asked("train"), test=asked("test"))


def study(
    out: Path, sft: stages.Trained, data: stages.DataSets, answers=ANSWERS, reward=REWARD, run=stages.RUN, seeds=3
) -> dict[str, Estimate]:
    assert data.truth is not None
    labelers = stages.simulated(replace(data.truth, labelers=make_labelers(run.seed, 10, "train", groups=OPPOSED)))
    rankings = labeled(out, sft, data, labelers, answers, run)
    group_of = {one.name: one.group for one in labelers}

    def judges(folder: Path, train: Sequence[Ranking]) -> Iterator[stages.Loaded]:
        for seed in range(seeds):
            its = folder / f"seed_{seed}" / "reward_model"
            yield stages.loaded(stages.reward_model(its, sft, train, reward, replace(run, seed=seed)))

    figures, inside = {}, []
    for way, groups in {"at_random": 5, "by_preference": group_of}.items():
        inside, held_out = [], []
        for fold in stages.folds(rankings, groups, run.seed):
            for judge in judges(out / way / fold.group, fold.train):
                inside += stages.ordered(judge, fold.in_groups, run)
                held_out += stages.ordered(judge, fold.held_out, run)
        figures[f"{way}/training_groups"] = stages.accuracy_over_prompts(inside)
        figures[f"{way}/held_out_group"] = stages.accuracy_over_prompts(held_out)

    pooled = []
    for judge in judges(out / "pooled", not_held_out(rankings.train, rankings.test)):
        pooled += stages.ordered(judge, rankings.test, run)
    # Of two groups, what learns from all but one is the other's own model: of these are the figures by preference.
    for model, counts in {"pooled_model": pooled, "own_model": inside}.items():
        for group in OPPOSED:
            of_group = [one for one in counts if group_of[one.labeler] == group]
            figures[f"{model}/{group}"] = stages.accuracy_over_prompts(of_group)
    return figures


def main() -> None:
    world = stages.from_world(WORLD, seed=0)
    for name, figure in study(Path(sys.argv[2]), stages.trained(sys.argv[1]), world).items():
        print(f"{name} {figure}")


if __name__ == "__main__":
    runtime.run(main)
