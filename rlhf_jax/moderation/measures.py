"""How well scores find what people labelled: precision, recall, and the area under their curve, with intervals.

A text is flagged where its score is at least the threshold. Precision is the share of the flagged texts that are positive,
recall the share of the positive ones that are flagged. Intervals are percentile bootstraps (Efron 1979): clusters (texts that
are nearly the same, of one number) are drawn with replacement, as many as there are, the figure is taken of each draw, and
the bounds are the 2.5 % and 97.5 % of the draws that have one.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int
from numpy import ndarray

from rlhf_jax.evals import CONFIDENCE, Estimate
from rlhf_jax.types import AnyArray

FEWEST = 5  # positive clusters: of fewer a draw says next to nothing
DRAWS = 2_000
Weights = Int[ndarray, "R N"]  # how often each draw has each row
Statistic = Callable[[Weights], Float[ndarray, " R"]]  # nan where a draw has no such figure


class Curve(NamedTuple):
    """At each score that occurs, the highest first, as the threshold."""

    thresholds: Float[ndarray, " K"]
    precision: Float[ndarray, " K"]
    recall: Float[ndarray, " K"]


def precision_recall(scores: Float[AnyArray, " N"], labels: Bool[AnyArray, " N"]) -> Curve:
    """The curve of a category. ValueError: no positive."""
    scores, labels = np.asarray(scores, float), np.asarray(labels, bool)
    if not labels.any():
        raise ValueError("A curve needs a positive; there is none.")
    order, last = _ranked(scores)
    right = np.cumsum(labels[order])[last]
    return Curve(scores[order][last], right / (last + 1), right / right[-1])


def average_precision(scores: Float[AnyArray, " N"], labels: Bool[AnyArray, " N"]) -> float:
    """Σ (Rₙ − Rₙ₋₁) Pₙ over the thresholds, the highest first, Pₙ and Rₙ being precision and recall there: the area under the
    curve as scikit-learn's average_precision_score has it, without interpolation. Texts of one score are flagged together.
    ValueError: no positive."""
    curve = precision_recall(scores, labels)
    return float(np.sum(np.diff(curve.recall, prepend=0.0) * curve.precision))


def auprc(
    scores: Float[AnyArray, " N"], labels: Bool[AnyArray, " N"], clusters: Sequence | AnyArray | None = None
) -> Estimate | None:
    """`average_precision` and its interval over clusters; None where fewer than FEWEST clusters have a positive."""
    return _estimate(_area(scores, labels), labels, clusters)


def auprc_gain(
    ours: Float[AnyArray, " N"],
    theirs: Float[AnyArray, " N"],
    labels: Bool[AnyArray, " N"],
    clusters: Sequence | AnyArray | None = None,
) -> Estimate | None:
    """By how much the area of our scores is above that of theirs, on the same texts, both taken of the same draws."""
    a, b = _area(ours, labels), _area(theirs, labels)
    return _estimate(lambda weights: a(weights) - b(weights), labels, clusters)


def precision_at(
    flagged: Bool[AnyArray, " N"], labels: Bool[AnyArray, " N"], clusters: Sequence | AnyArray | None = None
) -> Estimate | None:
    """The share of the flagged texts that are positive; None where nothing is flagged, or too few are positive."""
    flagged, labels = np.asarray(flagged, bool), np.asarray(labels, bool)
    return _estimate(_ratio(flagged & labels, flagged), labels, clusters) if flagged.any() else None


def recall_at(
    flagged: Bool[AnyArray, " N"], labels: Bool[AnyArray, " N"], clusters: Sequence | AnyArray | None = None
) -> Estimate | None:
    """The share of the positive texts that are flagged; None where too few are positive."""
    flagged, labels = np.asarray(flagged, bool), np.asarray(labels, bool)
    return _estimate(_ratio(flagged & labels, labels), labels, clusters)


def figure_text(found: Estimate | None) -> str:
    """A figure as a table has it; where there is none, why."""
    return "n too small" if found is None else str(found)


def _estimate(statistic: Statistic, labels: AnyArray, clusters: Sequence | AnyArray | None) -> Estimate | None:
    labels = np.asarray(labels, bool)
    at = np.arange(len(labels)) if clusters is None else np.unique(np.asarray(clusters), return_inverse=True)[1]
    if len(np.unique(at[labels])) < FEWEST:
        return None
    G = int(at.max()) + 1
    drawn = np.random.default_rng(0).multinomial(G, np.full(G, 1 / G), size=DRAWS)  # the same of each figure
    found = statistic(drawn[:, at])
    low, high = np.nanquantile(found, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    whole = statistic(np.ones((1, len(labels)), np.int64))
    return Estimate(float(whole[0]), float(low), float(high), G)


def _ratio(part: Bool[ndarray, " N"], whole: Bool[ndarray, " N"]) -> Statistic:
    def of(weights: Weights) -> Float[ndarray, " R"]:
        with np.errstate(invalid="ignore"):  # 0/0 is nan
            return (weights @ part) / (weights @ whole)

    return of


def _area(scores: AnyArray, labels: AnyArray) -> Statistic:
    """`average_precision` of weighted rows."""
    order, last = _ranked(np.asarray(scores, float))
    sorted_labels = np.asarray(labels, bool)[order]

    def of(weights: Weights) -> Float[ndarray, " R"]:
        weights = weights[:, order]
        flagged = np.cumsum(weights, axis=1)[:, last]
        right = np.cumsum(weights * sorted_labels, axis=1)[:, last]
        new = np.diff(right, axis=1, prepend=0)
        with np.errstate(invalid="ignore"):
            return np.sum(new * (right / np.maximum(flagged, 1)), axis=1) / right[:, -1]

    return of


def _ranked(scores: Float[ndarray, " N"]) -> tuple[Int[ndarray, " N"], Int[ndarray, " K"]]:
    """The rows by falling scores, and where in that order each score that occurs ends."""
    order = np.argsort(-scores, kind="stable")
    return order, np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
