"""The user's files through a config: what each column is, rows that are left out, splits that rows name, texts in pieces."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

import pytest

from experiments import dpo
from rlhf_jax import stages
from rlhf_jax.config import load_config, read_config
from rlhf_jax.data import Judged, Layout, Ranking, TextLayout, prompt_text, read_texts
from rlhf_jax.data.splits import human_turns
from rlhf_jax.stages.datasets import data_sets, pieces_of
from tests.refusals import refusal

LINES = "".join(f"The number {i} stands beside the number {i + 1} in the book of numbers.\n" for i in range(300))


@dataclass(frozen=True)
class Settings:
    files: stages.Files | None = None


CONFIG = """
[files]
pretrain = "text.jsonl"
demonstrations = "rows.jsonl"
rankings = "rows.jsonl"
prompts = "rows.jsonl"
unusable = "drop"

[files.layout]               # of the three files of conversations
prompt = "task.text"
answers = "a, b"
best = "winner"
user = "task.by"
drop = "lang != en"

[files.layout.pretrain]
text = "body"

[files.layout.prompts]
drop = "lang == fr"
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, rows: list[dict]) -> None:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows))


def row(i: int, **more) -> dict:
    return {"task": {"text": f"question {i}", "by": f"u{i}"}, "a": "no", "b": f"yes {i}", "winner": 1, **more}


def of(parts: stages.Parts) -> list:
    return [each for part in parts.each().values() for each in part]


def test_a_config_names_columns_for_all_files_and_for_one(folder):
    Path("c.toml").write_text(CONFIG)
    files = read_config(Settings, "c.toml").files
    assert files is not None
    common = Layout(prompt="task.text", answers="a, b", best="winner", user="task.by", drop="lang != en")
    assert files.layout.of("demonstrations") == files.layout.of("rankings") == common
    assert files.layout.of("prompts").drop == "lang == fr" and files.layout.of("prompts").prompt == "task.text"
    assert files.layout.pretrain == TextLayout(text="body")
    write("text.jsonl", [{"body": LINES}])
    rows = [row(i, lang="en" if i < 20 else "de") for i in range(30)]
    write("rows.jsonl", [*rows, row(30, lang="fr"), row(31, lang="en", b="")])
    data = stages.from_files(files, seed=0)
    assert {d.answer for d in of(data.demonstrations)} == {f"yes {i}" for i in range(20)}
    assert {(r.answers, r.ranks) for r in of(data.rankings)} == {(("no", f"yes {i}"), (2, 1)) for i in range(20)}
    assert {p.user for p in of(data.prompts)} == {f"u{i}" for i in (*range(30), 31)}
    assert sum(len(part) for part in data.text.each().values()) == len(list(pieces_of(LINES)))


def test_names_are_given_on_the_command_line_and_what_cannot_be_is_said(folder):
    Path("c.toml").write_text(CONFIG)
    words = ["c.toml", "--files.layout.rankings.best", "loser", "--files.layout.demonstrations.user", "me"]
    files = load_config(Settings, words).config.files
    assert (files.layout.of("rankings").best, files.layout.of("prompts").best) == ("loser", "winner")
    assert (files.layout.of("demonstrations").user, files.layout.of("rankings").user) == ("me", "task.by")
    files = load_config(Settings, ["c.toml", "--files.layout.prompts.messages", "talk"]).config.files
    assert files.layout.of("prompts") == Layout(messages="talk", user="task.by", drop="lang == fr")
    both = ["c.toml", "--files.layout.chosen", "c"]
    refusal(lambda: load_config(Settings, both), "the layout names both 'answers' and 'chosen'")
    refusal(lambda: load_config(Settings, ["c.toml", "--files.layout.drop", "x"]), "drop = 'x' cannot be read")


def test_kto_learns_from_labels_of_the_files(folder, monkeypatch, capsys):
    """Each by itself, be its prompt's other answers liked or not, less those that are held out; DPO gets what is in pairs."""
    rows = [{"prompt": f"Is it {i}?", "completion": f"Yes, {i}.", "label": i % 3 > 0} for i in range(60)]
    write("rows.jsonl", [*rows, {"prompt": "Is it 0?", "completion": "No.", "label": True}])
    learned = {}
    for name in ("model_in", "trained_in", "compare"):
        monkeypatch.setattr(dpo, name, lambda *given: None)
    monkeypatch.setattr(dpo, "prompts_that_fit_all", lambda prompts, model: prompts)
    monkeypatch.setattr(dpo, "data_of", lambda start, *given, **how: data_sets(*given, **how))
    monkeypatch.setattr(dpo, "preference", lambda folder, start, rows, c, run: learned.update({c.objective: rows}))
    files = stages.Files(rankings="rows.jsonl")
    for objective in ("kto", "dpo"):
        c = stages.Preference(objective=objective)
        dpo.main(dpo.Config(out="out", given=dpo.Given(rankings=""), files=files, preference=c))
    assert {type(row) for row in learned["kto"]} == {Judged} and 30 < len(learned["kto"]) < 60
    said = {(row.prompt, row.answer): row.liked for row in learned["kto"]}
    given = {(prompt_text(row["prompt"]), row["completion"]): row["label"] for row in rows}
    assert said.items() <= (given | {(prompt_text("Is it 0?"), "No."): True}).items() and set(said.values()) == {
        True,
        False,
    }
    assert {type(row) for row in learned["dpo"]} <= {Ranking} and len(learned["dpo"]) <= 1
    assert "learns from given.rankings" not in capsys.readouterr().err
    dpo.main(dpo.Config(out="out", given=dpo.Given(rankings="rows.jsonl"), files=files, preference=c))
    assert "learns from given.rankings = 'rows.jsonl'; for files.rankings set it to ''" in capsys.readouterr().err


