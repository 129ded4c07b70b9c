"""A trained classifier as a moderator: texts → verdicts, several at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rlhf_jax.moderation.calibration import Calibrated
from rlhf_jax.moderation.verdict import Reason, Verdict


@dataclass(frozen=True)
class Classifier:
    """What flags a text in each category whose probability is at its threshold or above. The reason of each has the
    classifier's name and that probability, and no place in the text: the whole was read."""

    name: str
    categories: tuple[str, ...]
    logits: Callable[[Sequence[str]], Float[ndarray, "N C"]]
    calibration: Mapping[str, Calibrated] = field(
        default_factory=dict
    )  # of a category without any: σ(z), flagged from ½

    def probabilities(self, texts: Sequence[str]) -> Float[ndarray, "N C"]:
        """Of each text in each category."""
        found = self.logits(texts)
        each = [self._of(name).probability(found[:, i]) for i, name in enumerate(self.categories)]
        return np.stack(each, axis=1)

    def verdicts(self, texts: Sequence[str]) -> list[Verdict]:
        """Of several texts."""
        if not texts:
            return []
        scores = self.probabilities(texts)
        flags = np.stack([self._of(name).flags(scores[:, i]) for i, name in enumerate(self.categories)], axis=1)
        return [self._verdict(row, over) for row, over in zip(scores.tolist(), flags.tolist(), strict=True)]

    def __call__(self, text: str) -> Verdict:
        return self.verdicts([text])[0]

    def _of(self, category: str) -> Calibrated:
        return self.calibration.get(category, Calibrated())

    def _verdict(self, scores: list[float], flags: list[bool]) -> Verdict:
        each = list(zip(self.categories, scores, flags, strict=True))
        reasons = tuple(Reason(self.name, category, score) for category, score, flagged in each if flagged)
        flagged = {category: over for category, _, over in each}
        return Verdict(flagged, {category: score for category, score, _ in each}, reasons)
