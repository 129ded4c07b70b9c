"""Models and tokenizers of every kind that is exported."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.data import ASSISTANT, HUMAN, load_tokenizer, train_tokenizer
from rlhf_jax.models import LanguageModel, ScalarModel, TransformerConfig
from rlhf_jax.stages import Format, Trained
from tests.data.conftest import write_bytes_tokenizer

NEOX = {"norm": "layernorm", "position": "rope", "mlp": "gelu", "bias": True, "kv_heads": 2}  # the demo's
GPT2 = NEOX | {"position": "learned"}
LLAMA = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu", "bias": False, "kv_heads": 1}
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEXTS = [
    f"{HUMAN} What is the colour of the sky?{ASSISTANT} The sky is blue.\nThe sea is  blue too.",
    "The cat sat on the mat: aaaa aaa ----- ababa aba    <s> </s> <0x41> 0x41 <unk> <mask> ab-ab\tx",
] * 20


@dataclass(frozen=True)
class Held(Trained):
    """A trained model whose parameters are at hand."""

    held: Any = None

    def params(self):
        return self.held


def held(tokenizer, decoder, rows: int = 0, scalar: bool = False, seed: int = 0, values=None) -> Held:
    """Random parameters, of which every one shows in the logits."""
    sizes = {"vocab_size": rows or tokenizer.size, "context": 96, "width": 16, "layers": 2, "heads": 2, "hidden": 32}
    config = TransformerConfig(**sizes, **decoder, tied=decoder is not LLAMA, dropout=0.0)
    model = ScalarModel(config) if scalar else LanguageModel(config)
    row, rng = jnp.ones((1, 2), jnp.int32), np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), row, row > 0)["params"])
    params = jax.tree.map(lambda x: jnp.asarray(0.3 * rng.standard_normal(x.shape), x.dtype), shapes)
    one = params["transformer"]["final_norm"]["scale"]
    params["transformer"]["final_norm"]["scale"] = one + 1
    format = Format(48, 48)
    return Held(config, tokenizer, format, values, scalar=scalar, held=params)


def pair(folder: Path, names=("vocab.json", "merges.txt")):
    """GPT-2's two files."""
    spec = json.loads(write_bytes_tokenizer(folder / "whole.json", SPECIAL, [("t", "h"), ("th", "e")]).read_bytes())
    vocab = spec["model"]["vocab"] | {token["content"]: token["id"] for token in spec["added_tokens"][:1]}
    (folder / names[0]).write_text(json.dumps(vocab))
    lines = [" ".join(merge) for merge in spec["model"]["merges"]]
    (folder / names[1]).write_text("\n".join(["#version: 0.2", *lines, ""]))
    (folder / "whole.json").unlink()
    return folder / names[0]


def made(kind: str, folder: Path):
    """A tokenizer of that kind."""
    folder.mkdir()
    whole = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    if kind == "tokenizer.json in a folder":
        write_bytes_tokenizer(folder / "tokenizer.json", SPECIAL, [("t", "h")])
        (folder / "tokenizer_config.json").write_text(json.dumps(whole))
        return load_tokenizer(folder)
    if kind == "a tokenizer.json of another name, whose folder says more":
        path = write_bytes_tokenizer(folder / "mine.json", SPECIAL, [("t", "h")])
        (folder / "special_tokens_map.json").write_text(json.dumps(whole))
        return load_tokenizer(path)
    if kind == "a tokenizer.json alone":
        return load_tokenizer(write_bytes_tokenizer(folder / "tokenizer.json", SPECIAL, [("t", "h")]))
    if kind == "vocabulary and merges":
        return load_tokenizer(pair(folder).parent)
    if kind == "encoder.json":
        return load_tokenizer(pair(folder, ("encoder.json", "vocab.bpe")))
    path = train_tokenizer(TEXTS, 345, folder / "tokenizer.model").path
    return load_tokenizer(folder if kind == "tokenizer.model in a folder" else path)


KINDS = [
    "tokenizer.json in a folder",
    "a tokenizer.json of another name, whose folder says more",
    "a tokenizer.json alone",
    "vocabulary and merges",
    "encoder.json",
    "tokenizer.model in a folder",
    "tokenizer.model",
]
