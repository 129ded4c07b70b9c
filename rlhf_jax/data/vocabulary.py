"""What a tokenizer asks of a vocabulary, whichever library reads its file."""

from typing import Any, NamedTuple, Protocol, runtime_checkable


class Special(NamedTuple):
    """A token that no text becomes: it marks a beginning, an end, a turn, padding."""

    id: int
    lstrip: bool = False  # where a template writes it, the white space to its left goes with it
    rstrip: bool = False  # and to its right


@runtime_checkable
class Vocabulary(Protocol):
    """One library's reading of a file. `Tokenizer` says what its methods do; here they see valid text and plain ids."""

    processor: Any  # the library's own object
    size: int  # ids that the file defines: the highest, plus one
    special: dict[str, Special]
    named: dict[str, int]  # "pad", "bos", "eos" and "unk", as far as the file itself names them
    prefix_after_special: bool  # a text behind a special token begins as the first of all texts does

    def encode(self, text: str) -> list[int]: ...

    def encode_continued(self, text: str) -> list[int]: ...

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]: ...

    def decode(self, ids: list[int]) -> str: ...

    def find(self, token: str) -> int | None:
        """The id of a token by its text, None where there is none."""
        ...

    def name(self, id: int) -> str:
        """The text of a token by its id, empty where there is none."""
        ...
