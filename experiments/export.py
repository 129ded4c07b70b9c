"""A trained model as a Hugging Face folder, which Transformers, vLLM or lm-eval open.

    python experiments/export.py ppo_ptx exported configs/tiny.toml

The first argument is the stage: pretrain, sft, rl_init, ppo, ppo_ptx, or reward_model, which becomes
*ForSequenceClassification with one label; or ppo_best, ppo_ptx_best: PPO's checkpoint with the largest runtime.best.
Corrections (LoRA) are merged. The tokenizer's files go with it.
"""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.decoder import imported, transformer
from experiments.ppo_ptx import best_policy_of, policy_of
from experiments.pretrain import pretrained
from experiments.recipe import Config, configured, tokenizer
from experiments.reward_model import reward_params
from experiments.sft import best_epoch, fine_tuned
from rlhf_jax.data import TOKENIZER_FILES, tokenizer_files
from rlhf_jax.errors import InputError
from rlhf_jax.models import save_pretrained, write_transformer_config
from rlhf_jax.runtime import require_writable, run

MODELS = {
    "pretrain": pretrained,
    "sft": lambda config: fine_tuned(config, "sft", best_epoch(config)),
    "rl_init": lambda config: fine_tuned(config, "rl_init"),
    "ppo": lambda config: policy_of(config, "ppo"),
    "ppo_ptx": lambda config: policy_of(config, "ppo_ptx"),
    "ppo_best": lambda config: best_policy_of(config, "ppo"),
    "ppo_ptx_best": lambda config: best_policy_of(config, "ppo_ptx"),
    "reward_model": reward_params,
}


def export(config: Config, stage: str, folder: Path) -> None:
    require_writable(folder)
    decoder, named = transformer(config), tokenizer(config).named
    values = imported(config)[1] if config.imported else write_transformer_config(decoder)
    special = {f"{role}_token_id": named[role] for role in ("bos", "eos", "pad") if role in named}
    save_pretrained(folder, decoder, MODELS[stage](config), values | special, scalar=stage == "reward_model")
    for path in files_of_tokenizer(config):
        shutil.copy(path, folder / path.name)


def files_of_tokenizer(config: Config) -> Sequence[Path]:
    """Of a folder all that say something of its tokenizer."""
    path = Path(config.tokenizer.path or (config.imported.folder if config.imported else tokenizer(config).path))
    return (
        [path / name for name in TOKENIZER_FILES if (path / name).is_file()] if path.is_dir() else tokenizer_files(path)
    )


def main() -> None:
    if len(sys.argv) < 4 or sys.argv[1] not in MODELS:
        raise InputError(f"name a stage ({', '.join(MODELS)}), a folder to write, and a config file")
    export(configured(sys.argv[3:]), sys.argv[1], Path(sys.argv[2]))
    print(f"The model is at {sys.argv[2]}")


if __name__ == "__main__":
    run(main)
