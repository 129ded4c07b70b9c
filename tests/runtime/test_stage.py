import functools
import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import DivergenceError, InputError
from rlhf_jax.runtime import Checkpoints, Origin, Stage, versions

ZERO = {"x": np.zeros((), np.float32)}


def stage(folder, steps=6, settings=None, inputs=None, code=None, model=None, keep=None, **more):
    origin = Origin({"toy": 1} if settings is None else settings, inputs or {}, code or {}, model or {})
    return Stage(folder / "toy", steps, origin, keep=keep, **more)


def train(this, every=100, at=lambda i: None, figures=lambda i: {}):
    """x ← 2x + i from 0, so that x tells which steps were made and in which order; `at` is called in each."""
    state = this.resume(ZERO)
    step, start = jax.jit(lambda x, i: 2 * x + i), this.checkpoints.latest() or 0
    for i in this.steps(start):
        at(i)
        state = {"x": step(state["x"], jnp.float32(i))}
        this.log(i, {"x": state["x"], **figures(i)})
        this.save(i, state, every)


def test_a_fresh_state_is_bound_to_its_devices_as_a_restored_one_is(tmp_path):
    """Else a step's second call, whose state comes out of a program that took bound ones, would be compiled again."""
    state = {"x": jnp.zeros(()), "n": 1}
    assert not state["x"].committed
    fresh = stage(tmp_path).resume(state)
    assert fresh["x"].committed and fresh["n"] == 1


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


def test_a_stage_that_is_not_finished_says_so(tmp_path):
    for use in (lambda this: this.sha256, lambda this: this.load(ZERO), lambda this: this.best):
        with pytest.raises(InputError, match=r"toy: the stage toy is not there; finish it first$"):
            use(stage(tmp_path))
    with pytest.raises(SystemExit):
        train(stage(tmp_path), at=sends(signal.SIGTERM, 3))
    for use in (lambda this: this.sha256, lambda this: this.load(ZERO)):
        with pytest.raises(InputError, match=r"the stage toy stopped at step 4 of 6; finish it first$"):
            use(stage(tmp_path))


def test_a_finished_stage_says_so_once(tmp_path, capsys):
    train(stage(tmp_path))
    capsys.readouterr()
    this = stage(tmp_path)
    assert this.finished and capsys.readouterr().err == ""
    assert this.done() and this.done()
    assert capsys.readouterr().err == "toy: done, 6 steps\n"
    assert not stage(tmp_path / "other").done() and capsys.readouterr().err == ""


def test_every_record_holds_what_the_stage_was_made_from(tmp_path):
    train(stage(tmp_path, inputs={"data": "d"}, code={"step": x_after}, model={"width": 3}))
    record = stage(tmp_path, inputs={"data": "d"}, code={"step": x_after}).checkpoints.record(6)
    assert (record["settings"], record["inputs"], record["total"]) == ({"toy": 1}, {"data": "d"}, 6)
    assert (
        record["code"]["step"]["where"].endswith("test_stage.x_after") and len(record["code"]["step"]["sha256"]) == 64
    )
    assert record["model"] == {"width": 3} and record["versions"]["jax"] == jax.__version__
    assert (record["data"], record["metrics"]) == ({"step": 6}, {"x": x_after(6)}) and "changed" not in record


ANEW = "choose another folder, or --anew toy \\(in Python runtime.set_aside\\) makes it and what came from it again$"


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (
            {"settings": {"toy": 1, "ppo": {"lr": 0.2}}},
            rf"made with another ppo.lr \(0.1, not 0.2\); set it back, {ANEW}",
        ),
        ({"settings": {"toy": 1, "ppo": {"lr": 0.1, "gamma": 9}}}, r"made with another ppo.gamma \(None, not 9\)"),
        ({"settings": {"toy": 1}}, r"made with another ppo \({'lr': 0.1}, not None\)"),
        ({"settings": {"toy": True, "ppo": {"lr": 0.1}}}, r"made with another toy \(1, not True\)"),
        ({"inputs": {"data": "e", "tokenizer": "t"}}, f"it was made from another data; {ANEW}"),
        ({"inputs": {"tokenizer": "t"}}, f"it was made from another data; {ANEW}"),
        ({"inputs": {"data": "d", "tokenizer": "t", "more": "m"}}, f"it was made from another more; {ANEW}"),
        (
            {"inputs": {"data": "d", "tokenizer": "u"}},
            rf"trained with another tokenizer \(sha256 t, not u\); give it its own tokenizer, {ANEW}",
        ),
    ],
)
def test_what_a_folder_was_made_from_may_not_change(tmp_path, other, sentence):
    made = {"settings": {"toy": 1, "ppo": {"lr": 0.1}}, "inputs": {"data": "d", "tokenizer": "t"}}
    train(stage(tmp_path, **made))
    stage(tmp_path, **made, model={"told": "readers only"})
    with pytest.raises(InputError, match=f"{tmp_path / 'toy'}: .*{sentence}"):
        stage(tmp_path, **(made | other))


