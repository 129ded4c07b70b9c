"""Tables of coefficients: what a sweep goes through, a row a setting."""

import csv
import difflib
import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rlhf_jax.errors import InputError

Table = dict[str, Float[ndarray, " N"]]
USAGE = 'a table is "prod beta=0,0.1 gamma=0,1" (every combination), "zip beta=0,0.1 gamma=0,1" (row by row), or a .csv'


def coefficient_table(text: str, known: Sequence[str]) -> Table:
    """The columns of a table, from "prod NAME=NUMBER,… …", "zip NAME=NUMBER,… …" or the path of a CSV file whose
    first line names the columns.

    Raises InputError: neither of these, a name that is not known, what is no number, columns of different lengths, the
    same setting twice.
    """
    kind, *columns = text.split()
    if kind.endswith(".csv") and not columns:
        table = _read_csv(Path(kind))
    elif kind in ("prod", "zip") and columns:
        table = _combined(kind, [_column(column) for column in columns])
    else:
        raise InputError(f"{text!r} is no table of coefficients; {USAGE}")
    for name in table:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
            raise InputError(f"{text!r}: there is no coefficient {name}; {hint}")
    rows = list(zip(*(values.tolist() for values in table.values()), strict=True))
    twice = [row for i, row in enumerate(rows) if row in rows[:i]]
    if twice:
        setting = ", ".join(f"{name} = {value:g}" for name, value in zip(table, twice[0], strict=True))
        raise InputError(f"{text!r}: {setting} is there twice; leave one of them out")
    return table


def _column(text: str) -> tuple[str, list[float]]:
    name, _, numbers = text.partition("=")
    return name, [_number(number, text) for number in numbers.split(",")]


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{where}: {text!r} is no number; {USAGE}") from None


def _combined(kind: str, columns: list[tuple[str, list[float]]]) -> Table:
    names, values = zip(*columns, strict=True)
    lengths = {len(v) for v in values}
    if kind == "zip" and len(lengths) > 1:
        raise InputError(f"zip {', '.join(names)}: the columns have {sorted(lengths)} numbers and must have the same")
    rows = itertools.product(*values) if kind == "prod" else zip(*values, strict=True)
    return {name: np.array(column, np.float64) for name, column in zip(names, zip(*rows, strict=True), strict=True)}


def _read_csv(path: Path) -> Table:
    try:
        with open(path, encoding="utf-8", newline="") as file:
            names, *rows = [row for row in csv.reader(file) if row]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    except ValueError:
        raise InputError(f"{path} is empty; its first line names the coefficients") from None
    names = [name.strip() for name in names]
    if not rows or len(set(names)) != len(names):
        raise InputError(f"{path} needs a first line of different names, and a line for each setting")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(names):
            raise InputError(f"{path}, line {number} has {len(row)} columns and must have {len(names)}")
    numbers = [[_number(cell, f"{path}, line {i}") for cell in row] for i, row in enumerate(rows, start=2)]
    return {name: np.array(column, np.float64) for name, column in zip(names, zip(*numbers, strict=True), strict=True)}
