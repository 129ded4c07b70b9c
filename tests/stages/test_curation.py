"""Curation in a run: part by part, behind the split, and said; and the program that writes it down."""

import json
import re
from dataclasses import replace

import pytest

from experiments import curate as program
from rlhf_jax.data import Demonstration, Layout, Prompt, prompt_text, split_of
from rlhf_jax.data.curation import written
from rlhf_jax.stages import Curation, Files, begin, curate, curate_parts, from_files
from rlhf_jax.stages.datasets import SPLIT
from tests.refusals import refusal
from tests.small_run import ROOT

MAIL = "Write to jane.doe@acme.org about the bread."
LONG = "Here is the story of a small town beside a river. " * 5  # 250 characters


def prompts(*texts: str, user: str = "") -> list[Prompt]:
    return [Prompt(prompt_text(text), user=user) for text in texts]


def texts_of(found) -> list[str]:
    return [written(prompt)[1] for prompt in found]


def user_of(part: int) -> str:
    """A user whose rows are in this part of a run of seed 0."""
    split = split_of(SPLIT, 0, [])
    return next(f"u{i}" for i in range(1_000) if split.part_of(f"u{i}", "") == part)


@pytest.fixture
def write(tmp_path):
    def to(name: str, rows: list[dict]) -> str:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / name)

    return to


def test_each_prompt_goes_by_the_first_step_that_drops_it():
    given = prompts(
        "a", "ok then", MAIL, f"{LONG}1", f"{LONG}2", "Name a fruit that is red.", "Name a fruit that is red!"
    )
    given += prompts("One more?", "And another one?", "And a third?", user="u")
    given += prompts("ok then")
    refusal(lambda: Curation(shortest=10, longest=5), "shortest is 10 and longest 5: no prompt is of such a length")
    settings = Curation(per_user=2, similarity=0.8, pii=True, languages="en, de", shortest=3, longest=300)
    found = curate(given, settings)
    assert found.kept == [given[i] for i in (1, 3, 5, 7, 8)]
    place = {id(prompt): i for i, prompt in enumerate(given)}
    assert [(place[id(d.prompt)], d.reason) for d in found.dropped] == [
        (10, "say what an earlier one of the same user says"),
        (0, "are too short"),
        (2, "hold personal data"),
        (4, "begin as an earlier one does"),
        (6, "are nearly an earlier one"),
        (9, "are more than one user may give"),
    ]


OFF = Curation(once=False, per_user=0, shared_prefix=0)


def test_every_step_can_be_turned_off():
    given = prompts(
        "a", MAIL, MAIL, f"{LONG}1", f"{LONG}2", "Où est la gare, et comment puis-je y aller ?", *["b"] * 201, user="u"
    )
    assert curate(given, OFF) == (given, [])
    assert {p.category for p in curate(given, OFF).kept} == {""}
    assert curate(prompts("Who?"), Curation(use_cases=True)).kept[0].category == "open_qa"


def test_of_prompts_alike_the_held_out_one_stays_in_its_part():
    train, valid, test = prompts(f"{LONG}1", "Why?"), prompts(f"{LONG}2", "How?"), prompts(f"{LONG}3", "Where?")
    found = curate_parts([train, valid, test], Curation())
    assert [texts_of(part.kept) for part in found] == [["Why?"], ["How?"], [f"{LONG}3", "Where?"]]
    assert all(part.dropped[0].near is test[0] for part in found[:2])


def test_personal_data_go_from_training_alone():
    parts = [prompts(MAIL, f"{name}?") for name in ("train", "valid", "test")]
    found = curate_parts([[*parts[0], *prompts("Tell me@acme.org why.")], *parts[1:]], Curation(pii=True))
    assert [texts_of(part.kept) for part in found] == [["train?"], ["valid?"], [MAIL, "test?"]]
    assert [d.reason for d in found[0].dropped] == ["hold personal data"] * 2


