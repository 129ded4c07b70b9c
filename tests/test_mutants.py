"""The table of mutants fits the code as it stands: `make mutants`, which takes longer, runs it."""

from pathlib import Path

import pytest

from tests import mutants


def test_every_mutant_changes_what_stands_in_its_file_once_and_names_tests_that_are_there():
    table = mutants.mutants()
    assert len(table) >= 60
    for mutant in table:
        files, _, _ = mutant.tests.partition(" -k ")
        assert all((mutants.ROOT / name).is_file() for name in files.split()), mutant.name


def test_a_table_that_does_not_fit_is_said(tmp_path: Path, monkeypatch):
    row = '[[mutant]]\nname = "{}"\nfile = "Makefile"\nold = "{}"\nnew = "x"\ntests = "tests/test_mutants.py"\n'
    monkeypatch.setattr(mutants, "TABLE", tmp_path / "table.toml")
    rows = [row.format("gone", "no such text"), row.format("many", "$(BIN)"), row.format("one", "rm -rf .venv")]
    mutants.TABLE.write_text("\n".join([*rows, rows[-1]]))
    with pytest.raises(SystemExit) as said:
        mutants.mutants()
    lines = str(said.value).splitlines()
    assert "gone: its old text stands in Makefile 0 times: 'no such text'" in lines
    assert any(line.startswith("many: its old text stands in Makefile ") for line in lines)
    assert lines.count("one: there are two of that name") == 2 and len(lines) == 4
    mutants.TABLE.write_text(rows[-1])
    assert [mutant.name for mutant in mutants.mutants()] == ["one"]
