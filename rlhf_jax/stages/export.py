"""A trained model as a Hugging Face folder, which Transformers, vLLM or lm-eval open."""

import shutil
from pathlib import Path

from rlhf_jax.models import save_pretrained, write_transformer_config
from rlhf_jax.runtime import require_writable
from rlhf_jax.stages.model import Trained
from rlhf_jax.stages.saved import tokenizer_paths


def export(model: Trained, folder: Path | str) -> None:
    """Writes config.json, .safetensors and the tokenizer's files; corrections (LoRA) are merged, and a reward model becomes
    *ForSequenceClassification with one label. InputError: the folder holds a model, or no config.json can say the decoder.
    """
    folder = Path(folder)
    require_writable(folder)
    named = model.tokenizer.named
    values = dict(model.values) if model.values is not None else write_transformer_config(model.decoder)
    special = {f"{role}_token_id": named[role] for role in ("bos", "eos", "pad") if role in named}
    save_pretrained(folder, model.decoder, model.params(), values | special, scalar=model.scalar)
    for path in tokenizer_paths(Path(model.tokenizer.path)):
        if path.name not in ("config.json", "generation_config.json"):
            shutil.copy(path, folder / path.name)
