"""Rewards that can be computed: against a column of the prompt's row, or from the answer alone.

Each is a reward function as it stands; functools.partial gives it another column, a pattern or a limit. Where the row has
no such column, or null in it, there is no opinion (None).
"""

import re
from collections.abc import Sequence
from decimal import Decimal, DivisionByZero, InvalidOperation

from rlhf_jax.data import Columns, Prompt
from rlhf_jax.errors import InputError
from rlhf_jax.rewards.answer import AnswerText

# With thousands by commas or without, then a fraction's denominator or an exponent of at most three digits.
_NUMBER = re.compile(
    r"(?<![\w.])[-+]?\$?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?(?:/\d+|[eE][-+]?\d{1,3}(?!\d))?"
    r"|(?<![\w.])[-+]?\$?\.\d+(?:[eE][-+]?\d{1,3}(?!\d))?"
)
_CLOSE = Decimal("1e-6")


def exact(prompts: list[Prompt], answers: list[str], rows: list[Columns], column: str = "answer") -> list[float | None]:
    """1 where the answer is what the column says, without regard to the white space around both; else 0."""
    return [
        None if row.get(column) is None else float(answer.strip() == str(row[column]).strip())
        for answer, row in zip(answers, rows, strict=True)
    ]


def numeric(
    prompts: list[Prompt], answers: list[str], rows: list[Columns], column: str = "answer"
) -> list[float | None]:
    """1 where the last number of the answer is the last one of the column, to a millionth of it, however it is written (1,234
    or 1234.0, 0.5 or 1/2, $5); else 0. A column without a number has no opinion."""
    return [_same_number(answer, row.get(column)) for answer, row in zip(answers, rows, strict=True)]


def pattern(prompts: list[Prompt], answers: list[str], rows: list[Columns], *, regex: str) -> list[float]:
    """1 where the regular expression is found in the answer, else 0. Flags stand in it: (?s) has a dot take newlines too."""
    compiled = re.compile(regex)
    return [float(compiled.search(answer) is not None) for answer in answers]


def length(prompts: list[Prompt], answers: list[str], rows: list[Columns]) -> list[float]:
    """How many tokens the answer has, its end counted: a penalty where the weight is negative. InputError: plain text."""
    return [float(len(_ids(answer))) for answer in answers]


def overlong(prompts: list[Prompt], answers: list[str], rows: list[Columns], *, limit: int, buffer: int) -> list[float]:
    """DAPO's soft punishment of long answers (Yu et al. 2025, arXiv:2503.14476, Eq. 13): of n tokens 0 up to limit − buffer,
    then falling evenly to −1 at the limit, and −1 beyond.

        min(0, max(−1, ((limit − buffer) − n) / buffer))

    InputError: a buffer that is not from 1 to the limit; answers that are plain text.
    """
    if not 0 < buffer <= limit:
        raise InputError(f"overlong has a limit of {limit} tokens and a buffer of {buffer}; set it from 1 to the limit")
    return [min(0.0, max(-1.0, (limit - buffer - len(_ids(answer))) / buffer)) for answer in answers]


def _ids(answer: str) -> Sequence[int]:
    if not isinstance(answer, AnswerText):
        raise InputError("a reward of an answer's length counts tokens, and was given plain text; give it AnswerTexts")
    return answer.ids


def _same_number(answer: str, wanted: object) -> float | None:
    right = _last_number(str(wanted)) if wanted is not None else None
    if right is None:
        return None
    found = _last_number(answer)
    return float(found is not None and abs(found - right) <= _CLOSE * abs(right))


def _last_number(text: str) -> Decimal | None:
    found = _NUMBER.findall(text.replace("−", "-"))
    if not found:
        return None
    above, _, below = found[-1].replace(",", "").replace("$", "").partition("/")
    try:
        return Decimal(above) / Decimal(below or 1)
    except (DivisionByZero, InvalidOperation):
        return None
