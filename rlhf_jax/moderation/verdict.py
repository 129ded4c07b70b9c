"""What a moderator says of a text."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from rlhf_jax.errors import InputError, shortened


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


# Rules, a classifier, or any function; with `verdicts` of its own it reads several texts at once.
Moderator = Callable[[str], Verdict]


def verdicts_of(moderator: Moderator, texts: Sequence[str]) -> list[Verdict]:
    """Of each text; by moderator.verdicts, where it has that, else one text after the other. InputError: it gives no Verdict,
    or not one for each."""
    several = getattr(moderator, "verdicts", None)
    found = [moderator(text) for text in texts] if several is None else list(several(texts))
    if len(found) != len(texts):
        raise InputError(f"the moderator gave {len(found)} verdicts for {len(texts)} texts: let it give one for each")
    for text, verdict in zip(texts, found, strict=True):
        if not isinstance(verdict, Verdict):
            raise InputError(f"the moderator gave {shortened(verdict)} for {shortened(text)}: let it give a Verdict")
    return found


@dataclass(frozen=True)
class Both:
    """See `both`."""

    moderators: tuple[Moderator, ...]

    def __call__(self, text: str) -> Verdict:
        return self.verdicts([text])[0]

    def verdicts(self, texts: Sequence[str]) -> list[Verdict]:
        """Of several texts."""
        each = [verdicts_of(moderator, texts) for moderator in self.moderators]
        return [_joined(found) for found in zip(*each, strict=True)]


def both(*moderators: Moderator) -> Moderator:
    """One that flags what any of them does, with the highest score of each category."""
    return Both(moderators)


def _joined(found: Sequence[Verdict]) -> Verdict:
    names = dict.fromkeys(name for one in found for name in one.category_scores)
    return Verdict(
        {name: any(one.categories.get(name, False) for one in found) for name in names},
        {name: max(one.category_scores.get(name, 0.0) for one in found) for name in names},
        tuple(reason for one in found for reason in one.reasons),
    )
