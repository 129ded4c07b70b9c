"""What may depend on what: causality by gradients, and padding that moves nothing."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import InputError
from rlhf_jax.models import (
    LanguageModel,
    Sampling,
    ScalarModel,
    empty_cache,
    generate,
    hidden_states,
    positions_of,
    scalars,
)
from rlhf_jax.types import PromptBatch
from tests.models.conftest import GPT2, LLAMA, wild

LENGTHS = (5, 3, 1)


def rows(width: int, side: str):
    """The same three texts of 5, 3 and 1 tokens, padded to a width on a side."""
    tokens, mask = np.full((3, width), 11, np.int32), np.zeros((3, width), bool)
    for i, n in enumerate(LENGTHS):
        at = slice(0, n) if side == "right" else slice(width - n, width)
        tokens[i, at], mask[i, at] = np.random.default_rng(i).integers(1, 10, n), True
    return tokens, mask


@pytest.mark.parametrize("causal", [True, False])
def test_who_sees_whom(language_model, causal):
    """d hidden_t / d embedding_s: nothing for s > t in a causal model, something everywhere else."""
    model, params = language_model
    tokens, everything = jnp.arange(4)[None], jnp.ones((1, 4), bool)  # each its own row of the embedding table

    def hidden(table):
        changed = {**params, "transformer": {**params["transformer"], "embedding": {"embedding": table}}}
        return model.apply({"params": changed}, tokens, everything, causal=causal)[0][0]

    jacobian = jax.jit(jax.jacrev(hidden))(params["transformer"]["embedding"]["embedding"])  # [t, D, V, D]
    influence = np.abs(jacobian)[:, :, :4].sum(axis=(1, 3))
    future = np.triu(np.ones((4, 4), bool), 1)
    if causal:
        np.testing.assert_array_equal(influence[future], 0.0)
        assert (influence[~future] > 1e-3).all()
    else:
        assert (influence > 1e-3).all()


def test_padding_moves_no_state(language_model):
    model, params = language_model
    forward = jax.jit(lambda tokens, mask: model.apply({"params": params}, tokens, mask)[0])

    def real(width, side):
        tokens, mask = rows(width, side)
        return np.asarray(forward(tokens, mask))[mask]

    right = real(5, "right")
    assert np.abs(right).max() > 0.1
    for width, side in ((5, "left"), (8, "right"), (8, "left")):
        np.testing.assert_allclose(real(width, side), right, atol=1e-5)


def test_positions_count_real_tokens():
    mask = jnp.array([[False, False, True, True], [True, True, True, False]])
    np.testing.assert_array_equal(positions_of(mask)[:, 2:], [[0, 1], [2, 2]])
    np.testing.assert_array_equal(positions_of(mask)[1, :2], [0, 1])


def test_decoding_with_a_cache_is_the_full_forward(language_model, config):
    """Left-padded prompts of 5, 3 and 1 tokens, then four tokens one at a time."""
    model, params = language_model
    P, new = 5, 4
    tokens, prompt_mask = rows(P, "left")
    tokens = np.concatenate([tokens, np.random.default_rng(9).integers(1, 10, (3, new))], axis=1)
    mask = np.concatenate([prompt_mask, np.ones((3, new), bool)], axis=1)

    @jax.jit
    def logits_of(hidden):
        return model.apply({"params": params}, hidden, method=LanguageModel.logits)

    full = logits_of(jax.jit(lambda t, m: model.apply({"params": params}, t, m)[0])(tokens, mask))
    step = jax.jit(lambda token, mask, cache, start: model.apply({"params": params}, token, mask, cache, start))
    seen = mask.copy()
    seen[:, P:] = False
    hidden, cache = step(tokens[:, :P], seen, empty_cache(config, 3, P + new), 0)
    np.testing.assert_allclose(logits_of(hidden[:, -1:])[:, 0], full[:, P - 1], atol=1e-5)
    for t in range(P, P + new):
        seen[:, t] = True
        hidden, cache = step(tokens[:, t : t + 1], seen, cache, t)
        np.testing.assert_allclose(logits_of(hidden)[:, 0], full[:, t], atol=1e-5)


def test_grouped_queries_share_keys(llama):
    """With 2 heads for each key/value head, the cache holds half as many heads."""
    assert empty_cache(llama[0].config, 3, 7).keys[0].shape == (3, 2, 7, 4)


def test_rows_beyond_learned_positions_are_refused():
    """Read, scored or sampled: a gather beyond its table gives NaN, and a distribution of NaN the token 0."""
    config = replace(GPT2, layers=1)
    language, scalar = LanguageModel(config), ScalarModel(config)
    tokens = jnp.ones((1, config.context + 1), jnp.int32)
    prompts = PromptBatch(tokens[:, :10], tokens[:, :10] > 0)

    @partial(jax.jit, static_argnums=1)
    def write(params, T):
        return generate(language, params, prompts, jax.random.key(0), T, Sampling(1.0, 0, 1.0), 1, 0)

    @partial(jax.jit, static_argnums=0)
    def read(model, params, tokens):
        return hidden_states(model, params, tokens, tokens > 0)[0]

    for beyond in (
        lambda: read(language, wild(language), tokens),
        lambda: scalars(scalar, wild(scalar), tokens, tokens > 0),
        lambda: write(wild(language), config.context + 1 - 10),
    ):
        with pytest.raises(InputError, match=r"positions for 16 tokens and a row here has room for 17"):
            beyond()
    assert np.isfinite(read(language, wild(language), tokens[:, 1:])).all()
    assert np.isfinite(write(wild(language), config.context - 10).logp).all()
    turned = LanguageModel(replace(LLAMA, layers=1))
    assert np.isfinite(read(turned, wild(turned), tokens)).all()
