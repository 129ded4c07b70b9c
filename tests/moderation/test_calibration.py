"""Temperatures, isotonic regressions and thresholds whose optimum is known."""

import json
import math

import numpy as np
import pytest

from rlhf_jax.moderation import (
    Calibrated,
    as_json,
    calibration_of,
    fit_category,
    fit_isotonic,
    fit_temperature,
    threshold,
)
from tests.refusals import refusal


def test_the_temperature_is_the_one_at_which_the_shares_are_right():
    """Of logits ±2 that are right three times in four, σ(2/T) = 3/4 at T = 2/log 3."""
    z, y = np.array([2.0, 2, 2, 2, -2, -2, -2, -2]), np.array([1, 1, 1, 0, 0, 0, 0, 1], bool)
    found = fit_temperature(z, y)
    assert found == pytest.approx(2 / math.log(3), rel=1e-8)
    np.testing.assert_allclose(Calibrated(found).probability(z[[0, 4]]), [3 / 4, 1 / 4])


def test_no_other_temperature_has_less_loss():
    rng = np.random.default_rng(0)
    z = 3 * rng.normal(size=300)
    y = rng.random(300) < 1 / (1 + np.exp(-z / 2.5))

    def loss(T):
        return np.logaddexp(0, np.where(y, -z, z) / T).sum()

    found = fit_temperature(z, y)
    assert 1.5 < found < 4 and all(loss(found) <= loss(found * by) for by in (0.9, 0.999, 1.001, 1.1))


def test_temperatures_have_bounds():
    z = np.array([1.0, -1.0])
    assert fit_temperature(z, np.array([True, False])) == 0.05  # parted without error
    assert fit_temperature(z, np.array([False, True])) == 20.0  # the wrong way round


def test_the_isotonic_regression_pools_what_falls():
    """Shares by logit: 0, 1, 0, 1; those of 1 and 2 fall and become ½ both. Equal logits count together."""
    at, shares = fit_isotonic(np.array([0.0, 1, 2, 3, 3]), np.array([0, 1, 0, 1, 1], bool))
    assert at == (0.0, 1.0, 2.0, 3.0) and shares == (0.0, 0.5, 0.5, 1.0)
    np.testing.assert_allclose(
        Calibrated(at=at, shares=shares).probability(np.array([-5, 0.5, 1.5, 9])), [0, 0.25, 0.5, 1]
    )
    at, shares = fit_isotonic(np.array([1.0, 1, 1, 2]), np.array([1, 1, 0, 0], bool))
    assert at == (1.0, 2.0) and shares == pytest.approx((0.5, 0.5))  # 3 of ⅔ and one of 0


SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
LABELS = np.array([1, 0, 1, 1, 0, 0], bool)  # P: 1, ½, ⅔, ¾, ⅗, ½; R: ⅓, ⅓, ⅔, 1, 1, 1


@pytest.mark.parametrize(
    ("wanted", "at_least", "expected"),
    [
        ("f1", 0.0, 0.6),
        ("precision", 0.9, 0.9),
        ("precision", 0.7, 0.6),
        ("recall", 0.5, 0.7),
        ("recall", 1.0, 0.6),
        ("recall", 0.3, 0.9),
    ],
)
def test_the_threshold_is_where_the_wish_is_met(wanted, at_least, expected):
    for order in (slice(None), slice(None, None, -1)):
        assert threshold(SCORES[order], LABELS[order], wanted, at_least) == expected


def test_where_no_threshold_will_do_nothing_is_flagged():
    assert threshold(SCORES, ~LABELS, "precision", 0.99) is None
    assert threshold(SCORES, np.zeros(6, bool)) is None
    none = fit_category(SCORES, np.zeros(6, bool))
    assert none == Calibrated(threshold=None) and not none.flags(np.ones(3)).any()
    assert fit_category(np.zeros(0), np.zeros(0, bool)).threshold is None


@pytest.mark.parametrize("method", ["temperature", "isotonic"])
def test_what_was_fitted_flags_what_the_threshold_says(method):
    z = np.log(SCORES / (1 - SCORES))
    found = fit_category(z, LABELS, method, "recall", 1.0)
    np.testing.assert_array_equal(found.flags(found.probability(z)), SCORES >= 0.6)


def test_it_is_the_same_from_json():
    z = np.log(SCORES / (1 - SCORES))
    each = {"a": fit_category(z, LABELS), "b": fit_category(z, LABELS, "isotonic"), "c": Calibrated(threshold=None)}
    assert calibration_of(json.loads(json.dumps(as_json(each))), "file") == each
    for wrong in ([], {"a": 1}, {"a": {"temperature": 1}}):
        refusal(
            lambda wrong=wrong: calibration_of(wrong, "x/calibration.json"), "x/calibration.json holds no calibration"
        )
