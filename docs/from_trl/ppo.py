"""PPOTrainer's work: a policy against a reward model, from which the value network starts.

    python docs/from_trl/ppo.py runs/sft runs/reward prompts.jsonl runs/ppo

Rows are {prompt} or {messages}; they are not tokenised before. The models are what sft.py and reward.py have left.
"""

import sys

from rlhf_jax.data import read_prompts
from rlhf_jax.runtime import run
from rlhf_jax.stages import PPO, Optimiser, Run, export, policy, trained

SETTINGS = PPO(
    iterations=1000,  # total_episodes=64_000
    batch=64,
    epochs=4,  # num_ppo_epochs
    minibatches=1,
    temperature=0.7,
    beta=0.05,  # kl_coef
    lr=3e-6,
    value_lr=3e-6,
    warmup=0,
    schedule="linear",
    lr_steps=1000,
    lr_floor=0.001,  # the last of Transformers' steps is at 1/steps
    whiten="unbiased",
    result="policy",  # and not its moving average
).plain()  # without InstructGPT's pretraining mix
RUN = Run(seed=42, optimiser=Optimiser(b2=0.999, clip_norm=float("inf")))  # PPOTrainer does not read max_grad_norm


def main() -> None:
    start, reward, rows, out = sys.argv[1:]
    export(policy(out, trained(start), trained(reward), read_prompts(rows), SETTINGS, RUN), f"{out}-exported")


if __name__ == "__main__":
    run(main)
