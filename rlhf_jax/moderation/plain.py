"""A text as people read it, whatever characters it is written with: what rules look at."""

import html
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from typing import NamedTuple

from rlhf_jax.data.splits import INVISIBLE
from rlhf_jax.errors import InputError

ENTITY = re.compile(r"&(?:amp;){0,9}(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});?")
BLANK = "\u2800"  # a braille sign without a dot
LATIN = re.compile(r"(?:LATIN|REGIONAL INDICATOR)\b.*\b(?:LETTER|SMALL CAPITAL) ([A-Z])(?: WITH .*)?")


class Plain(NamedTuple):
    text: str  # lower case, without accents and what shows nothing, look-alikes as Latin letters
    at: tuple[int, ...]  # where in the text as it was written each character begins; and its length

    def written(self, start: int, end: int) -> tuple[int, int]:
        """Where in the text as it was written the characters start to end stand."""
        return self.at[start], self.at[end]


def plain(text: str) -> Plain:
    """HTML entities are what they stand for, compatibility forms (full width, circled, mathematical) their letters, and
    letters of other scripts the Latin ones that they look like (Unicode TS 39, confusables). Digits and signs stay."""
    found, at = [], []
    for start, piece in _pieces(text):
        seen = "".join(_seen(character) for character in piece)
        found.append(seen)
        at += [start] * len(seen)
    return Plain("".join(found), (*at, len(text)))


def _pieces(text: str) -> Iterator[tuple[int, str]]:
    """What a reader of HTML sees, and where it began."""
    position = 0
    for match in ENTITY.finditer(text):
        yield from enumerate(text[position : match.start()], position)
        said, before = match[0], ""
        while said != before:
            said, before = html.unescape(said), said
        yield from ((match.start(), character) for character in said)
        position = match.end()
    yield from enumerate(text[position:], position)


@cache
def _seen(character: str) -> str:
    if character.isascii():
        return character.lower()
    return "".join(map(_letter, unicodedata.normalize("NFKD", character))).lower()


def _letter(character: str) -> str:
    if unicodedata.category(character) in ("Mn", "Me", "Cf") or character == BLANK or INVISIBLE.match(character):
        return ""
    if character.isascii():
        return character
    if unicodedata.category(character) == "Zs":
        return " "
    if named := LATIN.fullmatch(
        unicodedata.name(character, "").removeprefix("NEGATIVE CIRCLED ").removeprefix("NEGATIVE SQUARED ")
    ):
        return named[1]
    looks = _look_alikes()
    return looks.get(character) or looks.get(character.upper()) or character.casefold()


@cache
def _look_alikes() -> dict[str, str]:
    """Character → the one ASCII letter, or else digit, that looks like it. InputError: the table is not installed."""
    try:
        from confusable_homoglyphs import confusables
    except ImportError as error:
        raise InputError("the table of look-alike letters is missing: pip install 'rlhf_jax[moderation]'") from error
    found = {}
    for character, alike in confusables.confusables_data.items():
        ascii_ones = [
            each["c"] for each in alike if len(each["c"]) == 1 and each["c"].isascii() and each["c"].isalnum()
        ]
        if ascii_ones and not character.isascii():
            found[character] = min(ascii_ones, key=lambda c: (c.isdigit(), c.isupper()))
    return found
