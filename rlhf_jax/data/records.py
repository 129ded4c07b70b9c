"""The texts of files by number, however large the files are: none of them is ever held."""

import hashlib
import os
import uuid
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from glob import glob
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO, NamedTuple

from rlhf_jax.data.sources import expand, has_lines, parse_line, read_rows
from rlhf_jax.errors import InputError

HEADER = 4  # numbers that an index opens with: the file's size and time, how many texts, their checksum
CHUNK = 1 << 20


class Records:
    """The texts under `field` in the rows of files, numbered from 0, file after file.

    `files` is the name of one file or, with *, ? and [ ], of several, which are sorted; each is of a kind that
    `read_rows` takes. One pass over a file notes in `folder` where each text begins, and is not repeated while the
    file keeps its size and time. A .jsonl of lines is then read where it lies. Of any other file the texts are copied into
    `folder`, since nothing compressed can be entered in the middle; a copy takes the space of the texts.

    Neither the texts nor the index stay in memory: a text costs two short reads. InputError, with file and line:
    what `read_rows` refuses, a last line that is cut off, a file that changes under the reader.
    """

    def __init__(self, files: str, field: str, folder: Path):
        name = expand(files)
        paths = [Path(path) for path in sorted(glob(name, recursive=True))] or [Path(name)]
        if folders := [path for path in paths if path.is_dir()]:
            raise InputError(f"{folders[0]} is a folder: name its files, for example {folders[0]}/*.jsonl")
        if missing := [path for path in paths if not path.is_file()]:
            raise InputError(f"{missing[0]}: no such file: check the path")
        folder.mkdir(parents=True, exist_ok=True)
        self._field = field
        self._files = [_indexed(path, field, folder) for path in paths]
        self._ends = list(accumulate(file.count for file in self._files))

    def __len__(self) -> int:
        return self._ends[-1]

    @property
    def checksum(self) -> int:
        """CRC-32 over what the files hold, by which it is noticed that they are others."""
        return zlib.crc32(b"".join(file.checksum.to_bytes(4, "little") for file in self._files))

    def text(self, i: int) -> str:
        """Text number i."""
        file, row = self._place(i)
        start, end = file.bounds(row)
        data = _read(file.texts, start, end - start)
        if len(data) < end - start:
            raise file.changed()
        if file.is_copy:
            return data.decode("utf-8", "surrogatepass")
        try:
            return parse_line(data, str(file.path), first=start == 0).text(self._field)
        except InputError:
            if not file.is_current:
                raise file.changed() from None
            return parse_line(data, self.where(i), first=start == 0).text(self._field)  # raises, and names the line

    def where(self, i: int) -> str:
        """The place of text i, as the opening of an error's sentence: it reads the file up to there."""
        file, row = self._place(i)
        if file.is_copy:
            return f"{file.path}, row {row + 1}"
        start, _ = file.bounds(row)
        lines = sum(_read(file.path, at, min(CHUNK, start - at)).count(b"\n") for at in range(0, start, CHUNK))
        return f"{file.path}, line {lines + 1}"

    def _place(self, i: int) -> "tuple[_File, int]":
        if not 0 <= i < len(self):
            raise IndexError(f"{i} is outside of range({len(self)})")
        number = bisect_right(self._ends, i)
        file = self._files[number]
        return file, i - self._ends[number] + file.count


class _File(NamedTuple):
    path: Path
    texts: Path  # the file itself, or the copy of its texts
    index: Path
    size: int
    time: int  # ns
    count: int
    checksum: int

    @property
    def is_copy(self) -> bool:
        return self.texts != self.path

    @property
    def is_current(self) -> bool:
        return _size_and_time(self.path) == (self.size, self.time)

    def bounds(self, row: int) -> tuple[int, int]:
        start, end = _numbers(_read(self.index, 8 * (HEADER + row), 16))
        return start, end

    def changed(self) -> InputError:
        return InputError(f"{self.path} has changed while it was being read: leave it alone and start again")


def _indexed(path: Path, field: str, folder: Path) -> _File:
    key = hashlib.sha256(f"{path.absolute()}\n{field}".encode()).hexdigest()
    name = f"{path.name}.{key[:16]}"
    index = folder / f"{name}.index"
    texts = path if has_lines(path) else folder / f"{name}.texts"
    found = _existing(path, texts, index)
    if found is None:
        found = _write_index(path, texts, index, field)
    if not found.count:
        raise InputError(f"{path} holds no rows: check that it is the right file")
    return found


def _existing(path: Path, texts: Path, index: Path) -> _File | None:
    """What an earlier pass has left, if it is whole and of the file as it is now."""
    if not (index.is_file() and texts.is_file()):
        return None
    header = _read(index, 0, 8 * HEADER)
    if len(header) < 8 * HEADER:
        return None
    file = _File(path, texts, index, *_numbers(header))
    is_whole = index.stat().st_size == 8 * (HEADER + file.count + 1)
    return file if is_whole and file.is_current and texts.stat().st_size == file.bounds(file.count - 1)[1] else None


def _write_index(path: Path, texts: Path, index: Path, field: str) -> _File:
    size, time = _size_and_time(path)
    count = checksum = end = 0
    with _written(index) as numbers:
        numbers.write(bytes(8 * HEADER))
        for piece, is_text in _lines(path) if texts == path else _copied(path, texts, field):
            if is_text:
                numbers.write(end.to_bytes(8, "little"))
                count += 1
            end += len(piece)
            checksum = zlib.crc32(piece, checksum)
        numbers.write(end.to_bytes(8, "little"))
        numbers.seek(0)
        numbers.write(b"".join(n.to_bytes(8, "little") for n in (size, time, count, checksum)))
        file = _File(path, texts, index, size, time, count, checksum)
        if not file.is_current:
            raise file.changed()
    return file


def _lines(path: Path) -> Iterator[tuple[bytes, bool]]:
    """Lines, and whether they are rows: blank ones are none."""
    try:
        with open(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                is_row = not line.isspace()
                if is_row and not line.endswith(b"\n"):
                    _require_whole(line, f"{path}, line {number}", number == 1)
                yield line, is_row
    except OSError as error:
        raise _unreadable(path, error) from None


def _require_whole(line: bytes, where: str, first: bool) -> None:
    """What a broken copy has cut off is noticed now, not when the shuffled order gets there."""
    try:
        parse_line(line, where, first)
    except InputError:
        raise InputError(f"{where}: the last line is cut off: copy the file anew, or remove the line") from None


def _copied(path: Path, texts: Path, field: str) -> Iterator[tuple[bytes, bool]]:
    with _written(texts) as copy:
        for row in read_rows(str(path)):
            text = row.text(field).encode("utf-8", "surrogatepass")
            copy.write(text)
            yield text, True


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    """A file that has its name only once it is whole."""
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with open(unfinished, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def _read(path: Path, start: int, size: int) -> bytes:
    # Opened each time: thousands of files would need as many descriptors, and this takes microseconds.
    try:
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            return file.read(size)
    except OSError as error:
        raise _unreadable(path, error) from None


def _size_and_time(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from None
    return found.st_size, found.st_mtime_ns


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"{path} cannot be read ({error.strerror}): check it or copy it anew")


def _numbers(data: bytes) -> list[int]:
    return [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data), 8)]
