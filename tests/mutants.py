"""Small wrong changes, one at a time, each of which some test has to notice: `make mutants`, or

    python -m tests.mutants                  the whole of tests/mutants.toml
    python -m tests.mutants judge splits     those in whose name, file or tests one of the words stands

A mutant is a file, a text that stands in it exactly once, another text in its place, and the tests that cover it. Each is
applied to a scratch copy of the checkout, in which these tests run. It is killed where a test fails; one that survives is a
hole in the tests, and the exit code is 1. Tests that fail without any change, and a text that is not there exactly once, end
the program: the table has to be mended first.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
TABLE = Path(__file__).with_suffix(".toml")
LONGEST = 300  # seconds that a mutant's tests may take: a loop without end is noticed as well
# Imported once, before the copies of this process that run the tests; of this project nothing is.
LIBRARIES = (
    "jax",
    "flax.linen",
    "optax",
    "orbax.checkpoint",
    "scipy.stats",
    "hypothesis",
    "datasets",
    "matplotlib.figure",
)
LIBRARIES += (
    "pytest",
    "beartype",
    "jaxtyping",
    "tyro",
    "tokenizers",
    "sentencepiece",
    "safetensors.numpy",
    "chex",
    "rich",
)


class Mutant(NamedTuple):
    name: str  # what is wrong, in a few words
    file: str
    old: str
    new: str
    tests: str  # pytest's arguments: files, and -k with an expression without spaces in its words


def mutants() -> list[Mutant]:
    """The table. SystemExit: an entry whose old text does not stand in its file exactly once, or two of one name."""
    found, wrong = [Mutant(**row) for row in tomllib.loads(TABLE.read_text())["mutant"]], []
    names = [mutant.name for mutant in found]
    for mutant in found:
        times = (ROOT / mutant.file).read_text().count(mutant.old)
        if times != 1 or mutant.old == mutant.new:
            wrong.append(f"{mutant.name}: its old text stands in {mutant.file} {times} times: {mutant.old!r}")
        if names.count(mutant.name) > 1:
            wrong.append(f"{mutant.name}: there are two of that name")
    if wrong:
        sys.exit("\n".join(wrong))
    return found


def copied(into: Path) -> None:
    """The checkout as it stands, without what git ignores."""
    line = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for name in subprocess.run(line, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, into / name)


def outcome(scratch: Path, tests: str, log: Path) -> int:
    """pytest's exit code in a copy of this process: 0 all passed, 1 some failed, −9 it took too long, else it did not run."""
    child = os.fork()
    if not child:
        os.setpgrp()
        os.chdir(scratch)
        with log.open("wb") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        code = 3
        try:
            import pytest

            sys.path[:] = [str(scratch), *(path for path in sys.path if path not in ("", str(ROOT)))]
            sys.modules.pop("tests", None)
            files, _, expression = tests.partition(" -k ")
            chosen = ["-k", expression] if expression else []
            plain = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "--tb=line"]
            code = int(pytest.main([*files.split(), *chosen, *plain]))
        finally:
            sys.stdout.flush()
            os._exit(code)
    until = time.monotonic() + LONGEST
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.05)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -signal.SIGKILL


def main(words: list[str]) -> int:
    chosen = [m for m in mutants() if not words or any(word in f"{m.name} {m.file} {m.tests}" for word in words)]
    chosen.sort(key=lambda mutant: mutant.tests)  # so that tests are shown to pass right before their mutants
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    survived, passed, began = [], set(), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mutants.") as folder:
        scratch, log = Path(folder) / "checkout", Path(folder) / "log"
        copied(scratch)
        os.environ |= {"PYTHONPATH": str(scratch)}
        os.environ |= {
            "JAX_COMPILATION_CACHE_DIR": f"{folder}/compiled",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        for name in LIBRARIES:
            __import__(name)
        for number, mutant in enumerate(chosen, 1):
            if mutant.tests not in passed:
                if outcome(scratch, mutant.tests, log):
                    sys.exit(f"{mutant.tests}: these do not pass without any change\n{log.read_text()[-2000:]}")
                passed.add(mutant.tests)
            path, start = scratch / mutant.file, time.monotonic()
            text = path.read_text()
            before = path.stat().st_mtime
            path.write_text(text.replace(mutant.old, mutant.new))
            # What is compiled goes by a file's length and second, and a mutant may be as long as the original.
            os.utime(path, (before, before + 10 * number))
            code = outcome(scratch, mutant.tests, log)
            path.write_text(text)
            os.utime(path, (before, before))
            if code not in (0, 1, -signal.SIGKILL):
                sys.exit(f"{mutant.name}: its tests could not run (exit {code})\n{log.read_text()[-2000:]}")
            if not code:
                survived.append(mutant)
            said = "SURVIVED" if not code else "killed"
            seconds = time.monotonic() - start
            print(f"{number:3}/{len(chosen)} {said:8} {seconds:4.0f} s  {mutant.name}  ({mutant.file})", flush=True)
    minutes = (time.monotonic() - began) / 60
    print(f"{len(chosen) - len(survived)} of {len(chosen)} mutants killed in {minutes:.1f} minutes")
    for mutant in survived:
        print(f"SURVIVED: {mutant.name}: {mutant.file}, {mutant.old!r} → {mutant.new!r}, in the face of {mutant.tests}")
    return int(bool(survived))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
