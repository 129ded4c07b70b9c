"""What the folders of a run say of themselves."""

import json

import pytest

from rlhf_jax.runtime import Made, Origin
from rlhf_jax.stages.history import day, duration, folders_below, stages_below


def made(run, name, inputs, known_as=""):
    folder = Made(run / name, Origin({"seed": 1}, inputs, {}, {}))
    folder.start()
    (run / name / "rows.txt").write_text(name)
    folder.finish("rows.txt", known_as=known_as)
    return folder


def test_folders_are_found_with_what_they_were_made_from(tmp_path):
    first = made(tmp_path, "comparisons", {"prompts": "p"})
    made(tmp_path, "deep/rankings", {"answers": first.sha256}, known_as="rows")
    made(tmp_path, "set_aside/old", {})
    made(tmp_path, "comparisons/below", {})
    (tmp_path / "notes").mkdir()
    found, unreadable = folders_below(tmp_path)
    by_name = {folder.name: folder for folder in found}
    assert by_name.keys() == {"comparisons", "comparisons/below", "deep/rankings"} and not unreadable
    assert by_name["deep/rankings"].inputs == {"answers": first.sha256} and "rows" in by_name["deep/rankings"].results
    assert first.sha256 in by_name["comparisons"].results and by_name["comparisons"].settings == {"seed": 1}
    assert by_name["comparisons"].versions["python"] and by_name["comparisons"].seconds is None


@pytest.mark.parametrize("text", ["{", "[]", '{"inputs": {}}', '{"inputs": [1], "settings": {}, "versions": {}}'])
def test_what_is_damaged_is_a_sentence(tmp_path, text):
    made(tmp_path, "good", {})
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "made.json").write_text(text)
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    found, unreadable = folders_below(tmp_path)
    assert [folder.name for folder in found] == ["good"] and [row[0] for row in stages_below(tmp_path)] == ["good"]
    assert [sentence.partition(":")[0] for sentence in unreadable] == ["bad", "empty"]
    assert "made.json is damaged" in unreadable[0] and "holds no checkpoint" in unreadable[1]
    assert json.loads((tmp_path / "good" / "made.json").read_text())["settings"] == {"seed": 1}


def test_times_in_words():
    assert day(0.0) == "1970-01-01 00:00" and day(90_060.0) == "1970-01-02 01:01" and day(None) == ""
    said = {None: "", 4.04: "4.0 s", 43.2: "43 s", 60.0: "1 min 0 s", 725.0: "12 min 5 s", 12_000.0: "3 h 20 min"}
    assert {seconds: duration(seconds) for seconds in said} == said
