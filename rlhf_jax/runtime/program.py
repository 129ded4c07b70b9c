"""How a program ends: what the user can mend is one sentence and an exit code, all else a traceback."""

from collections.abc import Callable

from rlhf_jax.errors import DivergenceError, InputError
from rlhf_jax.runtime.files import disk_reason
from rlhf_jax.runtime.progress import say


def run(main: Callable[[], None]) -> None:
    """Calls main. InputError and a full or forbidden disk exit with 2, DivergenceError 1, Ctrl-C 130."""
    try:
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
        _exit(130, "stopped; the same command continues from the last checkpoint")


def _exit(code: int, sentence: str) -> None:
    say(sentence)
    raise SystemExit(code)
