import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rlhf_jax import equations

# Compiled: an operation at a time would be slower than what it computes. test_variants.py compares the two.
loss_and_grad = jax.jit(jax.value_and_grad(lambda z, y, known: equations.label_loss(z, y, known).value))
accuracy = jax.jit(equations.label_accuracy)


def cost(z: float, y: bool) -> float:
    """−y log σ(z) − (1 − y) log(1 − σ(z))"""
    p = 1 / (1 + math.exp(-z))
    return -math.log(p) if y else -math.log(1 - p)


def test_it_is_the_mean_of_the_cross_entropies_of_the_known_labels():
    z = np.array([[0.3, -1.5, 2.0], [0.7, 0.0, -3.0]], np.float32)
    y = np.array([[True, False, True], [False, True, True]])
    known = np.array([[True, True, False], [False, True, True]])
    terms = [cost(0.3, True), cost(-1.5, False), cost(0.0, True), cost(-3.0, True)]
    value, grad = loss_and_grad(z, y, known)
    assert float(value) == pytest.approx(sum(terms) / 4, rel=1e-6)
    expected = np.where(known, 1 / (1 + np.exp(-z.astype(float))) - y, 0.0) / 4  # (σ(z) − y)/n
    np.testing.assert_allclose(grad, expected, atol=1e-7)
    assert float(accuracy(z, y, known).value) == 2 / 4  # 0 says no


def test_a_masked_label_is_one_that_is_not_there():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(5, 3)).astype(np.float32), rng.random((5, 3)) < 0.5
    known = np.ones((5, 3), bool)
    known[:, 1] = False
    without, whole = loss_and_grad(z[:, ::2], y[:, ::2], known[:, ::2]), loss_and_grad(z, y, known)
    np.testing.assert_allclose(whole[0], without[0], rtol=1e-6)
    np.testing.assert_allclose(whole[1][:, ::2], without[1], atol=1e-7)
    np.testing.assert_array_equal(whole[1][:, 1], np.zeros(5))
    for junk in (np.nan, np.inf, -1e30):
        dirty = np.where(known, z, np.float32(junk))
        for found, clean in zip(loss_and_grad(dirty, y, known), whole, strict=True):
            np.testing.assert_array_equal(found, clean)


def test_where_nothing_is_known_the_loss_is_0_and_moves_nothing():
    value, grad = loss_and_grad(np.full((2, 3), 50.0), np.ones((2, 3), bool), np.zeros((2, 3), bool))
    assert float(value) == 0
    np.testing.assert_array_equal(grad, np.zeros((2, 3)))


def test_extreme_logits_have_finite_losses_and_gradients():
    z = np.array([[1e4, -1e4, 1e4, -1e4]], np.float32)
    value, grad = loss_and_grad(z, np.array([[True, False, False, True]]), np.ones((1, 4), bool))
    assert float(value) == pytest.approx(2e4 / 4)
    np.testing.assert_allclose(grad, [[0.0, 0.0, 0.25, -0.25]], atol=1e-7)


@settings(max_examples=40, deadline=None)
@given(
    z=arrays(np.float32, (4, 3), elements=st.floats(-8, 8, width=32)),
    y=arrays(bool, (4, 3)),
    known=arrays(bool, (4, 3)),
)
def test_parts_of_a_batch_add_up_to_it(z, y, known):
    parts = [equations.label_loss(*(jnp.asarray(x[rows]) for x in (z, y, known))) for rows in ([0], [1, 2, 3])]
    whole = equations.label_loss(*map(jnp.asarray, (z, y, known)))
    np.testing.assert_allclose((parts[0] + parts[1]).value, whole.value, rtol=1e-5, atol=1e-6)
    terms = [cost(float(a), bool(b)) for a, b, k in zip(z.flat, y.flat, known.flat, strict=True) if k]
    assert float(whole.value) == pytest.approx(sum(terms) / max(len(terms), 1), rel=1e-4, abs=1e-5)
