"""A pool of simulated labelers: each weighs the facets of an answer in their own way and reads it with noise.

After AlpacaFarm (Dubois et al. 2023), where variability between and within annotators is what makes over-optimisation
appear. The noise is set so that two labelers agree about as often as InstructGPT's did (72.6 ± 1.5 %, §3.4).
"""

import zlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax.data.world import Question
from rlhf_jax.labelers.gold import WEIGHTS, Gold

TASTE = 0.35  # standard deviation of the log of a labeler's weight on a facet
NOISE = 2.65  # standard deviation of one reading, in units of the gold score
GRAIN = 0.5  # answers whose impressions round to the same multiple of this are ranked equal: ties are encouraged


class Labeler(NamedTuple):
    """One person. Those of two seeds are two people, though they have one name."""

    seed: int
    name: str
    weights: tuple[float, ...]


def make_labelers(seed: int, count: int, pool: str) -> list[Labeler]:
    """Labelers of one pool ("train" or "heldout"); pools share nobody."""
    rng = np.random.default_rng([seed, zlib.crc32(pool.encode())])
    tastes = np.exp(TASTE * rng.standard_normal((count, len(WEIGHTS))))
    return [Labeler(seed, f"{pool}-{i}", tuple(float(w) for w in WEIGHTS * taste)) for i, taste in enumerate(tastes)]


def impression(labeler: Labeler, gold: Gold, question: Question, answer: str) -> float:
    """What this labeler thinks of an answer to a prompt. Answers that are equally good in every facet look alike to
    them, and they read the same thing the same way each time; people of another seed read it anew."""
    seen = gold.facets(question, answer)
    reading = np.random.default_rng([labeler.seed, zlib.crc32(f"{labeler.name}\n{question.text}\n{seen}".encode())])
    return float(np.dot(labeler.weights, seen) + NOISE * reading.standard_normal())


def rank(labeler: Labeler, gold: Gold, question: Question, answers: Sequence[str]) -> tuple[int, ...]:
    """Ranks from 1, the best, upwards; answers that look alike get equal ranks."""
    grades = [round(impression(labeler, gold, question, answer) / GRAIN) for answer in answers]
    order = sorted(set(grades), reverse=True)
    return tuple(order.index(grade) + 1 for grade in grades)
