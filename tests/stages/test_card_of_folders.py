"""rlhf-report on folders as programs leave them, and on damaged ones."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from rlhf_jax.errors import InputError
from rlhf_jax.evals import SHARE, Row, differences, figures_of
from rlhf_jax.runtime import Made, Origin
from rlhf_jax.stages.card import card as of_runs
from rlhf_jax.stages.card import main
from tests.evals.page import Page

QUIZ = {"right": SHARE}


def answers(right):
    return [Row(f"q{i}", f"q{i}", {"right": float(x)}) for i, x in enumerate(right)]


def made(path, settings, inputs, files, model=None):
    folder = Made(path, Origin(settings, inputs, {}, model or {}))
    folder.start()
    for name, text in files.items():
        (path / name).write_text(text, encoding="utf-8")
    folder.finish(*files)
    return folder.sha256


def run(folder, beta, right):
    """Data, a stage's log, an evaluation and a task, as programs write them."""
    folder.mkdir()
    (folder / "tiny.toml").write_text(f'out = "{folder}"\nseed = 0\n[ppo]\nbeta = {beta}\n')
    answered = made(folder / "comparisons", {"seed": 0}, {"prompts": "p" * 64}, {"a.jsonl": "{}"})
    made(folder / "rankings", {"seed": 0}, {"answers": answered}, {"r.jsonl": "{}"})
    (folder / "ppo").mkdir()
    (folder / "ppo" / "metrics.jsonl").write_text(
        '{"step": 1, "objective/kl": 0.5}\n{"step": 2, "objective/kl": 1.5}\n'
    )
    rows = answers(right)
    figures = {name: e._asdict() for name, e in figures_of(rows, QUIZ).items()}
    files = {"rows.jsonl": "".join(json.dumps(r.as_json()) + "\n" for r in rows), "figures.json": json.dumps(figures)}
    made(folder / "measured" / "ppo", {"task": "quiz"}, {"model": "m" * 64}, files, {"scales": QUIZ})
    cell = {"mean": 4.0, "low": 3.0, "high": 5.0, "n": 20}
    (folder / "evaluation.json").write_text(json.dumps({"ppo": {"rating": cell}}))
    said = {"ppo": {"text": "A <pear>.", "rating": 4.0, "reward": 0.5}}
    (folder / "samples.json").write_text(json.dumps([{"prompt": "A fruit?", "category": "", "answers": said}]))
    return folder


@pytest.fixture
def two(tmp_path):
    return run(tmp_path / "one", 0.1, [0, 1] * 10), run(tmp_path / "two", 0.3, [1, 1, 1, 0, 1] * 4)


def page_of(*runs):
    return Page(of_runs(runs).read_text(encoding="utf-8"))


def test_a_card_of_two_runs_has_their_settings_lineage_and_paired_differences(two):
    found = page_of(*two)
    assert found.sections["settings"][0] == [["", "one", "two"], ["ppo.beta", "0.1", "0.3"]]
    ((_, row),) = found.sections["measured"]
    paired = differences(answers([1, 1, 1, 0, 1] * 4), answers([0, 1] * 10), QUIZ)["right"]
    assert f"{paired.mean:+.3f} ({paired.low:.3f} to {paired.high:.3f}), paired" in row[2].replace("−", "-")
    edges = [(e["data-from"], e["data-to"], e["data-role"]) for _, e in found.elements if "data-from" in e]
    for name in ("comparisons", "rankings", "measured/ppo"):
        inputs = json.loads((two[0] / name / "made.json").read_text())["inputs"]
        comparisons = json.loads((two[0] / "comparisons" / "made.json").read_text())["sha256"]
        wanted = [("comparisons" if sha256 == comparisons else sha256, name, role) for role, sha256 in inputs.items()]
        assert sorted({edge for edge in edges if edge[1] == name}) == sorted(wanted)
    assert "A <pear>." in found.text and (two[0] / "card.html").is_file() and not (two[1] / "card.html").exists()


DAMAGED = {
    "metrics.jsonl": ("ppo", '{"step": 1}\nnot a row\n', "line 2 is no JSON object"),
    "evaluation.json": ("", '{"ppo": {"rating": {"mean": "high"}}}', "evaluation.json is damaged"),
    "samples.json": ("", "[1", "samples.json is damaged"),
    "tiny.toml": ("", "beta = ", "tiny.toml is no TOML"),
    "made.json": ("comparisons", "[]", "made.json is damaged"),
    "rows.jsonl": ("measured/ppo", "{}\n", "rows.jsonl, figures.json or made.json is damaged"),
    "figures.json": ("measured/ppo", '{"right": 1}', "rows.jsonl, figures.json or made.json is damaged"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_damaged_is_said_and_the_rest_is_shown(two, name, capsys):
    folder, text, said = DAMAGED[name]
    (two[0] / folder / name).write_text(text)
    found = page_of(*two)
    assert said in found.text and said in capsys.readouterr().err and "ppo.beta" in found.text


@pytest.mark.parametrize("name", DAMAGED)
def test_what_is_missing_leaves_the_rest(two, name):
    (two[0] / DAMAGED[name][0] / name).unlink()
    assert "one" in page_of(*two).text


def test_wrong_folders_are_refused_in_a_sentence(two, tmp_path):
    (tmp_path / "empty").mkdir()
    for given, said in (
        ([tmp_path / "none"], "is no folder; name one"),
        ([tmp_path / "empty"], "holds nothing that a program has made"),
        ([two[0], Path(f"{two[0]}/.")], "is given twice"),
        ([two[0]] * 9, "a card is of 1 to 8 runs"),
    ):
        with pytest.raises(InputError, match=said):
            of_runs(given)


def test_runs_of_one_name_are_told_apart_and_the_page_may_go_elsewhere(two, tmp_path, monkeypatch, capsys):
    shutil.copytree(two[1], tmp_path / "deep" / "one")
    line = ["rlhf-report", str(two[0]), str(tmp_path / "deep" / "one"), "--out", str(tmp_path / "pages" / "x.html")]
    monkeypatch.setattr(sys, "argv", line)
    main()
    found = Page((tmp_path / "pages" / "x.html").read_text(encoding="utf-8"))
    assert capsys.readouterr().out == f"The page is at {tmp_path / 'pages' / 'x.html'}\n"
    assert found.sections["settings"][0][0] == ["", f"{tmp_path.name}/one", "deep/one"]
