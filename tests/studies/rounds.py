"""Rounds of InstructGPT's steps 2 and 3: the newest policy answers, labelers rank, and a reward model learns from all
rankings so far (Ouyang et al. 2022, §3.1: "comparison data is collected on the current best policy").

    python tests/studies/rounds.py runs/tiny/rl_init runs/rounds
"""

import sys
from functools import partial
from pathlib import Path

from rlhf_jax import runtime, stages


def study(
    out: Path,
    sft,
    data,
    answers=stages.AnswersToRank(),
    reward=stages.Reward(),
    ppo=stages.PPO(),
    run=stages.RUN,
    count=2,
) -> list[stages.Trained]:
    policies, rankings, labelers = [sft], [], stages.simulated(data.truth)
    for i in range(count):
        here = out / f"round_{i}"
        written = stages.sample_answers(here / "answers", policies[-1], data.prompts.train, answers, run)
        rankings = rankings + stages.ask(here / "rankings", written, labelers, run)
        judge = stages.reward_model(here / "reward_model", sft, rankings, reward, run)
        policies.append(stages.policy(here / "policy", policies[-1], judge, data.prompts, ppo.plain(), run))
    return policies


if __name__ == "__main__":
    world = stages.from_world(stages.World(), seed=0)
    runtime.run(partial(study, Path(sys.argv[2]), stages.trained(sys.argv[1]), world))
