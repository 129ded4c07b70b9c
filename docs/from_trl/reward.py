"""RewardTrainer's work, from an SFT model.

    python docs/from_trl/reward.py runs/sft pairs.jsonl runs/reward

Rows are {prompt, chosen, rejected}, or rankings of K answers. The first argument may be a Hugging Face folder too. Writes
runs/reward, and runs/reward-exported as *ForSequenceClassification.
"""

import sys

from rlhf_jax.data import read_rankings
from rlhf_jax.runtime import run
from rlhf_jax.stages import Format, Optimiser, Reward, Run, export, model_in, reward_model

FORMAT = Format(prompt_tokens=512, answer_tokens=512)  # of a Hugging Face folder; a stage's has its own
# Without cut_off the loss is TRL's and no more; with it PPO finds no reward in answers that never end.
SETTINGS = Reward(epochs=3, batch=8, lr=1e-4, schedule="linear", floor=0.0, cut_off=False)
RUN = Run(seed=42, optimiser=Optimiser(b2=0.999))


def main() -> None:
    folder, rows, out = sys.argv[1:]
    model = reward_model(out, model_in(folder, FORMAT), read_rankings(rows), SETTINGS, RUN)
    export(model, f"{out}-exported")


if __name__ == "__main__":
    run(main)
