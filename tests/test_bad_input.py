"""What is wrong with the user's files is one sentence on stderr and exit code 2, from the experiment's own entry."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from experiments.material import material_from_files
from experiments.recipe import Config, prompts_that_fit
from rlhf_jax.config import read_config
from rlhf_jax.runtime import run

ROOT = Path(__file__).parents[1]
GOOD = [{"prompt": f"question {i} about the weather", "chosen": "it rains", "rejected": f"no {i}"} for i in range(60)]


@pytest.fixture
def config(tmp_path, monkeypatch) -> Config:
    monkeypatch.setenv("RLHF_JAX_DATA", str(tmp_path))
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
        empty_answers="error",
    )
    model = replace(whole.model, too_long="error")
    return replace(
        whole,
        files=files,
        model=model,
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


def with_rankings(config: Config, path: Path) -> Config:
    assert config.files is not None
    return replace(config, files=replace(config.files, rankings=str(path)))


def test_good_files_pass(config):
    made = material_from_files(config)
    assert made.rankings is not None
    assert sum(len(part) for part in made.rankings.values()) == 60
    assert {r.prompt for r in made.rankings["train"]}.isdisjoint({p.text for p in made.prompts["test"]})


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
    error = sentence(capfd, lambda: material_from_files(with_rankings(config, tmp_path / "bad.jsonl")))
    assert "bad.jsonl, line 3" in error
    assert words in error


def test_broken_json_is_named_with_its_line(config, tmp_path, capfd):
    (tmp_path / "bad.jsonl").write_text(json.dumps(GOOD[0]) + '\n{"prompt": \n')
    error = sentence(capfd, lambda: material_from_files(with_rankings(config, tmp_path / "bad.jsonl")))
    assert "bad.jsonl, line 2" in error


def test_a_missing_and_a_cut_off_file_are_named(config, tmp_path, capfd):
    missing = with_rankings(config, tmp_path / "nowhere.jsonl")
    assert "nowhere.jsonl" in sentence(capfd, lambda: material_from_files(missing))
    whole = gzip.compress("".join(json.dumps(row) + "\n" for row in GOOD).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    cut = with_rankings(config, tmp_path / "cut.jsonl.gz")
    assert "cut.jsonl.gz" in sentence(capfd, lambda: material_from_files(cut))


def test_an_unset_variable_in_a_path_is_named(config, capfd, monkeypatch):
    monkeypatch.delenv("SOMEWHERE", raising=False)
    unset = with_rankings(config, Path("${SOMEWHERE}/x.jsonl"))
    assert "SOMEWHERE" in sentence(capfd, lambda: material_from_files(unset))


def test_a_prompt_longer_than_the_context_is_refused_or_left_out_as_the_config_says(config, tmp_path, capfd):
    rows(tmp_path / "good.jsonl", [*GOOD, {"prompt": "many words " * 200, "chosen": "a", "rejected": "b"}])
    parts = ("train", "valid", "test")
    error = sentence(capfd, lambda: [prompts_that_fit(config, part) for part in parts])
    assert "longer than the context" in error
    assert "model.prompt_tokens" in error
    dropping = replace(config, model=replace(config.model, too_long="drop"))
    assert sum(len(prompts_that_fit(dropping, part)) for part in parts) == 60
    assert "left out" in capfd.readouterr().err


def test_neither_a_world_nor_files(config, capfd):
    assert "[world]" in sentence(capfd, lambda: material_from_files(replace(config, files=None)))
