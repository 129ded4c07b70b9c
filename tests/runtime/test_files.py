import os

import pytest

from rlhf_jax.errors import InputError
from rlhf_jax.runtime import require_writable, write_atomically


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
