"""What a result was made with: the versions of the libraries and of Python, and the commit of the checkout."""

import importlib.metadata
import platform
import subprocess
from functools import cache
from pathlib import Path

LIBRARIES = ("rlhf_jax", "jax", "flax", "optax")


@cache
def version(name: str) -> str:
    """Of an installed package; "unknown" of a checkout that is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def made_with() -> dict[str, str]:
    """Name → version of what is at work here, and the commit, where this is a checkout."""
    found = {**{name: version(name) for name in LIBRARIES}, "python": platform.python_version()}
    return found | ({"commit": commit} if (commit := commit_of(Path(__file__))) else {})


@cache
def commit_of(file: Path) -> str:
    """The commit that is checked out where git knows the file, with "-dirty" behind it where a file has changed since; ""
    where it does not, or there is no git."""

    def git(*line: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(file.parent), *line], capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", file.name)
        return git("describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
    except (OSError, subprocess.SubprocessError):
        return ""
