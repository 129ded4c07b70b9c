from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import LanguageModel, ScalarModel, last_token_score, scalar_from_language_model, scalar_head

TOKENS = jnp.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
EVERYTHING = jnp.ones((2, 5), bool)


def test_the_scalar_head_starts_with_variance_one_over_d_plus_1(config):
    """N(0, 1/(d+1)), bias 0 (Stiennon et al. 2020, code). Of 4095 weights the sample's standard deviation is within
    4 of its own standard errors, 1/√(2·4095), of the true one."""
    wide = replace(config, width=4096, heads=4, kv_heads=4, hidden=2, layers=0)
    params = jax.jit(ScalarModel(wide).init)(jax.random.key(0), jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))
    kernel = np.asarray(params["params"]["kernel"])
    assert kernel.std() * 4097**0.5 == pytest.approx(1.0, abs=4 / (2 * 4096) ** 0.5)
    assert float(params["params"]["bias"]) == 0


def test_a_tied_head_is_the_embedding_and_an_untied_one_its_own_matrix(language_model, config):
    model, params = language_model
    assert set(params) == ({"transformer"} if config.tied else {"transformer", "unembedding"})
    embedding = params["transformer"]["embedding"]["embedding"]
    matrix = np.asarray(embedding).T if config.tied else np.asarray(params["unembedding"])
    assert matrix.shape == (config.width, config.vocab_size)
    hidden = np.random.default_rng(0).normal(size=(2, 5, config.width)).astype(np.float32)
    logits = jax.jit(lambda h: model.apply({"params": params}, h, method=LanguageModel.logits))(hidden)
    np.testing.assert_allclose(logits, hidden @ matrix, atol=1e-5)


def test_the_scalar_model_reads_the_transformers_states(language_model, scalar_model):
    (model, params), (scalar, scalar_params) = language_model, scalar_model
    started = scalar_from_language_model(params, {name: scalar_params[name] for name in ("kernel", "bias")})
    hidden = jax.jit(model.apply)({"params": params}, TOKENS, EVERYTHING)[0]
    expected = np.asarray(hidden) @ np.asarray(started["kernel"]) + np.asarray(started["bias"])
    np.testing.assert_allclose(jax.jit(scalar.apply)({"params": started}, TOKENS, EVERYTHING), expected, atol=1e-5)


def test_a_head_made_alone_is_the_one_made_with_the_transformer(scalar_model):
    model, params = scalar_model
    drawn = jax.jit(model.init)(jax.random.key(3), TOKENS, EVERYTHING)["params"]
    alone = jax.jit(partial(scalar_head, model.config))(jax.random.key(3))
    assert set(alone) == set(params) - {"transformer"}
    for name, leaf in alone.items():
        np.testing.assert_array_equal(leaf, drawn[name])


def test_the_last_real_token_wherever_the_padding_stands():
    scores = jnp.arange(12.0).reshape(3, 4)
    mask = jnp.array([[True, True, False, False], [False, True, True, False], [False, False, False, True]])
    np.testing.assert_array_equal(last_token_score(scores, mask), [1.0, 6.0, 11.0])


def test_padding_moves_no_score(scalar_model):
    model, params = scalar_model
    score = jax.jit(lambda tokens, mask: last_token_score(model.apply({"params": params}, tokens, mask), mask))
    expected = score(TOKENS, EVERYTHING)
    assert abs(expected[0] - expected[1]) > 1e-3
    for left, right in ((0, 3), (3, 0), (2, 1)):
        pad = ((0, 0), (left, right))
        padded = score(np.pad(TOKENS, pad, constant_values=7), np.pad(EVERYTHING, pad))
        np.testing.assert_allclose(padded, expected, atol=1e-5)
