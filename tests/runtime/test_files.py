import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_jax.errors import InputError
from rlhf_jax.runtime import locked, require_writable, write_atomically


def test_write_atomically_replaces_the_whole_file(tmp_path):
    path = tmp_path / "a.txt"
    write_atomically(path, "a longer text")
    write_atomically(path, "β")
    assert path.read_bytes() == "β".encode()
    write_atomically(path, b"\x00\xff")
    assert path.read_bytes() == b"\x00\xff"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_atomically(path, "old")

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_require_writable_creates_the_folder_and_leaves_nothing_in_it(tmp_path):
    require_writable(tmp_path / "runs" / "a")
    assert os.listdir(tmp_path / "runs" / "a") == []


def test_require_writable_refuses_a_file(tmp_path):
    (tmp_path / "a").write_text("")
    for folder in (tmp_path / "a", tmp_path / "a" / "b"):
        with pytest.raises(InputError, match="lies in a file"):
            require_writable(folder)


def test_require_writable_refuses_a_read_only_disk(small_disk):
    small_disk.make_read_only()
    for folder in (small_disk.folder, small_disk.folder / "new"):
        with pytest.raises(InputError, match=f"cannot write to {folder}: it is on a read-only disk"):
            require_writable(folder)


def test_require_writable_refuses_a_full_disk(small_disk):
    small_disk.fill()
    with pytest.raises(InputError, match=f"cannot write to {small_disk.folder}: the disk is full"):
        require_writable(small_disk.folder)
    assert os.listdir(small_disk.folder) == ["filler"]


LOCKS = """
import sys, time
from pathlib import Path
from rlhf_jax.runtime import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    time.sleep(1000)
"""


def test_a_locked_folder_is_kept_until_its_process_dies(tmp_path):
    folder = tmp_path / "new"
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        [sys.executable, "-c", LOCKS, folder], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    sentence = rf"{folder}: another process \({process.pid}\) is at work in it; wait for it, or choose another --out"
    with pytest.raises(InputError, match=sentence), locked(folder):
        pytest.fail("it was not kept")
    process.send_signal(signal.SIGKILL)
    process.wait()
    for _ in range(2):
        with locked(folder):
            assert (folder / ".lock").read_text() == str(os.getpid())


def test_a_disk_without_locks_keeps_nobody_out(tmp_path, monkeypatch):
    def no_locks(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path), locked(tmp_path):
        pass
