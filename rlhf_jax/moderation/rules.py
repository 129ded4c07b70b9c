"""Rules: words and patterns, each list with a name and a category, found in a text however they are written."""

import re
import tomllib
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

from rlhf_jax.data import located
from rlhf_jax.data.sources import expand
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.moderation.plain import plain
from rlhf_jax.moderation.verdict import Reason, Verdict

# Digits and signs that are written for a letter.
FOR = {
    "a": "4@",
    "b": "8",
    "c": "¢",
    "e": "3€",
    "g": "69",
    "i": "1!|",
    "l": "1!|£",
    "o": "0",
    "s": "5$",
    "t": "7+",
    "z": "2",
}
VOWELS, STARS = "aeiou", "*#_.%-"  # a vowel inside a word may be a star
ENDS = "!|+"  # signs that are no letters where a word ends
MOST = 20
LETTER = r"[^\W_]"  # of any script, or a digit


@dataclass(frozen=True)
class Rule:
    """What is not to be said, under a name that goes into the log, and the category that it belongs to.

    words: words or phrases, found as whole words, with a plural's ending or without, in whatever way `spelled` knows.
    patterns: regular expressions, found in the text as people read it (see `plain`), in either case.
    """

    name: str
    category: str
    words: tuple[str, ...] = ()
    patterns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """InputError: neither words nor patterns, a word that shows nothing, a pattern that is none."""
        if not self.name or not self.category:
            raise InputError("a rule has no name or no category: give it both")
        if not self.words and not self.patterns:
            raise InputError(f"the rule {self.name!r} has neither words nor patterns: give it some")
        with located(f"the rule {self.name!r}"):
            _ = self._lettered, self._others  # what is wrong with them is said now

    @cached_property
    def _lettered(self) -> re.Pattern[str]:
        return re.compile("|".join(spelled(word) for word in self.words if _has_letter(plain(word).text)) or "(?!)")

    @cached_property
    def _others(self) -> list[re.Pattern[str]]:
        signs = [spelled(word) for word in self.words if not _has_letter(plain(word).text)]
        return [*map(re.compile, signs), *map(_pattern, self.patterns)]

    def reasons(self, text: str) -> list[Reason]:
        """Where it is broken, in the order of the text."""
        read = plain(text)
        found = (match for match in self._lettered.finditer(read.text) if _has_letter(match[0]))  # 455 is a number
        spans = [match.span() for match in found]
        spans += [match.span() for pattern in self._others for match in pattern.finditer(read.text) if match[0]]
        places = sorted(read.written(*span) for span in spans)
        return [Reason(self.name, self.category, 1.0, text[start:end], start, end) for start, end in places]


@dataclass(frozen=True)
class Rules:
    """Several rules as one moderator: a text → its verdict."""

    rules: tuple[Rule, ...]

    def __call__(self, text: str) -> Verdict:
        reasons = [reason for rule in self.rules for reason in rule.reasons(text)]
        scores = {rule.category: 0.0 for rule in self.rules} | {reason.category: 1.0 for reason in reasons}
        return Verdict({category: score > 0 for category, score in scores.items()}, scores, tuple(reasons))


def spelled(word: str) -> str:
    """The regular expression of a word or phrase in a text as `plain` has it. Letters may be written longer, as digits or
    signs (sh1t), parted by signs (s-h-i-t), one and all by blanks (s h i t), in two where one of the pieces has no vowel and
    so is no word (shi t), and a vowel inside as a star (sh*t); s or es may follow. What has no letters is found as it stands.
    InputError: it shows nothing."""
    read = plain(word).text.strip()
    parts = [part for part in re.split(r"[\W_]+", read) if part]
    if not _has_letter(read):
        if not read:
            raise InputError(f"{shortened(word)} shows nothing: write a word")
        return f"(?<!{LETTER}){re.escape(read)}(?!{LETTER})"
    letters = [c for part in parts for c in part]
    gaps = set(accumulate(map(len, parts)))  # before these letters a word of the phrase begins
    plural = "(?:[e3]?[s5$z])?" if letters[-1] in "sxzho" else "[s5$z]?"
    ways = [_joined(letters, gaps), _spaced(letters)]
    ways += [
        _joined(letters, gaps, broken=i) for i in range(1, len(letters)) if i not in gaps and _is_no_word(letters, i)
    ]
    return f"(?<!{LETTER})(?:{'|'.join(ways)}){plural}(?!{LETTER})"


