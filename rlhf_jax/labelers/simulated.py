"""A pool of simulated labelers: each weighs the facets of an answer in their own way and reads it with noise.

After AlpacaFarm (Dubois et al. 2023), where variability between and within annotators is what makes over-optimisation
appear. The noise is set so that two labelers agree about as often as InstructGPT's did (72.6 ± 1.5 %, §3.4).
"""

import zlib
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from rlhf_jax.data.world import Question
from rlhf_jax.labelers.gold import WEIGHTS, Gold

TASTE = 0.35  # standard deviation of the log of a labeler's weight on a facet
NOISE = 2.65  # standard deviation of one reading, in units of the gold score
GRAIN = 0.5  # answers whose impressions round to the same multiple of this are ranked equal: ties are encouraged
EVERYBODY = MappingProxyType({"": (1.0,) * len(WEIGHTS)})


class Habits(NamedTuple):
    """What a labeler does beside weighing an answer."""

    noise: float = NOISE
    position: float = 0.0  # what the first answer shown is worth more than the last, in units of the gold score
    length: float = 0.0  # what 100 characters more are worth
    flips: float = 0.0  # share of rankings that they turn round, and so of pairs; AlpacaFarm's is 0.25
    abstains: float = 0.0  # share of comparisons that they skip


class Labeler(NamedTuple):
    """One person. Those of two seeds are two people, though they have one name."""

    seed: int
    name: str
    weights: tuple[float, ...]
    group: str = ""
    habits: Habits = Habits()


def make_labelers(
    seed: int,
    count: int,
    pool: str,
    habits: Habits = Habits(),
    groups: Mapping[str, Sequence[float]] = EVERYBODY,
) -> list[Labeler]:
    """Labelers of one pool ("train" or "heldout"); pools share nobody.

    groups: name → what its people's weights on (content, constraint, brevity, falsehood, rudeness) are multiplied by, so that
    a negative number opposes what the others prefer. They are dealt out in turn.
    """
    rng = np.random.default_rng([seed, zlib.crc32(pool.encode())])
    tastes = np.exp(TASTE * rng.standard_normal((count, len(WEIGHTS))))
    dealt = [list(groups)[i % len(groups)] for i in range(count)]
    return [
        Labeler(
            seed, f"{pool}-{i}", tuple(float(w) for w in WEIGHTS * taste * np.asarray(groups[group])), group, habits
        )
        for i, (taste, group) in enumerate(zip(tastes, dealt, strict=True))
    ]


def impression(labeler: Labeler, gold: Gold, question: Question, answer: str) -> float:
    """What this labeler thinks of an answer to a prompt. Answers that are equally good in every facet look alike to
    them, and they read the same thing the same way each time; people of another seed read it anew."""
    seen = gold.facets(question, answer)
    reading = np.random.default_rng([labeler.seed, zlib.crc32(f"{labeler.name}\n{question.text}\n{seen}".encode())])
    habits = labeler.habits
    return float(np.dot(labeler.weights, seen) + habits.noise * reading.standard_normal()) + habits.length * (
        len(answer) / 100
    )


def rank(labeler: Labeler, gold: Gold, question: Question, answers: Sequence[str]) -> tuple[int, ...]:
    """Ranks from 1, the best, upwards, of answers in the order shown; answers that look alike get equal ranks. () where the
    labeler abstains."""
    habits, last = labeler.habits, max(len(answers) - 1, 1)
    whole = "\n".join([labeler.name, question.text, *sorted(answers)])
    abstains, flips = np.random.default_rng([labeler.seed, 1, zlib.crc32(whole.encode())]).random(2)
    if abstains < habits.abstains:
        return ()
    seen = [
        impression(labeler, gold, question, answer) + habits.position * (1 - place / last)
        for place, answer in enumerate(answers)
    ]
    grades = [round(each / GRAIN) for each in seen]
    turned = flips < habits.flips
    order = sorted(set(grades), reverse=not turned)
    return tuple(order.index(grade) + 1 for grade in grades)
