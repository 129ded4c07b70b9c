"""Rows of local files and data sets, each with the place that it came from."""

import csv
import gzip
import json
import lzma
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.errors import InputError, shortened

ENDINGS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".txt")
LINES = (".jsonl", ".ndjson")  # an object a line
PACKINGS = (".gz", ".xz")
SEPARATOR = re.compile(r'"?sep=(.)"?\r?\n')  # the first line of a table that Excel wrote
HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+")
# owner/name or a folder; then what of it: [config, data_dir=folder, revision=commit]; then its split
DATASET = re.compile(r"(?P<name>[^\[\]]+?)(\[(?P<inside>[^\[\]]*)\])?(:(?P<split>[^/:\[\]]+(\[[^/\[\]]*\])?))?")


class Row(NamedTuple):
    """One object of a source. `where` opens the sentence of an error: "pairs.jsonl, line 12"."""

    fields: dict[str, Any]
    where: str

    def text(self, key: str) -> str:
        """The string under `key`; InputError where it is absent or no string."""
        if key not in self.fields:
            found = ", ".join(self.fields) or "nothing"
            raise InputError(f"{self.where}: the key {key!r} is missing (found: {found}): add it")
        value = self.fields[key]
        if not isinstance(value, str):
            raise InputError(f"{self.where}: {key!r} holds {_kind(value)}: make it a string")
        return value


def name_of(row: Row, key: str) -> str:
    """The name under `key`, a string or a whole number; "" where there is none. InputError: it is something else."""
    value = row.fields.get(key)
    return "" if value is None else str(value) if type(value) is int else row.text(key)


@contextmanager
def located(where: str) -> Iterator[None]:
    """Puts `where` in front of the message of an InputError that was raised without knowing its row."""
    try:
        yield
    except InputError as error:
        if not str(error).startswith(where):
            error.args = (f"{where}: {error}",)
        raise


def read_rows(source: str, split: str = "train") -> Iterator[Row]:
    """The rows of `source`, one at a time and in order.

    `source` is, with `~` and `${VARIABLE}` expanded:
      - a file .jsonl or .ndjson (an object a line; blank lines are no rows), .json (a list of objects, which a .jsonl may
        hold as well), .csv or .tsv with a header (whose separator a .csv takes: comma, semicolon or tab; or the
        one that a first line "sep=;" names), .parquet, or
        .txt (one row {"text": the whole file}); all but .parquet also with .gz or .xz behind. Lines end in \\n or \\r\\n;
      - a folder that the `datasets` library reads or has saved;
      - a data set of the Hugging Face hub, "owner/name". Only this is ever downloaded.
    Behind a folder or a data set may stand which of its configurations, folders and commits, and which split is read:
    "openai/gsm8k[main]:test", "Anthropic/hh-rlhf[data_dir=harmless-base]", "owner/name[main, revision=6fb0a1e]:train".
    `split` is the part of a data set that is read; a split in the name goes before it. A file has no split
    but "train".

    InputError, with file and line: nothing there, unknown ending, broken or truncated content, a row that is
    no object, no rows at all.
    """
    name = expand(source)
    path = Path(name)
    kind = _ending(path)
    if path.is_file():
        if kind is None:
            raise InputError(f"{name}: unknown ending: use one of {', '.join(ENDINGS)}, or behind it .gz or .xz")
        if split != "train":
            raise InputError(f"{name} is one file, which has no split {split!r}: name that split's own file")
        return _not_none(_file_rows(path, kind), name)
    if path.is_dir():
        return _not_none(_dataset_rows(name, "", split), name)
    found = DATASET.fullmatch(name)
    if found and (Path(found["name"]).is_dir() or (kind is None and HUB_NAME.fullmatch(found["name"]))):
        return _not_none(_dataset_rows(found["name"], found["inside"] or "", found["split"] or split), name)
    raise InputError(f"{name}: no such file or folder: check the path")


