"""Which rows are held out: one rule for every data set of a run, by user and then by text."""

import bisect
import hashlib
import itertools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from rlhf_jax.data.comparisons import Judged, Ranking
from rlhf_jax.data.demonstrations import Demonstration
from rlhf_jax.data.dialogue import HUMAN, TURN, Conversation, spoken, text_of
from rlhf_jax.data.prompts import Prompt
from rlhf_jax.errors import InputError

Row = TypeVar("Row", Prompt, Demonstration, Ranking, Judged)
INVISIBLE = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")
TELLING = 4  # words from which on a prompt inside a document is more than chance: books say "Hey" and "Who are you?"


class Split(NamedTuple):
    """How the rows of a run are split into parts, of which the first is trained on and each is held out from those before it.

    - A user's rows are all in one part, which depends on the seed and the user alone (InstructGPT §3.2).
    - A conversation's *opening* is its first human turn, normalised (see `normalised`). An opening that users typed belongs
      to the most held-out of their parts, and a prompt without a user counts as its own; one that none of the prompts has
      belongs to the part of its own hash. A row without a user goes with its opening, whichever file it is in, so that a
      conversation, its continuations and its answers are in one part.
    - A row any of whose human turns is an opening of a part that is more held out than its own is in no part: what two users
      typed, say, whose parts differ. So no training row has a turn that is the opening of a held-out one.

    More data move no user, and an opening of the prompts only towards what is more held out; they may leave rows out. The
    order of rows does not matter.
    """

    fractions: tuple[float, ...]
    seed: int
    openings: Mapping[str, int]  # → part, of all rows that there are

    def part_of(self, user: str, opening: str) -> int:
        """The part that a row belongs to, by its user ("" is nobody) or its opening."""
        if user:
            return _part(f"{self.seed} user {user}", self.fractions)
        return self.openings.get(opening, _part(f"{self.seed} text {opening}", self.fractions))

    def rows(self, rows: Iterable[Row]) -> tuple[list[Row], ...]:
        """The rows in their parts, less those that are in none."""
        parts: tuple[list[Row], ...] = tuple([] for _ in self.fractions)
        for row in rows:
            turns = _turns(row)
            home = self.part_of(row.user, turns[0])
            if all(self.openings.get(turn, 0) <= home for turn in turns):
                parts[home].append(row)
        return parts

    def given(self, parts: Sequence[Sequence[Row]]) -> tuple[list[Row], ...]:
        """Rows that come in their parts, less those with a human turn that is the opening of a part that is more held out."""
        return tuple(
            [row for row in rows if all(self.openings.get(turn, 0) <= part for turn in _turns(row))]
            for part, rows in enumerate(parts)
        )

    def without_held_out(self, documents: Iterable[str]) -> list[str]:
        """The documents that neither are nor, as transcripts, have as a turn the opening of a held-out row, and that do not
        contain one of TELLING or more words, whatever stands between the words."""
        held = {opening for opening, part in self.openings.items() if part}
        told = [(frozenset(words), f" {' '.join(words)} ") for words in map(_words, held) if len(words) >= TELLING]

        def clean(document: str) -> bool:
            if not held.isdisjoint(human_turns(f"\n\n{document}")):
                return False
            words = _words(normalised(document))
            there, text = set(words), f" {' '.join(words)} "
            return not any(each <= there and whole in text for each, whole in told)

        return [document for document in documents if clean(document)]


def split_of(
    fractions: Sequence[float],
    seed: int,
    prompts: Sequence[Prompt],
    demonstrations: Sequence[Demonstration] = (),
    rankings: Sequence[Ranking] | Sequence[Judged] = (),
    given: Mapping[str, int] = {},
) -> Split:
    """The split of a run's rows into parts of about these fractions; see `Split`. given: the openings of rows that come in
    their parts (see `openings`), where a row without a user that begins alike goes as well.

    InputError: fractions that are negative or do not add up to 1.
    """
    fractions = tuple(fractions)
    if min(fractions, default=-1.0) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(f"the fractions {fractions} of the split do not add up to 1: let them")
    alone, openings = Split(fractions, seed, given), dict(given)
    owned = [*prompts, *(row for row in (*demonstrations, *rankings) if row.user)]
    for user, opening in [(row.user, _turns(row)[0]) for row in owned]:
        openings[opening] = max(alone.part_of(user, opening), openings.get(opening, 0))
    for opening in [_turns(row)[0] for row in (*demonstrations, *rankings)]:
        openings.setdefault(opening, alone.part_of("", opening))
    return Split(fractions, seed, openings)


