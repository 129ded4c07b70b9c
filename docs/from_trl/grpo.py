"""GRPOTrainer's work: eight answers to each prompt, and a reward that is a Python function of the text.

python docs/from_trl/grpo.py models/gpt2 prompts.jsonl runs/grpo
"""

import sys
from functools import partial

from experiments.grpo import learn
from rlhf_jax.data import read_prompts
from rlhf_jax.runtime import run
from rlhf_jax.stages import PPO, Format, Optimiser, Run, export, model_in, policy
from rlhf_jax.steps import Iteration, sample

FORMAT = Format(prompt_tokens=512, answer_tokens=512)  # max_completion_length=512
ANSWERS = 8  # num_generations
SETTINGS = PPO(
    iterations=1000,  # max_steps
    batch=64,  # answers, which are 8 prompts
    minibatches=1,
    beta=0.0,  # in the reward; GRPO's own, in the loss, is beta_loss, with kl_loss "k3"
    policy_mean="token",  # loss_type="dapo"; "answer" is "grpo", "constant" is "dr_grpo"
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
    halves = Iteration(sample, partial(learn, advantage="grpo", answers=ANSWERS), has_value=False)
    start, prompts = model_in(folder, FORMAT), read_prompts(rows)
    export(policy(out, start, reward, prompts, SETTINGS, RUN, iteration=halves, answers=ANSWERS), f"{out}-exported")


if __name__ == "__main__":
    run(main)
