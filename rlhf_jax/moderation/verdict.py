"""What a moderator says of a text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


class Reason(NamedTuple):
    """What made a verdict: a rule that is broken, or a score that is over its threshold."""

    name: str  # of the rule, or of the classifier
    category: str
    score: float  # 1 of a rule
    text: str = ""  # what breaks the rule, as it was written
    start: int = 0  # where it stands
    end: int = 0


@dataclass(frozen=True)
class Verdict:
    categories: Mapping[str, bool]  # which are flagged
    category_scores: Mapping[str, float]  # from 0 to 1
    reasons: Sequence[Reason] = ()

    @property
    def flagged(self) -> bool:
        return any(self.categories.values())

    def as_result(self) -> dict[str, Any]:
        """In the form of OpenAI's moderation endpoint, one of its "results"."""
        return {
            "flagged": self.flagged,
            "categories": dict(self.categories),
            "category_scores": dict(self.category_scores),
        }


Moderator = Callable[[str], Verdict]  # rules, a classifier, or any function


def both(*moderators: Moderator) -> Moderator:
    """One that flags what any of them does, with the highest score of each category."""

    def verdict(text: str) -> Verdict:
        found = [moderator(text) for moderator in moderators]
        names = dict.fromkeys(name for one in found for name in one.category_scores)
        return Verdict(
            {name: any(one.categories.get(name, False) for one in found) for name in names},
            {name: max(one.category_scores.get(name, 0.0) for one in found) for name in names},
            tuple(reason for one in found for reason in one.reasons),
        )

    return verdict
