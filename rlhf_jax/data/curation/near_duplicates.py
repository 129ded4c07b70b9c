"""Prompts that are nearly the same, by MinHash."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from rlhf_jax.data.curation.curated import Curated, Dropped, library, written
from rlhf_jax.data.prompts import Prompt
from rlhf_jax.data.splits import normalised

NEAR = "are nearly an earlier one"
SHINGLE = 5  # characters
SLOTS = 256  # of a sketch: bands × rows
RECALL = 0.99  # of pairs just as similar as is asked; of more similar ones it is higher
BLOCK = 512  # texts that are sketched at a time


def drop_near_duplicates(prompts: Iterable[Prompt], similarity: float, held_out: Iterable[Prompt] = ()) -> Curated:
    """The prompts less those whose Jaccard similarity with an earlier kept one, or one held out, is `similarity` or more.

    J(A, B) = |A ∩ B| / |A ∪ B| of the sets of all runs of 5 characters, of texts normalised as in splits and from the first
    human turn on; what stands before it has to be the same. Sketches of 256 slots (rensa's R-MinHash) in bands of r rows find
    the pairs to look at, with probability 1 − (1 − Jʳ)^(256/r) (Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive
    Datasets, §3.4), and the similarity of each is then counted exactly: what is dropped is as similar as it is said to be,
    and of pairs just as similar as asked less than 1 % are missed. Time grows with the number of prompts and of pairs that
    are looked at. InputError: rensa is not installed.
    """
    rensa = library("rensa", "rensa")
    index = rensa.RMinHashLSH(threshold=similarity, num_perm=SLOTS, num_bands=SLOTS // rows_of_band(similarity))
    there: list[tuple[Prompt, int]] = []  # the prompt and the size of its set; an index's keys are places in this
    kept, dropped = [], []

    def like(prompt: Prompt, pieces: set[str], sketch: Any) -> tuple[Prompt, float] | None:
        before = written(prompt)[0]
        for other, size in (there[key] for key in sorted(index.query(sketch))):
            if min(size, len(pieces)) < similarity * max(size, len(pieces)) or written(other)[0] != before:
                continue
            alike = jaccard(pieces, shingles(other))
            if alike >= similarity:
                return other, alike
        return None

    def add(prompt: Prompt, pieces: set[str], sketch: Any) -> None:
        index.insert(len(there), sketch)
        there.append((prompt, len(pieces)))

    for each in _sketched(held_out, rensa):
        add(*each)
    for prompt, pieces, sketch in _sketched(prompts, rensa):
        if found := like(prompt, pieces, sketch):
            near, alike = found
            dropped.append(Dropped(prompt, NEAR, f"similarity {alike:.2f}", near))
        else:
            add(prompt, pieces, sketch)
            kept.append(prompt)
    return Curated(kept, dropped)


def shingles(prompt: Prompt) -> set[str]:
    """The runs of SHINGLE characters of what is written; of a shorter text the whole."""
    text = normalised(written(prompt)[1])
    return {text[i : i + SHINGLE] for i in range(max(len(text) - SHINGLE, 0) + 1)}


def jaccard(one: set[str], other: set[str]) -> float:
    """|A ∩ B| / |A ∪ B| of sets that are not both empty."""
    both = len(one & other)
    return both / (len(one) + len(other) - both)


def rows_of_band(similarity: float) -> int:
    """The most rows, a power of two, by which pairs of this similarity are found with probability RECALL or more."""
    powers = [2**k for k in range(SLOTS.bit_length())]
    return max((r for r in powers if 1 - (1 - similarity**r) ** (SLOTS // r) >= RECALL), default=1)


def _sketched(prompts: Iterable[Prompt], rensa: Any) -> Iterator[tuple[Prompt, set[str], Any]]:
    rest = iter(prompts)
    while block := list(islice(rest, BLOCK)):
        pieces = [shingles(prompt) for prompt in block]
        sketches = rensa.RMinHash.from_token_sets(pieces, num_perm=SLOTS, seed=1)
        yield from zip(block, pieces, sketches, strict=True)
