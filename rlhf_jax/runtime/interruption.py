"""SIGTERM and Ctrl-C: a loop ends the step at hand first, and all processes end after the same step."""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from types import FrameType

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

SIGNALS = (signal.SIGTERM, signal.SIGINT)
STOPPED = "stopped; the same command continues from the last checkpoint"
_SHOW_CURSOR = "\x1b[?25h"  # which a live bar hides


class Interruption:
    """Hears SIGTERM and Ctrl-C inside its `with`, in the main thread; another thread hears nothing.

    The first is told by `asked`; Ctrl-C after it ends the process with 130. What is heard and never told goes, at the end,
    to the handlers that were there before. then: what Ctrl-C is answered with.
    """

    def __init__(self, then: str = "stops and saves after this step"):
        self._then = then
        self._heard = self._told = 0
        self._vote: jax.Array | None = None
        self._previous: dict = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup and a script's & have it
                    self._previous[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, kind, error, traceback) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._heard and not self._told and kind is None:
            signal.raise_signal(self._heard)

    def asked(self) -> int:
        """The signal after which to end, or 0. Every process asks once a step, and all are told the same.

        Of several processes each votes with what it has heard and is told the vote of the step before, so that none waits
        for the devices: they end one step later than one process would.
        """
        if jax.process_count() == 1:
            self._told = self._heard
        else:
            last, self._vote = self._vote, _greatest_of_all_processes(self._heard)
            self._told = 0 if last is None else int(last)
        return self._told

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._heard and number == signal.SIGINT:
            _write(f"\n{_SHOW_CURSOR if os.isatty(2) else ''}{STOPPED}\n")
            # No exception: it would wait for a save under way, or be lost in the threads and loops that make one.
            os._exit(130)
        self._heard = self._heard or number
        if number == signal.SIGINT:
            _write(f"\n{self._then}; Ctrl-C again stops at once\n")


def _write(sentence: str) -> None:
    """Not by `info`: the signal may have come while that was printing."""
    with suppress(OSError):
        os.write(2, sentence.encode())


def _greatest_of_all_processes(number: int) -> jax.Array:
    """Not waited for."""
    by_device, greatest = _vote()
    mine = np.full(jax.local_device_count(), number, np.int32)
    return greatest(jax.make_array_from_process_local_data(by_device, mine))


@cache
def _vote() -> tuple[NamedSharding, Callable[[jax.Array], jax.Array]]:
    mesh = jax.make_mesh((jax.device_count(),), ("device",))
    each, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("device",), ()))
    return each, jax.jit(jnp.max, out_shardings=whole)
