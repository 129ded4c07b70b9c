"""The language modelling loss on held-out documents: what fine-tuning costs of what pretraining learned."""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from rlhf_jax.data import read_rows
from rlhf_jax.errors import InputError
from rlhf_jax.evals.measured import Row
from rlhf_jax.evals.task import Likely, LogProb, Task


class Piece(NamedTuple):
    """A piece of a document, and the piece before it."""

    id: str
    cluster: str  # the document
    context: str
    text: str


def read_pieces(source: str, characters: int = 1024) -> list[Piece]:
    """The documents of rows {"text"} (see `read_rows`; a .txt is one), each cut before a word into pieces of at most so many
    characters, of which every one follows the piece before it and the first nothing. Joined they are the document; no
    character is in two, and only documents without text are left out.

    A piece and the one before it should fit the model's context: about characters / 2 tokens in English. InputError: no
    text; characters below 1; with the line: no text under "text".
    """
    if characters < 1:
        raise InputError(f"pieces of {characters} characters hold nothing: give at least 1")
    found = []
    for number, row in enumerate(read_rows(source), 1):
        texts = cut(row.text("text"), characters)
        found += [
            Piece(f"{number}.{i + 1}", str(number), texts[i - 1] if i else "", text) for i, text in enumerate(texts)
        ]
    if not found:
        raise InputError(f"{source} holds no text: check that it is the right file")
    return found


def cut(text: str, characters: int) -> list[str]:
    """Pieces that joined are the text, each of at most so many characters, cut before the blanks of a word where there are
    any. Blanks at its end belong to the last piece, whatever its length; a text of blanks alone has none."""
    pieces, piece = [], ""
    body = text.rstrip()
    for word in re.findall(r"\s*\S+", body):
        for part in (word[i : i + characters] for i in range(0, len(word), characters)):
            if piece and len(piece) + len(part) > characters:
                pieces.append(piece)
                piece = ""
            piece += part
    return [*pieces, piece + text[len(body) :]] if piece else []


def held_out(items: Sequence[Piece]) -> Task:
    """pretrain/loss: Σ nats / Σ tokens. pretrain/bits_per_byte: Σ bits / Σ bytes of UTF-8, which is of one scale for every
    tokenizer, where nats per token are only of one. Both are parts of a whole, so that `differences` of two models are
    paired piece by piece: of bits per byte between any two, of nats per token where both have the same tokens.
    """
    return Task("held_out", items, _asks, _rows, {"pretrain/loss": None, "pretrain/bits_per_byte": None})


def _asks(item: Piece) -> list[Likely]:
    return [Likely(item.context, item.text)]


def _rows(items: Sequence[Piece], replies: Sequence[Sequence[LogProb]]) -> list[Row]:
    rows = []
    for item, (reply,) in zip(items, replies, strict=True):
        nats, size = -reply.logp, len(item.text.encode("utf-8", "surrogatepass"))
        values = {
            "pretrain/loss": (nats, float(reply.tokens)),
            "pretrain/bits_per_byte": (nats / np.log(2.0), float(size)),
        }
        rows.append(Row(item.id, item.cluster, values))
    return rows
