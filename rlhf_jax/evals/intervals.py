"""Means with 95 % intervals."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from rlhf_jax.types import AnyArray

CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A mean over n values and its 95 % interval; the bounds are None where the data cannot say."""

    mean: float
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.3f} (n = {self.n})"
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f}, n = {self.n})"


def mean_interval(x: Sequence | AnyArray) -> Estimate:
    """The mean and its Student-t interval.

    x̄ ± t₀.₉₇₅(n − 1) · s / √n, with s² = Σ(x − x̄)² / (n − 1)   (Student 1908)

    One value says nothing about the spread, so n = 1 gives low = high = None: an infinite interval would not
    be JSON, and one of width zero would be a lie.
    """
    values = _values(x)
    n, mean = values.size, float(values.mean())
    if n == 1:
        return Estimate(mean, None, None, n)
    half = float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2) * values.std(ddof=1) / np.sqrt(n))
    return Estimate(mean, mean - half, mean + half, n)


def proportion_interval(scores: Sequence | AnyArray) -> Estimate:
    """The mean of scores in [0, 1] and its Wilson score interval.

    (p̂ + z²/2n ± z √(p̂(1 − p̂)/n + z²/4n²)) / (1 + z²/n)   (Wilson 1927)

    A tie counts ½. The interval takes every score for a 0 or a 1; their variance, p(1 − p), is the largest
    that scores in [0, 1] with this mean can have, so with ties the interval is conservative (too wide).
    """
    values = _values(scores)
    if values.min() < 0 or values.max() > 1:
        raise ValueError(f"Scores must lie in [0, 1]; these span [{values.min():g}, {values.max():g}].")
    n, p = values.size, float(values.mean())
    z = float(special.ndtri((1 + CONFIDENCE) / 2))
    centre = (p + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    # The bounds of p = 0 and p = 1 are exactly 0 and 1; rounding would put them a hair off.
    low = 0.0 if p == 0 else float(centre - half)
    high = 1.0 if p == 1 else float(centre + half)
    return Estimate(p, low, high, n)


def ratio_interval(numerators: Sequence | AnyArray, denominators: Sequence | AnyArray) -> Estimate:
    """r = Σ aᵢ / Σ bᵢ and its interval over the groups i, which may differ in size (Cochran 1977, §6.4).

    r ± t₀.₉₇₅(n − 1) · √(n/(n − 1) · Σ (aᵢ − r bᵢ)²) / Σ bᵢ

    For pairs that were compared within prompts: pairs of one prompt are not independent, prompts are. Groups whose
    denominator is 0 do not count.
    """
    a, b = _values(numerators), _values(denominators)
    a, b = a[b != 0], b[b != 0]
    ratio, n = float(_values(a).sum() / b.sum()), a.size
    if n == 1:
        return Estimate(ratio, None, None, n)
    error = float(np.sqrt(n / (n - 1) * np.sum((a - ratio * b) ** 2)) / b.sum())
    half = float(special.stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * error
    return Estimate(ratio, ratio - half, ratio + half, n)


def over_seeds(estimates: Sequence[Estimate]) -> Estimate:
    """The mean of the seeds' means with the t interval over the seeds; n is the number of seeds.

    The seeds count alike whatever their own n, and their own intervals do not enter: what a seed's finite
    sample adds to the spread is already in the spread of the means.
    """
    return mean_interval([estimate.mean for estimate in estimates])


def _values(x: Sequence | AnyArray) -> np.ndarray:
    values = np.asarray(x, np.float64)
    if values.ndim != 1:
        raise ValueError(f"An interval needs a flat list of numbers; this one has shape {values.shape}.")
    if values.size == 0:
        raise ValueError("An interval needs at least one value; this list is empty.")
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise ValueError(f"An interval needs finite values; {bad} of these {values.size} are not.")
    return values
