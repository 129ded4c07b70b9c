"""What came from what, and what is set aside to be made anew."""

import json
from functools import partial
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import InputError
from rlhf_jax.runtime import Checkpoints, Made, Origin, locked, set_aside
from rlhf_jax.runtime.origin import record_of, require_same_origin


def trained(out, name, value, **inputs):
    """A stage's folder, and the hash by which others know it."""
    checkpoints = Checkpoints(out / name / "checkpoints", None)
    checkpoints.save(1, {"x": jnp.float32(value)}, record_of(Origin({}, inputs, {}, {})))
    checkpoints.close()
    return checkpoints.record(1)["sha256"]


def sampled(out, name, **inputs):
    (out / name).mkdir()
    (out / name / "data.jsonl").write_text(name)
    made = Made(out / name, Origin({}, inputs, {}, {}))
    made.finish("data.jsonl")
    return made.sha256


@pytest.fixture
def run(tmp_path):
    """pretrain → sft → answers → reward, ppo; and a study of pretrain's."""
    pretrain = trained(tmp_path, "pretrain", 1)
    sft = trained(tmp_path, "sft", 2, start=pretrain)
    answers = sampled(tmp_path, "answers", model=sft)
    reward = trained(tmp_path, "reward", 3, rankings=answers)
    trained(tmp_path, "ppo", 4, reward=reward)
    trained(tmp_path, "study", 5, start=pretrain)
    (tmp_path / "notes").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "made.json").write_text("{")
    return tmp_path


def test_a_folder_and_all_that_came_from_it_are_set_aside_and_nothing_is_deleted(run, capsys):
    assert sorted(set_aside(run, "answers")) == ["answers", "ppo", "reward"]
    assert capsys.readouterr().err == f"set aside in {run / 'set_aside'}: answers, reward, ppo\n"
    assert sorted(path.name for path in run.iterdir()) == ["broken", "notes", "pretrain", "set_aside", "sft", "study"]
    assert (run / "set_aside" / "answers" / "data.jsonl").read_text() == "answers"
    assert Checkpoints(run / "set_aside" / "ppo" / "checkpoints", None).steps() == [1]


def test_what_is_set_aside_twice_gets_a_number(run):
    for expected in ("ppo", "ppo-2", "ppo-3"):
        set_aside(run, "ppo")
        assert (run / "set_aside" / expected).is_dir()
        trained(run, "ppo", 4)


@pytest.mark.parametrize("name", ["pro", "", ".", "..", "set_aside"])
def test_a_folder_that_is_not_there_is_an_error_that_lists_what_is(run, name):
    (run / "set_aside").mkdir()
    with pytest.raises(InputError, match=f"there is no {name} to make anew; it holds answers, broken, ppo, pretrain"):
        set_aside(run, name)
    with pytest.raises(InputError, match="there is no sft to make anew; it holds nothing that was made"):
        set_aside(run / "nowhere", "sft")


def test_what_came_from_it_is_found_in_the_folders_of_arms_too(run):
    trained(run / "arm", "reward", 6, rankings=Made(run / "answers", Origin({}, {"model": sft_of(run)}, {}, {})).sha256)
    assert sorted(set_aside(run, "answers")) == ["answers", "arm/reward", "ppo", "reward"]
    assert (run / "set_aside" / "arm" / "reward" / "checkpoints").is_dir()


def sft_of(run):
    return Checkpoints(run / "sft" / "checkpoints", None).record(1)["sha256"]


def test_killed_between_two_moves_the_same_call_moves_the_rest(run, monkeypatch):
    rename = Path.rename

    def killed(self, target):
        if self.name == "reward":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            set_aside(run, "answers")
    set_aside(run, "answers")
    assert sorted(path.name for path in (run / "set_aside").iterdir()) == ["answers", "ppo", "reward"]


def test_a_function_of_the_library_may_change_but_not_the_values_that_it_is_bound_to(tmp_path):
    def record(value):
        return record_of(Origin({}, {}, {"code": partial(trained_by_the_library, value)}, {}))

    assert require_same_origin(tmp_path, record(1), record(1)) == []
    newer = record(1)
    newer["code"]["code"]["sha256"] = "another"
    assert require_same_origin(tmp_path, newer, record(1)) == []  # which is said
    with pytest.raises(InputError, match=r"its code \(.*\) was bound to other values; set them back, choose another"):
        require_same_origin(tmp_path, record({"weights": np.ones(2)}), record({"weights": np.zeros(2)}))


def trained_by_the_library():
    """Stands for one of its functions."""


trained_by_the_library.__module__ = "rlhf_jax.stages.rankings"


def test_what_is_at_work_is_not_set_aside(run):
    with locked(run / "ppo"), pytest.raises(InputError, match=r"ppo: another process \(\d+\) is at work in it"):
        set_aside(run, "answers")
    assert (run / "answers").is_dir()


def test_a_record_is_json_with_versions(tmp_path):
    record = record_of(
        Origin({"a": (1, 2), "b": np.float32(0.5), "c": tmp_path}, {}, {"hash": set_aside}, {"width": 3})
    )
    assert record["settings"] == {"a": [1, 2], "b": 0.5, "c": str(tmp_path)}
    assert record["code"]["hash"]["where"] == "rlhf_jax.runtime.origin.set_aside"
    assert {"flax", "jax", "optax", "python", "rlhf_jax"} == record["versions"].keys() - {"commit"}
    assert record == json.loads(json.dumps(record))
