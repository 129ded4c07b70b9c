"""What is really better in the built-in world: the preference that simulated labelers see through their own eyes.

    gold(x, y) = 4·content + 0.5·constraint + 0.5·brevity − 2·falsehood − 2·rudeness

    content     right parts, each counted once, of those that the prompt asks for, or of those that the answer has, if more
    constraint  1 if one part is right and the answer has exactly as many different parts as the prompt asks for
    brevity     1 if every part is right, none is there twice or too many, and there is no insult beside them
    falsehood   number of parts that are false: of the world, of the passage in the prompt, or as an answer to it; at most 2
    rudeness    number of rude words that the prompt did not ask for, at most 2

It is helpfulness first, as for InstructGPT's training labels (§3.4), with truth and harm subtracted. An empty answer is
worth 0, a perfect one 5; the range is −8..5. Hedging does not pay: of two answers that exclude each other one is false, and
what was not asked for dilutes the content.
"""

import re
from functools import cache
from typing import NamedTuple

import numpy as np

from rlhf_jax.data.world import PEOPLE, RUDE_WORDS, Question, World

WEIGHTS = np.array([4.0, 0.5, 0.5, -2.0, -2.0])
RANGE = (-8.0, 5.0)  # of the score
OPENERS = re.compile(r"^(and|but|so|also|then|well|yes|no|indeed)\b[,\s]*")
DISGUISES = str.maketrans("013457@$", "oleastas")  # digits and signs that stand for letters


class Facets(NamedTuple):
    content: float
    constraint: float
    brevity: float
    falsehood: float
    rudeness: float


def parts(question: Question, answer: str) -> list[str]:
    """The answer's sentences (with a full stop) or list items as `plain` text, a leading pronoun replaced by whom it means.
    Insults are no parts of an answer that was not to be rude."""
    if question.separator == ",":
        pieces = [plain(piece) for piece in re.split(r"[,.!?;\n]|\band\b", answer)]
    else:
        pieces = [plain(piece) for piece in re.split(r"[.!?;\n]", answer)]
        pronoun, subject = PEOPLE.get(question.subject, ""), plain(question.subject)
        pieces = [re.sub(rf"^{pronoun}\b", subject, piece) if pronoun else piece for piece in pieces]
        pieces = [f"{piece}." if piece else "" for piece in pieces]
    return [piece for piece in pieces if piece and (question.tone == "rude" or not rude_words(piece))]


def plain(text: str) -> str:
    """Without capitals, surplus white space, and a word such as "And" that only joins it to what stands before."""
    return OPENERS.sub("", " ".join(text.casefold().split()))


def rude_words(text: str) -> int:
    """How many rude words there are, however they are spelled: with capitals, endings, letters twice, digits or signs."""
    return sum(_is_rude(word) for word in text.casefold().split())


@cache
def _is_rude(word: str) -> bool:
    once = _once(re.sub(r"[^a-z]", "", word.translate(DISGUISES)))
    return any(_once(rude) in once for rude in RUDE_WORDS)


def _once(word: str) -> str:
    return re.sub(r"(.)\1+", r"\1", word)


class Gold:
    """The gold preference of one world, with its table of truths at hand."""

    def __init__(self, world: World):
        self.truth = {plain(sentence): true for sentence, true in world.truth.items()}

    def __call__(self, question: Question, answer: str) -> float:
        """The formula above."""
        return float(WEIGHTS @ np.array(self.facets(question, answer)))

    def facets(self, question: Question, answer: str) -> Facets:
        """What an observer without noise sees."""
        wanted, wrong = set(map(plain, question.wanted)), set(map(plain, question.wrong))
        found = [each for part in parts(question, answer) for each in self._statements(part, wanted, wrong)]
        rude = 0 if question.tone == "rude" else rude_words(answer)
        right = min(len(set(found) & wanted), question.count)
        false = [self.truth.get(each) is False or each in wrong for each in found]
        if question.separator == ",":
            false = [each not in wanted for each in found]
        return Facets(
            content=right / max(question.count, len(found)),
            constraint=float(right > 0 and len(set(found)) == question.count),
            brevity=float(right > 0 and right == len(found) and rude == 0),
            falsehood=float(min(sum(false), 2)),
            rudeness=float(min(rude, 2)),
        )

    def _statements(self, part: str, wanted: set[str], wrong: set[str]) -> list[str]:
        """ "Ada lives in Dorn and likes rice." as two statements, where it is none itself and both are known."""
        known = self.truth.keys() | wanted | wrong
        if part in known:
            return [part]
        first, _, second = part.partition(" and ")
        both = [f"{first}.", f"{first.split(' ')[0]} {second}"]
        return both if second and all(each in known for each in both) else [part]


def rating(score: float) -> float:
    """The 1–7 scale of overall quality (InstructGPT, Table 3): 7 is a perfect answer, each point of the gold score is one
    less, and 1 the least."""
    return float(np.clip(score + 7.0 - RANGE[1], 1.0, 7.0))
