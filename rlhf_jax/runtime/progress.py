"""What a person sees of a run, on stderr: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import SupportsFloat

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from rlhf_jax.runtime.hosts import first_process

_LOG_SECONDS = 15.0
_TERMINAL_SECONDS = 0.1
_console = Console(stderr=True)  # one for all, so that a sentence prints above a live bar


def info(sentence: str, every_process: bool = False) -> None:
    """Prints one sentence to stderr; of several processes the first speaks for all."""
    if every_process or first_process():
        _console.print(sentence, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress(title: str, total: int, start: int = 0) -> Iterator[Callable[..., None]]:
    """Yields `advance(**figures: float)`, to be called once a step; `start` steps were done by earlier runs.

    Figures are read only when they are shown, so that arrays still being computed do not hold up the loop.
    The rate (steps/s) and the time left come from this run's own steps.
    """
    terminal = sys.stderr.isatty()
    interval = _TERMINAL_SECONDS if terminal else _LOG_SECONDS
    began = shown_at = time.monotonic()
    done = shown = start
    latest: dict[str, SupportsFloat] = {}

    columns = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}")]
    bar = Progress(*columns, console=_console) if terminal and first_process() else None
    task = bar.add_task(title, total=total, completed=start, text="") if bar else None

    def show(now: float) -> None:
        nonlocal shown, shown_at
        shown, shown_at = done, now
        text = _line(done, total, done - start, now - began, latest)
        if bar is not None and task is not None:
            bar.update(task, completed=done, text=text)
        else:
            info(f"{title} {text}")

    def advance(**figures: SupportsFloat) -> None:
        nonlocal done, latest
        done, latest = done + 1, figures
        now = time.monotonic()
        if now - shown_at >= interval:
            show(now)

    with bar or nullcontext():
        try:
            yield advance
        finally:
            if shown < done:
                show(time.monotonic())


def _line(done: int, total: int, done_here: int, seconds: float, figures: dict[str, SupportsFloat]) -> str:
    rate = done_here / seconds if seconds > 0 else 0.0
    parts = [f"{done}/{total}", f"{rate:.3g} steps/s", f"{_clock(seconds)} elapsed"]
    if rate > 0:
        parts.append(f"{_clock((total - done) / rate)} left")
    parts += [f"{name} {float(value):.3g}" for name, value in figures.items()]
    return " · ".join(parts)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))
