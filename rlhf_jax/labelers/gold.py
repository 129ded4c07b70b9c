"""What is really better in the built-in world: the preference that simulated labelers see through their own eyes.

    gold(x, y) = 3·content + 0.5·constraint + 0.5·brevity − 2·falsehood − 2·rudeness

    content     share of the parts that the prompt asks for which the answer has, each once: right(y) / count(x)
    constraint  1 if the answer has exactly as many parts as the prompt asks for and one of them is right
    brevity     1 if one part is right and none is off the point
    falsehood   number of false statements about the world, at most 2
    rudeness    number of rude words, at most 2

It is helpfulness first, as for InstructGPT's training labels (§3.4), with truth and harm subtracted. An empty answer is
worth 0, a perfect one 4; the range is −8..4.
"""

from typing import NamedTuple

import numpy as np

from rlhf_jax.data.world import PEOPLE, RUDE_WORDS, Question, World

WEIGHTS = np.array([3.0, 0.5, 0.5, -2.0, -2.0])
RANGE = (-8.0, 4.0)  # of the score


class Facets(NamedTuple):
    content: float
    constraint: float
    brevity: float
    falsehood: float
    rudeness: float


def parts(question: Question, answer: str) -> list[str]:
    """The answer's sentences (with their full stop) or list items, a leading pronoun replaced by whom it means."""
    if question.separator == ",":
        pieces = [piece.strip() for piece in answer.strip().rstrip(".").split(",")]
        return [piece for piece in pieces if piece]
    sentences = [f"{piece.strip()}." for piece in answer.split(".") if piece.strip()]
    pronoun = PEOPLE.get(question.subject, "").capitalize()
    if pronoun:
        return [question.subject + s.removeprefix(pronoun) if s.startswith(pronoun + " ") else s for s in sentences]
    return sentences


def facets(world_truth: dict[str, bool], question: Question, answer: str) -> Facets:
    """What an observer without noise sees. world_truth: World.truth, made once."""
    found = parts(question, answer)
    right = len(set(found) & set(question.wanted))
    falsehoods = sum(world_truth.get(part) is False for part in found)
    words = answer.replace(".", " ").replace(",", " ").replace("!", " ").split()
    rude = sum(word in RUDE_WORDS for word in words)
    return Facets(
        content=min(right, question.count) / question.count,
        constraint=float(right > 0 and len(found) == question.count),
        brevity=float(right > 0 and all(part in question.wanted for part in found)),
        falsehood=float(min(falsehoods, 2)),
        rudeness=float(min(rude, 2)),
    )


def gold_score(world_truth: dict[str, bool], question: Question, answer: str) -> float:
    """The formula above."""
    return float(WEIGHTS @ np.array(facets(world_truth, question, answer)))


def rating(score: float) -> float:
    """The 1–7 scale of overall quality (InstructGPT, Table 3): 1 at −2 and below, 7 at 4, a line between."""
    return float(np.clip(score + 3.0, 1.0, 7.0))


class Gold:
    """The gold preference of one world, with its table of truths at hand."""

    def __init__(self, world: World):
        self.truth = world.truth

    def __call__(self, question: Question, answer: str) -> float:
        return gold_score(self.truth, question, answer)

    def facets(self, question: Question, answer: str) -> Facets:
        return facets(self.truth, question, answer)
