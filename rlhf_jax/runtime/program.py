"""How a program ends: what the user can mend is one sentence and an exit code, all else a traceback."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import jax

from rlhf_jax.errors import DivergenceError, InputError
from rlhf_jax.runtime.files import disk_reason
from rlhf_jax.runtime.interruption import STOPPED
from rlhf_jax.runtime.progress import say


class _TerminatedError(BaseException):
    """SIGTERM; no Exception, so that nothing on its way takes it for a failure."""


def run(main: Callable[[], None]) -> None:
    """Calls main. InputError and a full or forbidden disk exit with 2, DivergenceError 1, Ctrl-C 130, SIGTERM 0."""
    try:
        with _terminable():
            main()
    except InputError as error:
        _exit(2, f"error: {error}")
    except DivergenceError as error:
        _exit(1, f"error: {error}")
    except OSError as error:
        reason = disk_reason(error)
        if reason is None:
            raise
        _exit(2, f"error: cannot open or write {error.filename or 'a file'}: {reason}")
    except KeyboardInterrupt:
        _exit(130, STOPPED)
    except _TerminatedError:
        _exit(0, STOPPED)


@contextmanager
def _terminable() -> Iterator[None]:
    # Else jax.distributed.initialize takes SIGTERM for itself, and nothing comes of it.
    jax.config.update("jax_enable_preemption_service", False)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _TerminatedError


def _exit(code: int, sentence: str) -> None:
    say(sentence)
    raise SystemExit(code)