def openings(parts: Sequence[Sequence[Prompt | Demonstration | Ranking | Judged]]) -> dict[str, int]:
    """The opening of each row that comes in its part → that part; the most held-out one, where it is in several."""
    found: dict[str, int] = {}
    for part, rows in enumerate(parts):
        found |= {_turns(row)[0]: part for row in rows}
    return found


def not_held_out(rows: Iterable[Row], held_out: Iterable[Prompt | Demonstration | Ranking | Judged]) -> list[Row]:
    """Of rows from elsewhere those by no user of a held-out row, none of whose human turns is the opening of one."""
    held = list(held_out)
    users, openings = {row.user for row in held if row.user}, {_turns(row)[0] for row in held}
    return [row for row in rows if row.user not in users and openings.isdisjoint(_turns(row))]


def split_documents(documents: Iterable[str], fractions: Sequence[float], seed: int) -> tuple[list[str], ...]:
    """Parts of about these fractions, no two of which have documents that are equal when normalised.

    A document's part depends on the seed and its text alone.
    """
    parts: tuple[list[str], ...] = tuple([] for _ in fractions)
    for document in documents:
        parts[part_of_document(document, fractions, seed)].append(document)
    return parts


def part_of_document(document: str, fractions: Sequence[float], seed: int) -> int:
    """The part that a document belongs to, by the seed and its normalised text alone."""
    return _part(f"{seed} text {normalised(document)}", fractions)


def normalised(text: str) -> str:
    """The text less what typing varies: case, width and composition of characters, what shows nothing (soft hyphens, joiners,
    byte order marks), runs of white space (one space each) and white space around it: fold(NFKC(fold(x))) of what shows, in
    the manner of Unicode's compatibility caseless match (definition D146). Doing it twice does no more than doing it once."""
    if not text.isascii():
        text = "".join(c for c in text if unicodedata.category(c) != "Cf" and not INVISIBLE.match(c))
    folded = unicodedata.normalize("NFKC", text.casefold())  # which may have brought capitals to light
    return " ".join(folded.casefold().split())


def human_turns(conversation: str) -> list[str]:
    """What the human says in a transcript, each turn normalised, less empty ones; of a text without any, the whole text."""
    return _said(conversation) or [normalised(conversation)]


def _said(transcript: str) -> list[str]:
    _, *turns = TURN.split(transcript)
    said = [normalised(words) for marker, words in zip(turns[::2], turns[1::2], strict=True) if marker == HUMAN]
    return [words for words in said if words]


def _turns(row: Prompt | Demonstration | Ranking | Judged) -> list[str]:
    """The human's turns of a row's conversation, the opening first. Answers may run on over several turns."""
    if isinstance(row, Prompt):
        return _turns_of(row.conversation)
    answers = row.answers if isinstance(row, Ranking) else (row.answer,)
    return [*_turns_of(row.prompt), *(turn for answer in answers for turn in _said(spoken(answer)))]


def _turns_of(conversation: Conversation) -> list[str]:
    # Of messages not as they are read aloud: there a tool's words behind the human's would be the human's.
    return _said(spoken(conversation)) or [normalised(text_of(conversation))]


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def _part(owner: str, fractions: Sequence[float]) -> int:
    number = int.from_bytes(hashlib.sha256(owner.encode()).digest()[:8])  # uniform below 2⁶⁴
    return bisect.bisect_right(list(itertools.accumulate(fractions))[:-1], number / 2**64)
