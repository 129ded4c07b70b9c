"""Files that are whole or absent, and one sentence for a disk that takes no more."""

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf_jax.errors import InputError

_FULL = "the disk is full; free some space"
_READ_ONLY = "it is on a read-only disk; make it writable or name another folder"
_REFUSED = "permission denied; change its owner or mode, or name another folder"
_REASONS = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EROFS: _READ_ONLY,
    errno.EACCES: _REFUSED,
    errno.EPERM: _REFUSED,
}


def disk_reason(error: BaseException | None) -> str | None:
    """What the user can mend about a failed write, or None if `error` is of another kind."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in _REASONS:
            return _REASONS[error.errno]
        # TensorStore raises a ValueError whose text alone holds the code.
        for code, reason in _REASONS.items():
            if f"[os_error_code='{code}']" in str(error):
                return reason
        error = error.__cause__
    return None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes the whole file or leaves the old one, also when the machine stops halfway. Raises OSError."""
    data = content.encode() if isinstance(content, str) else content
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(unfinished, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename itself lies in the folder
    finally:
        os.close(folder)


def require_writable(folder: Path) -> None:
    """Creates the folder and writes a probe into it, so that a run fails before it computes, not after.

    InputError if it is a file, read-only, forbidden or on a full disk.
    """
    probe = folder / f".probe.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            write_atomically(probe, b"\0" * 4096)
        finally:
            probe.unlink(missing_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(f"{folder} is or lies in a file; name another folder") from error
    except OSError as error:
        reason = disk_reason(error)
        if reason is None:
            raise
        raise InputError(f"cannot write to {folder}: {reason}") from error


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Keeps other processes out of a folder, which is created, until the `with` ends or the process dies.

    InputError if another process keeps it. A disk that knows no locks keeps nobody out.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "of unknown number"
            raise InputError(
                f"{folder}: another process ({holder}) is at work in it; wait for it, or choose another --out"
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS):
                raise
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def file_sha256(path: Path) -> str:
    """sha256 (hex) of a file's content. Raises OSError."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