def has_lines(path: Path) -> bool:
    """True for a file that is not compressed and holds an object a line, as its ending says and its first character does
    not deny."""
    if not path.name.lower().endswith(LINES):
        return False
    with open(path, "rb") as file:
        return not _is_array(file)


def expand(source: str) -> str:
    """`source` with `~` and `${VARIABLE}` expanded. InputError: a variable that is not set."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise InputError(f"{source}: the environment variable {match[1]} is not set: set it")
        return os.environ[match[1]]

    return os.path.expanduser(re.sub(r"\$\{(\w+)\}", value, source))


def _ending(path: Path) -> str | None:
    name = path.name.lower()
    for packing in PACKINGS:
        name = name.removesuffix(packing)
    packed = name != path.name.lower()
    kind = next((ending for ending in ENDINGS if name.endswith(ending)), None)
    return None if packed and kind == ".parquet" else kind


def _not_none(rows: Iterator[Row], name: str) -> Iterator[Row]:
    empty = True
    for row in rows:
        empty = False
        yield row
    if empty:
        raise InputError(f"{name} holds no rows: check that it is the right file")


def _file_rows(path: Path, kind: str) -> Iterator[Row]:
    readers = {".json": _json, ".csv": _csv, ".tsv": _csv, ".parquet": _parquet, ".txt": _txt}
    try:
        reader = readers.get(kind) or (_json if _holds_array(path) else _jsonl)
        yield from reader(path)
    except EOFError:
        raise InputError(f"{path} is truncated: its compressed data end early: copy it anew") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text ({error.reason}): convert it") from None
    except (OSError, zlib.error, lzma.LZMAError) as error:
        raise InputError(f"{path} cannot be read ({error}): check it or copy it anew") from None


def _open(path: Path):
    openers = {".gz": gzip.open, ".xz": lzma.open}
    return openers.get(path.suffix.lower(), open)(path, "rb")


def _holds_array(path: Path) -> bool:
    with _open(path) as file:
        return _is_array(file)


def _is_array(file) -> bool:
    """True where the first character is that of a list, which of lines of objects it never is."""
    return re.match(rb"(?:\xef\xbb\xbf)?\s*\[", file.read(1024)) is not None


def _jsonl(path: Path) -> Iterator[Row]:
    with _open(path) as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            yield parse_line(line, f"{path}, line {number}", first=number == 1)


def parse_line(line: bytes, where: str, first: bool) -> Row:
    """The object of a line of JSONL; the first of a file may open with a byte-order mark. InputError: broken, no object."""
    try:
        value = OBJECTS.decode(line.decode("utf-8-sig" if first else "utf-8"))
    except InputError as error:
        raise InputError(f"{where}: {error}") from None
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: broken JSON at column {error.colno} ({error.msg}): mend the line") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{where}: not UTF-8 text ({error.reason}): convert it") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists in lists in lists
        raise InputError(f"{where}: JSON that cannot be read ({error}): mend the line") from None
    return _row(value, where)


def _json(path: Path) -> Iterator[Row]:
    with _open(path) as file:
        text = file.read().decode("utf-8-sig")
    try:
        with located(str(path)):
            values = OBJECTS.decode(text)
    except json.JSONDecodeError as error:
        hint = "mend it" if error.msg != "Extra data" else "name it .jsonl if it holds an object a line"
        raise InputError(
            f"{path}, line {error.lineno}: broken JSON at column {error.colno} ({error.msg}): {hint}"
        ) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: JSON that cannot be read ({error}): mend it") from None
    if not isinstance(values, list):
        raise InputError(f"{path} holds {_kind(values)}: make it a list of objects")
    for number, value in enumerate(values, 1):
        yield _row(value, f"{path}, item {number}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, of which Python would take the last of several values of one key."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"the key {twice!r} stands twice in one object, {shortened(found)}: keep one of them")
    return found


OBJECTS = json.JSONDecoder(object_pairs_hook=_object)  # made once: it takes as long as a line


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(2**31 - 1)  # whole books are fields; the library's own limit is 128 KiB
    with _open(path) as file:
        first = file.readline().decode("utf-8-sig")
        named = SEPARATOR.fullmatch(first)
        if not named:
            file.seek(0)
        separator = "\t" if _ending(path) == ".tsv" else named[1] if named else _separator(first, path)
        table = csv.reader((line.decode("utf-8-sig") for line in file), strict=True, delimiter=separator)
        above = 1 if named else 0
        try:
            header = next(table, [])
            if len(set(header)) < len(header):
                raise InputError(f"{path}, line {above + 1}: two columns have one name: rename one")
            for cells in table:
                if not cells:
                    continue
                where = f"{path}, line {above + table.line_num}"
                if len(cells) != len(header):
                    raise InputError(f"{where}: {len(cells)} cells under {len(header)} columns: mend the line")
                yield Row(dict(zip(header, cells, strict=True)), where)
        except csv.Error as error:
            raise InputError(f"{path}, line {above + table.line_num}: broken CSV ({error}): mend the line") from None


def _separator(header: str, path: Path) -> str:
    """The one that parts a table's first line into the most cells. InputError: it is no line."""
    try:
        return max(",;\t", key=lambda separator: len(next(csv.reader([header], delimiter=separator), [])))
    except csv.Error:
        raise InputError(
            f"{path}, line 1: there is a carriage return inside the line: let lines end in \\n or \\r\\n"
        ) from None


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet  # 0.1 s that the readers of text need not wait for

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for fields in batch.to_pylist():
                number += 1
                yield Row(fields, f"{path}, row {number}")
    except pyarrow.ArrowException as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InputError(f"{path} is no whole parquet file ({reason}): copy it anew") from None


