"""Figures of reward models, counted by hand."""

import math

import numpy as np
import pytest

from rlhf_jax.evals import (
    SHARE,
    Paraphrased,
    ScoredChoice,
    ScoredPair,
    accuracy_by_difference,
    accuracy_by_margin,
    agreement_under_paraphrase,
    best_of,
    calibration,
    clustered_bootstrap,
    mean_interval,
    ties_score,
)
from rlhf_jax.evals.reward_accuracy import equal_mass
from tests.refusals import refusal

# Differences 3, −1, 0, 2, −2, 4, of users a, a, b, b, c, c.
PAIRS = [
    ScoredPair(3.0 + d, 3.0, user, "", m)
    for d, user, m in zip((3.0, -1.0, 0.0, 2.0, -2.0, 4.0), "aabbcc", (1.0, 1.0, 1.0, 3.0, 3.0, 2.0), strict=True)
]


def test_accuracy_by_the_scores_difference():
    # |Δ| sorted: 0, 1 | 2, 2 | 3, 4, right ½, 0 | 1, 0 | 1, 1.
    found = accuracy_by_difference(PAIRS, 3)
    assert [(one.low, one.high) for one in found] == [(0.0, 1.0), (2.0, 2.0), (3.0, 4.0)]
    assert [one.accuracy for one in found] == [
        mean_interval([0, 0.5], "ab", SHARE),
        mean_interval([1, 0], "bc", SHARE),
        mean_interval([1, 1], "ac", SHARE),
    ]


def test_accuracy_by_the_labels_margin():
    found = accuracy_by_margin(PAIRS, 4)
    assert [(one.low, one.accuracy) for one in found] == [
        (1.0, mean_interval([1, 0, 0.5], "aab", SHARE)),
        (2.0, mean_interval([1], "c", SHARE)),
        (3.0, mean_interval([1, 0], "bc", SHARE)),
    ]
    refusal(lambda: accuracy_by_margin([*PAIRS, ScoredPair(1.0, 0.0, "d")]), "1 of 7 pairs have no margin")
    refusal(lambda: accuracy_by_difference(PAIRS, 7), "there are 6 pairs for 7 bins")
    refusal(lambda: accuracy_by_difference([*PAIRS, ScoredPair(math.nan, 0.0, "d")]), "pair 7 has the scores")


