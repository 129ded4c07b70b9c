"""Does a reward model know what labelers prefer whom it has not learned from? Groups of them are held out in turn.

    python experiments/studies/labeler_groups.py runs/tiny/rl_init runs/labeler_groups

InstructGPT, §4.1 and App. E.2: five groups, five folds, three seeds. Here the labelers are the built-in world's, and every
other one is contrary. They are grouped twice: dealt at random into five groups, and by what they prefer. Figures are shares
of pairs of answers to held-out prompts, over all folds and seeds, with intervals over prompts.
"""

import sys
from dataclasses import replace
from pathlib import Path

from rlhf_jax import runtime, stages
from rlhf_jax.data import Ranking
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
    rankings, figures = labeled(out, sft, data, labelers, answers, run), {}
    for way, groups in {"at_random": 5, "by_preference": {one.name: one.group for one in labelers}}.items():
        inside, held_out = [], []
        for fold in stages.folds(rankings, groups, run.seed):
            for seed in range(seeds):
                folder, its = out / way / fold.group / f"seed_{seed}", replace(run, seed=seed)
                judge = stages.loaded(stages.reward_model(folder / "reward_model", sft, fold.train, reward, its))
                inside += stages.ordered(judge, fold.in_groups, run)
                held_out += stages.ordered(judge, fold.held_out, run)
        figures[f"{way}/training_groups"] = stages.accuracy_over_prompts(inside)
        figures[f"{way}/held_out_group"] = stages.accuracy_over_prompts(held_out)
    return figures


def main() -> None:
    world = stages.from_world(WORLD, seed=0)
    for name, figure in study(Path(sys.argv[2]), stages.trained(sys.argv[1]), world).items():
        print(f"{name} {figure}")


if __name__ == "__main__":
    runtime.run(main)