def _txt(path: Path) -> Iterator[Row]:
    with _open(path) as file:
        text = file.read().decode("utf-8-sig").replace("\r\n", "\n")
    if text:
        yield Row({"text": text}, str(path))


def _dataset_rows(name: str, inside: str, split: str) -> Iterator[Row]:
    """The rows of a split. inside: a configuration's name and, as name=value, other arguments of `load_dataset`."""
    import datasets  # seconds

    which = {}
    for entry in filter(None, (part.strip() for part in inside.split(","))):
        key, equals, value = entry.partition("=")
        which[key if equals else "name"] = value if equals else entry
    if unknown := [key for key in which if key not in ("name", "data_dir", "revision")]:
        raise InputError(f"{name}[{inside}]: unknown {unknown[0]!r}: name a configuration, data_dir=… or revision=…")
    try:
        if any((Path(name) / saved).is_file() for saved in ("dataset_dict.json", "state.json")):
            saved = datasets.load_from_disk(name)
            parts = saved if isinstance(saved, datasets.DatasetDict) else {"train": saved}
            if split not in parts:
                raise ValueError(f"it has {', '.join(map(str, parts))}")
            if which:
                raise ValueError("it was saved by save_to_disk, which keeps no configurations")
            rows = parts[split]
        else:
            rows = datasets.load_dataset(name, split=split, **which)
    except Exception as error:  # the library, the network and a data set's own files raise all sorts
        place = "folder" if Path(name).is_dir() else "local file or folder, nor a data set to be had from the hub"
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise InputError(
            f"{name}{f'[{inside}]' if inside else ''} is no {place} with a split {split!r} ({reason}): check the name and "
            "the split"
        ) from None
    for number, fields in enumerate(rows, 1):
        yield _row(fields, f"{name}:{split}, row {number}")


def _row(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise InputError(f"{where}: holds {_kind(value)}: make it an object with named fields")
    return Row(value, where)


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "true or false", dict: "an object", list: "a list", str: "a string"}
    return names.get(type(value), "a number")
