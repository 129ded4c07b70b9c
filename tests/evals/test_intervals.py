import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rlhf_jax.evals.intervals import Estimate, mean_interval, over_seeds, proportion_interval


def test_mean_interval_of_a_hand_worked_case():
    # x̄ = 3, s² = (4 + 1 + 0 + 1 + 4) / 4 = 2.5, standard error √(2.5 / 5) = √½; t₀.₉₇₅(4) = 2.776 in print.
    estimate = mean_interval([1, 2, 3, 4, 5])
    half = 2.776 * math.sqrt(0.5)
    assert (estimate.mean, estimate.n) == (3.0, 5)
    assert estimate.low == pytest.approx(3 - half, abs=1e-3)
    assert estimate.high == pytest.approx(3 + half, abs=1e-3)


def test_mean_interval_agrees_with_scipy():
    x = np.random.default_rng(0).normal(2.0, 3.0, 37)
    estimate = mean_interval(x)
    expected = stats.ttest_1samp(x, 0.0).confidence_interval(0.95)
    np.testing.assert_allclose(estimate[1:3], (expected.low, expected.high), rtol=1e-12)


def test_the_interval_covers_the_truth_95_times_in_100():
    x = np.random.default_rng(1).normal(0.0, 1.0, (2000, 5))
    inside = np.mean([e.low <= 0 <= e.high for e in map(mean_interval, x)])
    assert abs(inside - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 2000)


def test_one_value_has_a_mean_and_no_interval():
    assert mean_interval([4.0]) == Estimate(4.0, None, None, 1)
    assert json.loads(json.dumps(mean_interval([4.0])._asdict(), allow_nan=False))["low"] is None


def test_equal_values_have_an_interval_of_width_zero():
    assert mean_interval([2.0, 2.0, 2.0]) == Estimate(2.0, 2.0, 2.0, 3)


def test_jax_arrays_are_welcome():
    assert mean_interval(jnp.array([1.0, 2.0, 3.0])) == mean_interval([1.0, 2.0, 3.0])


def test_wilson_interval_of_a_hand_worked_case():
    # p̂ = ½, n = 10, z = 1.96: centre ½, half width z √(1/40 + z²/400) / (1 + z²/10) = 0.2634.
    estimate = proportion_interval([1] * 5 + [0] * 5)
    np.testing.assert_allclose(estimate[:3], (0.5, 0.2366, 0.7634), atol=1e-4)
    assert estimate.n == 10


@pytest.mark.parametrize(("k", "n"), [(0, 7), (7, 7), (1, 1), (3, 12), (73, 100)])
def test_wilson_interval_agrees_with_scipy(k, n):
    estimate = proportion_interval(np.arange(n) < k)
    expected = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(estimate[:3], (k / n, expected.low, expected.high), rtol=1e-9, atol=1e-12)


def test_bounds_stay_in_the_unit_interval():
    for n in range(1, 200):
        assert proportion_interval([0] * n).low == 0.0
        assert proportion_interval([1] * n).high == 1.0


def test_ties_count_half_and_get_the_interval_of_wins_and_losses():
    # Eight ties and one win and one loss have the mean of five wins and five losses, and get their interval,
    # though their variance, (2 · ¼) / 10, is a fifth of it.
    assert proportion_interval([0.5] * 8 + [0, 1]) == proportion_interval([1] * 5 + [0] * 5)


def test_over_seeds_is_the_t_interval_of_the_means():
    # Means 1, 2, 3: s = 1, half width t₀.₉₇₅(2) / √3 = 4.303 / √3.
    seeds = [Estimate(1.0, 0.5, 1.5, 100), Estimate(2.0, None, None, 1), Estimate(3.0, 2.0, 4.0, 7)]
    estimate = over_seeds(seeds)
    assert (estimate.mean, estimate.n) == (2.0, 3)
    assert estimate.high == pytest.approx(2 + 4.303 / math.sqrt(3), abs=1e-3)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: mean_interval([]), "at least one value"),
        (lambda: mean_interval([1.0, float("nan")]), "1 of these 2 are not"),
        (lambda: mean_interval(np.zeros((2, 2))), r"shape \(2, 2\)"),
        (lambda: proportion_interval([0.0, 1.5]), r"lie in \[0, 1\]"),
        (lambda: proportion_interval([-0.1]), r"lie in \[0, 1\]"),
        (lambda: over_seeds([]), "at least one value"),
    ],
)
def test_bad_input_is_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
