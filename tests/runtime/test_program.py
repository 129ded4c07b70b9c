import errno
import gc
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
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
from rlhf_jax.runtime import Origin, Stage, run

def main():
    this = Stage(Path(sys.argv[1]) / "toy", 3, Origin({}, {}, {}, {}), keep=None)
    this.checkpoints.wait = this.checkpoints.close = lambda: time.sleep(1000)  # a disk that hangs
    threading.Thread(target=time.sleep, args=[1000]).start()  # as the thread that writes to it
    for i in this.steps(0):
        this.log(i, {"x": 0.0})
        os.kill(os.getpid(), int(sys.argv[2]))
        threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGINT]).start()
        this.save(i, {"x": jnp.zeros(3)}, 1)

run(main)
"""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_that_comes_within_a_callback_of_the_garbage_collector_is_not_lost(number, code, capsys):
    """Python ignores whatever is raised there."""
    waiting = [number]

    def called_back(phase, about):
        while waiting:
            signal.raise_signal(waiting.pop())

    def main():
        gc.callbacks.append(called_back)
        try:
            gc.collect()
        finally:
            gc.callbacks.remove(called_back)
        time.sleep(20)

    with pytest.raises(SystemExit) as ended:
        run(main)
    assert ended.value.code == code and not waiting
    assert "stopped; the same command continues" in capsys.readouterr().err


@pytest.mark.parametrize("first", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_ctrl_c_after_another_signal_does_not_wait_for_a_save(tmp_path, first):
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "XLA_FLAGS": ""}
    line = [sys.executable, "-c", SAVES_FOR_EVER, tmp_path, str(int(first))]
    done = subprocess.run(line, stderr=subprocess.PIPE, text=True, env=environment, timeout=120)
    assert done.returncode == 130
    assert ("Ctrl-C again stops at once" in done.stderr) == (first == signal.SIGINT)
    assert done.stderr.splitlines()[-1] == "stopped; the same command continues from the last checkpoint"
    assert "Traceback" not in done.stderr


COMPILES = """
import logging, sys
import jax, jax.numpy as jnp, numpy as np
import rlhf_jax.runtime
assert logging.getLogger("absl").level == logging.NOTSET and str(jax.config.jax_compilation_cache_dir) == sys.argv[1]
compiled = []
jax.monitoring.register_event_listener(lambda event, **_: compiled.append(event.rpartition("/")[2]))

def main():
    f = jax.jit(jax.grad(lambda x: jnp.sum(jax.nn.logsumexp(jnp.tanh(x @ x.T), -1))))
    print(np.asarray(f(jax.random.normal(jax.random.key(0), (64, 64)))).tobytes().hex())
    print(compiled.count("cache_hits"), logging.getLogger("absl").level > logging.CRITICAL)

rlhf_jax.runtime.run(main)
"""


def test_what_is_compiled_is_kept_for_the_next_program_which_computes_the_same_bits(tmp_path):
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "XDG_CACHE_HOME": str(tmp_path),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    found = []
    for off in (True, False, False):
        environment["JAX_COMPILATION_CACHE_DIR"] = ""
        if not off:
            del environment["JAX_COMPILATION_CACHE_DIR"]
        line = [sys.executable, "-c", COMPILES, "" if off else "None"]
        done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=120)
        assert (done.returncode, done.stderr) == (0, "")  # no word of it
        found.append(done.stdout.split())
        if off:
            assert not list(tmp_path.iterdir())
    assert list((tmp_path / "rlhf_jax" / "xla").rglob("jit_*"))
    assert len({bits for bits, _, _ in found}) == 1
    assert [int(hits) for _, hits, _ in found[:2]] == [0, 0] and int(found[2][1]) > 1
    assert [quiet for _, _, quiet in found] == ["True"] * 3


def test_without_a_place_for_what_is_compiled_a_program_runs_all_the_same(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    run(lambda: None)
    assert capsys.readouterr().err == ""
    assert jax.config.values["jax_compilation_cache_dir"] in (None, "")