def test_a_folder_of_an_earlier_version_is_named(tmp_path):
    checkpoints = Checkpoints(tmp_path / "toy" / "checkpoints", None)
    checkpoints.save(1, ZERO, {"config": {}, "tokenizer": "t", "parents": {}, "data": {"step": 1}})
    checkpoints.close()
    with pytest.raises(
        InputError, match=r"toy holds checkpoints of an earlier version of rlhf_jax; choose another folder"
    ):
        stage(tmp_path)


def function(module, text):
    """f of a module, whose source is this text."""
    around = {"__name__": module}
    exec(text, around)
    return around["f"]


def test_a_function_of_the_users_own_may_not_change(tmp_path):
    one, other, named = (function("mine", f"def f(x): return x + {i}") for i in (1, 2, 1))
    named.__qualname__ = "g"
    train(stage(tmp_path, code={"iteration": one}))
    stage(tmp_path, code={"iteration": function("mine", "def f(x): return x + 1")})
    with pytest.raises(InputError, match=rf"toy: its iteration \(mine.f\) has changed since; {ANEW}"):
        stage(tmp_path, code={"iteration": other})
    with pytest.raises(InputError, match=rf"made with another iteration \(mine.f, not mine.g\); set it back, {ANEW}"):
        stage(tmp_path, code={"iteration": named})
    with pytest.raises(InputError, match=r"made with another iteration \(mine.f, not none\)"):
        stage(tmp_path)
    with pytest.raises(InputError, match=r"made with another loss \(none, not mine.f\)"):
        stage(tmp_path, code={"iteration": one, "loss": one})


def test_a_function_of_the_library_may_change_and_that_is_said(tmp_path, capsys, monkeypatch):
    one, other, moved = (function("rlhf_jax.steps", f"def f(x): return x + {i}") for i in (1, 2, 1))
    moved.__qualname__ = "g"
    train(stage(tmp_path, code={"step": one}))
    capsys.readouterr()
    stage(tmp_path, code={"step": one})
    assert capsys.readouterr().err == ""
    stage(tmp_path, code={"step": other})
    assert capsys.readouterr().err == "toy: its step f has changed in the library since\n"
    with pytest.raises(InputError, match="made with another step"):
        stage(tmp_path, code={"step": moved})
    with pytest.raises(
        InputError, match="made with another step"
    ):  # the library's f, bound to a function of the user's
        stage(tmp_path, code={"step": functools.partial(other, function("mine", "def f(x): return x"))})
    monkeypatch.setattr(versions, "version", lambda name: "9.9")
    stage(tmp_path, code={"step": one})
    assert capsys.readouterr().err == ""  # another version with the same code
    stage(tmp_path, code={"step": other})
    assert capsys.readouterr().err == f"toy: made by rlhf_jax {version('rlhf_jax')}, and this is 9.9\n"


def test_a_resume_under_other_versions_of_the_libraries_says_so_once(tmp_path, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        train(stage(tmp_path), at=sends(signal.SIGTERM, 1))
    installed = versions.version
    monkeypatch.setattr(versions, "version", lambda name: "0.99" if name in ("jax", "optax") else installed(name))
    capsys.readouterr()
    with pytest.raises(SystemExit):
        train(stage(tmp_path), at=sends(signal.SIGTERM, 3))
    said = f"toy: was saved with jax {version('jax')}, optax {version('optax')}, and this is jax 0.99, optax 0.99: the last"
    assert [line for line in capsys.readouterr().err.splitlines() if "jax" in line] == [
        f"{said} digits of its figures may differ"
    ]
    train(stage(tmp_path))  # what it continues now was saved with the same
    stage(tmp_path).done()
    assert "jax" not in capsys.readouterr().err


def test_a_longer_run_continues_a_shorter_one_unless_its_length_is_fixed(tmp_path, capsys):
    train(stage(tmp_path, 4))
    with pytest.raises(InputError, match=r"toy: 4 steps were run and 6 are asked for; its cosine ended$"):
        stage(tmp_path, 6, fixed_length="its cosine ended")
    with pytest.raises(InputError, match=rf"toy: 4 steps were run and 3 are asked for; ask for 4 or more, {ANEW}"):
        stage(tmp_path, 3)
    assert stage(tmp_path, 4, fixed_length="its cosine ended").finished
    capsys.readouterr()
    with pytest.raises(SystemExit):
        train(stage(tmp_path, 6), at=sends(signal.SIGTERM, 4))
    assert "toy: continues after step 4, now to 6\n" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"toy: 6 steps were planned and 7 are asked for; its cosine ended$"):
        stage(tmp_path, 7, fixed_length="its cosine ended")
    train(stage(tmp_path, 6))
    assert "toy: continues after step 5 of 6\n" in capsys.readouterr().err
    assert stage(tmp_path, 6).load(ZERO)[0]["x"] == x_after(6)


def with_lr(folder, lr, steps=6, **others):
    return stage(folder, steps, settings={"toy": {"lr": lr, **others}})


def diverges_at_3(i):
    return {"loss": math.nan} if i == 3 else {}


