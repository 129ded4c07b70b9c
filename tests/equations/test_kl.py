import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.equations import adapted_scale, best_of_n_kl, kl_exact, kl_k1, kl_k2, kl_k3

P, Q = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.3, 0.5])
jitted = jax.jit(adapted_scale)
EXACT = float(np.sum(P * np.log(P / Q)))


@pytest.mark.parametrize("estimator", [kl_k1, kl_k3])
def test_the_expectation_under_the_policy_is_the_exact_kl(estimator):
    """Σᵥ p(v)·k(v) over the whole vocabulary, the sampling done by the sum."""
    k = estimator(jnp.asarray(np.log(P)), jnp.asarray(np.log(Q)))
    assert float(np.sum(P * np.asarray(k))) == pytest.approx(EXACT, abs=1e-6)


def test_the_exact_kl():
    logits = jnp.asarray([np.log(P) + 3.0, [0.0, -jnp.inf, 0.0]])
    found = kl_exact(logits, jnp.asarray([np.log(Q), np.log(Q)]))
    np.testing.assert_allclose(found, [EXACT, 0.5 * math.log(0.5 / 0.2) + 0.5 * math.log(0.5 / 0.5)], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda x: kl_exact(x, logits[:1]).sum())(logits[:1])).all()


def test_k2_is_biased_and_its_gradient_is_not():
    """Σ p·∇k2 over the vocabulary is the exact gradient of the KL; Σ p·∇k1 is 0, and Σ p·∇k3 that of KL(π_ref‖π)."""
    logits, ref = jnp.asarray(np.log(P)), jnp.asarray(np.log(Q))

    def expected(estimator):
        """Of fixed samples: p does not depend on the logits."""

        def loss(logits):
            logp = jax.nn.log_softmax(logits)
            return jnp.sum(P * estimator(logp, ref))

        return np.asarray(jax.grad(loss)(logits))

    exact = jax.grad(lambda logits: kl_exact(logits, ref))(logits)
    reverse = jax.grad(lambda logits: kl_exact(ref, logits))(logits)
    expectation = float(np.sum(P * kl_k2(logits, ref)))
    assert expectation == pytest.approx(np.sum(P * np.log(P / Q) ** 2) / 2, rel=1e-6) and expectation > 1.05 * EXACT
    np.testing.assert_allclose(expected(kl_k2), exact, atol=1e-6)
    np.testing.assert_allclose(expected(kl_k1), np.zeros(3), atol=1e-6)
    np.testing.assert_allclose(expected(kl_k3), reverse, atol=1e-6)


def test_closed_forms():
    logp, ref = jnp.asarray(np.log([0.7, 0.1])), jnp.asarray(np.log([0.2, 0.5]))
    np.testing.assert_allclose(kl_k1(logp, ref), [math.log(3.5), -math.log(5)], rtol=1e-6)
    np.testing.assert_allclose(kl_k3(logp, ref), [1 / 3.5 - 1 + math.log(3.5), 5 - 1 - math.log(5)], rtol=1e-6)


def test_k3_is_never_negative_and_precise_for_close_policies():
    """k3 ≈ x²/2 for a small log-ratio x: 1 + x + x²/2 − 1 − x would be all rounding in float32 if taken literally."""
    logp = jnp.zeros(5)
    ref = jnp.array([-1e-3, -1e-4, 0.0, 1e-4, 1e-3])
    k3 = np.asarray(kl_k3(logp, ref))
    assert (k3 >= 0).all()
    np.testing.assert_allclose(k3[[0, 4]], 0.5e-6, rtol=0.01)


def test_the_same_policy_has_no_kl():
    logp = jnp.array([-1.5, -20.0])
    np.testing.assert_array_equal(kl_k1(logp, logp), [0.0, 0.0])
    np.testing.assert_array_equal(kl_k3(logp, logp), [0.0, 0.0])


@pytest.mark.parametrize("kl", [0.0, 5.0, 6.0, 6.6, 30.0])
def test_the_controller_is_zieglers(kl):
    """e = clip((KL − target)/target, ±0.2), β ← β (1 + K_β e) with K_β = n/horizon (Ziegler et al. 2019, §2.2)."""
    target, n, horizon = 6.0, 256.0, 10_000.0
    error = min(max((kl - target) / target, -0.2), 0.2)
    scale = jitted(jnp.float32(1.5), jnp.float32(kl), target, n, horizon)
    assert float(scale) == pytest.approx(1.5 * (1 + error * n / horizon), rel=1e-6)
    if kl == 6.6:  # inside the clip
        assert float(scale) == pytest.approx(1.5 * (1 + 0.1 * 0.0256), rel=1e-6)


def test_an_infinite_horizon_keeps_beta():
    assert float(adapted_scale(jnp.float32(1.0), jnp.float32(50.0), 6.0, 256.0, jnp.inf)) == 1.0


@pytest.mark.parametrize("n", [1, 2, 7])
def test_the_kl_of_best_of_n_is_that_of_the_largest_of_n_uniform_numbers(n):
    """Many equally likely answers in the order of their score: the best of n has the density n·uⁿ⁻¹."""
    u = (np.arange(200_000) + 0.5) / 200_000
    density = n * u ** (n - 1)
    assert best_of_n_kl(n) == pytest.approx(np.mean(density * np.log(density)), abs=1e-4)


def test_with_ties_it_is_a_bound():
    """Two answers, 0.7 and 0.3, the second better: the best of 2 is the second with 1 − 0.7²."""
    p, q = np.array([0.7, 0.3]), np.array([0.49, 0.51])
    assert np.sum(q * np.log(q / p)) < best_of_n_kl(2)
