"""A trained model as a Hugging Face folder, which Transformers, vLLM or lm-eval open."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rlhf_jax.data import Tokenizer, write_tokenizer
from rlhf_jax.errors import InputError
from rlhf_jax.models import SCORE_BIAS, TransformerConfig, save_pretrained, write_transformer_config
from rlhf_jax.runtime import require_writable
from rlhf_jax.stages.model import Trained


def export(model: Trained, folder: Path | str) -> None:
    """Writes config.json, .safetensors, the tokenizer's files and, of a language model, generation_config.json; corrections
    (LoRA) are merged, and a reward model becomes *ForSequenceClassification with one label.

    Transformers finds a row's last token by its pad, so a reward model whose tokenizer has none of its own gets one, with a
    row of the embedding behind the last. A language model's stays as it is, for such a row would be one more answer to
    choose. What its generation_config.json said of sampling is left out: the policy was trained with sampling of its own.
    InputError: the folder holds a model, or no config.json can say the decoder; a classifier.
    """
    if model.categories:
        raise InputError(
            f"{model.folder} is a classifier, which is read here alone; export a language or a reward model"
        )
    folder, tokenizer = Path(folder), model.tokenizer
    require_writable(folder)
    decoder, params = model.decoder, model.params()
    if model.scalar:
        params = without_bias(params)
    values = dict(model.values) if model.values is not None else write_transformer_config(decoder)
    if model.scalar and tokenizer.pad >= decoder.vocab_size:
        decoder, params = with_rows(decoder, params, tokenizer.pad + 1)
        values["vocab_size"] = decoder.vocab_size
    named = {role: tokenizer.named[role] for role in ("bos", "eos", "pad") if role in tokenizer.named}
    # A pad that was added is the tokenizer's own where its row is there to be read and nothing is drawn from it.
    pad = "pad" not in named and (model.scalar or (model.values is None and tokenizer.pad < decoder.vocab_size))
    if pad:
        named["pad"] = tokenizer.pad
    special: dict[str, Any] = {f"{role}_token_id": id for role, id in named.items()}
    if ends := end_ids(tokenizer, values):
        special["eos_token_id"] = ends[0] if len(ends) == 1 else ends
    save_pretrained(folder, decoder, params, values | special, scalar=model.scalar)
    write_tokenizer(tokenizer, folder, pad=pad, scores=model.scalar)
    if not model.scalar:
        (folder / "generation_config.json").write_text(json.dumps(special, indent=2) + "\n")
    elif bias := float(params["bias"]):
        logging.getLogger(__name__).warning(
            "%s: a %s has no place for the reward model's bias, so Transformers' scores are those of here %+.6g, for "
            "every answer; config.json has it as %s",
            *(folder, "ForSequenceClassification with RMS norms", -bias, SCORE_BIAS),
        )


def with_rows(decoder: TransformerConfig, params: PyTree, rows: int) -> tuple[TransformerConfig, PyTree]:
    """The scalar model with zeros behind its embedding, up to so many rows: for a pad, which nothing reads."""
    transformer = params["transformer"]
    table = transformer["embedding"]["embedding"]
    longer = jnp.pad(table, ((0, rows - len(table)), (0, 0)))
    return replace(decoder, vocab_size=rows), {
        **params,
        "transformer": {**transformer, "embedding": {**transformer["embedding"], "embedding": longer}},
    }


def without_bias(params: PyTree) -> PyTree:
    """The scalar model with the head's bias b in the last norm's, where that has one: w·(h + b·w/|w|²) = w·h + b. Classes of
    Transformers that give one number have a head without a bias."""
    last, w, b = params["transformer"]["final_norm"], np.asarray(params["kernel"], np.float64), float(params["bias"])
    if "bias" not in last or not w.any():
        return params
    shifted = np.asarray(last["bias"], np.float64) + b * w / (w @ w)
    moved = {**last, "bias": jnp.asarray(shifted, last["bias"].dtype)}
    return {
        **params,
        "bias": jnp.zeros_like(params["bias"]),
        "transformer": {**params["transformer"], "final_norm": moved},
    }


def end_ids(tokenizer: Tokenizer, values: dict[str, Any]) -> list[int]:
    """The ids at which an answer ends: those it is trained to end with, and what the model came with beside EOS."""
    if "eos" not in tokenizer.named:
        return []
    given = values.get("eos_token_id")
    others = given if isinstance(given, list) and tokenizer.eos in given else []
    return list(dict.fromkeys([*tokenizer.ends, *others]))
