"""A folder of data that was made from something: sampled answers, rankings, a text with what it was cut from."""

import hashlib
import json
from pathlib import Path

from rlhf_jax.errors import InputError
from rlhf_jax.runtime.files import file_sha256, write_atomically
from rlhf_jax.runtime.hosts import first_process, meet
from rlhf_jax.runtime.origin import MADE, Origin, or_anew, record_of, require_same_origin
from rlhf_jax.runtime.program import something_is_made


class Made:
    """A folder whose made.json says what its files were made from, and what is in them.

    InputError if it was made from something else, as for a Stage, or if a file has changed since `finish`. Opening it writes
    nothing.
    """

    def __init__(self, folder: Path, origin: Origin):
        self.folder = folder
        self._record = record_of(origin)
        self._found: dict = {}
        path = folder / MADE
        if not path.exists():
            return
        try:
            self._found = dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path} is damaged; {or_anew(folder)}") from error
        require_same_origin(folder, self._found, self._record)
        for name, sha256 in self._found.get("files", {}).items():
            if not (folder / name).is_file():
                raise InputError(f"{folder / name} is missing; {or_anew(folder)}")
            if file_sha256(folder / name) != sha256:
                raise InputError(f"{folder / name} has changed since it was written; {or_anew(folder)}")

    @property
    def begun(self) -> bool:
        """Whether `start` or `finish` was called, here or by an earlier program."""
        return bool(self._found)

    @property
    def complete(self) -> bool:
        """Whether `finish` was called, here or by an earlier program."""
        return "files" in self._found

    @property
    def sha256(self) -> str:
        """Of the files' names and content: what is made from them records it. InputError if they are not complete."""
        if not self.complete:
            raise InputError(f"{self.folder}: it is not complete; finish it first")
        return self._found["sha256"]

    def start(self) -> None:
        """Writes down what the files will be made from, so that a program that was stopped goes on with the same."""
        self._write(self._record)

    def finish(self, *names: str, known_as: str = "") -> None:
        """Writes down which files are complete, and their content. With several processes each has to call it.

        known_as: another hash by which what is made from them records them, such as that of their rows.
        """
        meet("the files are written")
        files = {name: file_sha256(self.folder / name) for name in names}
        listed = "".join(f"{sha256} {name}\n" for name, sha256 in sorted(files.items()))
        sha256 = hashlib.sha256(listed.encode()).hexdigest()
        self._write(self._record | {"files": files, "sha256": sha256, "known_as": known_as or sha256})
        meet("the files are finished")

    def _write(self, record: dict) -> None:
        something_is_made()
        self._found = record
        if first_process():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomically(self.folder / MADE, json.dumps(record, indent=1) + "\n")
