"""A trained model as a Hugging Face folder, which Transformers, vLLM or lm-eval open.

    python experiments/export.py runs/tiny/ppo_ptx exported

The first argument is a stage's folder, the second the folder to write. --best takes the checkpoint with the largest
runtime.best in the place of the last. A reward model becomes *ForSequenceClassification with one label; corrections (LoRA)
are merged. The tokenizer's files go with it.
"""

import sys

from rlhf_jax.errors import InputError
from rlhf_jax.runtime import run
from rlhf_jax.stages import export, trained


def main() -> None:
    if {"-h", "--help"} & set(sys.argv):
        print(__doc__)
        return
    folders = [argument for argument in sys.argv[1:] if argument != "--best"]
    if len(folders) != 2 or any(folder.startswith("-") for folder in folders):
        raise InputError("name a stage's folder, such as runs/tiny/ppo_ptx, and the folder to write; --best may follow")
    export(trained(folders[0], best="--best" in sys.argv), folders[1])
    print(f"The model is at {folders[1]}")


if __name__ == "__main__":
    run(main)
