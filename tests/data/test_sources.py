"""Every kind of source gives the same rows, and what is wrong with one is said in a sentence."""

import gzip
import json
import lzma

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from rlhf_jax.data import read_rows
from rlhf_jax.errors import InputError
from tests.refusals import refusal

ROWS = [{"prompt": "a\nb", "answer": "é 😀"}, {"prompt": 'say "c", d', "answer": "e"}]
JSONL = "\n".join(json.dumps(row) for row in ROWS)
CSV = 'prompt,answer\n"a\nb",é 😀\n"say ""c"", d",e\n'


@pytest.mark.parametrize("packing", ["", ".gz", ".xz"])
@pytest.mark.parametrize(
    ("ending", "content", "places"),
    [
        (".jsonl", JSONL, ["line 1", "line 2"]),
        (".jsonl", "\ufeff" + JSONL.replace("\n", "\n\n"), ["line 1", "line 3"]),
        (".jsonl", JSONL.replace("\n", "\r\n"), ["line 1", "line 2"]),
        (".ndjson", JSONL, ["line 1", "line 2"]),
        (".jsonl", "\ufeff\n " + json.dumps(ROWS, indent=1), ["item 1", "item 2"]),
        (".json", json.dumps(ROWS, indent=1), ["item 1", "item 2"]),
        (".csv", CSV, ["line 3", "line 4"]),
        (".csv", CSV.replace("\n", "\r\n").replace("a\r\n", "a\n"), ["line 3", "line 4"]),
        (".csv", 'prompt;answer\n"a\nb";é 😀\n"say ""c"", d";e\n', ["line 3", "line 4"]),
        (".csv", '\ufeffsep=;\r\nprompt;answer\n"a\nb";é 😀\n"say ""c"", d";e\n', ["line 4", "line 5"]),
        (".csv", 'sep=|\nprompt|answer\n"a\nb"|é 😀\n"say ""c"", d"|e\n', ["line 4", "line 5"]),
        (".tsv", CSV.replace(',"', "\0").replace(",", "\t").replace("\t d", ", d"), ["line 3", "line 4"]),
    ],
)
def test_a_file_gives_its_rows_and_their_places(tmp_path, ending, content, places, packing):
    path = tmp_path / f"rows{ending}{packing}"
    pack = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress}[packing]
    path.write_bytes(pack(content.encode()))
    rows = list(read_rows(str(path)))
    assert [row.fields for row in rows] == ROWS
    assert [row.where for row in rows] == [f"{path}, {place}" for place in places]


def test_parquet(tmp_path):
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path)
    rows = list(read_rows(str(path)))
    assert [row.fields for row in rows] == ROWS
    assert rows[1].where == f"{path}, row 2"


@pytest.mark.parametrize("name", ["play.txt", "play.txt.gz", "play.txt.xz"])
def test_a_text_file_is_one_row(tmp_path, name):
    path = tmp_path / name
    with {"gz": gzip.open, "xz": lzma.open}.get(name[-2:], open)(path, "wb") as file:
        file.write(b"one\n\ntwo\r\n")
    assert [row.fields for row in read_rows(str(path))] == [
        {"text": "one\n\ntwo\n"}
    ]  # as Python's text files end lines