def test_a_run_on_files_is_curated_and_says_so(write, capsys):
    rows = [{"prompt": f"{LONG}{i}", "user": user_of(0)} for i in range(3)]
    rows += [{"prompt": f"Number {i}?", "user": user_of(0)} for i in range(205)]
    path = write("prompts.jsonl", [*rows, rows[-1]])
    data = from_files(Files(prompts=path), 0)
    assert texts_of(data.prompts.train) == [f"{LONG}0", *(f"Number {i}?" for i in range(199))]
    said = capsys.readouterr().err
    assert (
        "9 of 209 prompts are left out by [files.curation]: 6 are more than one user may give, 2 begin as an earlier"
        in said
    )
    assert "1 say what an earlier one of the same user says" in said
    assert "prompts: 200 for training, 0 for validation, 0 for testing; by 1 users" in said
    whole = from_files(Files(prompts=path, curation=OFF), 0)
    assert len(whole.prompts.train) == 209
    assert "left out" not in capsys.readouterr().err


def test_what_is_held_out_is_settled_before_anything_is_left_out(write):
    """Two prompts of a held-out user begin alike, so that the second goes; a demonstration that asks it is held out still."""
    one, two = f"{LONG}1", f"{LONG}2"
    asked = write("prompts.jsonl", [{"prompt": text, "user": user_of(2)} for text in (one, two)])
    answered = write("answers.jsonl", [{"prompt": two, "completion": "Yes."}])
    data = from_files(Files(prompts=asked, demonstrations=answered), 0)
    assert texts_of(data.prompts.test) == [one]
    assert list(data.demonstrations.test) == [Demonstration(prompt_text(two), "Yes.")] and not data.demonstrations.train


def test_the_program_writes_every_prompt_down_and_a_run_reads_them_in_their_parts(write, tmp_path):
    hostile = f"<script>alert(1)</script> {MAIL}"
    rows = [
        {"prompt": f"What is the number {i} good for in daily life?", "user": f"u{i % 40}", "id": i} for i in range(120)
    ]
    rows += [
        {"prompt": hostile, "user": user_of(0)},
        {"prompt": "Who is it?", "user": user_of(0)},
    ]
    rows += [{"prompt": [{"role": "user", "content": "Name a fruit that is red."}], "category": "quiz"}, rows[0]]
    rows += [{"prompt": f"<b>{LONG}</b>{i}", "user": user_of(0)} for i in range(2)]
    rows += [{"prompt": "How tall are two trees?", "user": user_of(part)} for part in (0, 2)]
    path, out = write("prompts.jsonl", rows), tmp_path / "out"
    line = [str(ROOT / "configs" / "curate.toml"), "--files.prompts", path, "--out", str(out)]
    program.main(begin(program.Config, program.__file__, "", [*line, "--files.curation.similarity", "0.99"]))
    kept, dropped = (
        [json.loads(x) for x in (out / f"{name}.jsonl").read_text().splitlines()] for name in ("kept", "dropped")
    )
    assert len(kept) + len(dropped) == len(rows)
    reasons = {row["reason"]: row for row in dropped}
    assert reasons["hold personal data"]["prompt"] == prompt_text(hostile)
    assert reasons["begin as an earlier one does"]["near"] == prompt_text(f"<b>{LONG}</b>0")
    outside = reasons["hold what is held out elsewhere"]
    assert (outside["user"], outside["split"]) == (user_of(0), "none")
    assert {row["id"] for row in kept if "id" in row} == set(range(120))
    assert {row["category"] for row in kept} == {"open_qa", "quiz", "other"}

    again = Files(prompts=str(out / "kept.jsonl"))
    again = replace(again, layout=replace(again.layout, prompts=Layout(split="split")))
    data = from_files(again, 7)
    for name, part in data.prompts.each().items():
        assert texts_of(part) == texts_of(map(read, (row for row in kept if row["split"] == name)))
    page = (out / "audit.html").read_text()
    assert "<script>" not in page and "<b>Here" not in page and "&lt;b&gt;Here" in page and "&lt;script&gt;" in page
    assert re.search(r"hold personal data</th><td>1</td><td>0</td><td>0</td><td>0</td><td>1</td>", page)
    assert "45.6 %" in page
    nothing = begin(program.Config, program.__file__, "", line[:1] + line[3:])
    refusal(lambda: program.main(nothing), "files.prompts names no file")


def read(row: dict) -> Prompt:
    said = row["prompt"]
    return Prompt(said if isinstance(said, str) else prompt_text(said))
