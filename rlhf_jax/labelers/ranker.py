"""Who ranks, of one signature: simulated people, reward models, judges behind an endpoint, and any function."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rlhf_jax.data import Prompt, located
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.labelers.judgement import Opinion

Scores = Sequence[float] | Float[ndarray, " K"]


@dataclass(frozen=True)
class Ranker:
    """Somebody who ranks: a name, a function from a prompt and its answers to their ranks, 1 being the best, or to an
    Opinion, where there is more to say, or a reason to say nothing; and a group, by which they may be told apart."""

    name: str
    rank: Callable[[Prompt, Sequence[str]], Sequence[int] | Opinion]
    group: str = ""


def by_scores(name: str, score: Callable[[Prompt, Sequence[str]], Scores], group: str = "") -> Ranker:
    """Who ranks by a score of each answer, such as a reward model's: the highest is the best, equal ones tie."""
    return Ranker(name, partial(_ranks_of, name, score), group)


def ranks_of(scores: Scores) -> tuple[int, ...]:
    """Dense ranks from 1, the highest score's. InputError: a score is no finite number."""
    numbers = np.asarray(scores, np.float64)
    if numbers.ndim != 1 or not np.isfinite(numbers).all():
        raise InputError(f"the scores are {shortened(scores)}: give a finite number for each answer")
    levels = np.unique(-numbers)
    return tuple(int(rank) + 1 for rank in np.searchsorted(levels, -numbers))


def _ranks_of(name: str, score: Callable, prompt: Prompt, answers: Sequence[str]) -> tuple[int, ...]:
    scores = score(prompt, answers)
    with located(f"the labeler {name}"):
        return ranks_of(scores)
