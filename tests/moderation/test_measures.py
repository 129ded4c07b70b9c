"""Precision, recall and the area under their curve, by hand and by their definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.moderation import (
    auprc,
    auprc_gain,
    average_precision,
    figure_text,
    precision_at,
    precision_recall,
    recall_at,
)
from rlhf_jax.moderation.measures import _area


def by_definition(scores, labels) -> float:
    """Σ (Rₙ − Rₙ₋₁) Pₙ with loops over the thresholds."""
    area, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        flagged = [y for s, y in zip(scores, labels, strict=True) if s >= threshold]
        recall = sum(flagged) / sum(labels)
        area += (recall - before) * sum(flagged) / len(flagged)
        before = recall
    return area


def test_by_hand():
    """Ranked: positive, negative, positive, negative. R: ½, ½, 1, 1; P: 1, ½, ⅔, ½."""
    scores, labels = np.array([0.9, 0.8, 0.7, 0.1]), np.array([True, False, True, False])
    curve = precision_recall(scores, labels)
    np.testing.assert_array_equal(curve.thresholds, [0.9, 0.8, 0.7, 0.1])
    np.testing.assert_allclose(curve.precision, [1, 1 / 2, 2 / 3, 1 / 2])
    np.testing.assert_allclose(curve.recall, [1 / 2, 1 / 2, 1, 1])
    assert average_precision(scores, labels) == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)


def test_texts_of_one_score_are_flagged_together():
    """Whatever order they stand in: of scores that are all equal it is the share of positives."""
    labels = np.array([True, False, False, False])
    for order in (labels, labels[::-1]):
        assert average_precision(np.full(4, 0.5), order) == pytest.approx(1 / 4)
    assert average_precision(np.array([2.0, 1, 1, 0]), np.array([False, True, False, True])) == pytest.approx(
        1 / 2 * 1 / 3 + 1 / 2 * 2 / 4
    )


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=20))
def test_it_is_its_definition_and_scikit_learns(rows):
    scores, labels = (np.array(x, dtype) for x, dtype in zip(zip(*rows, strict=True), (float, bool), strict=True))
    if not labels.any():
        with pytest.raises(ValueError, match="needs a positive"):
            average_precision(scores, labels)
        return
    assert average_precision(scores, labels) == pytest.approx(by_definition(scores, labels))
    try:
        from sklearn.metrics import average_precision_score
    except ImportError:
        return
    assert average_precision(scores, labels) == pytest.approx(average_precision_score(labels, scores))


def test_a_draw_that_has_a_row_twice_is_the_area_of_the_row_written_twice():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 6, 30).astype(float), rng.random(30) < 0.4
    weights = rng.integers(0, 4, (7, 30))
    expected = [by_definition(np.repeat(scores, w), np.repeat(labels, w)) for w in weights]
    np.testing.assert_allclose(_area(scores, labels)(weights), expected)


def test_an_interval_holds_the_figure_and_narrows_with_more_texts():
    rng = np.random.default_rng(0)

    def found(n):
        labels = rng.random(n) < 0.3
        return auprc(rng.normal(size=n) + labels, labels)

    few, many = found(100), found(6400)
    for one in (few, many):
        assert one.low < one.mean < one.high
    assert (many.high - many.low) < 0.25 * (few.high - few.low)  # 1/8 is to be expected
    assert (few.n, many.n) == (100, 6400)


def test_copies_of_texts_say_no_more_than_the_texts():
    rng = np.random.default_rng(0)
    labels = rng.random(80) < 0.3
    scores = rng.normal(size=80) + labels
    once = auprc(scores, labels)
    ten = auprc(np.tile(scores, 10), np.tile(labels, 10), np.tile(np.arange(80), 10))
    assert ten.n == 80 and (ten.low, ten.high) == pytest.approx((once.low, once.high))


def test_of_too_few_positives_there_is_no_figure():
    labels = np.zeros(50, bool)
    for positives in (0, 4):
        labels[:positives] = True
        assert auprc(np.arange(50.0), labels) is None
        assert recall_at(labels, labels) is None
    labels[:5] = True
    assert auprc(np.arange(50.0), labels) is not None
    assert auprc(np.arange(50.0), labels, np.r_[0, 0, np.arange(48)]) is None  # two of the five are copies
    assert figure_text(None) == "n too small"


def test_precision_and_recall_of_what_is_flagged():
    labels, flagged = np.zeros(40, bool), np.zeros(40, bool)
    labels[:10], flagged[5:13] = True, True
    assert precision_at(flagged, labels).mean == pytest.approx(5 / 8)
    assert recall_at(flagged, labels).mean == pytest.approx(5 / 10)
    assert precision_at(np.zeros(40, bool), labels) is None
    low, high = recall_at(flagged, labels)[1:3]
    assert 0.1 < low < 0.5 < high < 0.9


def test_the_gain_is_of_the_same_draws():
    rng = np.random.default_rng(0)
    labels = rng.random(200) < 0.3
    ours = rng.normal(size=200) + 2 * labels
    same, other = auprc_gain(ours, ours, labels), auprc_gain(ours, rng.normal(size=200), labels)
    assert (same.mean, same.low, same.high) == (0, 0, 0)
    assert other.low > 0.2
