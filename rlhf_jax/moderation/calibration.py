"""From a classifier's logits to probabilities and to what is flagged, category by category, by texts that it has not seen."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float
from numpy import ndarray
from scipy.optimize import isotonic_regression, root_scalar
from scipy.special import expit

from rlhf_jax.errors import InputError
from rlhf_jax.moderation.measures import Curve, precision_recall
from rlhf_jax.types import AnyArray

COLDEST, HOTTEST = 0.05, 20.0  # temperatures: where scores part the labels without error, none is cold enough
Method = Literal["temperature", "isotonic"]
Wanted = Literal["f1", "precision", "recall"]


@dataclass(frozen=True)
class Calibrated:
    """What a logit of one category means."""

    temperature: float = 1.0
    at: tuple[float, ...] = ()  # logits, rising; without any the temperature says what a logit means
    shares: tuple[float, ...] = ()  # the probability at each, between which it is interpolated
    threshold: float | None = 0.5  # a text is flagged from this probability on; None: never

    def probability(self, logits: Float[AnyArray, " N"]) -> Float[ndarray, " N"]:
        """σ(z / temperature), or the isotonic regression's value at z."""
        z = np.asarray(logits, float)
        return np.interp(z, self.at, self.shares) if self.at else expit(z / self.temperature)

    def flags(self, probabilities: Float[AnyArray, " N"]) -> Bool[ndarray, " N"]:
        """Which of these are flagged."""
        found = np.asarray(probabilities, float)
        return np.zeros(found.shape, bool) if self.threshold is None else found >= self.threshold


def fit_temperature(logits: Float[AnyArray, " N"], labels: Bool[AnyArray, " N"]) -> float:
    """T > 0 at which −log likelihood of σ(z/T) is least (Guo et al. 2017, arXiv:1706.04599, §4.2), between 0.05 and 20.

    In a = 1/T it is convex, with the slope Σ z (σ(a·z) − y), whose zero is looked for.
    """
    z, y = np.asarray(logits, float), np.asarray(labels, float)

    def slope(a: float) -> float:
        return float(np.sum(z * (expit(a * z) - y)))

    least, most = 1 / HOTTEST, 1 / COLDEST
    if slope(least) >= 0:
        return HOTTEST
    return COLDEST if slope(most) <= 0 else 1 / root_scalar(slope, bracket=(least, most), xtol=1e-12).root


def fit_isotonic(
    logits: Float[AnyArray, " N"], labels: Bool[AnyArray, " N"]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Logits, rising, and the probability at each: of all that never fall with the logit the one with the least squared
    error (Zadrozny & Elkan 2002). Logits that are equal have one probability."""
    at, place, counts = np.unique(np.asarray(logits, float), return_inverse=True, return_counts=True)
    shares = np.bincount(place, np.asarray(labels, float)) / counts
    found = isotonic_regression(shares, weights=counts).x
    ends = [0, len(at) - 1]  # inside a stretch of one value only its ends are needed
    kept = [i for i in range(len(at)) if i in ends or found[i] != found[i - 1] or found[i] != found[i + 1]]
    return tuple(at[kept].tolist()), tuple(found[kept].tolist())


def threshold(
    scores: Float[AnyArray, " N"], labels: Bool[AnyArray, " N"], wanted: Wanted = "f1", at_least: float = 0.0
) -> float | None:
    """The score from which on texts are flagged.

    f1: the one of the highest F1 = 2PR/(P + R). precision: the one of the highest recall of those at which the precision is
    `at_least`; None where there is none. recall: the highest at which the recall is `at_least`. Of equal ones the highest.
    None also where no text is positive: nothing says what is to be flagged.
    """
    if not np.asarray(labels, bool).any():
        return None
    curve = precision_recall(scores, labels)
    good = _good(curve, wanted, at_least)
    if not good.any():
        return None
    best = {"f1": 2 * curve.precision * curve.recall, "precision": curve.recall, "recall": -curve.recall}[wanted]
    if wanted == "f1":
        best = best / np.maximum(curve.precision + curve.recall, 1e-12)
    return float(curve.thresholds[np.argmax(np.where(good, best, -np.inf))])


def _good(curve: Curve, wanted: Wanted, at_least: float) -> Bool[ndarray, " K"]:
    if wanted == "f1":
        return np.ones(len(curve.recall), bool)
    return (curve.precision if wanted == "precision" else curve.recall) >= at_least


def fit_category(
    logits: Float[AnyArray, " N"],
    labels: Bool[AnyArray, " N"],
    method: Method = "temperature",
    wanted: Wanted = "f1",
    at_least: float = 0.0,
) -> Calibrated:
    """Probabilities and threshold of one category, by its labels that are known. Where these are all alike the logits stay as
    they are; where none is positive the category is never flagged."""
    y = np.asarray(labels, bool)
    if len(y) == 0 or y.all() or not y.any():
        found = Calibrated()
    elif method == "temperature":
        found = Calibrated(fit_temperature(logits, y))
    else:
        at, shares = fit_isotonic(logits, y)
        found = Calibrated(at=at, shares=shares)
    return Calibrated(
        found.temperature, found.at, found.shares, threshold(found.probability(logits), y, wanted, at_least)
    )


def as_json(calibration: Mapping[str, Calibrated]) -> dict[str, Any]:
    """Category → its values."""
    return {name: asdict(one) for name, one in calibration.items()}


def calibration_of(said: Any, where: str) -> dict[str, Calibrated]:
    """What `as_json` wrote. InputError, which begins with `where`: it is something else."""
    try:
        return {
            name: Calibrated(one["temperature"], tuple(one["at"]), tuple(one["shares"]), one["threshold"])
            for name, one in said.items()
        }
    except (AttributeError, LookupError, TypeError) as error:
        raise InputError(f"{where} holds no calibration: delete it and calibrate again") from error
