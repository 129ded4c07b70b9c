import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import equations
from rlhf_jax.equations import masked_mean

# Compiled: an operation at a time would be slower than what it computes. test_variants.py compares the two.
token_logps, entropy = jax.jit(equations.token_logps), jax.jit(equations.entropy)
states_before = jax.jit(equations.states_before, static_argnums=1)


def test_the_shift_by_one():
    """Column j speaks of token j + 1: of columns 0…5, the last 2 tokens (4, 5) are predicted from columns 3 and 4."""
    columns = np.arange(6.0)[None, :, None] * np.ones((1, 1, 2))
    np.testing.assert_array_equal(np.asarray(states_before(columns, 2))[0, :, 0], [3, 4])
    np.testing.assert_array_equal(np.asarray(states_before(columns, 5))[0, :, 0], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(states_before(columns[..., 0], 2), [[3, 4]])


def test_logps_by_hand():
    logits = np.log([[1.0, 2.0, 5.0]]) + 7.0
    for token, p in enumerate((1 / 8, 2 / 8, 5 / 8)):
        assert float(np.asarray(token_logps(logits, np.array([token])))[0]) == pytest.approx(math.log(p), abs=1e-6)


def test_logps_of_extreme_logits_stay_finite():
    logits = np.array([[1e4, 0.0, -1e4]])
    np.testing.assert_allclose(token_logps(logits, np.array([1])), [-1e4])
    assert np.isfinite(jax.jit(jax.grad(lambda z: token_logps(z, np.array([1])).sum()))(logits)).all()


def test_entropy_closed_forms():
    assert float(entropy(np.zeros(8))) == pytest.approx(math.log(8), rel=1e-6)
    p = np.array([0.5, 0.25, 0.25])
    assert float(entropy(np.log(p))) == pytest.approx(1.5 * math.log(2), rel=1e-6)
    excluded = np.array([0.0, 0.0, -np.inf])
    assert float(entropy(excluded)) == pytest.approx(math.log(2), rel=1e-6)
    assert np.isfinite(jax.jit(jax.grad(entropy))(excluded)).all()


def test_entropy_is_the_expected_surprise():
    logits = np.random.default_rng(0).normal(size=(4, 9))
    logps = np.stack([token_logps(logits, np.full(4, v)) for v in range(9)], axis=1)
    np.testing.assert_allclose(entropy(logits), -np.sum(np.exp(logps) * logps, axis=1), rtol=1e-5)


def test_golden_selective_log_softmax_of_trl(golden, agree):
    g = golden("ppo/helpers")
    logps = token_logps(g["logits"], g["index"])
    agree(logps, g["selective_log_softmax"])


def test_golden_causal_loss_of_transformers(golden, agree):
    """ForCausalLMLoss: the mean over labels that are not −100, the shift inside; its gradient; entropy."""
    g = golden("losses/sft")
    labels = g["labels"].astype(np.int32)
    T = labels.shape[1] - 1

    def loss(logits):
        logps = token_logps(states_before(logits, T), np.maximum(labels[:, 1:], 0))
        return masked_mean(-logps, jnp.asarray(labels[:, 1:] != -100))

    logits = g["logits"]
    got = jax.jit(loss)(logits)
    agree(got.value, g["loss_mean"])
    agree(got.total / 100, g["loss_num_items_100"])
    agree(jax.jit(jax.grad(lambda z: loss(z).value))(logits), g["grad_mean"])
    agree(entropy(logits), g["entropy"])
    unshifted = token_logps(logits, np.maximum(labels, 0))
    agree(unshifted, g["selective_log_softmax"])
