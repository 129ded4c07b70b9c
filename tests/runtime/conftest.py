"""A small disk that tests fill or make read-only."""

import contextlib
import subprocess
from pathlib import Path

import pytest


class SmallDisk:
    """2 MiB under `folder`."""

    def __init__(self, folder: Path):
        self.folder = folder

    def make_read_only(self):
        subprocess.run(["mount", "-o", "remount,ro", self.folder], check=True)

    def fill(self):
        with open(self.folder / "filler", "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder]
    try:
        mount = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no mount command to make a small disk with")
    if mount.returncode:
        pytest.skip(f"no right to mount a small disk: {mount.stderr.strip()}")
    yield SmallDisk(folder)
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(autouse=True)
def keeps_no_compiled_programs(monkeypatch):
    """Of `run` in the tests' own process, or in those that they start, nothing stays in the user's home."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
