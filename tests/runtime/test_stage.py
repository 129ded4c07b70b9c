import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import DivergenceError, InputError
from rlhf_jax.runtime import Stage

ZERO = {"x": np.zeros((), np.float32)}


def stage(folder, steps=6, keep=None, best=""):
    return Stage(folder / "toy", steps, {"toy": 1}, "t", {}, program="experiments/toy.py", keep=keep, best=best)


def train(this, every=100, at=lambda i: None, figures=lambda i: {}):
    """x ← 2x + i from 0, so that x tells which steps were made and in which order; `at` is called in each."""
    state = this.resume(ZERO)
    step, start = jax.jit(lambda x, i: 2 * x + i), this.checkpoints.latest() or 0
    for i in this.steps(start):
        at(i)
        state = {"x": step(state["x"], jnp.float32(i))}
        this.log(i, {"x": state["x"], **figures(i)})
        this.save(i, state, every)


def x_after(steps):
    x = 0
    for i in range(steps):
        x = 2 * x + i
    return x


def sends(number, step):
    return lambda i: signal.raise_signal(number) if i == step else None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_the_first_signal_saves_the_step_at_hand_and_the_same_command_continues(tmp_path, capsys, number, code):
    with pytest.raises(SystemExit) as stopped:
        train(stage(tmp_path), at=sends(number, 2))
    assert stopped.value.code == code
    assert capsys.readouterr().err.splitlines()[-1] == "toy: saved step 3 of 6; the same command continues"
    assert stage(tmp_path).checkpoints.steps() == [3]  # on disk, though no step is due before the last

    train(stage(tmp_path))
    assert stage(tmp_path).load(ZERO)[0]["x"] == x_after(6)
    rows = [json.loads(line) for line in (tmp_path / "toy" / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["x"]) for row in rows] == [(i, x_after(i)) for i in range(1, 7)]


def test_a_signal_in_the_last_step_stops_the_program_after_it(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        train(stage(tmp_path), at=sends(signal.SIGTERM, 5))
    assert stopped.value.code == 0
    assert "saved step 6 of 6" in capsys.readouterr().err
    assert stage(tmp_path).finished


def test_sigterm_may_come_twice(tmp_path):
    def both(i):
        if i == 2:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(SystemExit):
        train(stage(tmp_path), at=both)
    assert stage(tmp_path).checkpoints.steps() == [3]


def handlers():
    return signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)


def raises_at_2(i):
    if i == 2:
        raise DivergenceError("x is nan")


def test_the_handlers_from_before_are_back_however_the_loop_ends(tmp_path):
    before, inside = handlers(), []
    for name, at, error in [
        ("ends", lambda i: inside.append(handlers()), None),
        ("stopped", sends(signal.SIGTERM, 1), SystemExit),
        ("raised", raises_at_2, DivergenceError),
    ]:
        this = stage(tmp_path / name)
        if error is None:
            train(this, at=at)
        else:
            with pytest.raises(error):
                train(this, at=at)
        assert handlers() == before
    assert all(during != before for during in inside)


def test_a_signal_too_late_to_be_told_goes_to_the_handler_from_before(tmp_path, monkeypatch):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        this = stage(tmp_path)
        monkeypatch.setattr(this.checkpoints, "close", lambda: signal.raise_signal(signal.SIGTERM))
        train(this)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_an_ignored_ctrl_c_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        train(stage(tmp_path), at=sends(signal.SIGINT, 2))
    finally:
        signal.signal(signal.SIGINT, before)
    assert stage(tmp_path).checkpoints.steps() == [6]


def test_in_another_thread_a_stage_leaves_the_handlers_alone(tmp_path):
    before, inside = handlers(), []
    thread = threading.Thread(target=lambda: train(stage(tmp_path), at=lambda i: inside.append(handlers())))
    thread.start()
    thread.join()
    assert inside == [before] * 6
    assert stage(tmp_path).load(ZERO)[0]["x"] == x_after(6)


def test_the_best_by_a_figure_stays_beside_the_newest(tmp_path):
    figure = [1.0, 3.0, 9.0, 3.0, 9.0, 2.0]  # saved: 3.0, 3.0, 2.0; what is not saved cannot be kept
    this = stage(tmp_path, keep=1, best="score")
    train(this, every=2, figures=lambda i: {"score": figure[i]})
    assert this.checkpoints.steps() == [2, 6]
    assert this.best == 2
    assert this.load(ZERO, this.best)[0]["x"] == x_after(2)
    assert this.checkpoints.record(2)["metrics"]["score"] == 3.0


def test_a_figure_that_the_first_step_lacks_cannot_mark_the_best(tmp_path):
    with pytest.raises(InputError, match=r"toy: no figure is called 'scroe' .* name one of x, score$"):
        train(stage(tmp_path, best="scroe"), figures=lambda i: {"score": 1.0})


def test_without_a_saved_figure_there_is_no_best(tmp_path):
    this = stage(tmp_path, best="score")
    train(this, figures=lambda i: {"score": 1.0} if i == 0 else {})
    with pytest.raises(InputError, match="no checkpoint was saved with the figure 'score'"):
        _ = this.best


def test_a_stage_that_is_not_finished_says_which_program_finishes_it(tmp_path):
    for use in (lambda this: this.sha256, lambda this: this.load(ZERO), lambda this: this.best):
        with pytest.raises(
            InputError, match=r"the stage toy is not there; run experiments/toy.py with the same config first"
        ):
            use(stage(tmp_path))
    with pytest.raises(SystemExit):
        train(stage(tmp_path), at=sends(signal.SIGTERM, 3))
    for use in (lambda this: this.sha256, lambda this: this.load(ZERO)):
        with pytest.raises(InputError, match=r"the stage toy stopped at step 4 of 6; run experiments/toy.py"):
            use(stage(tmp_path))


TWO = """
import os, signal, sys
from pathlib import Path
import jax

def main():
    address, process, folder, number = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    jax.distributed.initialize(address, 2, process, coordinator_bind_address=address if process == 0 else None)
    import jax.numpy as jnp
    import numpy as np
    from rlhf_jax.runtime import Stage, make_mesh, replicate

    this = Stage(folder / "toy", 6, {"toy": 1}, "t", {}, program="toy.py", keep=None)
    mesh = make_mesh(jax.device_count())
    state = this.resume(replicate({"x": np.float32(0)}, mesh))
    step = jax.jit(lambda x, i: 2 * x + i)
    for i in this.steps(this.checkpoints.latest() or 0):
        if i == 2 and process == 1:
            os.kill(os.getpid(), number)
        state = {"x": step(state["x"], replicate(jnp.float32(i), mesh))}
        this.log(i, {"x": state["x"]})
        this.save(i, state, 100)

from rlhf_jax.runtime import run
run(main)
"""


def two_processes(folder, number):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", TWO, address, str(process), folder, str(int(number))],
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for process in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=120)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], said


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 0), pytest.param(signal.SIGINT, 130, marks=pytest.mark.long)]
)
def test_a_signal_to_one_of_two_processes_stops_both_after_the_same_step(tmp_path, number, code):
    codes, said = two_processes(tmp_path, number)
    assert codes == [code, code], said
    # Told of it one step later: of the steps 0 1 2 3 the signal is in the third.
    assert all("toy: saved step 4 of 6; the same command continues" in each for each in said), said
    train(stage(tmp_path))  # one process goes on
    assert stage(tmp_path).load(ZERO)[0]["x"] == x_after(6)
