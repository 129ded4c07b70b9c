"""Labelers in groups of which one at a time is held out: does a reward model know what others prefer than those it learned
from? (InstructGPT, §4.1 and App. E.2: five groups, 72.4 ± 0.4 % for those in training, 69.6 ± 0.9 % for the one held out.)"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax.data import Ranking, not_held_out
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.stages.agreement import require_labelers
from rlhf_jax.stages.datasets import Parts, left_out


class Fold(NamedTuple):
    """One group of labelers held out. Rankings to measure on are of held-out prompts, whoever's they are."""

    group: str  # the one that is held out
    train: list[Ranking]  # to learn from, by the other groups
    in_groups: list[Ranking]  # to measure on, by the other groups
    held_out: list[Ranking]  # to measure on, by the group


def folds(rankings: Parts[Ranking], groups: int | Mapping[str, str] = 5, seed: int = 0) -> list[Fold]:
    """A fold for each group of labelers, in the order of their names.

    rankings: in parts, as `data_sets` has them, or `ask` for the prompts of each part: the training part is to learn from,
    the test part to measure on, and the validation part is in no fold. Of the training part what is by a user of the test
    part, or holds one of its openings, is left out, which is said (see `not_held_out`): no prompt is on both sides.
    groups: labeler → group; or a number, and labelers are dealt out at random, evenly, by the seed and their names alone.

    InputError: a ranking names no labeler; a labeler has no group; fewer than two groups, or more than labelers; a fold of
    which one part would be empty.
    """
    for part in (rankings.train, rankings.test):
        require_labelers(part)
    train = not_held_out(rankings.train, rankings.test)
    left_out(len(rankings.train) - len(train), len(rankings.train), "rankings", "hold what is held out")
    labelers = sorted({row.labeler for row in (*train, *rankings.test)})
    group_of = dealt(labelers, groups, seed) if isinstance(groups, int) else groups
    if alone := [labeler for labeler in labelers if labeler not in group_of]:
        raise InputError(f"labeler {shortened(alone[0])} is in no group: give each labeler one")
    names = sorted({group_of[labeler] for labeler in labelers})
    if len(names) < 2:
        raise InputError(
            f"the {len(labelers)} labelers are of {len(names)} group: give two groups or more to hold one out"
        )

    def by(rows: Sequence[Ranking], group: str, inside: bool) -> list[Ranking]:
        return [row for row in rows if (group_of[row.labeler] == group) == inside]

    test = rankings.test
    made = [Fold(name, by(train, name, False), by(test, name, False), by(test, name, True)) for name in names]
    for fold in made:
        for rows, what in (
            (fold.train, "to learn from by the other groups"),
            (fold.in_groups, "of a test prompt by the other groups"),
            (fold.held_out, "of a test prompt by the group"),
        ):
            if not rows:
                raise InputError(
                    f"with group {shortened(fold.group)} held out there is no ranking {what}: give more rankings, or "
                    "fewer groups"
                )
    return made


def dealt(labelers: Sequence[str], count: int, seed: int) -> dict[str, str]:
    """Labeler → one of the groups "1", "2", …, whose sizes differ by one at most. InputError: fewer than two groups, or more
    than labelers."""
    if not 2 <= count <= len(labelers):
        raise InputError(
            f"{len(labelers)} labelers cannot be {count} groups: give two groups or more, each with a labeler at least"
        )
    order = np.random.default_rng(seed).permutation(len(labelers))
    return {labelers[int(i)]: str(place % count + 1) for place, i in enumerate(order)}
