"""Every folder of the golden models against Transformers 5.23: what is read from it computes the same."""

import os
from functools import cache, partial
from pathlib import Path

import jax
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


def but_long(names, *others):
    return [pytest.param(n, marks=[pytest.mark.long] * (n in others)) for n in names]


# A cache knows nothing of tied heads and biases: each of these has a relative that stays and asks more of it.
DECODED = but_long(LANGUAGE, "gpt2_untied", "llama_untied", "gemma_tied", "qwen2_tied")
# What ends a row does not look at the decoder: the one with a ring of keys stays.
ENDING = but_long(LANGUAGE, *(n for n in LANGUAGE if n not in ("mistral_untied_sw6", "none")))


def needs(names):
    return pytest.mark.parametrize("folder", names, indirect=True)


@pytest.fixture
def folder(golden_folder, request):
    return golden_folder / "models" / request.param


@cache
def read(folder, **how):
    config, params, _ = load_pretrained(folder, **how)
    return config, params, dict(np.load(folder / "reference.npz"))


@partial(jax.jit, static_argnums=0)
@partial(jax.value_and_grad, argnums=1, has_aux=True)
def loss(model, params, tokens, mask, counted):
    """And the logits at every token."""
    hidden, _ = hidden_states(model, params, tokens, mask)
    found = logits(model, params, hidden)
    nll = -token_logps(states_before(found, tokens.shape[1] - 1), tokens[:, 1:])
    return masked_mean(nll, counted).value, found


@needs(LANGUAGE)
def test_logits_at_real_tokens_the_loss_and_its_gradient_at_the_embedding(folder):
    config, params, g = read(folder)
    for side in ("right", "left"):
        mask, counted = g[f"mask_{side}"] == 1, g["labels_right"][:, 1:] != -100
        (value, found), grads = loss(LanguageModel(config), params, g[f"ids_{side}"], mask, counted)
        np.testing.assert_allclose(np.asarray(found)[mask], g[f"logits_{side}"][mask], atol=1e-4)
        if side == "right":
            np.testing.assert_allclose(value, g["loss_right"], atol=1e-4)
            found = grads["transformer"]["embedding"]["embedding"]
            np.testing.assert_allclose(found, g["grad_input_embedding"], atol=1e-4)


@partial(jax.jit, static_argnames=("model", "eos"))
def write(model, params, prompts, eos):
    return generate(model, params, prompts, jax.random.key(0), 16, GREEDY, eos=eos, pad=0)


def prompts_of(g):
    return PromptBatch(g["prompt_ids"].astype(np.int32), g["prompt_mask"] == 1)


@needs(DECODED)
def test_greedy_decoding(folder):
    config, params, g = read(folder)
    np.testing.assert_array_equal(write(LanguageModel(config), params, prompts_of(g), -1).tokens, g["greedy_tokens"])


@needs(ENDING)
def test_greedy_decoding_to_an_end(folder):
    config, params, g = read(folder)
    eos = int(g["greedy_eos_id"])
    y, expected = write(LanguageModel(config), params, prompts_of(g), eos), np.zeros((3, 16), int)
    expected[:, : g["greedy_tokens_eos"].shape[1]] = g["greedy_tokens_eos"]
    np.testing.assert_array_equal(y.tokens, expected)
    ended = np.cumsum(expected == eos, axis=1) - (expected == eos) > 0
    np.testing.assert_array_equal(y.mask, ~ended)


@needs(SCALAR)
def test_scores(folder):
    config, params, g = read(folder, scalar=True)
    model = ScalarModel(config)

    @jax.jit
    def both(params, tokens, mask):
        each = scalars(model, params, tokens, mask)
        return each, last_token_score(each, mask)

    for side in ("right", "left"):
        mask = g[f"mask_{side}"] == 1
        each, score = both(params, g[f"ids_{side}"], mask)
        np.testing.assert_allclose(np.asarray(each)[mask], g[f"token_scores_{side}"][mask], atol=1e-4)
        np.testing.assert_allclose(score, g[f"score_{side}"], atol=1e-4)
