"""How a program ends: what the user can mend is one sentence and an exit code, all else a traceback."""

import hashlib
import logging
import os
import platform
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import jax

from rlhf_jax.errors import DivergenceError, InputError
from rlhf_jax.runtime.files import disk_reason
from rlhf_jax.runtime.hosts import threads_for_collectives
from rlhf_jax.runtime.interruption import STOPPED
from rlhf_jax.runtime.progress import info

_undo: list[Callable[[], None]] = []


def undo_if_refused(undo: Callable[[], None]) -> None:
    """Has `run` call undo if the program ends with an InputError before it has made anything."""
    _undo.append(undo)


def something_is_made() -> None:
    """From here on a refusal undoes nothing."""
    _undo.clear()


class _TerminatedError(BaseException):
    """SIGTERM; no Exception, so that nothing on its way takes it for a failure."""


def run(main: Callable[[], None]) -> None:
    """Calls main. InputError and a full or forbidden disk exit with 2, DivergenceError 1, Ctrl-C 130, SIGTERM 0.

    What is compiled stays in the user's cache folder for the next program; JAX_COMPILATION_CACHE_DIR names another, and
    keeps nothing where it is empty.
    """
    # Orbax raises its errors; its log repeats each of them several times, with tracebacks of threads.
    logging.getLogger("absl").setLevel(logging.CRITICAL + 1)
    _keep_what_is_compiled()
    if "JAX_NUM_CPU_DEVICES" in os.environ or "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        threads_for_collectives()
    _undo.clear()
    try:
        with _terminable():
            main()
    except InputError as error:
        for undo in _undo:
            undo()
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


def _keep_what_is_compiled() -> None:
    if "JAX_COMPILATION_CACHE_DIR" in os.environ or jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    if jax.__version_info__ < (0, 10, 2):
        return  # its programs would come from the cache with a page of warnings
    try:
        root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = root / "rlhf_jax" / "xla" / _processor()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # no home, or one that takes nothing
        return
    if not os.access(folder, os.W_OK):
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def _processor() -> str:
    """A name for this kind of processor: JAX would take one's code for another's where they share a home folder."""
    kind = platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return kind
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{kind}-{hashlib.sha256(flags.encode()).hexdigest()[:8]}"


@contextmanager
def _terminable() -> Iterator[None]:
    # Else jax.distributed.initialize takes SIGTERM for itself, and nothing comes of it.
    jax.config.update("jax_enable_preemption_service", False)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous, ignored = signal.signal(signal.SIGTERM, _terminate), sys.unraisablehook
    sys.unraisablehook = lambda error: _once_more(error) or ignored(error)
    try:
        yield
    finally:
        sys.unraisablehook = ignored
        signal.signal(signal.SIGTERM, previous)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise _TerminatedError


def _once_more(ignored: "sys.UnraisableHookArgs") -> bool:
    """Sends SIGTERM or Ctrl-C again where it came while the garbage collector called somebody back (JAX, at every
    collection), behind which Python goes on whatever was raised. Whether it was one of them."""
    number = {_TerminatedError: signal.SIGTERM, KeyboardInterrupt: signal.SIGINT}.get(ignored.exc_type)
    if number is not None:
        threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
    return number is not None


def _exit(code: int, sentence: str) -> None:
    info(sentence, every_process=True)
    raise SystemExit(code)