def test_bins_have_the_same_mass_and_never_part_equal_values():
    x = np.array([5.0, 1.0, 4.0, 2.0, 3.0, 6.0, 7.0])
    assert [sorted(x[at]) for at in equal_mass(x, 3)] == [[1, 2, 3], [4, 5], [6, 7]]
    x = np.array([1.0, 1.0, 1.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    assert [sorted(x[at]) for at in equal_mass(x, 4)] == [[1, 1, 1, 1], [2, 3], [4, 5]]
    assert [x[at].tolist() for at in equal_mass(x[3:6], 4)] == [[1.0], [1.0], [1.0]]


def test_calibration_of_a_hand_worked_case():
    # σ(log 3) = ¾ of four pairs, of which two are right; σ(log 9) = 0.9 of two, both right.
    def pairs(odds, rights):
        return [
            ScoredPair(math.log(odds), 0.0, str(i)) if r else ScoredPair(0.0, math.log(odds), str(i))
            for i, r in enumerate(rights)
        ]

    found = calibration([*pairs(3, [1, 1, 0, 0]), *pairs(9, [1, 1])], 2, draws=50)
    assert [(round(one.confidence, 12), one.accuracy.mean, one.pairs) for one in found.curve] == [
        (0.75, 0.5, 4),
        (0.9, 1.0, 2),
    ]
    assert found.error.mean == pytest.approx((4 * 0.25 + 2 * 0.1) / 6)
    assert found.log_loss.mean == pytest.approx(-(2 * math.log(0.75) + 2 * math.log(0.25) + 2 * math.log(0.9)) / 6)
    assert found.error.n == 4 and found.error.low <= found.error.high


def test_scores_that_are_log_odds_are_calibrated_and_doubled_ones_are_not():
    rng = np.random.default_rng(0)
    delta = rng.normal(0, 1.5, 8000)
    chosen = np.where(rng.random(8000) < 1 / (1 + np.exp(-delta)), delta, -delta)
    errors = [
        calibration([ScoredPair(float(k * d), 0.0, str(i)) for i, d in enumerate(chosen)], draws=1).error.mean
        for k in (1, 2)
    ]
    # E|σ(2|δ|) − σ(|δ|)| by quadrature.
    at, weight = np.polynomial.hermite_e.hermegauss(80)
    off = 1 / (1 + np.exp(-2 * np.abs(1.5 * at))) - 1 / (1 + np.exp(-np.abs(1.5 * at)))
    assert errors[0] < 0.02 and errors[1] == pytest.approx(weight @ off / weight.sum(), abs=0.015)


def test_the_bootstrap_draws_clusters():
    # Its interval of a mean is near the one over clusters, whose values are alike within each.
    x = np.repeat(np.random.default_rng(0).normal(size=60), 5)
    clusters = [str(i // 5) for i in range(300)]
    found, expected = clustered_bootstrap(lambda at: float(x[at].mean()), clusters), mean_interval(x, clusters)
    assert (found.mean, found.n) == (pytest.approx(expected.mean), 60)
    np.testing.assert_allclose(found[1:3], expected[1:3], atol=0.03)
    assert clustered_bootstrap(lambda at: 1.0, ["a", "a"]) == (1.0, None, None, 1)


def test_best_of_four_shares_the_highest_score():
    def four(right, *wrong):
        return ScoredChoice((right,), wrong, str(right))

    # Above all, below one, tied with one, tied with all, tied below the highest.
    choices = [
        four(4.0, 1.0, 2.0, 3.0),
        four(2.0, 3.0, 1.0, 1.0),
        four(5.0, 5.0, 1.0, 1.0),
        four(1.0, 1.0, 1.0, 1.0),
        four(0.0, 0.0, 7.0, 1.0),
    ]
    assert best_of(choices) == mean_interval([1, 0, 0.5, 0.25, 0], None, SHARE)
    refusal(lambda: best_of([four(1.0)]), "choice 1 has 1 right answers and 0 wrong ones")
    refusal(lambda: best_of([]), "there are no choices")


def test_the_ties_score_of_a_hand_worked_case():
    def of(id):
        return lambda right, wrong, tied: ScoredChoice(right, wrong, id, id, tied)

    one, two, three = map(of, "123")
    choices = [
        one((5.0,), (1.0, 2.0), False),  # gap 3
        one((6.0, 5.0, 4.0), (1.0, 0.0), True),  # gap 3, spread 2: apart, and in both
        two((3.0,), (2.0,), False),  # gap 1
        two((9.0, 7.0), (3.0,), True),  # gap 4, spread 2: apart, and not in both
        three((1.0,), (2.0,), False),  # gap −1
        three((4.0, 4.0), (5.0,), True),  # gap −1, spread 0
        ScoredChoice((2.0, 1.0), (0.5,), "4", "4", True),  # right, and without another form
    ]
    found = ties_score(choices)
    margin = (math.tanh(3 / 2 - 1) + math.tanh(1 / 2 - 1) - 1) / 3  # tanh(−∞) = −1
    assert found[1:] == pytest.approx((2 / 3, 3 / 4, 2 / 3, 1 / 3, margin))
    assert found.score == pytest.approx(0.3 * 3 / 4 + 0.3 * 2 / 3 + 0.2 * 2 / 3 + 0.2 / 3 + 0.01 * margin)
    refusal(lambda: ties_score(choices[:1]), "no prompt has both forms")
    refusal(
        lambda: ties_score([choices[0], choices[0]]), "choice 2 is the second of the prompt '1' with one right answer"
    )
    refusal(lambda: ties_score([one((1.0,), (0.0,), True)]), "choice 1 has 1 right answers", "two right ones")


def test_agreement_under_paraphrase():
    items = [
        Paraphrased((2.0, 1.0), ((5.0, 3.0), (1.0, 3.0)), "a"),  # alike, other way round
        Paraphrased((1.0, 1.0), ((2.0, 2.0), (2.0, 1.0)), "b"),  # alike, half
    ]
    assert agreement_under_paraphrase(items) == mean_interval([1, 0, 1, 0.5], "aabb", SHARE)
    refusal(lambda: agreement_under_paraphrase([Paraphrased((1.0, 2.0), (), "a")]), "item 1 has no paraphrase")
    refusal(lambda: agreement_under_paraphrase([]), "there are no paraphrases")