def _pattern(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise InputError(f"{pattern!r} is no regular expression ({error}): mend it") from error


def _has_letter(text: str) -> bool:
    return any(map(str.isalpha, text))


def _is_no_word(letters: list[str], at: int) -> bool:
    """Whether one of the two pieces cannot be spoken."""
    return not all(any(c in "aeiouy" for c in piece) for piece in (letters[:at], letters[at:]))


def _one(letters: list[str], i: int) -> str:
    """The i-th letter. Vowels may be as long as one likes, consonants not twice as long, which makes other words (annal). No
    more than `MOST` of them are one: without a bound a line of stars would be read in as many ways as it is long, squared."""
    c, last = letters[i], i == len(letters) - 1
    others = "".join(sign for sign in FOR.get(c, "") if not (last and sign in ENDS)) + ("i" if c == "l" else "")
    once = f"[{re.escape(c + others)}]"  # i: a capital one is the twin of l
    twin = c in letters[max(i - 1, 0) : i] + letters[i + 1 : i + 2]
    if c in VOWELS and i > 0 and not last:
        return f"(?:{once}{{1,{MOST}}}|[{re.escape(STARS)}]{{1,3}})"
    return f"{once}{{1,{MOST}}}" if c in VOWELS or twin else f"{once}(?:{once}{{2,{MOST - 1}}})?"


def _joined(letters: list[str], gaps: set[int], broken: int = 0) -> str:
    found = _one(letters, 0)
    for i in range(1, len(letters)):
        between = r"[\W_]{0,3}" if i in gaps else r"\s{1,3}" if i == broken else r"[^\w\s]{0,2}_?"
        found += between + _one(letters, i)
    return found


def _spaced(letters: list[str]) -> str:
    return r"[\W_]{1,3}".join(_one(letters, i) for i in range(len(letters)))


def read_rules(path: Path | str) -> Rules:
    """The rules of a TOML file: [[rule]] tables of name, category, words, patterns, and file, whose lines are words too.

    InputError: a file that cannot be read, a table with other keys or values, a rule that is none, two of one name.
    """
    path = Path(path)
    try:
        tables = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path}: no rules can be read ({error}): give a TOML file of [[rule]] tables") from error
    rows = tables.get("rule")
    if set(tables) != {"rule"} or not isinstance(rows, list) or not rows:
        raise InputError(f"{path}: rules are [[rule]] tables and nothing else; write at least one")
    found = [_rule(row, f"{path}, rule {number}", path.parent) for number, row in enumerate(rows, 1)]
    names = [rule.name for rule in found]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"{path}: two rules have the name {twice!r}: give each its own")
    return Rules(tuple(found))


def _rule(row: Any, where: str, folder: Path) -> Rule:
    keys = {"name": str, "category": str, "words": list, "patterns": list, "file": str}
    for key, value in row.items():
        if key not in keys:
            raise InputError(f"{where}: {key} is no key of a rule; these are {', '.join(keys)}")
        strings = all(isinstance(each, str) for each in value) if isinstance(value, list) else True
        if not isinstance(value, keys[key]) or not strings:
            kind = "a list of strings" if keys[key] is list else "a string"
            raise InputError(f"{where}: {key} is {shortened(value)}: make it {kind}")
    words = list(row.get("words", ()))
    if row.get("file"):
        words += read_words(folder / row["file"])
    with located(where):
        return Rule(row.get("name", ""), row.get("category", ""), tuple(words), tuple(row.get("patterns", ())))


def read_words(path: Path | str) -> list[str]:
    """A word or phrase a line; empty lines and those that begin with # are none. ${VARIABLE} in the name is expanded.
    InputError: the file cannot be read."""
    try:
        lines = Path(expand(str(path))).read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: no words can be read ({error}): give a text file in UTF-8") from error
    return [line.strip() for line in lines if line.strip() and not line.startswith("#")]
