"""Plain text for pretraining: documents into full rows, and masks for masked language modelling."""

import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from rlhf_jax.data.examples import rows_of, say_dropped
from rlhf_jax.data.paths import conditions, required
from rlhf_jax.data.sources import Row, located
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.types import MaskedTextBatch, TextBatch


@dataclass(frozen=True)
class TextLayout:
    """Where a row of pretraining text has what, as dotted paths."""

    text: str = "text"  # the field that holds the text
    drop: str = ""  # rows to leave out, as "language != en or score < 3"; and binds more than or

    def __post_init__(self) -> None:
        """InputError: a condition that cannot be read."""
        conditions(self.drop)


def text_documents(rows: Iterable[Row], field: str = "text") -> Iterator[str]:
    """The field of every row, at a dotted path: a .txt file is one document, its "text". InputError: a row without it; half
    a character in it."""
    for row in rows:
        with located(row.where):
            text = required(row.fields, field)
            if not isinstance(text, str):
                raise InputError(f"{field!r} holds {shortened(text)}: make it a string")
            if re.search("[\ud800-\udfff]", text):
                raise InputError("it holds half a character (a lone surrogate): remove it")
        yield text


def read_texts(source: str, layout: TextLayout = TextLayout()) -> list[str]:
    """The texts of a source: a field of every row that the layout does not drop, or a whole .txt file. What is dropped is
    counted in a warning. InputError: see `read_rows`."""
    dropped: dict[str, list[str]] = {}
    found = list(text_documents(rows_of(source, layout.drop, dropped), layout.text))
    say_dropped(source, dropped, len(found))
    return found


def pack(documents: Iterable[str], tokenizer: Tokenizer, length: int) -> tuple[Int[ndarray, "N T"], int]:
    """(rows, tail): all documents one after another, each ended by EOS, cut into rows of `length`, int32.

    Where the tokenizer's own post-processor opens a text with BOS, each document begins with it. There is no padding.
    The tail is how many tokens, less than a row, are left out at the end.
    InputError: less text than one row.
    """
    pieces = [np.array([*tokenizer.opening, *tokenizer.encode(text), tokenizer.eos], np.int32) for text in documents]
    stream = np.concatenate([np.zeros(0, np.int32), *pieces])
    count, tail = divmod(len(stream), length)
    if count == 0:
        raise InputError(
            f"the corpus has {len(stream)} tokens and one row takes {length}: add text or shorten the rows"
        )
    return stream[: count * length].reshape(count, length), tail


def as_text_batch(rows: Int[ndarray, "N T"]) -> TextBatch:
    """Every token is predicted but the first of a row, which nothing precedes."""
    predict = np.ones(rows.shape, bool)
    predict[:, 0] = False
    return TextBatch(rows, predict)


def mask_tokens(
    tokens: Int[ndarray, "N T"],
    mask: int,
    vocab: int,
    rng: np.random.Generator,
    rate: float = 0.15,
    keep: Collection[int] = (),
) -> MaskedTextBatch:
    """Inputs and targets of masked language modelling: Devlin et al. 2018, §3.1.

    Every token, but those in `keep` (the special ones), is chosen with probability `rate`. Of the chosen,
    80 % are `mask` in the inputs, 10 % a random token of `vocab`, 10 % themselves. They alone
    are predicted.
    """
    chosen = (rng.random(tokens.shape) < rate) & ~np.isin(tokens, list(keep))
    lot = rng.random(tokens.shape)
    noise = rng.integers(vocab, size=tokens.shape, dtype=tokens.dtype)
    inputs = np.where(chosen & (lot < 0.8), tokens.dtype.type(mask), tokens)
    inputs = np.where(chosen & (lot >= 0.8) & (lot < 0.9), noise, inputs)
    return MaskedTextBatch(inputs, tokens, chosen)