def test_lines_are_read_one_at_a_time(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n{"a":\n')
    rows = read_rows(str(path))
    assert next(rows).fields == {"a": 1}  # although the next line is broken
    with pytest.raises(InputError, match="line 2"):
        next(rows)


def test_variables_and_the_home_folder_are_expanded(tmp_path, monkeypatch):
    (tmp_path / "rows.jsonl").write_text(JSONL)
    monkeypatch.setenv("SOME_FOLDER", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(list(read_rows("${SOME_FOLDER}/rows.jsonl"))) == 2
    assert len(list(read_rows("~/rows.jsonl"))) == 2
    monkeypatch.delenv("SOME_FOLDER")
    with pytest.raises(InputError, match="the environment variable SOME_FOLDER is not set"):
        read_rows("${SOME_FOLDER}/rows.jsonl")


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a" 2}\n', r"a.jsonl, line 2: broken JSON at column 6 \(Expecting ':'"),
        ("a.jsonl", b'{"a": 1}\n[2]\n', "a.jsonl, line 2: holds a list: make it an object"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', "a.jsonl, line 2: not UTF-8"),
        ("a.jsonl", b"\n \n", "a.jsonl holds no rows"),
        ("a.json", b'[{"a": 1},\n{"a": }]', "a.json, line 2: broken JSON at column 7"),
        ("a.json", b'{"a": 1}\n{"a": 2}', "a.json, line 2: .*name it .jsonl"),
        ("a.json", b'{"a": 1}', "a.json holds an object: make it a list"),
        ("a.json", b'[{"a": 1}, null]', "a.json, item 2: holds null"),
        ("a.csv", b"a,b\n1,2\n3\n", "a.csv, line 3: 1 cells under 2 columns"),
        ("a.csv", b'a,b\n1,"2\n', "a.csv, line 2: broken CSV"),
        ("a.csv", b"a,a\n1,2\n", "a.csv, line 1: two columns have one name"),
        ("a.csv", b"sep=;\na;a\n1;2\n", "a.csv, line 2: two columns have one name"),
        ("a.csv", b"sep=;\na;b\n1;2\n1\n", "a.csv, line 4: 1 cells under 2 columns"),
        (
            "a.jsonl",
            b'{"a": 1}\n{"a": "x", "b": 1, "a": "y"}\n',
            "a.jsonl, line 2: the key 'a' stands twice in one object",
        ),
        (
            "a.jsonl",
            b'{"a": [{"b": 1, "b": 2}]}\n',
            "a.jsonl, line 1: the key 'b' stands twice in one object, {'b': 2}",
        ),
        ("a.json", b'[{"a": "x", "a": "y"}]', "a.json: the key 'a' stands twice in one object"),
        ("a.csv", b"a,b\n\xff,2\n", "a.csv is not UTF-8"),
        ("a.txt", b"", "a.txt holds no rows"),
        ("a.ods", b"a\tb\n", "a.ods: unknown ending: use one of .jsonl, .ndjson"),
        ("a.tsv", b"a\tb\n", "a.tsv holds no rows"),
        ("a.parquet", b"PAR1", "a.parquet is no whole parquet file"),
        ("a.jsonl.gz", gzip.compress(JSONL.encode(), mtime=0)[:-9], "a.jsonl.gz is truncated"),
        ("a.json.xz", lzma.compress(JSONL.encode())[:-9], "a.json.xz is truncated"),
        ("a.jsonl.gz", JSONL.encode(), "a.jsonl.gz cannot be read"),
        ("a.jsonl.xz", JSONL.encode(), "a.jsonl.xz cannot be read"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, name, content, sentence):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=sentence) as error:
        list(read_rows(str(path)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["absent.jsonl", "owner/absent.jsonl.gz", "/nowhere/at/all"])
def test_a_missing_path_is_never_looked_up_on_the_hub(name, monkeypatch):
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: pytest.fail("went to the hub"))
    with pytest.raises(InputError, match="no such file or folder: check the path"):
        read_rows(name)


def test_a_hub_name_goes_to_datasets_with_its_split(monkeypatch):
    asked = []
    monkeypatch.setattr(datasets, "load_dataset", lambda name, split: asked.append((name, split)) or ROWS)
    assert [row.fields for row in read_rows("owner/name")] == ROWS
    assert [row.where for row in read_rows("owner/name:test")] == [f"owner/name:test, row {i}" for i in (1, 2)]
    list(read_rows("owner/name", "valid"))
    assert asked == [("owner/name", "train"), ("owner/name", "test"), ("owner/name", "valid")]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("owner/name[main]", ("owner/name", "train", {"name": "main"})),
        ("owner/name[main]:test", ("owner/name", "test", {"name": "main"})),
        ("owner/name[data_dir=a/b]:test[:10]", ("owner/name", "test[:10]", {"data_dir": "a/b"})),
        ("owner/name[de, revision=6fb0a1e]", ("owner/name", "train", {"name": "de", "revision": "6fb0a1e"})),
    ],
)
def test_a_configuration_a_folder_and_a_commit_are_named_in_brackets(monkeypatch, name, expected):
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda path, split, **which: asked.append((path, split, which)) or ROWS
    )
    list(read_rows(name))
    assert asked == [expected]
    with pytest.raises(InputError, match=r"owner/name\[dir=a\]: unknown 'dir': name a configuration, data_dir="):
        list(read_rows("owner/name[dir=a]"))


CARD = """---
configs:
- {config_name: one, data_files: [{split: train, path: one.jsonl}, {split: test, path: two.jsonl}]}
- {config_name: two, data_files: two.jsonl}
---
"""


def test_a_local_folder_has_configurations_folders_and_splits_as_one_of_the_hub_has(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    (folder / "deep").mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    (folder / "one.jsonl").write_text(JSONL.splitlines()[0])
    (folder / "two.jsonl").write_text(JSONL.splitlines()[1])
    other = tmp_path / "other" / "deep"
    other.mkdir(parents=True)
    (other / "train.jsonl").write_text(JSONL)
    assert [row.fields for row in read_rows(f"{folder}[one]")] == ROWS[:1]
    assert [row.fields for row in read_rows(f"{folder}[one]:test")] == ROWS[1:]
    assert [row.fields for row in read_rows(f"{folder}[two]")] == ROWS[1:]
    assert [row.fields for row in read_rows(f"{other.parent}[data_dir=deep]")] == ROWS
    with pytest.raises(InputError, match=r"set\[three\] is no folder with a split 'train' .*three"):
        list(read_rows(f"{folder}[three]"))


def test_a_hub_name_out_of_reach_is_said(monkeypatch):
    def fail(name, split):
        raise ConnectionError("no route to host.\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(InputError, match=r"^owner/name is no local file or folder, nor .*\(no route to host\)"):
        list(read_rows("owner/name"))


def test_folders_of_data_sets(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    plain, saved = tmp_path / "plain", tmp_path / "saved"
    plain.mkdir()
    (plain / "train.jsonl").write_text(JSONL)
    (plain / "test.jsonl").write_text(JSONL.splitlines()[1])
    datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}).save_to_disk(str(saved))
    assert [row.fields for row in read_rows(str(plain))] == ROWS
    assert [row.fields for row in read_rows(str(plain), "test")] == ROWS[1:]
    assert [row.fields for row in read_rows(str(saved))] == ROWS
    for folder in (plain, saved):
        with pytest.raises(InputError, match=f"^{folder} is no folder with a split 'valid'"):
            list(read_rows(str(folder), "valid"))


def test_a_split_of_a_single_file_is_refused(jsonl):
    with pytest.raises(InputError, match="is one file, which has no split 'test'"):
        read_rows(jsonl({"a": 1}), "test")


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.jsonl", '{"n": ' + "9" * 5000 + "}", ", line 1: JSON that cannot be read (Exceeds the limit"),
        ("a.json", '[{"n": ' + "9" * 5000 + "}]", ": JSON that cannot be read (Exceeds the limit"),
        ("a.jsonl", '{"n": ' + "[" * 200_000, ", line 1: JSON that cannot be read ("),
        ("a.csv", "a,b\r1,2\r", ", line 1: there is a carriage return inside the line"),
    ],
)
def test_what_the_parsers_themselves_give_up_on_is_a_sentence(tmp_path, name, text, sentence):
    path = tmp_path / name
    path.write_bytes(text.encode())
    refusal(lambda: list(read_rows(str(path))), f"{path}{sentence}")
