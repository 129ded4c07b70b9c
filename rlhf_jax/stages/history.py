"""The folders of a run: what each was made from, with which settings and versions, when, and how long it took."""

import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.errors import InputError
from rlhf_jax.runtime import Checkpoints, sessions

MADE, CHECKPOINTS = "made.json", "checkpoints"
CLOSED = ("set_aside", "tensorboard", "tokenizer", "rollouts", "wandb", CHECKPOINTS)  # in which no stage is made


class Folder(NamedTuple):
    """One in which a stage, or data, was made."""

    name: str  # its path below the run
    results: tuple[str, ...]  # sha256 by which others record it as what they were made from, the newest first
    inputs: Mapping[str, str]  # name → sha256 of what it was made from
    settings: Mapping[str, Any]  # nested, as JSON
    versions: Mapping[str, str]
    date: float | None  # when it was finished, or worked at last, in seconds since 1970
    seconds: float | None  # that it took; None where nothing has logged it


def folders_below(run: Path) -> tuple[list[Folder], list[str]]:
    """The folders below a run by their dates, and a sentence for each of which something cannot be read."""
    found, unreadable = [], list[str]()
    for path in paths_below(run):
        if (path / MADE).is_file() or (path / CHECKPOINTS).is_dir():
            try:
                found.append(_folder(path, path.relative_to(run).as_posix()))
            except InputError as error:
                unreadable.append(f"{path.relative_to(run).as_posix()}: {error}.")
    return sorted(found, key=lambda folder: (folder.date or 0.0, folder.name)), unreadable


def paths_below(run: Path) -> Iterator[Path]:
    """The folders below one, without those that hold a stage's own files, hidden ones and links."""
    for path, names, _ in os.walk(run):
        names[:] = sorted(name for name in names if name not in CLOSED and not name.startswith("."))
        if Path(path) != run:
            yield Path(path)


def stages_below(run: Path) -> list[list[str]]:
    """Of each folder of a run its name, date, duration and versions, as text."""
    return [[f.name, day(f.date), duration(f.seconds), in_words(f.versions)] for f in folders_below(run)[0]]


def day(date: float | None) -> str:
    """Date and minute in UTC; "" of None."""
    return "" if date is None else datetime.fromtimestamp(date, UTC).strftime("%Y-%m-%d %H:%M")


def duration(seconds: float | None) -> str:
    """Such as 43 s, 12 min 5 s, 3 h 20 min; "" of None."""
    if seconds is None:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def in_words(versions: Mapping[str, str]) -> str:
    """Names with their versions."""
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _folder(path: Path, name: str) -> Folder:
    """InputError: made.json, or every checkpoint's record, is damaged."""
    at_work = sessions(path)
    seconds = sum(session.seconds for session in at_work) if at_work else None
    if (path / MADE).is_file():
        return _of_data(path, name, seconds)
    checkpoints = Checkpoints(path / CHECKPOINTS, None)
    records, damaged = [], []
    for step in checkpoints.steps():
        try:
            records.append(checkpoints.record(step))
        except InputError as error:
            damaged.append(str(error))
    if not records:
        raise InputError(damaged[0] if damaged else f"{path / CHECKPOINTS} holds no checkpoint")
    last = records[-1]
    date = at_work[-1].ended if at_work else None
    results = tuple(record["sha256"] for record in reversed(records))
    return Folder(
        name, results, last.get("inputs", {}), last.get("settings", {}), last.get("versions", {}), date, seconds
    )


def _of_data(path: Path, name: str, seconds: float | None) -> Folder:
    file = path / MADE
    try:
        made = json.loads(file.read_text(encoding="utf-8"))
        results = tuple(dict.fromkeys(str(made[key]) for key in ("sha256", "known_as") if key in made))
        inputs, settings, versions = ({**made[key]} for key in ("inputs", "settings", "versions"))
        inputs = {name: str(sha256) for name, sha256 in inputs.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{file} is damaged") from error
    return Folder(name, results, inputs, settings, versions, file.stat().st_mtime, seconds)