def test_rows_that_name_their_split_are_in_it_and_nothing_that_is_held_out_is_trained_on(folder):
    parts = ["train", "validation", "test"]
    named = [row(i, split=parts[i % 3]) for i in range(60)]
    write("rows.jsonl", named)
    write("prompts.jsonl", [{"prompt": f"Question {i}"} for i in range(200)])  # some of which the others have
    write("text.jsonl", [{"text": LINES}])
    layout = stages.Layouts(
        prompt="task.text", answers="a, b", best="winner", split="split", prompts=Layout(prompt="prompt")
    )
    files = stages.Files("text.jsonl", "rows.jsonl", "rows.jsonl", "prompts.jsonl", layout=layout)
    refusal(lambda: stages.from_files(files, seed=0), "prompts.jsonl, line 1: 'split' says 'nothing'")
    for rows in (named, [*named, row(61, split="train") | {"task": {"text": "QUESTION  2", "by": "u"}}]):
        write("rows.jsonl", rows)
        layout = stages.Layouts(
            demonstrations=Layout(prompt="task.text", answers="a, b", best="winner", split="split"),
            rankings=Layout(prompt="task.text", answers="a, b", best="winner", split="split"),
        )
        data = stages.from_files(
            stages.Files("text.jsonl", "rows.jsonl", "rows.jsonl", "prompts.jsonl", layout=layout), 0
        )
        for kind in (data.demonstrations, data.rankings):  # the one that asks what a test row asks is in no part
            for number, part in enumerate((kind.train, kind.valid, kind.test)):
                asked = [human_turns(each.prompt)[0] for each in part]
                assert sorted(asked) == sorted(f"question {i}" for i in range(60) if i % 3 == number)
        where = {human_turns(p.text)[0]: n for n, part in enumerate(data.prompts.each().values()) for p in part}
        assert all(where[f"question {i}"] == i % 3 for i in range(60))
        assert len(where) == 200 and {where[f"question {i}"] for i in range(60, 200)} == {0, 1, 2}


def test_a_split_of_another_name_is_refused_or_dropped(folder):
    write("rows.jsonl", [row(0, split="train"), row(1, split="extra")])
    write("text.jsonl", [{"text": LINES}])
    layout = stages.Layouts(prompt="task.text", answers="a, b", best="winner", split="split")
    files = stages.Files("text.jsonl", *["rows.jsonl"] * 3, layout=layout)
    refusal(
        lambda: stages.from_files(files, 0), "rows.jsonl, line 2: 'split' says 'extra': make it train, valid or test"
    )
    layout = stages.Layouts(prompt="task.text", answers="a, b", best="winner", split="split", drop="split == extra")
    data = stages.from_files(stages.Files("text.jsonl", *["rows.jsonl"] * 3, layout=layout), 0)
    assert [len(part) for part in data.prompts.each().values()] == [1, 0, 0]


@pytest.mark.parametrize(
    "text",
    [
        LINES,
        LINES.replace("\n", "\r\n"),
        LINES.replace("\n", " "),
        LINES.replace("\n", "\n\n"),
        LINES.replace("\n", "\r\n\r\n"),
        "\n\n".join([LINES[:3000], LINES[3000:]]),
    ],
)
def test_a_text_comes_in_pieces_whatever_ends_its_lines(text):
    """None is longer than twice 4000 characters, none cuts a word, and together they are the text."""
    pieces = list(pieces_of(text))
    assert len(pieces) > 2 and max(map(len, pieces)) <= 8000
    assert " ".join(" ".join(pieces).split()) == " ".join(text.split())
    assert all(len(piece) > 3990 for piece in pieces[:-1])  # without the ends of lines around it
    assert not any("\r" in piece for piece in pieces)


def test_a_published_text_file_comes_in_pieces():
    path = Path(os.environ.get("RLHF_JAX_DATA", "")).parent / "layouts" / "crlf.txt"
    if not path.is_file():
        pytest.skip("there are no layouts beside the real data")
    (text,) = read_texts(str(path))
    assert len(list(pieces_of(text))) > 5 and "\r" not in text
