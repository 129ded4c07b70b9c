import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_jax.errors import DivergenceError, InputError
from rlhf_jax.runtime import run


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (InputError("a.toml, line 3: no [key]"), 2, "error: a.toml, line 3: no [key]"),
        (DivergenceError("ppo, step 7: kl is nan"), 1, "error: ppo, step 7: kl is nan"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/runs/a"),
            2,
            "error: cannot open or write /runs/a: the disk is full; free some space",
        ),
        (
            OSError(errno.EROFS, "Read-only file system", "/runs/a"),
            2,
            "error: cannot open or write /runs/a: it is on a read-only disk; make it writable or name another folder",
        ),
        (
            PermissionError(errno.EACCES, "Permission denied", "/runs/a"),
            2,
            "error: cannot open or write /runs/a: permission denied; change its owner or mode, or name another folder",
        ),
        (KeyboardInterrupt(), 130, "stopped; the same command continues from the last checkpoint"),
    ],
)
def test_what_a_user_can_mend_is_one_sentence_and_an_exit_code(error, code, sentence, capsys):
    def main():
        raise error

    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == code
    output = capsys.readouterr()
    assert output.err == sentence + "\n"
    assert output.out == ""


@pytest.mark.parametrize("error", [ValueError("a bug"), FileNotFoundError(errno.ENOENT, "No such file", "a")])
def test_everything_else_is_untouched(error):
    def main():
        raise error

    with pytest.raises(type(error)) as raised:
        run(main)
    assert raised.value is error


def test_a_main_that_returns_exits_with_nothing(capsys):
    run(lambda: None)
    assert capsys.readouterr().err == ""


def test_sigterm_ends_the_program_with_0_and_a_sentence_and_its_handler_is_gone(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        run(lambda: signal.raise_signal(signal.SIGTERM))
    assert stopped.value.code == 0
    assert capsys.readouterr().err == "stopped; the same command continues from the last checkpoint\n"
    assert signal.getsignal(signal.SIGTERM) == before


SAVES_FOR_EVER = """
import os, signal, sys, threading, time
from pathlib import Path
import jax.numpy as jnp
from rlhf_jax.runtime import Stage, run

def main():
    this = Stage(Path(sys.argv[1]) / "toy", 3, {}, "t", {}, program="toy.py", keep=None)
    this.checkpoints.wait = this.checkpoints.close = lambda: time.sleep(1000)  # a disk that hangs
    threading.Thread(target=time.sleep, args=[1000]).start()  # as the thread that writes to it
    for i in this.steps(0):
        this.log(i, {"x": 0.0})
        os.kill(os.getpid(), int(sys.argv[2]))
        threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
        this.save(i, {"x": jnp.zeros(3)}, 1)

run(main)
"""


@pytest.mark.parametrize("first", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_ctrl_c_after_another_signal_does_not_wait_for_a_save(tmp_path, first):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "XLA_FLAGS": ""}
    line = [sys.executable, "-c", SAVES_FOR_EVER, tmp_path, str(int(first))]
    done = subprocess.run(line, stderr=subprocess.PIPE, text=True, env=environment, timeout=120)
    assert done.returncode == 130
    assert ("Ctrl-C again stops at once" in done.stderr) == (first == signal.SIGINT)
    assert done.stderr.splitlines()[-1] == "stopped; the same command continues from the last checkpoint"
    assert "Traceback" not in done.stderr
