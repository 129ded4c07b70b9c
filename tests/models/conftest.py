import os
from dataclasses import replace
from functools import cache
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import LanguageModel, ScalarModel, TransformerConfig

GPT2 = TransformerConfig(
    vocab_size=13,
    context=16,
    width=16,
    layers=2,
    heads=4,
    kv_heads=4,
    hidden=24,
    norm="layernorm",
    position="learned",
    mlp="gelu",
    bias=True,
    tied=True,
    dropout=0.0,
)
LLAMA = replace(GPT2, kv_heads=2, norm="rmsnorm", position="rope", mlp="swiglu", bias=False, tied=False)


@cache
def shapes(model):
    """Of its parameters."""
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    return jax.eval_shape(lambda t: model.init(jax.random.key(0), t, t == 0), tokens)["params"]


def wild(model, seed=0):
    """Parameters far from their initialisation, so that every part of the model shows in its output."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda p: jnp.asarray((0.5 * rng.standard_normal(p.shape)).astype(np.float32)), shapes(model))


@pytest.fixture(autouse=True)
def traces_are_counted_anew():
    """By chex.assert_max_traces, which knows a function by its name alone."""
    chex.clear_trace_counter()


@pytest.fixture(scope="session")
def llama():
    """One block with rotary positions and 2 heads for each key/value head."""
    model = LanguageModel(replace(LLAMA, layers=1))
    return model, wild(model)


@pytest.fixture(scope="module", params=[GPT2, LLAMA], ids=["gpt2", "llama"])
def config(request):
    return request.param


@pytest.fixture(scope="module")
def language_model(config):
    model = LanguageModel(config)
    return model, wild(model)


@pytest.fixture(scope="module")
def scalar_model(config):
    model = ScalarModel(config)
    return model, wild(model)


@pytest.fixture(scope="session")
def golden_folder():
    folder = os.environ.get("RLHF_JAX_GOLDEN")
    if not folder or not Path(folder).is_dir():
        pytest.skip("RLHF_JAX_GOLDEN names no folder of golden values")
    return Path(folder)