def test_after_a_divergence_the_learning_rate_may_change_and_the_records_say_so(tmp_path, capsys):
    folder = tmp_path / "toy"
    with pytest.raises(DivergenceError, match="lower the learning rate"):
        train(with_lr(tmp_path, 0.01, beta=1), every=2, figures=diverges_at_3)
    assert json.loads((folder / "diverged.json").read_text())["step"] == 4
    assert with_lr(tmp_path, 0.01, beta=1).checkpoints.steps() == [2]
    with pytest.raises(InputError, match=r"made with another toy.beta \(1, not 2\)"):
        with_lr(tmp_path, 0.001, beta=2)

    capsys.readouterr()
    with pytest.raises(SystemExit):
        train(with_lr(tmp_path, 0.001, beta=1), at=sends(signal.SIGTERM, 3))
    assert "toy: continues after step 2 with lr 0.001 instead of 0.01\n" in capsys.readouterr().err
    assert not (folder / "diverged.json").exists()
    change = {"after": 2, "key": "toy.lr", "from": 0.01, "to": 0.001}
    assert with_lr(tmp_path, 0.001, beta=1).checkpoints.record(4)["changed"] == [change]
    for lr in (0.01, 0.002):  # it is over
        with pytest.raises(InputError, match=f"made with another toy.lr .0.001, not {lr}."):
            with_lr(tmp_path, lr, beta=1)

    def diverges_at_4(i):
        return {"loss": math.inf} if i == 4 else {}

    with pytest.raises(DivergenceError):
        train(with_lr(tmp_path, 0.001, beta=1), figures=diverges_at_4)
    with pytest.raises(SystemExit):
        train(with_lr(tmp_path, 0.0001, beta=1), at=sends(signal.SIGTERM, 4))
    train(with_lr(tmp_path, 0.0001, beta=1))
    record = with_lr(tmp_path, 0.0001, beta=1).checkpoints.record(6)
    assert record["changed"] == [change, {"after": 4, "key": "toy.lr", "from": 0.001, "to": 0.0001}]
    assert record["settings"] == {"toy": {"lr": 0.0001, "beta": 1}}


def test_a_checkpoint_from_after_the_divergence_is_named(tmp_path):
    """The update of step 4 makes nan of the state, which the figures of step 5 tell."""
    this, state = stage(tmp_path), {"x": jnp.float32(0), "key": jax.random.key(0)}
    with pytest.raises(DivergenceError):  # noqa: PT012
        for i in this.steps(0):
            state = state | {"x": jnp.float32(math.nan) if i == 3 else state["x"]}
            this.log(i, {"x": state["x"] if i > 3 else 0.0})
            this.save(i, state, 2)
    checkpoints = tmp_path / "toy" / "checkpoints"
    with pytest.raises(
        InputError, match=rf"step 4 holds numbers that are nan already; delete {checkpoints}/4 and run again"
    ):
        stage(tmp_path).resume(state)
    shutil.rmtree(checkpoints / "4")
    assert stage(tmp_path).resume(state)["x"] == 0


def test_a_finished_stage_has_not_diverged(tmp_path):
    train(with_lr(tmp_path, 0.01))
    (tmp_path / "toy" / "diverged.json").write_text("{}")
    with pytest.raises(InputError, match=r"made with another toy.lr"):
        with_lr(tmp_path, 0.001)


def test_a_second_process_in_the_folder_is_refused(tmp_path):
    def second(i):
        if i == 1:
            with pytest.raises(InputError, match=rf"toy: another process \({os.getpid()}\) is at work in it"):
                train(stage(tmp_path))

    train(stage(tmp_path), at=second)
    assert stage(tmp_path).load(ZERO)[0]["x"] == x_after(6)
    train(stage(tmp_path, 7))  # the first is gone


def test_wandb_gets_the_settings(tmp_path, monkeypatch):
    given = []
    session = SimpleNamespace(log=lambda values, step: None, finish=lambda: None)
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=lambda **more: given.append(more) or session))
    train(stage(tmp_path, wandb={"beta": 0.02}))
    assert [each["config"] for each in given] == [{"beta": 0.02}]


TWO = """
import os, signal, sys
from pathlib import Path
import jax
import jax.numpy as jnp
import numpy as np
from rlhf_jax.runtime import Origin, Stage, join_processes, make_mesh, place, run

def main():
    address, process, folder, number = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4])
    join_processes(address, 2, process)
    this = Stage(folder / "toy", 6, Origin({"toy": 1}, {}, {}, {}), keep=None)
    mesh = make_mesh(jax.device_count())
    state = this.resume(place({"x": np.float32(0)}, mesh))
    step = jax.jit(lambda x, i: 2 * x + i)
    for i in this.steps(this.checkpoints.latest() or 0):
        if i == 2 and process == 1:
            os.kill(os.getpid(), number)
        state = {"x": step(state["x"], place(jnp.float32(i), mesh))}
        this.log(i, {"x": state["x"]})
        this.save(i, state, 100)

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
    assert "toy: saved step 4 of 6; the same command continues" in said[0], said  # the first speaks for both
    train(stage(tmp_path))  # one process goes on
    assert stage(tmp_path).load(ZERO)[0]["x"] == x_after(6)
