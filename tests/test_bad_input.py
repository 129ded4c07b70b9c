"""What is wrong with the user's files is one sentence on stderr and exit code 2, from the experiment's own entry."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.instructgpt import Config
from rlhf_jax.config import read_config
from rlhf_jax.runtime import run
from rlhf_jax.stages import World, data_sets, prompts_that_fit_all, starting_model

ROOT = Path(__file__).parents[1]
GOOD = [{"prompt": f"question {i} about the weather", "chosen": "it rains", "rejected": f"no {i}"} for i in range(60)]


@pytest.fixture
def config(tmp_path, monkeypatch) -> Config:
    monkeypatch.setenv("RLHF_JAX_DATA", str(tmp_path))
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")  # of `run` here nothing stays in the user's home
    (tmp_path / "text.txt").write_text("It rains.\n\n" * 3000)
    rows(tmp_path / "good.jsonl", GOOD)
    good = str(tmp_path / "good.jsonl")
    whole = read_config(Config, ROOT / "configs" / "hh.toml")
    assert whole.files is not None
    files = replace(
        whole.files,
        pretrain=str(tmp_path / "text.txt"),
        demonstrations=good,
        rankings=good,
        prompts=good,
        unusable="error",
    )
    return replace(
        whole,
        files=files,
        format=replace(whole.format, too_long="error"),
        out=str(tmp_path / "out"),
        tokenizer=replace(whole.tokenizer, vocab_size=300),
    )


def rows(path: Path, values: list[dict]) -> None:
    path.write_text("".join(json.dumps(value) + "\n" for value in values))


def sentence(capfd, main) -> str:
    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == 2
    error = capfd.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
    return error


def made(config: Config):
    """Its data sets."""
    return data_sets(config.files or config.world, config.seed)


def with_rankings(config: Config, path: Path) -> Config:
    assert config.files is not None
    return replace(config, files=replace(config.files, rankings=str(path)))


def test_good_files_pass(config):
    data = made(config)
    assert sum(len(part) for part in data.rankings.each().values()) == 60
    assert all(data.rankings.each().values()) and data.truth is None
    assert {r.prompt for r in data.rankings.train}.isdisjoint({p.text for p in data.prompts.test})


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"prompt": "q", "chosen": "", "rejected": "no"}, "empty"),
        ({"prompt": "q", "completions": [{"text": "a", "rank": 1}]}, "two answers"),
        ({"prompt": "q", "completions": [{"text": "a", "rank": 1}, {"text": "b", "rank": 1}]}, "tie"),
        ({"prompt": "q", "completions": [{"text": "a", "rank": 1}, {"text": "b"}]}, "rank"),
    ],
)
def test_a_bad_ranking_is_named_with_its_line(bad, words, config, tmp_path, capfd):
    rows(tmp_path / "bad.jsonl", [*GOOD[:2], bad])
    error = sentence(capfd, lambda: made(with_rankings(config, tmp_path / "bad.jsonl")))
    assert "bad.jsonl, line 3" in error
    assert words in error


def test_broken_json_is_named_with_its_line(config, tmp_path, capfd):
    (tmp_path / "bad.jsonl").write_text(json.dumps(GOOD[0]) + '\n{"prompt": \n')
    error = sentence(capfd, lambda: made(with_rankings(config, tmp_path / "bad.jsonl")))
    assert "bad.jsonl, line 2" in error


def test_a_missing_and_a_cut_off_file_are_named(config, tmp_path, capfd):
    missing = with_rankings(config, tmp_path / "nowhere.jsonl")
    assert "nowhere.jsonl" in sentence(capfd, lambda: made(missing))
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in GOOD).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    cut = with_rankings(config, tmp_path / "cut.jsonl.gz")
    assert "cut.jsonl.gz" in sentence(capfd, lambda: made(cut))


def test_an_unset_variable_in_a_path_is_named(config, capfd, monkeypatch):
    monkeypatch.delenv("SOMEWHERE", raising=False)
    unset = with_rankings(config, Path("${SOMEWHERE}/x.jsonl"))
    assert "SOMEWHERE" in sentence(capfd, lambda: made(unset))


def test_a_prompt_longer_than_the_context_is_refused_or_left_out_as_the_config_says(config, tmp_path, capfd):
    rows(tmp_path / "good.jsonl", [*GOOD, {"prompt": "many words " * 200, "chosen": "a", "rejected": "b"}])

    data = made(config)
    capfd.readouterr()  # how many rows each part has

    def fitting(c: Config):
        model = starting_model(c.folder, c.model, c.imported, c.tokenizer, c.format, c.memory, data)
        return prompts_that_fit_all(data.prompts, model)

    error = sentence(capfd, lambda: fitting(config))
    assert "longer than format.prompt_tokens = 96" in error
    assert "format.prompt_tokens" in error
    dropping = replace(config, format=replace(config.format, too_long="drop"))
    assert sum(len(part) for part in fitting(dropping).each().values()) == 60
    assert "left out" in capfd.readouterr().err


def test_without_files_there_is_the_built_in_world(config):
    assert made(replace(config, files=None, world=World(10, 10, 2, 1, 1))).truth is not None
