"""rlhf-report: one page of a run, or of several side by side.

    rlhf-report runs/tiny
    rlhf-report runs/tiny runs/other --out card.html

Reads folders that programs have made, finished or not, and changes nothing in them. The page needs nothing outside itself.
"""

import argparse
import json
import math
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlhf_jax.errors import InputError
from rlhf_jax.evals import Carded, Estimate, Made, Measurement, Origins, row_of, write_card
from rlhf_jax.runtime import info, read_metrics, run
from rlhf_jax.stages.history import day, duration, folders_below, in_words, paths_below
from rlhf_jax.stages.measuring import FIGURES, ROWS

RUNS = 8  # that have colours of their own
CARD = "card.html"


def card(folders: Sequence[Path | str], out: Path | str | None = None) -> Path:
    """Writes the page of these runs; it returns where: card.html in the first one, unless `out` says.

    InputError: a folder is not there, holds nothing that was made, or is given twice; more than 8.
    """
    paths = [Path(folder) for folder in folders]
    if not paths or len(paths) > RUNS:
        raise InputError(f"a card is of 1 to {RUNS} runs, which have colours of their own, and {len(paths)} are given")
    whole = [Path(os.path.abspath(path)) for path in paths]
    if twice := [path for path, one in zip(paths, whole, strict=True) if whole.count(one) > 1]:
        raise InputError(f"{twice[0]} is given twice; give each run once")
    runs = [carded(path, name) for path, name in zip(paths, _names(whole), strict=True)]
    target = Path(out) if out is not None else paths[0] / CARD
    write_card(target, ", ".join(run.name for run in runs), runs)
    for each in runs:
        for sentence in each.unreadable:
            info(f"{each.name}: {sentence}")
    return target


def carded(folder: Path, name: str) -> Carded:
    """What a run's folder says of it; what cannot be read is among its sentences. InputError: it is no folder of a run."""
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; name one that a program has written into, such as runs/tiny")
    unreadable: list[str] = []
    found, damaged = folders_below(folder)
    unreadable += damaged
    settings: dict[str, Mapping[str, Any]] = {}
    for path in sorted(folder.glob("*.toml")):
        try:
            read = tomllib.loads(path.read_text(encoding="utf-8"))
            settings[path.name] = {key: value for key, value in read.items() if key != "out"}  # differs always
        except (OSError, ValueError) as error:
            unreadable.append(f"{path.name} is no TOML: {error}.")
    settings |= {each.name: each.settings for each in found if each.settings}
    curves, measured = dict[str, list[dict[str, int | float]]](), list[Measurement]()
    for path in paths_below(folder):
        at = path.relative_to(folder).as_posix()
        try:
            if rows := read_metrics(path):
                curves[at] = rows
            if (path / FIGURES).is_file() and (path / ROWS).is_file():
                measured.append(_measurement(path, at))
        except (InputError, ValueError) as error:
            unreadable.append(f"{at}: {error}.")
    evaluation = _evaluation(folder / "evaluation.json", unreadable)
    samples = _samples(folder / "samples.json", unreadable)
    if not (found or curves or evaluation or measured or unreadable):
        raise InputError(f"{folder} holds nothing that a program has made; name the folder of a run, such as runs/tiny")
    made = [
        Made(
            Origins(each.name, each.results, each.inputs),
            (day(each.date), duration(each.seconds), in_words(each.versions)),
        )
        for each in found
    ]
    return Carded(name, settings, made, curves, evaluation, samples, measured, unreadable)


def main() -> None:
    """The program rlhf-report."""
    parser = argparse.ArgumentParser("rlhf-report", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", metavar="RUN", help="the folder of a run, such as runs/tiny")
    parser.add_argument("--out", metavar="FILE", help=f"the page ({CARD} in the first run's folder)")
    given = parser.parse_args()
    run(lambda: print(f"The page is at {card(given.runs, given.out)}"))


def _names(paths: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths by which they can be told apart."""
    for n in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-n:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def _measurement(path: Path, name: str) -> Measurement:
    """ValueError: a file is damaged."""
    try:
        figures = {key: _estimate(cell) for key, cell in json.loads((path / FIGURES).read_text("utf-8")).items()}
        rows = [row_of(json.loads(line)) for line in (path / ROWS).read_text("utf-8").splitlines()]
        made = path / "made.json"
        record = json.loads(made.read_text("utf-8")) if made.is_file() else {}
        scales = record.get("model", {}).get("scales", {})
        scales = {key: None if scale is None else (float(scale[0]), float(scale[1])) for key, scale in scales.items()}
        return Measurement(name, record.get("settings", {}).get("task", path.name), figures, rows, scales)
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{ROWS}, {FIGURES} or made.json is damaged") from error


def _estimate(cell: Mapping[str, Any]) -> Estimate:
    """ValueError: it is none."""
    bounds = [cell[key] for key in ("low", "high")]
    numbers = [cell["mean"], *(x for x in bounds if x is not None)]
    if not all(isinstance(x, int | float) and not isinstance(x, bool) and math.isfinite(x) for x in numbers):
        raise ValueError(f"{cell!r} is no figure")
    low, high = (None if x is None else float(x) for x in bounds)
    return Estimate(float(cell["mean"]), low, high, int(cell["n"]))


def _evaluation(path: Path, unreadable: list[str]) -> dict[str, dict[str, dict[str, Any]]]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return {m: {name: _estimate(cell)._asdict() for name, cell in each.items()} for m, each in found.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        unreadable.append(f"{path.name} is damaged; run the program that made it again.")
        return {}


def _samples(path: Path, unreadable: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        return [
            {"prompt": str(row["prompt"]), "answers": {name: _answer(said) for name, said in row["answers"].items()}}
            for row in json.loads(path.read_text(encoding="utf-8"))
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        unreadable.append(f"{path.name} is damaged; run the program that made it again.")
        return []


def _answer(said: Mapping[str, Any]) -> dict[str, Any]:
    scores = {name: None if said.get(name) is None else float(said[name]) for name in ("rating", "reward")}
    return {"text": str(said["text"]), **scores}


if __name__ == "__main__":
    main()
