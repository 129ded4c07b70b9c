import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.equations import constant, cosine, ema, linear, linear_decay, linear_warmup


class Shapes(chex.TestCase):
    """The three shapes of a learning rate."""

    def factors(self, shape, steps, *settings):
        """At these steps, each as a program of its own."""
        return [float(self.variant(shape)(step, *settings)) for step in steps]

    @chex.variants(with_jit=True, without_jit=True)
    def test_all_rise_alike_and_the_last_step_of_the_warm_up_is_at_the_peak(self):
        for shape in (constant, linear_decay, cosine):
            assert self.factors(shape, range(5), 105.0, 0.1, 4.0) == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])

    @chex.variants(with_jit=True, without_jit=True)
    def test_without_a_warm_up_all_start_at_the_peak(self):
        for shape in (constant, linear_decay, cosine):
            assert self.factors(shape, [0], 101.0, 0.1, 0.0) == [1.0]

    @chex.variants(with_jit=True, without_jit=True)
    def test_the_way_to_the_floor(self):
        """Of 105 steps, 4 of them a warm-up, 100 lead from step 4 to the last: a quarter, half and all of the way."""
        at = (29, 54, 104, 1000)
        assert self.factors(constant, at, 105.0, 0.1, 4.0) == [1.0] * 4
        assert self.factors(linear_decay, at, 105.0, 0.1, 4.0) == pytest.approx([0.775, 0.55, 0.1, 0.1], rel=1e-5)
        quarter = 0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2
        assert self.factors(cosine, at, 105.0, 0.1, 4.0) == pytest.approx([quarter, 0.55, 0.1, 0.1], rel=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_a_run_without_end_stays_at_the_peak(self):
        for shape in (linear_decay, cosine):
            assert self.factors(shape, [10**6], math.inf, 0.1, 4.0) == [1.0]


@pytest.mark.parametrize("run", [jax.jit, lambda f: f], ids=["jit", "eager"])
def test_a_schedule_of_0_steps_is_over_from_the_start(run):
    """β is at its end and the rate at its peak in the first iteration, and after it."""
    for step in (0, 1, 7):
        assert float(run(linear)(step, 0.0, 0.25)) == 0.25
        assert float(run(linear_warmup)(step, 0.0)) == 1.0
    assert float(run(linear)(0, 1.0, 0.25)) == 1.0
    assert float(run(linear_warmup)(0, 1.0)) == pytest.approx(0.1)


def test_cosine_without_warm_up():
    """Of 101 steps, the first is 1, the middle halfway between 1 and the floor, the last the floor."""
    assert float(cosine(0, 101.0, 0.1, 0.0)) == pytest.approx(1.0)
    assert float(cosine(50, 101.0, 0.1, 0.0)) == pytest.approx(0.55, rel=1e-6)
    assert float(cosine(25, 101.0, 0.1, 0.0)) == pytest.approx(0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2, rel=1e-6)
    assert float(cosine(100, 101.0, 0.1, 0.0)) == pytest.approx(0.1, rel=1e-6)
    assert float(cosine(1000, 101.0, 0.1, 0.0)) == pytest.approx(0.1, rel=1e-6)


def test_cosine_with_warm_up():
    assert [float(cosine(s, 104.0, 0.1, 4.0)) for s in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert float(cosine(4, 104.0, 0.1, 4.0)) == pytest.approx(1.0)
    assert float(cosine(103, 104.0, 0.1, 4.0)) == pytest.approx(0.1, rel=1e-6)


def test_a_run_of_one_step_uses_the_peak():
    assert float(cosine(0, 1.0, 0.1, 0.0)) == 1.0


def test_linear_warm_up():
    """InstructGPT, App. C.4: from a tenth of the peak rate over the first 10 iterations."""
    assert float(linear_warmup(0, 10.0)) == pytest.approx(0.1)
    assert float(linear_warmup(5, 10.0)) == pytest.approx(0.55)
    assert float(linear_warmup(10, 10.0)) == pytest.approx(1.0)
    assert float(linear_warmup(11, 10.0)) == 1.0
    assert float(linear_warmup(1, 0.0)) == 1.0


def test_jit_of_the_schedules():
    for s in (0, 3, 50):
        np.testing.assert_allclose(jax.jit(cosine)(s, 101.0, 0.1, 4.0), cosine(s, 101.0, 0.1, 4.0), rtol=1e-6)
        np.testing.assert_allclose(jax.jit(linear_warmup)(s, 10.0), linear_warmup(s, 10.0), rtol=1e-6)


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.992, 0.99999, 1.0])
@pytest.mark.parametrize("updates", [1, 2, 6, 40])
def test_the_moving_average_is_the_mean_of_what_was_averaged_and_nothing_of_its_start(decay, updates):
    """Σ dᵗ⁻ˢ θₛ / Σ dᵗ⁻ˢ; after one update θ₁ to the bit, whatever stood there before."""
    each = np.random.default_rng(0).normal(size=(updates, 3)).astype(np.float32)
    average, weight = {"w": jnp.array([7.0, -1e6, 0.5])}, 0.0
    for theta in each:
        average, weight = ema(average, {"w": jnp.asarray(theta)}, decay, weight)
        if weight == 1.0:  # the first update, and every one of a decay of 0
            np.testing.assert_array_equal(average["w"], theta)
    shares = np.float64(decay) ** np.arange(updates)[::-1]
    np.testing.assert_allclose(average["w"], shares @ each / shares.sum(), atol=1e-6)
    assert float(weight) == pytest.approx(shares.sum(), rel=1e-6)


def test_it_is_the_plain_recursion_corrected_as_adams_moments_are():
    """θ̂ = (m − dᵗ·θ₀) / (1 − dᵗ), where m ← d·m + (1 − d)·θ from θ₀ (Kingma and Ba 2014, §3)."""
    each, d = np.random.default_rng(1).normal(size=(9, 4)), 0.9
    average, weight = jnp.asarray(each[0]), 0.0
    m = each[0]
    for t, theta in enumerate(each[1:], 1):
        m = d * m + (1 - d) * theta
        average, weight = ema(average, jnp.asarray(theta), d, weight)
        np.testing.assert_allclose(average, (m - d**t * each[0]) / (1 - d**t), atol=1e-5)
