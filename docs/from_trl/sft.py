"""SFTTrainer's work on a Hugging Face folder.

    python docs/from_trl/sft.py models/gpt2 demonstrations.jsonl runs/sft

Rows are {prompt, completion} or {messages}. Writes runs/sft, which other stages start from, and runs/sft-exported, which
Transformers opens.
"""

import sys

from rlhf_jax.data import read_demonstrations
from rlhf_jax.runtime import run
from rlhf_jax.stages import Format, Optimiser, Run, Supervised, export, imported, supervised

FORMAT = Format(prompt_tokens=512, answer_tokens=512)  # max_length=1024
SETTINGS = Supervised(epochs=3, batch=8, lr=2e-5, schedule="linear", floor=0.0, dropout=0.0)
RUN = Run(seed=42, optimiser=Optimiser(b2=0.999))  # AdamW as torch has it


def main() -> None:
    folder, rows, out = sys.argv[1:]
    model = supervised(out, imported(folder, FORMAT), read_demonstrations(rows), SETTINGS, RUN)
    export(model, f"{out}-exported")


if __name__ == "__main__":
    run(main)
