"""What a user's function says when a stage asks it: a reward, a judge, a labeler."""

import inspect
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rlhf_jax.errors import InputError


def asked(who: str, function: Callable, *given: Any) -> Any:
    """What the function says of what it is given. InputError: it raises, or calls sys.exit, or is async; who: as the
    sentence calls it."""
    try:
        said = function(*given)
    except (InputError, KeyboardInterrupt):
        raise
    except BaseException as error:
        raise InputError(raised(who, error)) from error
    if inspect.iscoroutine(said):
        said.close()  # which Python would warn of otherwise
        raise InputError(f"{who} is async, which nobody awaits; make it a plain function (asyncio.run inside it)")
    return said


def mismatch(function: Callable, count: int) -> tuple[inspect.Signature, TypeError] | None:
    """The signature of a function that cannot be called with so many arguments, and why not; None: it can, or one of C's."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return None  # one of C's
    try:
        signature.bind(*range(count))
    except TypeError as error:
        return signature, error
    return None


def raised(who: str, error: BaseException) -> str:
    """What was raised, and where, in words."""
    at = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(at.filename).name}, line {at.lineno}, in {at.name}"
    try:
        said = f"{type(error).__name__}: {error}"
    except Exception:  # its class is the user's
        said = type(error).__name__
    return f"{who} raised {' '.join(said.split())} ({where})"
