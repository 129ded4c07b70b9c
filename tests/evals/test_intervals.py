import json
import math

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rlhf_jax.evals.intervals import RATING, SHARE, Estimate, mean_interval, over_seeds, paired_interval, ratio_interval


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


def test_agreement_without_a_scale_says_nothing_of_the_spread():
    assert mean_interval([2.0, 2.0, 2.0]) == Estimate(2.0, None, None, 3)


def test_jax_arrays_are_welcome():
    assert mean_interval(jnp.array([1.0, 2.0, 3.0])) == mean_interval([1.0, 2.0, 3.0])


def test_wilson_s_interval_of_a_hand_worked_case():
    # p̂ = ½, v = ¼/9, so that n* = 9; t = t₀.₉₇₅(9) = 2.262 in print: ½ ± t √(1/36 + t²/324) / (1 + t²/9).
    estimate = mean_interval([1] * 5 + [0] * 5, scale=SHARE)
    half = 2.262 * math.sqrt(1 / 36 + 2.262**2 / 324) / (1 + 2.262**2 / 9)
    np.testing.assert_allclose(estimate[:3], (0.5, 0.5 - half, 0.5 + half), atol=1e-4)
    assert estimate.n == 10


@pytest.mark.parametrize("k", [150, 500, 990])
def test_many_single_draws_have_wilson_s_interval(k):
    expected = stats.binomtest(k, 1000).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(mean_interval(np.arange(1000) < k, scale=SHARE)[1:3], expected, rtol=2e-3)


@pytest.mark.parametrize(("k", "n"), [(0, 7), (7, 7), (1, 1), (11, 11)])
def test_draws_that_agree_have_clopper_and_pearson_s_interval(k, n):
    expected = stats.binomtest(k, n).proportion_ci(0.95, method="exact")
    x = np.repeat(np.arange(n) < k, 5)  # each draw five times, as one cluster
    found = mean_interval(x, np.repeat(np.arange(n), 5), SHARE)
    np.testing.assert_allclose(found[:3], (k / n, *expected), rtol=1e-9, atol=1e-12)


def test_a_large_draw_that_agrees_counts_as_the_few_that_it_is():
    # Sizes 8, 1, 1: (Σ b)² / Σ b² = 100/66.
    found = mean_interval([1.0] * 10, [0] * 8 + [1, 2], SHARE)
    assert found.low == pytest.approx(0.025 ** (66 / 100)) and found.high == 1.0


def test_agreement_inside_a_scale_leaves_room_on_both_sides():
    # Eleven ratings of 4: u = 1 − 0.025^(1/11) = 0.285 of the people unlike them would be at 1 or at 7.
    found = mean_interval([4.0] * 11, scale=RATING)
    np.testing.assert_allclose(found[1:3], (4 - 3 * 0.285, 4 + 3 * 0.285), atol=2e-3)


