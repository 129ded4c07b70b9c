"""DPOTrainer's work, from an SFT model, which is the reference too.

    python docs/from_trl/dpo.py runs/sft pairs.jsonl runs/dpo

Rows are {prompt, chosen, rejected}, or rankings of K answers, of which each epoch draws a pair. IPO, SLiC's hinge, SimPO,
ORPO and KTO are SETTINGS' objective; KTO's own rows, {prompt, completion, label}, are read by `read_feedback`.
"""

import sys

from rlhf_jax.data import read_rankings
from rlhf_jax.runtime import run
from rlhf_jax.stages import Format, Optimiser, Preference, Run, export, model_in, preference

FORMAT = Format(prompt_tokens=512, answer_tokens=512)  # of a Hugging Face folder; a stage's has its own
SETTINGS = Preference(objective="dpo", beta=0.1, epochs=3, batch=8, lr=1e-6, schedule="linear", floor=0.0, warmup=0)
RUN = Run(seed=42, optimiser=Optimiser(b2=0.999))


def main() -> None:
    folder, rows, out = sys.argv[1:]
    model = preference(out, model_in(folder, FORMAT), read_rankings(rows), SETTINGS, RUN)
    export(model, f"{out}-exported")


if __name__ == "__main__":
    run(main)
