"""Several seeds of one config as one table."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from scipy import stats

from experiments.seeds import main, named, seeds
from rlhf_jax.errors import InputError

ROOT = Path(__file__).parents[1]


def finished(folder: Path, seed: int, gold: float, beta: float = 0.1, **more: float) -> Path:
    folder.mkdir()
    figures = {"gold": gold, **more}
    evaluation = {"ppo_ptx": {k: {"mean": v, "low": None, "high": None, "n": 9} for k, v in figures.items()}}
    (folder / "evaluation.json").write_text(json.dumps(evaluation | {"reward_model": evaluation["ppo_ptx"]}))
    (folder / "evaluated.json").write_text(json.dumps({"config": {"seed": seed, "ppo": {"beta": beta}}}))
    return folder


def test_the_interval_is_students_over_the_seeds(tmp_path):
    folders = [finished(tmp_path / str(i), i, gold) for i, gold in enumerate((1.0, 2.0, 3.0))]
    gold = seeds(folders)["ppo_ptx"]["gold"]
    half = stats.t.ppf(0.975, 2) / 3**0.5  # the sample's standard deviation is 1
    assert (gold.mean, gold.n) == (2.0, 3)
    assert gold.low == pytest.approx(2 - half) and gold.high == pytest.approx(2 + half)


def test_shares_and_ratings_stay_on_their_scales(tmp_path):
    shares = {"win_rate/vs_sft": (0.99, 1.0, 0.93), "rating": (6.9, 7.0, 6.2), "accuracy/gold": (0.98, 0.99, 0.9)}
    each = [dict(zip(shares, values, strict=True)) for values in zip(*shares.values(), strict=True)]
    found = seeds([finished(tmp_path / str(i), i, 1.0, **more) for i, more in enumerate(each)])["ppo_ptx"]
    for name, top in (("win_rate/vs_sft", 1), ("rating", 7), ("accuracy/gold", 1)):
        values = shares[name]
        assert found[name].mean + stats.sem(values) * stats.t.ppf(0.975, 2) > top >= found[name].high, name
        assert found[name].low < found[name].mean


def test_the_seeds_are_named_and_those_that_are_missing_between_them():
    assert named([0, 1, 2]) == "Seeds 0, 1, 2."
    assert named([0, 2, 5]) == "Seeds 0, 2, 5; not among them: 1, 3, 4."


def test_a_figure_that_a_run_lacks_is_left_out_and_named(tmp_path, capsys):
    folders = [finished(tmp_path / "a", 0, 1.0, length=3.0), finished(tmp_path / "b", 1, 2.0)]
    assert list(seeds(folders)["ppo_ptx"]) == ["gold"]
    said = "".join(capsys.readouterr())
    assert "ppo_ptx length" in said


def test_runs_that_are_no_repetitions_are_refused(tmp_path):
    first = finished(tmp_path / "a", 0, 1.0)
    with pytest.raises(InputError, match="have the same seed, 0"):
        seeds([first, finished(tmp_path / "b", 0, 1.0)])
    with pytest.raises(InputError, match=r"differ in \[ppo\]"):
        seeds([first, finished(tmp_path / "c", 1, 1.0, beta=0.2)])
    with pytest.raises(InputError, match=r"run experiments/instructgpt\.py"):
        seeds([first, tmp_path / "nothing"])


def test_the_command_prints_both_tables_or_its_usage(tmp_path, monkeypatch):
    folders = [finished(tmp_path / str(i), i, gold) for i, gold in enumerate((1.0, 2.0))]
    command = [sys.executable, "experiments/seeds.py", *map(str, folders)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (
        done.returncode == 0
        and done.stdout.startswith("Seeds 0, 1.\n")
        and done.stdout.count("Gold reward") == 2
        and "1.50" in done.stdout
    )
    monkeypatch.setattr(sys, "argv", command[1:3])
    with pytest.raises(InputError, match="usage:"):
        main()
