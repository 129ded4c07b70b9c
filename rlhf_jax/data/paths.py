"""What stands where in a row: dotted paths, conditions, and cells that may be texts of numbers and truth values."""

import json
import operator
import re
from collections.abc import Callable
from decimal import Decimal
from functools import cache
from typing import Any

from rlhf_jax.data.dialogue import UnusableRowError
from rlhf_jax.errors import InputError, shortened

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_WORD = r"""(?:"[^"]*"|'[^']*'|[^\s=!<>]+)"""
CONDITION = re.compile(rf"\s*({_WORD})\s*(==|!=|<=|>=|<|>)\s*({_WORD})\s*(?:\b(and|or)\b|$)")
ABSENT = object()
PYTHONS = {"True": "true", "False": "false", "None": "null", "TRUE": "true", "FALSE": "false", "NULL": "null"}


@cache
def conditions(drop: str) -> list[list[tuple[str, str, Any]]]:
    """The alternatives in "language != en or score < 3 and long == true", each of comparisons (path, sign, value) that hold
    together. InputError: it cannot be read."""
    found, place, more = [[]], 0, bool(drop.strip())
    while more:
        match = CONDITION.match(drop, place)
        if match is None:
            raise InputError(
                f"drop = {drop!r} cannot be read from {drop[place:].strip()!r} on: write conditions such as "
                "'language != en or score < 3', names and values with spaces in quotes"
            )
        path, sign, value, joint = match.groups()
        if value in PYTHONS:
            raise InputError(
                f"drop = {drop!r}: true, false and null are written small: write {PYTHONS[value]}, or {value!r} in quotes if "
                "it is a text"
            )
        found[-1].append((path.strip("\"'"), sign, value_of(value)))
        if joint == "or":
            found.append([])
        place, more = match.end(), joint is not None
    return found if found[0] else []


def names_in(text: str) -> list[str]:
    """The names in "a, b"."""
    return [name.strip() for name in text.split(",") if name.strip()]


def at(value: Any, path: str) -> Any:
    """What stands at a dotted path; ABSENT: nothing. A key may have dots itself."""
    if not path:
        return value
    if isinstance(value, list):
        head, _, rest = path.partition(".")
        if head.isdecimal():
            return at(value[int(head)], rest) if int(head) < len(value) else ABSENT
        found = [at(each, path) for each in value]
        return ABSENT if all(each is ABSENT for each in found) else [None if each is ABSENT else each for each in found]
    if not isinstance(value, dict):
        return ABSENT
    steps = path.split(".")
    for i in range(len(steps), 0, -1):
        key = ".".join(steps[:i])
        if key in value and (found := at(value[key], ".".join(steps[i:]))) is not ABSENT:
            return found
    return ABSENT


def required(fields: dict[str, Any], path: str) -> Any:
    """What stands at a path. InputError: nothing. UnusableRowError: null."""
    found = at(fields, path)
    if found is ABSENT:
        raise InputError(
            f"there is no {path!r} (found: {', '.join(fields)}): mend the path in [files.layout], or add it"
        )
    if found is None:
        raise UnusableRowError(f"{path!r} is null: give it a value", f"whose {path!r} is null")
    return found


def all_of(fields: dict[str, Any], paths: str, what: str) -> list[Any]:
    """The values of one path to a list, or of several paths to one each; a "-" before a name changes the
    sign. One score may stand alone. InputError, UnusableRowError: as `required`; one path, and no list there."""
    names = names_in(paths)
    found = []
    for name in names:
        value = required(fields, name.removeprefix("-"))
        found.append(-number_of(value, name) if name.startswith("-") else value)
    if len(names) > 1:
        return found
    (value,) = found
    if what == "scores" and not isinstance(value, list):
        return [value]
    if not isinstance(value, list):
        raise InputError(f"{paths!r} is {shortened(value)}: make it a list, or name several columns with commas")
    return value


def number_of(value: Any, name: str) -> float:
    """The number that a cell holds, or that its text reads as. UnusableRowError: none, or nan."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if number != number:
        raise UnusableRowError(
            f"{name!r} is {shortened(value)}, no number: make it one", f"whose {name!r} is no number"
        )
    return number


def truth_of(value: Any, name: str = "") -> bool | None:
    """True or false, as which tables write 1 and 0 as well. InputError, where there is a name: neither."""
    words = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}
    found = words.get(str(float(value) if isinstance(value, Decimal) else value).strip().lower())
    if found is None and name:
        raise InputError(
            f"{name!r} is {shortened(value)}: make it true where the answer was liked and false where it was not"
        )
    return found


def value_of(text: str) -> Any:
    """What a word of a condition means: what stands in quotes, JSON (a number, true, false, null), or else the word."""
    if text[0] in "\"'":
        return text[1:-1]
    try:
        return json.loads(text)
    except (ValueError, RecursionError):  # no JSON, a number of thousands of digits, or lists in lists in lists
        return text


def holds(fields: dict[str, Any], path: str, sign: str, wanted: Any) -> bool:
    """Whether a comparison holds for a row, whose cells may be texts that read as numbers."""
    found = at(fields, path)
    found = None if found is ABSENT else found
    if isinstance(found, str) and not isinstance(wanted, str) and wanted is not None:
        found = value_of(found.strip().lower() or "null")
    if (
        isinstance(found, (int, float))
        and isinstance(wanted, str)
        and not isinstance(value_of(wanted.lower() or "''"), str)
    ):
        raise InputError(
            f"{path!r} is {found}, which is never the text {wanted!r}: write {wanted.lower()} without quotes"
        )
    if sign in ("==", "!="):
        return COMPARISONS[sign](found, wanted)
    if found is None:
        return False
    if not any(isinstance(found, kind) and isinstance(wanted, kind) for kind in ((int, float), str)):
        raise InputError(
            f"{path!r} is {shortened(found)}, which cannot be compared with {wanted!r}: mend the condition"
        )
    return COMPARISONS[sign](found, wanted)