def test_bounds_stay_on_the_scale():
    for n in range(1, 60):
        for k in (0, 1, n // 2, n - 1, n):
            found = mean_interval(np.arange(n) < k, scale=SHARE)
            assert 0 <= found.low <= found.mean <= found.high <= 1 and found.high > found.low


def test_clusters_of_one_value_are_no_clusters():
    x = np.random.default_rng(0).normal(size=9)
    assert mean_interval(x, [f"prompt {i}" for i in range(9)]) == mean_interval(x)


def test_clusters_of_one_size_have_student_s_interval_of_their_means():
    x = np.random.default_rng(0).normal(size=(9, 4))
    found = mean_interval(x.T.reshape(-1), [*range(9)] * 4)
    np.testing.assert_allclose(found, mean_interval(x.mean(axis=1)), rtol=1e-12)


def test_the_jackknife_by_hand():
    """Draws of sizes 3, 1 and 2, left out one at a time."""
    a, b = np.array([3.0, 1.0, 0.0]), np.array([3.0, 1.0, 2.0])
    left = np.array([1 / 3, 3 / 5, 4 / 4])
    half = stats.t.ppf(0.975, 2) * math.sqrt(2 / 3 * np.sum((left - 4 / 6) ** 2))
    np.testing.assert_allclose(ratio_interval(a, b), (4 / 6, 4 / 6 - half, 4 / 6 + half, 3))


def test_a_scale_is_a_ruler_and_turns_with_it():
    x = np.random.default_rng(0).random(12)
    share, rating = mean_interval(x, scale=SHARE), mean_interval(1 + 6 * x, scale=RATING)
    np.testing.assert_allclose(rating[:3], 1 + 6 * np.array(share[:3]))
    turned = mean_interval(1 - x, scale=SHARE)
    np.testing.assert_allclose(turned[:3], (1 - share.mean, 1 - share.high, 1 - share.low))


def test_what_a_prompt_adds_to_both_models_is_gone_from_their_difference():
    rng = np.random.default_rng(0)
    prompt, ours, theirs = rng.uniform(2, 6, 50), rng.uniform(-0.1, 0.3, 50), rng.uniform(-0.2, 0.2, 50)
    found = paired_interval(prompt + ours, prompt + theirs)
    np.testing.assert_allclose(found, mean_interval(ours - theirs))
    unpaired = mean_interval(prompt + ours)
    assert found.high - found.low < (unpaired.high - unpaired.low) / 4
    bounded = paired_interval([7.0] * 3, [1.0] * 3, scale=RATING)
    assert bounded.mean == bounded.high == 6 and bounded.low == pytest.approx(6 - 12 * (1 - 0.025 ** (1 / 3)))


# Coverage, on simulated draws. The old interval took every value for a draw of its own.

SIZES = {"equal": [7] * 11, "unequal": [2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]}
SETS = 1500


def unclustered(x):
    """Wilson's interval of n values, as if each were drawn by itself (z² = 3.84)."""
    n, p = x.size, x.mean()
    half = math.sqrt(3.84 * p * (1 - p) / n + (3.84 / (2 * n)) ** 2)
    return tuple((p + 3.84 / (2 * n) + side * half) / (1 + 3.84 / n) for side in (-1, 1))


def coverage(found, truth):
    return np.mean([low <= truth <= high for low, high in found])


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("p", [0.05, 0.5, 0.95])
@pytest.mark.parametrize("alike", [0.1, 0.3, 0.6])
def test_clustered_proportions_are_covered(sizes, p, alike):
    """Beta-binomial: eleven facts, of each of which a model is right at a rate of its own; the rates' spread is such that two
    values of one fact correlate by `alike`."""
    rng, clusters = np.random.default_rng(0), np.repeat(np.arange(11), SIZES[sizes])
    spread = 1 / alike - 1
    rates = rng.beta(p * spread, (1 - p) * spread, (SETS, 11))
    x = rng.random((SETS, len(clusters))) < rates[:, clusters]
    assert 0.92 <= coverage([mean_interval(row, clusters, SHARE)[1:3] for row in x], p) <= 0.99
    if alike > 0.2:
        assert coverage([unclustered(row) for row in x], p) < 0.85


@pytest.mark.parametrize("p", [0.05, 0.5, 0.95])
def test_single_draws_are_covered(p):
    x = np.random.default_rng(0).random((SETS, 40)) < p
    assert 0.92 <= coverage([mean_interval(row, None, SHARE)[1:3] for row in x], p) <= 0.99


@pytest.mark.parametrize(("a", "b"), [(0.5, 0.5), (4.0, 1.0), (8.0, 8.0)])
def test_bounded_means_are_covered(a, b):
    """Ratings, 1 + 6·Beta(a, b), of people who differ: two ratings by each of fifteen."""
    rng = np.random.default_rng(0)
    people = rng.beta(a, b, (SETS, 15, 1)).repeat(2, axis=2)
    own = np.clip(people + rng.uniform(-1, 1, people.shape) * np.minimum(people, 1 - people), 0, 1)  # has the same mean
    x, clusters = 1 + 6 * own.reshape(SETS, -1), np.repeat(np.arange(15), 2)
    found = coverage([mean_interval(row, clusters, RATING)[1:3] for row in x], 1 + 6 * a / (a + b))
    assert 0.92 <= found <= 0.99


def test_paired_differences_are_covered():
    """Two models' ratings of 25 prompts, hard and easy ones; half of the answers are the same."""
    rng = np.random.default_rng(0)
    prompt = rng.uniform(2, 5, (SETS, 25))
    better = np.where(rng.random((SETS, 25)) < 0.5, 0.0, rng.choice([-1.0, 0.5, 2.0], (SETS, 25), p=[0.3, 0.3, 0.4]))
    pairs = zip(prompt + better, prompt, strict=True)
    found = coverage([paired_interval(ours, theirs, scale=RATING)[1:3] for ours, theirs in pairs], 0.5 * 0.65)
    assert 0.92 <= found <= 0.99


def test_wins_with_ties_are_covered():
    x = np.random.default_rng(0).choice([0.0, 0.5, 1.0], (SETS, 40), p=[0.1, 0.5, 0.4])
    assert 0.92 <= coverage([mean_interval(row, scale=SHARE)[1:3] for row in x], 0.65) <= 0.99


def test_ratios_are_covered():
    """Pairs that a model orders right, of prompts with 0 to 20 pairs and a rate of their own."""
    rng = np.random.default_rng(0)
    pairs = rng.choice([0, 1, 3, 6, 10, 20], (SETS, 30))
    right = rng.binomial(pairs, rng.beta(7, 3, (SETS, 30)))
    found = [ratio_interval(a, b, SHARE) for a, b in zip(right, pairs, strict=True)]
    assert 0.92 <= coverage([e[1:3] for e in found], 0.7) <= 0.99
    assert [e.n for e in found] == (pairs > 0).sum(axis=1).tolist()  # a prompt without pairs says nothing


def test_a_stricter_interval_is_wider():
    x = np.random.default_rng(0).normal(size=(SETS, 5))
    misses = 1 - coverage([mean_interval(row, confidence=0.99)[1:3] for row in x], 0.0)
    assert misses == pytest.approx(0.01, abs=3 * math.sqrt(0.01 * 0.99 / SETS))


def test_over_seeds_is_the_t_interval_of_the_means():
    # Means 1, 2, 3: s = 1, half width t₀.₉₇₅(2) / √3 = 4.303 / √3.
    seeds = [Estimate(1.0, 0.5, 1.5, 100), Estimate(2.0, None, None, 1), Estimate(3.0, 2.0, 4.0, 7)]
    estimate = over_seeds(seeds)
    assert (estimate.mean, estimate.n) == (2.0, 3)
    assert estimate.high == pytest.approx(2 + 4.303 / math.sqrt(3), abs=1e-3)


def test_seeds_stay_on_the_scale_of_their_figure():
    seeds = [Estimate(mean, None, None, 9) for mean in (0.99, 1.0, 0.93)]
    free, bounded = over_seeds(seeds), over_seeds(seeds, SHARE)
    assert free.high > 1 >= bounded.high and bounded == mean_interval([0.99, 1.0, 0.93], scale=SHARE)


def test_seeds_that_all_agree_have_the_widest_of_their_own_bounds():
    seeds = [Estimate(1.0, 0.97, 1.0, 100), Estimate(1.0, None, None, 1), Estimate(1.0, 0.95, 1.0, 70)]
    assert over_seeds(seeds, SHARE) == Estimate(1.0, 0.95, 1.0, 3)
    assert over_seeds([Estimate(0.5, None, None, 1)] * 2, SHARE) == Estimate(0.5, None, None, 2)
    assert over_seeds(seeds[:1], SHARE) == seeds[0]._replace(n=1)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: mean_interval([]), "at least one value"),
        (lambda: mean_interval([1.0, float("nan")]), "1 of these 2 are not"),
        (lambda: mean_interval(np.zeros((2, 2))), r"shape \(2, 2\)"),
        (lambda: mean_interval([0.0, 1.5], scale=SHARE), r"lie in \[0, 1\]; these span \[0, 1.5\]"),
        (lambda: mean_interval([0.0, 1.5], [0, 0], SHARE), r"lie in \[0, 1\]"),  # though their mean does
        (lambda: paired_interval([8.0], [7.0], scale=RATING), r"lie in \[1, 7\]"),
        (lambda: paired_interval([1.0], [1.0, 2.0]), "1 values of one model and 2"),
        (lambda: mean_interval([1.0, 2.0], [0]), "2 values and 1 clusters"),
        (lambda: over_seeds([]), "at least one value"),
    ],
)
def test_bad_input_is_named(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
