"""Mathematical equality, by math-verify."""

import importlib
import re

from rlhf_jax.data import Columns, Prompt
from rlhf_jax.errors import InputError

_PROSE = re.compile(r"\$|#|\\boxed|\\\(|\\\[|(?<![\\A-Za-z])[A-Za-z]{3,}")  # or formulas marked as such


def math_equal(
    prompts: list[Prompt], answers: list[str], rows: list[Columns], column: str = "answer"
) -> list[float | None]:
    r"""1 where the answer's last formula or number (what it boxes, if it does) equals the column's, else 0; 1/2 equals
    \frac{2}{4} and 0.5. A column that cannot be read has no opinion. Reading and comparing take some seconds at most, by
    alarms of the main thread. InputError: math-verify is not installed."""
    try:
        library = importlib.import_module("math_verify")
    except ImportError as error:
        raise InputError("math-verify is not installed; run: pip install 'rlhf_jax[math]'") from error

    def score(answer: str, row: Columns) -> float | None:
        text = None if row.get(column) is None else str(row[column])
        # Of 2\sqrt{3} it would read the 2, and of x^2 nothing, but for the dollar signs of a formula.
        wanted = text and library.parse(text if _PROSE.search(text) else f"${text}$")
        return float(library.verify(wanted, library.parse(answer))) if wanted else None

    return [score(answer, row) for answer, row in zip(answers, rows, strict=True)]
