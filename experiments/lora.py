"""What is trained of a model: all of it, or with [lora] corrections of the base model's matrices, which stay as they are."""

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from experiments.pretrain import pretrained
from experiments.recipe import Config
from rlhf_jax.models import Adapted, AnyLanguageModel, AnyScalarModel, init_lora, merge_lora


def corrections(config: Config, base: PyTree, key: Key[Array, ""]) -> PyTree:
    """The parameters that training of the base model starts from."""
    if config.lora is None:
        return base
    return init_lora(base, [name.strip() for name in config.lora.matrices.split(",")], config.lora.rank, key)


def frozen_base(config: Config, mesh: Mesh | None = None) -> PyTree:
    """What all models of the run share; None where each is trained whole."""
    return None if config.lora is None else pretrained(config, mesh)


def lora_scale(config: Config) -> np.float32:
    """The factor on the corrections."""
    return np.float32(1.0 if config.lora is None else config.lora.alpha / config.lora.rank)


def on_base(model: AnyLanguageModel | AnyScalarModel, base: PyTree, scale: Any) -> Any:
    """The model that trained parameters belong to."""
    return model if base is None else Adapted(model, base, scale)


def whole(config: Config, params: PyTree, base: PyTree) -> PyTree:
    """A trained model as ordinary parameters, from what was trained of it and the run's `frozen_base`."""
    if base is None:
        return params
    if params["head"]:  # a scalar one
        base = {"transformer": base["transformer"]}
    return jax.jit(merge_lora)(base, params, lora_scale(config))
