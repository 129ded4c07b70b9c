"""RLOOTrainer's work: each answer's baseline is the mean of the others to its prompt, and the KL is in the reward.

python docs/from_trl/rloo.py models/gpt2 prompts.jsonl runs/rloo
"""

import sys
from functools import partial

from experiments.grpo import learn
from rlhf_jax.data import read_prompts
from rlhf_jax.runtime import run
from rlhf_jax.stages import PPO, Format, Optimiser, Run, export, model_in, policy
from rlhf_jax.steps import Iteration, sample

FORMAT = Format(prompt_tokens=512, answer_tokens=512)  # max_completion_length=512
ANSWERS = 2  # num_generations
SETTINGS = PPO(
    iterations=1000,  # max_steps
    batch=64,  # answers, which are 32 prompts
    minibatches=1,
    beta=0.05,
    policy_mean="constant",  # TRL takes one ratio for a whole answer, whose gradient is the sum over its tokens
    lr=1e-6,
    warmup=0,
    schedule="linear",
    lr_steps=1000,
    lr_floor=0.001,
    result="policy",
).plain()
RUN = Run(seed=42, optimiser=Optimiser(b2=0.999))


def reward(prompts, answers, rows) -> list[float]:
    """How many different letters an answer has."""
    return [float(len(set(answer))) for answer in answers]


def main() -> None:
    folder, rows, out = sys.argv[1:]
    halves = Iteration(sample, partial(learn, advantage="rloo", answers=ANSWERS), has_value=False)
    start, prompts = model_in(folder, FORMAT), read_prompts(rows)
    export(policy(out, start, reward, prompts, SETTINGS, RUN, iteration=halves, answers=ANSWERS), f"{out}-exported")


if __name__ == "__main__":
    run(main)
