"""Every folder of the golden models against Transformers 5.23: what is read from it computes the same."""

import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.equations import masked_mean, states_before, token_logps
from rlhf_jax.models import (
    LanguageModel,
    Sampling,
    ScalarModel,
    generate,
    hidden_states,
    last_token_score,
    load_pretrained,
    logits,
    scalars,
)
from rlhf_jax.types import PromptBatch

GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0)
NAMES = [f.parent.name for f in sorted(Path(os.environ.get("RLHF_JAX_GOLDEN", "")).glob("models/*/config.json"))]
SCALAR = [name for name in NAMES if name.startswith("seqcls_")] or ["none"]
LANGUAGE = [name for name in NAMES if name not in SCALAR] or ["none"]


def needs(names):
    return pytest.mark.parametrize("folder", names, indirect=True)


@pytest.fixture
def folder(golden_folder, request):
    return golden_folder / "models" / request.param


def read(folder, **how):
    config, params, _ = load_pretrained(folder, **how)
    return config, params, dict(np.load(folder / "reference.npz"))


@needs(LANGUAGE)
def test_logits_at_real_tokens(folder):
    config, params, g = read(folder)
    model = LanguageModel(config)

    @jax.jit
    def logits_of(tokens, mask):
        return logits(model, params, hidden_states(model, params, tokens, mask)[0])

    for side in ("right", "left"):
        mask = g[f"mask_{side}"] == 1
        found = np.asarray(logits_of(g[f"ids_{side}"], mask))
        np.testing.assert_allclose(found[mask], g[f"logits_{side}"][mask], atol=1e-4)


@needs(LANGUAGE)
def test_the_loss_and_its_gradient_at_the_embedding(folder):
    config, params, g = read(folder)
    model, tokens, mask = LanguageModel(config), jnp.asarray(g["ids_right"]), jnp.asarray(g["mask_right"] == 1)

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        before = states_before(hidden_states(model, params, tokens, mask)[0], tokens.shape[1] - 1)
        nll = -token_logps(logits(model, params, before), tokens[:, 1:])
        return masked_mean(nll, jnp.asarray(g["labels_right"][:, 1:] != -100)).value

    value, grads = loss(params)
    np.testing.assert_allclose(value, g["loss_right"], atol=1e-4)
    found = grads["transformer"]["embedding"]["embedding"]
    np.testing.assert_allclose(found, g["grad_input_embedding"], atol=1e-4)


@needs(LANGUAGE)
def test_greedy_decoding(folder):
    config, params, g = read(folder)
    prompts = PromptBatch(jnp.asarray(g["prompt_ids"], jnp.int32), jnp.asarray(g["prompt_mask"] == 1))

    def write(eos):
        return jax.jit(
            lambda: generate(LanguageModel(config), params, prompts, jax.random.key(0), 16, GREEDY, eos=eos, pad=0)
        )()

    np.testing.assert_array_equal(write(-1).tokens, g["greedy_tokens"])
    eos = int(g["greedy_eos_id"])
    y, expected = write(eos), np.zeros((3, 16), int)
    expected[:, : g["greedy_tokens_eos"].shape[1]] = g["greedy_tokens_eos"]
    np.testing.assert_array_equal(y.tokens, expected)
    ended = np.cumsum(expected == eos, axis=1) - (expected == eos) > 0
    np.testing.assert_array_equal(y.mask, ~ended)


@needs(SCALAR)
def test_scores(folder):
    config, params, g = read(folder, scalar=True)
    for side in ("right", "left"):
        mask = jnp.asarray(g[f"mask_{side}"] == 1)
        each = scalars(ScalarModel(config), params, jnp.asarray(g[f"ids_{side}"]), mask)
        np.testing.assert_allclose(np.asarray(each)[mask], g[f"token_scores_{side}"][mask], atol=1e-4)
        np.testing.assert_allclose(last_token_score(each, mask), g[f"score_{side}"], atol=1e-4)
