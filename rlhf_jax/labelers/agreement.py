"""How often labelers agree: by pairs of answers, as the paper counts it, and beyond chance."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy.stats import rankdata

from rlhf_jax.errors import InputError
from rlhf_jax.labelers.judgement import FLAGS, Judgement

CUT_OFF = 0.75  # of the agreement with known answers: the paper's soft cut-off when it chose its labelers (App. B.1)


class Agreed(NamedTuple):
    """Of the prompt's pairs of answers that two labelers both ranked without a tie: on how many they agree, of how many."""

    task: str
    agreed: int
    pairs: int


class Screened(NamedTuple):
    """A labeler against what is known: pairs of answers as for `agreements`, and flags that were asked for."""

    labeler: str
    agreed: int
    pairs: int
    same_flags: int
    flags: int

    @property
    def passes(self) -> bool:
        """Whether they agree on 75 % of both, where there are any. A soft cut-off: whom to ask is for people to say."""
        parts = [(same, count) for same, count in ((self.agreed, self.pairs), (self.same_flags, self.flags)) if count]
        return bool(parts) and all(same >= CUT_OFF * count for same, count in parts)


def agreements(rankings: Sequence[Sequence[int]]) -> tuple[int, int]:
    """Of the pairs of answers that two labelers both ranked without a tie: on how many they agree, out of how many.

    rankings: of the same answers, one by each labeler; empty where they ranked nothing. Summed over all pairs of labelers.
    """
    agreed = total = 0
    for first, second in combinations([ranking for ranking in rankings if len(ranking)], 2):
        for i, j in combinations(range(len(first)), 2):
            if first[i] != first[j] and second[i] != second[j]:
                total += 1
                agreed += (first[i] < first[j]) == (second[i] < second[j])
    return agreed, total


def agreed_by_task(judgements: Sequence[Judgement]) -> list[Agreed]:
    """Of each task that two labelers ranked, how often they agree, least first: of equal shares the most pairs."""
    counts = [(task, *agreements([one.ranks for one in several])) for task, several in _by_task(judgements).items()]
    return sorted(
        (Agreed(*count) for count in counts if count[2]), key=lambda one: (one.agreed / one.pairs, -one.pairs)
    )


def screened(pairs: Sequence[tuple[Judgement, Judgement]]) -> list[Screened]:
    """Each labeler by name, from what is known and what they said of the same answers (`Store.screening`)."""
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0, 0])
    for known, said in pairs:
        none = [{} for _ in known.completions]
        same = [
            theirs[name] == value
            for ours, theirs in zip(known.flags or none, said.flags or none, strict=True)
            for name, value in ours.items()
            if name in theirs
        ]
        counts = (*agreements([known.ranks, said.ranks]), sum(same), len(same))
        found[said.labeler] = [a + b for a, b in zip(found[said.labeler], counts, strict=True)]
    return [Screened(labeler, *counts) for labeler, counts in sorted(found.items())]


def alpha(judgements: Sequence[Judgement], of: str) -> float | None:
    """Krippendorff's α (2004) of "ranks" or "ratings", which are ordinal, or of a flag, yes or no; 1 is perfect, 0 chance.

    What is judged is a completion; its rank is the mean of the places that its tie takes: 1, 2, 2 and 1, 3, 3 are one.
    None: no completion has been judged twice, or all judgements are one and the same value. InputError: no such figure.
    """
    units = [values for values in _values(judgements, of) if len(values) > 1]
    domain = sorted({value for values in units for value in values})
    if len(domain) < 2:
        return None
    counts = np.array([[values.count(value) for value in domain] for values in units])
    try:
        import krippendorff  # an extra: only who labels needs it
    except ImportError as error:
        raise InputError("Krippendorff's alpha needs a package: pip install 'rlhf_jax[label]'") from error
    level = "ordinal" if of in ("ranks", "ratings") else "nominal"
    return float(krippendorff.alpha(value_counts=counts, value_domain=domain, level_of_measurement=level))


def kappa(judgements: Sequence[Judgement], of: str) -> float | None:
    """Fleiss' κ of a flag; None as for `alpha`."""
    units = [values for values in _values(judgements, of) if len(values) > 1]
    counts = np.array([[values.count(0.0), values.count(1.0)] for values in units], np.float64)
    return None if not units or not counts.sum(0).all() else fleiss_kappa(counts)


def fleiss_kappa(counts: Float[ndarray, "N k"]) -> float:
    """κ = (P̄ − P̄ₑ)/(1 − P̄ₑ) of N subjects that several raters put into k categories (Fleiss 1971): with nᵢⱼ raters who put
    subject i into category j, and nᵢ = Σⱼ nᵢⱼ, of which each is 2 or more,

        Pᵢ = Σⱼ nᵢⱼ(nᵢⱼ − 1) / (nᵢ(nᵢ − 1)),   P̄ = (1/N) Σᵢ Pᵢ,   pⱼ = Σᵢ nᵢⱼ / Σᵢ nᵢ,   P̄ₑ = Σⱼ pⱼ²

    Fleiss has the same nᵢ for each subject. nan where all are in one category.
    """
    n = counts.sum(1)
    P = (counts * (counts - 1)).sum(1) / (n * (n - 1))
    chance = float(((counts.sum(0) / n.sum()) ** 2).sum())
    return float("nan") if chance == 1 else (float(P.mean()) - chance) / (1 - chance)


def _by_task(judgements: Sequence[Judgement]) -> dict[str, list[Judgement]]:
    found: dict[str, list[Judgement]] = defaultdict(list)
    for one in judgements:
        found[one.task].append(one)
    return found


def _values(judgements: Sequence[Judgement], of: str) -> list[list[float]]:
    """Of each completion, what its labelers say."""
    if of not in ("ranks", "ratings", *FLAGS):
        raise InputError(f"{of!r} is nothing that labelers say: there are ranks, ratings, {', '.join(FLAGS)}")
    found: dict[tuple[str, int], list[float]] = defaultdict(list)
    for one in judgements:
        said: Sequence[float | None]
        if of == "ranks":
            said = [float(rank) for rank in rankdata(one.ranks)]
        elif of == "ratings":
            said = one.ratings
        else:
            said = [flags.get(of) for flags in one.flags]
        for number, value in enumerate(said):
            if value is not None:
                found[one.task, number].append(float(value))
    return list(found.values())
