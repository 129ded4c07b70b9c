"""The figures of a run: JSON lines that programs read, and TensorBoard (or W&B) for people."""

import importlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsFloat

import jax
from tensorboardX import SummaryWriter

from rlhf_jax.errors import InputError
from rlhf_jax.runtime.files import write_atomically

_NAME = "metrics.jsonl"


class MetricsWriter:
    """Writes one object a step to folder/metrics.jsonl and the same names to folder/tensorboard.

    `start` is the number of steps already done, from the restored checkpoint: rows of later steps belong to a
    run that was cut off and are dropped, so that every step is there exactly once. `wandb` needs the extra
    (InputError without it); each session is a W&B run of its own, in a group named as the folder. Where `wandb` is a
    mapping, it is the run's config there, by which runs can be filtered.
    """

    def __init__(self, folder: Path, start: int, wandb: bool | Mapping[str, Any] = False):
        self._wandb = None if wandb is False else _open_wandb(folder, start, wandb)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / _NAME
        rows = [row for row in _rows(path) if row["step"] <= start]
        write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
        self._file = open(path, "a", encoding="utf-8")  # noqa: SIM115 (close() closes it)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start + 1, filename_suffix=f".from{start}")

    def write(
        self, step: int, metrics: Mapping[str, SupportsFloat], tables: Mapping[str, Sequence[Mapping[str, Any]]] = {}
    ) -> None:
        """Writes the row of `step`. What is not finite becomes the string "nan", "inf" or "-inf".

        tables: by name, rows with the same columns, which TensorBoard gets as text and W&B as tables.
        """
        values = as_floats(metrics)
        row = {name: value if math.isfinite(value) else str(value) for name, value in values.items()}
        self._file.write(json.dumps({"step": step} | row) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        for name, table in tables.items():
            self._board.add_text(name, as_markdown(table), step)
        if self._wandb is not None:
            self._wandb.log(values | {name: _wandb_table(table) for name, table in tables.items()}, step=step)

    def close(self) -> None:
        self._file.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def as_floats(metrics: Mapping[str, SupportsFloat]) -> dict[str, float]:
    """The figures in their order as Python floats, in one transfer from the device."""
    values = jax.device_get(list(metrics.values()))
    return {name: float(value) for name, value in zip(metrics, values, strict=True)}


def as_markdown(table: Sequence[Mapping[str, Any]]) -> str:
    """A table of text in Markdown, in which nothing that stands in a cell is a mark-up; "" without rows."""
    lines = [[*table[0]], ["---"] * len(table[0]), *(row.values() for row in table)] if table else []
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else f"{value:.4g}"
    text = "".join(f"&#{ord(c)};" if c in r"\`*_{}[]<>()#+!|~&" else c for c in text)
    return "<br>".join(text.strip().splitlines())


def _wandb_table(table: Sequence[Mapping[str, Any]]) -> Any:
    columns = [*table[0]] if table else []
    return importlib.import_module("wandb").Table(columns=columns, data=[[*row.values()] for row in table])


def read_metrics(folder: Path) -> list[dict[str, int | float]]:
    """The rows of folder/metrics.jsonl in order, "nan" and "inf" as floats again; [] without a file.

    A torn last line is left out; any other line that is no JSON object with a step is an InputError.
    """
    return [
        {name: float(value) if isinstance(value, str) else value for name, value in row.items()}
        for row in _rows(folder / _NAME)
    ]


def _rows(path: Path) -> list[dict]:
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    rows = []
    for number, line in enumerate(text.split("\n")[:-1], start=1):  # the last piece is empty or torn
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("step"), int):
            raise InputError(f"{path}, line {number} is no JSON object with a step; mend or delete the line")
        rows.append(row)
    return rows


def _open_wandb(folder: Path, start: int, config: bool | Mapping[str, Any]):
    try:
        wandb = importlib.import_module("wandb")
    except ImportError as error:
        raise InputError("W&B is not installed; run: pip install 'rlhf_jax[wandb]'") from error
    return wandb.init(
        project="rlhf_jax",
        group=folder.name,
        name=f"{folder.name} from {start}",
        dir=str(folder),
        config=dict(config) if isinstance(config, Mapping) else None,
    )
