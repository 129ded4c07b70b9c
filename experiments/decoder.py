"""The run's decoder: described in the config, or imported from a Hugging Face folder."""

import hashlib
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from experiments.devices import to_import
from experiments.recipe import Config, tokenizer
from rlhf_jax.data import check_vocabulary
from rlhf_jax.errors import InputError
from rlhf_jax.models import (
    LanguageModel,
    ScalarModel,
    TransformerConfig,
    load_pretrained,
    read_decoder,
    stack_blocks,
)


def transformer(config: Config, dropout: float = 0.0, training: bool = False) -> TransformerConfig:
    """training: whether in a step over the whole mesh."""
    c, memory = config.model, memory_of(config)
    if training:
        memory |= {"micro_batches": config.mesh.micro_batches, "axis_name": "data" if config.mesh.pmap else None}
    given = [name for name, value in c.decoder.items() if value is not None]
    if config.imported:
        if given:
            raise InputError(f"model.{given[0]} is given and [imported] says it as well; remove one of them")
        found, _ = imported(config)
        if c.context > found.context:
            raise InputError(
                f"model.prompt_tokens + model.answer_tokens is {c.context} and {config.imported.folder} was made for "
                f"{found.context}; lower them"
            )
        return replace(found, dropout=dropout, **memory)
    if missing := [name for name in c.decoder if name not in given]:
        raise InputError(
            f"model.{missing[0]} is missing; add it, see configs/tiny.toml, or name a folder in [imported]"
        )
    fields: dict[str, Any] = c.decoder
    return TransformerConfig(vocab_size=tokenizer(config).size, context=c.context, dropout=dropout, **fields, **memory)


def memory_of(config: Config) -> dict[str, Any]:
    """How the decoder computes, where [memory] says it."""
    m = config.memory
    if m is None:
        return {}
    return {"compute": m.compute, "cache": m.cache, "remat": m.remat, "scan": m.scan, "logit_rows": m.logit_rows}


@cache
def digest(folder: str) -> str:
    """sha256 of what the folder says of the model."""
    if not (Path(folder) / "config.json").is_file():
        raise InputError(f"imported.folder: {folder} has no config.json; name a folder with one and .safetensors files")
    hashed = hashlib.sha256()
    for path in sorted([Path(folder) / "config.json", *Path(folder).glob("*.safetensors")]):
        with path.open("rb") as file:
            hashed.update(hashlib.file_digest(file, "sha256").digest())
    return hashed.hexdigest()


@cache
def imported(config: Config) -> tuple[TransformerConfig, dict]:
    """The folder's decoder, and its config.json as it stands; the tokenizer's ids must be rows of its embedding."""
    assert config.imported
    found, values = read_decoder(config.imported.folder)
    check_vocabulary(tokenizer(config), found.vocab_size, config.imported.folder)
    return found, values


def imported_params(config: Config, mesh: Mesh | None = None) -> dict:
    """The folder's parameters, on one device or cut over the mesh as they are read."""
    assert config.imported
    decoder = transformer(config)
    params = load_pretrained(config.imported.folder, place=None if mesh is None else to_import(config, mesh)).params
    stacked = {"transformer": stack_blocks(params["transformer"], decoder.layers)} if decoder.scan else {}
    return {**params, **stacked}


def language_model(config: Config, dropout: float = 0.0, training: bool = False) -> LanguageModel:
    return LanguageModel(transformer(config, dropout, training))


def scalar_model(config: Config, training: bool = False) -> ScalarModel:
    return ScalarModel(transformer(config, training=training))
