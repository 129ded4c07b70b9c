"""Several processes of one run, which find its folder empty together."""

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rlhf_jax.data import load_tokenizer, train_tokenizer
from rlhf_jax.stages.saved import keep_tokenizer
from tests.small_run import ROOT, TRAINED, environment, last_step, until

TEXTS = [f"Number {i} is no colour." for i in range(100)]


def two(stage: str, out: Path, *more: str) -> list[list[str]]:
    """The recipe up to a stage as the commands of two processes with a device each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
    more = (*more, "--mesh.data", "2", "--coordinator", where, "--processes", "2", "--process")
    return [until(stage, out, *more, str(process)) for process in (0, 1)]


def finish(lines: list[list[str]], more: dict[str, str] | None = None) -> None:
    """Runs the commands together to their ends."""
    env = environment() | (more or {})
    silent = subprocess.DEVNULL
    processes = [
        subprocess.Popen(l, cwd=ROOT, env=env, stdout=silent, stderr=subprocess.PIPE, text=True) for l in lines
    ]
    for process in processes:
        said = process.communicate(timeout=1200)[1]
        assert process.returncode == 0, said[-3000:]


def test_the_slower_process_finds_the_tokenizer_kept(tmp_path, monkeypatch):
    train_tokenizer(TEXTS, 300, tmp_path / "tokenizer.model")
    tokenizer, folder, copy = load_tokenizer(tmp_path / "tokenizer.model"), tmp_path / "stage", shutil.copy
    found = []

    def slow(source, target):
        monkeypatch.setattr(shutil, "copy", copy)
        found.append(keep_tokenizer(tokenizer, folder))
        return copy(source, target)

    monkeypatch.setattr(shutil, "copy", slow)
    found.append(keep_tokenizer(tokenizer, folder))
    assert found == ["tokenizer/tokenizer.model"] * 2
    assert [path.name for path in folder.iterdir()] == ["tokenizer"]
    assert load_tokenizer(folder / found[0]).sha256 == tokenizer.sha256


SCORES = """
import json, sys
from rlhf_jax.errors import InputError
from rlhf_jax.runtime import join_processes
from rlhf_jax.data import Prompt
from rlhf_jax.stages.rewards import Rewards, opinions_for_all

process = int(sys.argv[2])
join_processes(sys.argv[1], 2, process)

def its_own(prompts, answers, rows):  # another one on every process, as a judge's opinion would be
    return [process + len(answer) if answer else None for answer in answers]

def raises(prompts, answers, rows):
    raise OSError(f"no answer to process {process}")

prompts = [Prompt("x"), Prompt("y")]
def len_of(prompts, answers, rows):
    return [float(not answer) for answer in answers]

print(json.dumps(opinions_for_all(Rewards(functions=(its_own, len_of)), prompts, ["a", ""]).tolist()))
try:
    opinions_for_all(Rewards(functions=(raises,)), prompts, ["a", "bc"])
except InputError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.long
def test_the_first_of_two_processes_asks_the_reward_function_for_both(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
    lines = [[sys.executable, "-c", SCORES, where, str(process)] for process in (0, 1)]
    processes = [subprocess.Popen(l, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) for l in lines]
    first, second = (process.communicate(timeout=300)[0].splitlines()[-2:] for process in processes)
    assert first[0] == second[0] == "[[1.0, NaN], [0.0, 1.0]]"
    assert first[1].startswith("the reward function raises raised OSError: no answer to process 0 (")
    assert second[1] == "the reward function went wrong on the first process, which says how"


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.usefixtures("compiled_once")
def test_two_processes_begin_in_an_empty_folder(tmp_path):
    out = tmp_path / "run"
    finish(two("reward_model", out))
    for stage in TRAINED[: TRAINED.index("reward_model") + 1]:
        assert last_step(out / stage) > 0
        assert not list((out / stage).glob(".tokenizer*"))
    assert (out / "rankings" / "rankings.jsonl").read_text().count("\n") > 0
