"""Texts with what people said of them, category by category: what a moderation classifier learns from."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from numpy import ndarray
from scipy import sparse

from rlhf_jax.data.sources import Row, read_rows
from rlhf_jax.data.splits import normalised
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.types import LabelBatch

# Sexual, hate, violence, harassment, self-harm, and of three of them the worst: sexual with minors, hate that threatens,
# violence that is graphic (Markov et al. 2022, arXiv:2208.03274, Table 1).
CATEGORIES = ("S", "H", "V", "HR", "SH", "S3", "H2", "V2")
SAYS = {0: False, 1: True, "0": False, "1": True}  # a table's cells are strings
SHINGLE = 5  # characters


class LabelledText(NamedTuple):
    text: str
    labels: Mapping[str, bool]  # category → whether the text is of it; one that is not there is unknown


def read_labelled_texts(
    source: str, categories: Sequence[str] = CATEGORIES, text: str = "prompt"
) -> list[LabelledText]:
    """The texts of a source (see `read_rows`), whose rows have the text under `text` and 0 or 1 under categories. A category
    that is missing, null or an empty cell is unknown, not 0: so does the file of Markov et al. 2022 have it.

    InputError, with the line: no text, or one of nothing but blanks; a key that is neither; a label that is not 0 or 1. Also
    a source without rows.
    """
    found = [_labelled(row, categories, text) for row in read_rows(source)]
    if not found:
        raise InputError(f"{source} holds no rows: check that it is the right file")
    return found


def _labelled(row: Row, categories: Sequence[str], text: str) -> LabelledText:
    said, labels = row.text(text), {}
    if not said.strip():
        raise InputError(f"{row.where}: {text!r} is empty: write a text, or remove the row")
    for key, value in row.fields.items():
        if key == text or value is None or value == "":
            continue
        if key not in categories:
            names = ", ".join(categories)
            raise InputError(f"{row.where}: {key!r} is no category; these are {names}: rename or remove it")
        if not isinstance(value, (int, float, str)) or value not in SAYS:
            raise InputError(f"{row.where}: {key!r} is {shortened(value)}: make it 0 or 1, or leave it out if unknown")
        labels[key] = SAYS[value]
    return LabelledText(said, labels)


def encode_text(text: str, tokenizer: Tokenizer) -> list[int]:
    """A text as a classifier reads it, which is as pretraining has documents: the tokens, ended by EOS."""
    return [*tokenizer.opening, *tokenizer.encode(text), tokenizer.eos]


def encode_labelled(
    rows: Sequence[LabelledText], tokenizer: Tokenizer, length: int, categories: Sequence[str]
) -> LabelBatch:
    """[N, length], padded on the right; of a longer text the end is cut off, and EOS stands where it is. Labels in the order
    of the categories."""
    tokens = np.full((len(rows), length), tokenizer.pad, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for i, row in enumerate(rows):
        ids = encode_text(row.text, tokenizer)
        ids = [*ids[: length - 1], tokenizer.eos] if len(ids) > length else ids
        tokens[i, : len(ids)] = ids
        mask[i, : len(ids)] = True
    known = np.array([[name in row.labels for name in categories] for row in rows], bool)
    labels = np.array([[row.labels.get(name, False) for name in categories] for row in rows], bool)
    shape = (len(rows), len(categories))
    return LabelBatch(tokens, mask, labels.reshape(shape), known.reshape(shape))


def alike(texts: Sequence[str], similarity: float = 0.5) -> Int[ndarray, " N"]:
    """A number for each text, the same for texts that are nearly the same, or joined by a chain of such: those whose Jaccard
    similarity |A ∩ B| / |A ∪ B| of the sets of all runs of 5 characters is `similarity` or more, normalised as in splits.

    Every pair is counted exactly, in time and memory that grow with their number: for thousands of texts.
    """
    numbers: dict[str, int] = {}
    columns, ends = [], [0]
    for text in map(normalised, texts):
        pieces = {text[i : i + SHINGLE] for i in range(max(len(text) - SHINGLE, 0) + 1)}
        columns += [numbers.setdefault(piece, len(numbers)) for piece in pieces]
        ends.append(len(columns))
    has = sparse.csr_array((np.ones(len(columns), np.int64), columns, ends), shape=(len(texts), len(numbers)))
    both, sizes = (has @ has.T).tocoo(), np.diff(ends)
    i, j = both.coords
    near = both.data >= similarity * (sizes[i] + sizes[j] - both.data)
    joined = sparse.coo_array((near[near], (i[near], j[near])), shape=both.shape)
    return np.asarray(sparse.csgraph.connected_components(joined, directed=False)[1])


def dealt(groups: Sequence[int] | Int[ndarray, " N"], count: int, seed: int) -> Int[ndarray, " N"]:
    """A fold, 0 to count − 1, for each text, groups staying together: they are dealt out in an order that the seed says, each
    to the fold with the fewest texts. InputError: fewer groups than folds."""
    names, place, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    if count < 2 or len(names) < count:
        raise InputError(
            f"{len(names)} texts that are unlike cannot be {count} folds: give more texts, or two folds or more"
        )
    fold, filled = np.zeros(len(names), np.int64), np.zeros(count, np.int64)
    for group in np.random.default_rng(seed).permutation(len(names)):
        fold[group] = np.argmin(filled)
        filled[fold[group]] += sizes[group]
    return fold[place]
