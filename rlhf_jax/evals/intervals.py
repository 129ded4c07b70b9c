"""Means with 95 % intervals over what was drawn: prompts, facts, people, seeds.

Values that share a draw (the questions about one fact, the completions about one occupation) are a cluster. Clusters are
independent of each other, values of one cluster are not, so that the intervals are over the clusters, and n is their number.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from rlhf_jax.types import AnyArray

CONFIDENCE = 0.95
SHARE = (0.0, 1.0)  # the scale of a proportion
RATING = (1.0, 7.0)  # and of a rating
Scale = tuple[float, float]


FEWEST = 10  # draws, below which an interval of them says little: its own width is a guess


class Estimate(NamedTuple):
    """A mean over n independent draws and its 95 % interval; the bounds are None where the data cannot say."""

    mean: float
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.3f} (n = {self.n})"
        return f"{self.mean:.3f} ({self.low:.3f} to {self.high:.3f}, n = {self.n})"


def says_little(low: float | None, high: float | None, n: int | None, scale: Scale | None) -> bool:
    """Whether n is too small for a figure to say anything: there are fewer than 10 draws, or the interval covers half of the
    figure's scale or more."""
    if n is not None and n < FEWEST:
        return True
    wide = None if scale is None or low is None or high is None else high - low
    return wide is not None and scale is not None and wide >= (scale[1] - scale[0]) / 2


