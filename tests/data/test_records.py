"""Texts by number are those that reading in order gives, in little memory, and what is wrong is said with its place."""

import gzip
import json
import os
import tracemalloc

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_jax.data import Records, read_rows, text_documents
from rlhf_jax.errors import InputError

TEXTS = ["one", "", "é 😀\nsecond line", "  ", "x" * 5000, "last"]
JSONL = "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(TEXTS)).encode()


def texts(files, folder, field="text"):
    records = Records(str(files), field, folder)
    return [records.text(i) for i in range(len(records))]


def write(path, content):
    """The rows of a .jsonl as whatever kind of file `path` names."""
    rows = [json.loads(line) for line in content.splitlines()]
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=2)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.parquet", "a.json"])
def test_the_texts_are_those_of_the_rows(tmp_path, name):
    path = write(tmp_path / name, JSONL)
    assert texts(path, tmp_path / "index") == TEXTS == list(text_documents(read_rows(str(path))))


@given(
    st.lists(st.one_of(st.text(max_size=8), st.sampled_from([b"\n", b" \r\n"])), max_size=9),
    st.sampled_from([b"", b"\xef\xbb\xbf"]),
    st.booleans(),
)
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_blank_lines_marks_and_a_missing_newline(tmp_path, lines, mark, ends):
    content = mark + json.dumps({"text": "first"}).encode() + b"\n"
    content += b"".join(json.dumps({"text": x}).encode() + b"\n" if isinstance(x, str) else x for x in lines)
    content += b"" if ends else json.dumps({"text": "end"}).encode()
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    assert texts(path, tmp_path / "index") == [row.text("text") for row in read_rows(str(path))]


def test_many_files_are_one_after_another_by_name(tmp_path, monkeypatch):
    for name, content in [("b.jsonl", b'{"text": "3"}\n'), ("a.jsonl", b'{"text": "1"}\n{"text": "2"}\n')]:
        (tmp_path / name).write_bytes(content)
    write(tmp_path / "c.parquet", b'{"text": "4"}\n')
    monkeypatch.setenv("HERE", str(tmp_path))
    assert texts("${HERE}/*.*", tmp_path / "index") == ["1", "2", "3", "4"]


def test_another_field(tmp_path):
    path = write(tmp_path / "a.parquet", b'{"text": "1", "body": "2"}\n')
    assert texts(path, tmp_path / "index", "body") == ["2"]
    assert texts(path, tmp_path / "index", "text") == ["1"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_file_is_passed_over_once_and_again_when_it_has_changed(tmp_path, name):
    path, folder = write(tmp_path / name, JSONL), tmp_path / "index"
    first = Records(str(path), "text", folder)
    before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
    again = Records(str(path), "text", folder)
    assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before  # nor is anything else left there
    assert again.checksum == first.checksum
    time = path.stat().st_mtime_ns
    write(path, JSONL.replace(b"one", b"two"))
    os.utime(path, ns=(time + 1, time + 1))
    other = Records(str(path), "text", folder)
    assert other.text(0) == "two"
    assert other.checksum != first.checksum


@pytest.mark.parametrize("kept", [0, 16, 40, -8])
def test_an_index_that_is_not_whole_is_made_anew(tmp_path, kept):
    path, folder = write(tmp_path / "a.jsonl", JSONL), tmp_path / "index"
    texts(path, folder)
    (index,) = folder.iterdir()
    whole = index.read_bytes()
    index.write_bytes(whole[:kept])
    assert texts(path, folder) == TEXTS
    assert index.read_bytes() == whole


def test_a_pass_that_fails_leaves_nothing(tmp_path):
    path, folder = (
        write(tmp_path / "a.parquet", b'{"text": "1"}\n{"text": 2}\n'.replace(b"2", b"null")),
        tmp_path / "index",
    )
    with pytest.raises(InputError, match=r"a.parquet, row 2: 'text' holds null: make it a string"):
        Records(str(path), "text", folder)
    assert list(folder.iterdir()) == []


def test_a_file_much_larger_than_the_memory_it_takes(tmp_path):
    """30 MB, of which neither the pass nor the reading holds more than some lines."""
    path, line = tmp_path / "a.jsonl", json.dumps({"text": "word " * 200}).encode() + b"\n"
    with open(path, "wb") as file:
        for _ in range(30_000):
            file.write(line)
    tracemalloc.start()
    try:
        records = Records(str(path), "text", tmp_path / "index")
        for i in range(0, len(records), 30):
            assert records.text(i) == "word " * 200
        assert records.where(29_999).endswith("line 30000")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(records) == 30_000
    assert path.stat().st_size > 30e6
    assert peak < 3e6  # `where` reads by the MiB


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b'{"text": "a"}\n\n{"text" "b"}\n', r"a.jsonl, line 3: broken JSON at column 9"),
        (b'{"text": "a"}\n[2]\n', r"a.jsonl, line 2: holds a list: make it an object"),
        (b'{"text": "a"}\n{"body": "b"}\n', r"a.jsonl, line 2: the key 'text' is missing \(found: body\)"),
        (b'{"text": "a"}\n{"text": "\xff"}\n', r"a.jsonl, line 2: not UTF-8"),
        (b'{"text": "a"}\n{"text": "b', r"a.jsonl, line 2: the last line is cut off: copy the file anew"),
        (b" \n\n", r"a.jsonl holds no rows: check"),
        (b"", r"a.jsonl holds no rows: check"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, content, sentence):
    (tmp_path / "a.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=sentence) as error:
        texts(tmp_path / "a.jsonl", tmp_path / "index")
    assert "\n" not in str(error.value)


def test_a_broken_copy_is_noticed_before_any_text_is_read(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(JSONL[:-4])
    with pytest.raises(InputError, match=r"a.jsonl, line 6: the last line is cut off"):
        Records(str(tmp_path / "a.jsonl"), "text", tmp_path / "index")
    whole = write(tmp_path / "a.parquet", JSONL).read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[:-4])
    with pytest.raises(InputError, match=r"a.parquet is no whole parquet file"):
        Records(str(tmp_path / "a.parquet"), "text", tmp_path / "index")


@pytest.mark.parametrize("now", [JSONL[:20], JSONL[3:]])
def test_a_file_that_changes_under_the_reader(tmp_path, now):
    path = write(tmp_path / "a.jsonl", JSONL)
    records = Records(str(path), "text", tmp_path / "index")
    path.write_bytes(now)
    with pytest.raises(InputError, match=r"a.jsonl has changed while it was being read"):
        records.text(2)
    path.unlink()
    with pytest.raises(InputError, match=r"a.jsonl cannot be read \(No such file"):
        records.text(2)


def test_names_that_are_no_files(tmp_path):
    for name in ("absent.jsonl", "*.jsonl"):
        with pytest.raises(InputError, match="no such file: check the path"):
            Records(str(tmp_path / name), "text", tmp_path / "index")
    with pytest.raises(InputError, match=f"{tmp_path} is a folder: name its files"):
        Records(str(tmp_path), "text", tmp_path / "index")


@pytest.mark.parametrize("i", [-1, 6])
def test_a_number_outside_is_refused(tmp_path, i):
    records = Records(str(write(tmp_path / "a.jsonl", JSONL)), "text", tmp_path / "index")
    with pytest.raises(IndexError):
        records.text(i)
