"""What a refusal undoes and what it leaves, what a mended function may change, and what is never moved."""

import json
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.errors import InputError
from rlhf_jax.runtime import Checkpoints, Made, Origin, Stage, run, set_aside, undo_if_refused
from tests.refusals import refusal

ZERO = {"x": np.zeros((), np.float32)}


def good(x):
    return x


def other(x):
    return x + 1


def stage(folder: Path, steps=6, reward=good, judge=good) -> Stage:
    code = {"reward": reward, "judge": judge}
    return Stage(folder / "toy", steps, Origin({"toy": 1}, {}, code, {}), keep=None)


def train(this: Stage, fails_in: int | None = None) -> None:
    state, start = this.resume(ZERO), this.checkpoints.latest() or 0
    for i in this.steps(start):
        if i == fails_in:
            this.failed(i, state, "reward")
            raise InputError("the reward function raised")
        state = {"x": state["x"] + 1}
        this.log(i, {"x": state["x"]})
        this.save(i, state, 100)


# A refusal.


def refused_after(making) -> list[str]:
    """What is undone where a program makes something and then is refused."""
    undone: list[str] = []

    def main():
        undo_if_refused(lambda: undone.append("config"))
        making()
        raise InputError("no")

    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == 2
    return undone


def test_a_program_that_has_made_something_keeps_its_config_where_it_is_refused(tmp_path, capsys):
    made = Made(tmp_path / "made", Origin({}, {}, {}, {}))
    assert refused_after(lambda: None) == ["config"]
    assert refused_after(made.start) == []
    (tmp_path / "made" / "rows").write_text("rows")
    assert refused_after(lambda: made.finish("rows")) == []
    assert refused_after(lambda: train(stage(tmp_path, steps=1))) == []


def test_what_one_program_would_undo_is_not_undone_by_the_next(capsys):
    undone: list[str] = []
    run(lambda: undo_if_refused(lambda: undone.append("the first one's config")))
    assert refused_after(lambda: None) == ["config"]
    assert undone == []


# A function that raised.


def test_the_function_that_raised_may_be_mended_and_no_other(tmp_path, capsys):
    refusal(lambda: train(stage(tmp_path), fails_in=3), "the reward function raised")
    folder = tmp_path / "toy"
    assert json.loads((folder / "failed.json").read_text()) == {"step": 4, "code": "reward"}
    assert stage(tmp_path).checkpoints.steps() == [3]
    with pytest.raises(InputError, match="judge"):
        stage(tmp_path, judge=other)
    train(stage(tmp_path, reward=other))
    assert not (folder / "failed.json").exists()  # there is a checkpoint with what was changed
    (changed,) = stage(tmp_path, reward=other).checkpoints.record(6)["changed"]
    assert (changed["after"], changed["key"]) == (3, "reward")
    with pytest.raises(InputError, match="reward"):
        stage(tmp_path, reward=good)


def test_a_finished_stage_s_function_may_not_change_whatever_failed_once(tmp_path, capsys):
    train(stage(tmp_path))
    (tmp_path / "toy" / "failed.json").write_text(json.dumps({"step": 4, "code": "reward"}))
    with pytest.raises(InputError, match="reward"):
        stage(tmp_path, reward=other)


def test_a_function_that_never_raised_may_not_change(tmp_path, capsys):
    with pytest.raises(InputError, match="later"):
        fails_later(stage(tmp_path))
    with pytest.raises(InputError, match="reward"):
        stage(tmp_path, reward=other)


def fails_later(this: Stage) -> None:
    """It stops after a checkpoint for another reason."""
    state = this.resume(ZERO)
    for i in this.steps(0):
        if i == 2:
            raise InputError("later")
        this.log(i, {"x": 1.0})
        this.save(i, state, 1)


def test_a_first_step_that_fails_leaves_nothing_to_be_mended(tmp_path, capsys):
    refusal(lambda: train(stage(tmp_path), fails_in=0), "the reward function raised")
    assert not (tmp_path / "toy" / "failed.json").exists() and stage(tmp_path).checkpoints.steps() == []


def test_a_finished_stage_does_not_say_that_it_continues(tmp_path, capsys):
    train(stage(tmp_path))
    capsys.readouterr()
    assert float(stage(tmp_path).resume(ZERO)["x"]) == 6
    said = capsys.readouterr().err
    assert "toy: done, 6 steps" in said and "continues" not in said


def test_a_stage_goes_on_from_its_newest_checkpoint(tmp_path, capsys):
    refusal(lambda: train(stage(tmp_path), fails_in=3), "the reward function raised")
    capsys.readouterr()
    train(stage(tmp_path))
    assert "toy: continues after step 3 of 6" in capsys.readouterr().err
    assert float(stage(tmp_path).load(ZERO)[0]["x"]) == 6


# Setting aside.


def test_a_link_to_another_run_s_stage_is_not_moved(tmp_path, capsys):
    """Only what lies in the folder itself is this run's."""
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    train(Stage(elsewhere / "base", 1, Origin({}, {}, {}, {}), keep=None))
    parent = Checkpoints(elsewhere / "base" / "checkpoints", None).record(1)["sha256"]
    train(Stage(out / "sft", 1, Origin({}, {"start": parent}, {}, {}), keep=None))
    (out / "base").symlink_to(elsewhere / "base")
    refusal(lambda: set_aside(out, "base"), "there is no base to make anew; it holds sft")
    assert set_aside(out, "sft") == ["sft"]
    assert (out / "base").is_symlink() and (elsewhere / "base" / "checkpoints").is_dir()


# Checkpoints.


def test_as_many_checkpoints_stay_as_are_kept_and_the_best(tmp_path):
    figures = [1.0, 7.0, 3.0, 7.0, 2.0]

    def kept(keep, best):
        checkpoints = Checkpoints(tmp_path / f"{keep}{best}", keep, best)
        for step, figure in enumerate(figures, 1):
            checkpoints.save(step, {"x": np.float32(step)}, {"metrics": {"score": figure}})
        checkpoints.close()
        return checkpoints

    assert kept(2, "").steps() == [4, 5]
    assert kept(3, "").steps() == [3, 4, 5]
    assert kept(None, "").steps() == [1, 2, 3, 4, 5]
    best = kept(1, "score")
    assert best.steps() == [2, 5] and best.best() == 2


def test_a_record_names_its_own_state(tmp_path):
    """By the hash that its children record: of two states it is not one and the same."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", None)
    for step in (1, 2):
        checkpoints.save(step, {"x": np.full((), step, np.float32)}, {})
    checkpoints.close()
    one, two = (checkpoints.record(step) for step in (1, 2))
    assert one["sha256"] != two["sha256"] and (one["step"], two["step"]) == (1, 2)
    state, record = checkpoints.restore(ZERO, 1)
    assert float(state["x"]) == 1 and record["sha256"] == one["sha256"]
