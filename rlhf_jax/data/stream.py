"""Packed rows of shuffled and mixed sources without end, and the position in them as a small JSON object."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from jaxtyping import Int
from numpy import ndarray

from rlhf_jax.data.corpus import as_text_batch
from rlhf_jax.data.permutation import permute
from rlhf_jax.data.records import Records
from rlhf_jax.data.sources import located
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import InputError
from rlhf_jax.types import TextBatch

GOLDEN = 0x9E3779B97F4A7C15  # 2⁶⁴ over the golden ratio


class TextStream(Iterator[TextBatch]):
    """The rows `lanes` of each step's batch of `batch` rows of `length` tokens.

    Lane i of a source reads the documents at positions i, i + batch, i + 2·batch, … of that source's endless stream of
    epochs, each a permutation of its own, puts BOS before each where
    the tokenizer has its texts begin so, EOS after it, and cuts them into rows. A row is of one source, and
    the rows, all equally long, are dealt out by `weights`, so these are shares of tokens. What a lane holds depends on
    nothing but the arguments: processes with some lanes each have together what one process with all of them has.

    In memory are, for each lane and source, the tokens of one document that are still to come.
    """

    def __init__(
        self,
        sources: Sequence[Records],
        weights: Sequence[float],
        tokenizer: Tokenizer,
        length: int,
        batch: int,
        seed: int,
        lanes: range,
    ):
        self._sources, self._tokenizer, self._seed = sources, tokenizer, seed
        self._length, self._batch, self._lanes = length, batch, lanes
        self._ends = [int(end / sum(weights) * 2**64) for end in accumulate(weights)][:-1]
        self._start = int(np.random.SeedSequence([seed]).generate_state(1, np.uint64)[0])
        self._step = 0
        self._taken = np.zeros((len(lanes), len(sources), 2), np.int64)
        self._rest: dict[tuple[int, int], ndarray] = {}  # (lane, source) → tokens

    def __next__(self) -> TextBatch:
        rows = np.empty((len(self._lanes), self._length), np.int32)
        for i, lane in enumerate(self._lanes):
            source = self.source(self._step * self._batch + lane)
            filled = 0
            while filled < self._length:
                tokens = self._tokens(i, source)
                taken = min(len(tokens), self._length - filled)
                rows[i, filled : filled + taken] = tokens[:taken]
                filled += taken
                self._rest[i, source] = tokens[taken:]
                self._taken[i, source, 1] = len(tokens) - taken
        self._step += 1
        return as_text_batch(rows)

    def source(self, row: int) -> int:
        """The source of a row, counted over all steps: step · batch + lane.

        The multiples of the golden ratio, which fill every part of [0, 1) in proportion to its length and as evenly as
        any sequence can (Kuipers and Niederreiter 1974, ch. 2, th. 3.4): of any N rows in a row, the share of a source
        is off by no more than O(log N / N). In 64-bit integers, so that no rounding adds up.
        """
        place = (self._start + row * GOLDEN) % 2**64
        return sum(place >= end for end in self._ends)

    @property
    def taken(self) -> Int[ndarray, "lanes k"]:
        """Of each lane, source by source: documents begun, and tokens of the last of them that are still to come; int64."""
        return self._taken.reshape(len(self._lanes), -1).copy()

    def position(self, taken: Int[ndarray, "batch k"]) -> dict[str, Any]:
        """The position as JSON. `taken` is of all lanes: where processes share them, their arrays one after another."""
        if len(taken) != self._batch:
            raise ValueError(f"a position has all {self._batch} lanes, and these are {len(taken)}")
        return {"step": self._step, "sources": self._contents(), "lanes": taken.tolist()}

    def seek(self, position: Mapping[str, Any]) -> None:
        """Goes on where `position` was taken, whichever lanes were held there; of each lane, one document of each source
        is read again. InputError: it was taken in other sources, or with another batch."""
        for number, (found, now) in enumerate(zip(position["sources"], self._contents(), strict=True), 1):
            if found != now:
                raise InputError(
                    f"source {number} of the stream has {now[0]} texts (checksum {now[1]:08x}) and had {found[0]} "
                    f"({found[1]:08x}) when the run was saved: put its files back, or start another run"
                )
        lanes = np.array(position["lanes"], np.int64)
        if len(lanes) != self._batch:
            raise InputError(f"the position is of a batch of {len(lanes)} rows, not {self._batch}: set the batch back")
        self._step = position["step"]
        self._taken = lanes.reshape(self._batch, -1, 2)[list(self._lanes)]
        self._rest = {}

    def _contents(self) -> list[list[int]]:
        return [[len(source), source.checksum] for source in self._sources]

    def _tokens(self, i: int, source: int) -> Int[ndarray, "left"]:
        """What is to come of the document that lane number i is in, or else all of the next: never nothing."""
        documents, left = self._taken[i, source].tolist()
        if not left:
            self._taken[i, source, 0] += 1
            return self._document(i, source, documents)
        rest = self._rest.get((i, source))
        return self._document(i, source, documents - 1)[-left:] if rest is None else rest

    def _document(self, i: int, source: int, number: int) -> Int[ndarray, "tokens"]:
        records = self._sources[source]
        epoch, place = divmod(number * self._batch + self._lanes[i], len(records))
        record = permute(place, len(records), (self._seed, source, epoch))
        text = records.text(record)
        try:
            tokens = self._tokenizer.encode(text)
        except InputError:
            with located(records.where(record)):
                raise
        return np.array([*self._tokenizer.opening, *tokens, self._tokenizer.eos], np.int32)


def weighted_sources(text: str) -> tuple[list[str], list[float]]:
    """The names and weights in "web.jsonl 0.7, books/*.parquet 0.3". InputError: one that has no weight above 0."""
    names, weights = [], []
    for entry in text.split(","):
        name, _, weight = entry.strip().rpartition(" ")
        try:
            weights.append(float(weight))
        except ValueError:
            weights.append(0.0)
        if not name or not 0 < weights[-1] < float("inf"):
            raise InputError(f"the source {entry.strip()!r} has no weight above 0: write, for example, 'web.jsonl 0.7'")
        names.append(name.strip())
    return names, weights