def mean_interval(
    x: Sequence | AnyArray,
    clusters: Sequence | AnyArray | None = None,
    scale: Scale | None = None,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """The mean of all values, and its interval over the clusters.

    clusters: of each value a label, values with the same one being of one draw; None: each value is a draw of its own.
    scale: the least and the largest value that there can be; None: there is none.

    It is the ratio of the clusters' sums to their sizes, see `ratio_interval`. With clusters of one size and no scale it is
    Student's interval (1908) of the clusters' means. ValueError: a value is outside the scale.
    """
    values = _values(x)
    if clusters is None:
        return ratio_interval(values, np.ones_like(values), scale, confidence)
    if len(clusters) != len(values):
        raise ValueError(f"Each value needs its cluster; there are {len(values)} values and {len(clusters)} clusters.")
    index = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    at = [index[cluster] for cluster in clusters]
    _require_within(values, scale)
    return ratio_interval(np.bincount(at, values), np.bincount(at), scale, confidence)


def ratio_interval(
    numerators: Sequence | AnyArray,
    denominators: Sequence | AnyArray,
    scale: Scale | None = None,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """r = Σ aᵢ / Σ bᵢ and its interval over G draws i, which may differ in size: pairs that were compared within prompts, or
    values within clusters. Draws whose denominator is 0 do not count.

    The variance is the delete-one jackknife's, which needs no model of how alike the values of one draw are:

        v = (G − 1)/G · Σ (r₍₋ᵢ₎ − r)²,   r₍₋ᵢ₎ − r = −(aᵢ − r bᵢ) / (Σ bⱼ − bᵢ)        (Cochran 1977, §6.17)

    Without a scale, r ± t √v with t of G − 1 degrees of freedom. On a scale, with p = (r − least)/(largest − least) and v
    on that scale too, the draws are worth as much as n* = p(1 − p)/v independent zeros and ones (n/deff of Kish 1965; for
    means, whose variance is below that of zeros and ones, n* is larger), and the interval is Wilson's (1927) with n* and t
    in the place of n and z:

        (p + t²/2n* ± t √(p(1 − p)/n* + t²/4n*²)) / (1 + t²/n*)

    as Korn & Graubard (1998) have it for Clopper and Pearson's, of which Wilson's is the narrower and closer to its level.

    Where all draws agree, v = 0 says nothing of what others would be. On a scale, a share u of draws unlike these would have
    stayed unseen with probability (1 − u)^G, so that with u = 1 − 0.025^(1/G) the bounds are the means if they were at
    either end of the scale, r − u(r − least) and r + u(largest − r): Clopper and Pearson's (1934) for shares of 0 and 1, and
    for one draw Markov's. G is then (Σ bᵢ)² / Σ bᵢ², Kish's effective number, as a large draw may hide in few. Without a
    scale there are no bounds.
    """
    a, b = _values(numerators), _values(denominators)
    a, b = a[b != 0], b[b != 0]
    total = float(_values(b).sum())
    r, G = float(a.sum() / total), a.size
    tail = (1 - confidence) / 2
    _require_within(a / b, scale)
    width = float(np.abs(a / b).max()) if scale is None else scale[1] - scale[0]
    off = a - r * b
    agree = G == 1 or float(np.abs(off / b).max()) <= 1e-9 * width
    if scale is None:
        if agree:
            return Estimate(r, None, None, G)
        half = float(special.stdtrit(G - 1, 1 - tail) * np.sqrt(_jackknife(off, b)))
        return Estimate(r, r - half, r + half, G)
    least, largest = scale
    if agree:
        unseen = 1 - tail ** float((b**2).sum() / total**2)
        return Estimate(r, r - unseen * (r - least), r + unseen * (largest - r), G)
    p, t = (r - least) / width, float(special.stdtrit(G - 1, 1 - tail))
    over = t**2 * _jackknife(off, b) / width**2 / (p * (1 - p))  # t²/n*
    middle, half = p + over / 2, float(np.sqrt(over * p * (1 - p) + over**2 / 4))
    low, high = (least + width * (middle + side * half) / (1 + over) for side in (-1, 1))
    return Estimate(r, max(low, least), min(high, largest), G)


def paired_interval(
    ours: Sequence | AnyArray,
    theirs: Sequence | AnyArray,
    clusters: Sequence | AnyArray | None = None,
    scale: Scale | None = None,
) -> Estimate:
    """The mean of ours − theirs, of two models on the same prompts in the same order, and its interval.

    What a prompt adds to both is gone from the difference. scale: of each of the two, so that a difference lies within
    ± (largest − least).
    """
    a, b = _values(ours), _values(theirs)
    if a.size != b.size:
        raise ValueError(f"A paired difference needs pairs; there are {a.size} values of one model and {b.size}.")
    for each in (a, b):
        _require_within(each, scale)
    reach = None if scale is None else scale[1] - scale[0]
    return mean_interval(a - b, clusters, None if reach is None else (-reach, reach))


def independent_difference(ours: Estimate, theirs: Estimate) -> Estimate:
    """Ours − theirs of two figures that were drawn apart, and its interval from their own (Zou & Donner 2008; Newcombe 1998
    of two Wilson intervals), with means r, low bounds a and high bounds b, those of theirs with a stroke:

        low = d − √((r − a)² + (b' − r')²),   high = d + √((b − r)² + (r' − a')²)

    No bounds where one of the two has none. n: the smaller one. Of figures over the same items it is wider than it need be;
    `paired_interval` is for these.
    """
    d, n = ours.mean - theirs.mean, min(ours.n, theirs.n)
    if ours.low is None or ours.high is None or theirs.low is None or theirs.high is None:
        return Estimate(d, None, None, n)
    below = float(np.hypot(ours.mean - ours.low, theirs.high - theirs.mean))
    above = float(np.hypot(ours.high - ours.mean, theirs.mean - theirs.low))
    return Estimate(d, d - below, d + above, n)


def over_seeds(estimates: Sequence[Estimate], scale: Scale | None = None) -> Estimate:
    """The mean of the seeds' means and its interval over the seeds, by `mean_interval`; n is the number of seeds.

    The seeds count alike whatever their own n, and their own intervals do not enter: what a seed's finite
    sample adds to the spread is already in the spread of the means. Where the means are all equal, which they are at the end
    of a scale, there is no spread to go by and the bounds are the widest of the seeds' own.
    """
    means = [estimate.mean for estimate in estimates]
    found = mean_interval(means, None, scale)
    if np.ptp(means) > 0:
        return found
    low = min((e.low for e in estimates if e.low is not None), default=None)
    high = max((e.high for e in estimates if e.high is not None), default=None)
    return Estimate(found.mean, low, high, found.n)


def _jackknife(off: np.ndarray, b: np.ndarray) -> float:
    G = off.size
    return float((G - 1) / G * np.sum((off / (b.sum() - b)) ** 2))


def _require_within(values: np.ndarray, scale: Scale | None) -> None:
    if scale is None:
        return
    least, largest = scale
    slack = 1e-9 * (largest - least)
    if values.min() < least - slack or values.max() > largest + slack:
        raise ValueError(
            f"Values must lie in [{least:g}, {largest:g}]; these span [{values.min():g}, {values.max():g}]."
        )


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
