"""What a model writes after each of a list of prompts. Under jax.set_mesh its parameters may be cut over the mesh, and the
rows of a batch are spread over it; with several processes all call and all get the answers."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree
from numpy import ndarray

from rlhf_jax.evals.likelihood import width_of
from rlhf_jax.models import LanguageModel, Sampling, generate, replicate_rows
from rlhf_jax.types import PromptBatch, Response


class Answers(NamedTuple):
    """One row a prompt."""

    prompts: PromptBatch
    response: Response

    def concat(self) -> tuple[Int[ndarray, "N L"], Bool[ndarray, "N L"]]:
        """Prompt ⊕ response: tokens and mask."""
        tokens = np.concatenate([self.prompts.tokens, self.response.tokens], axis=1)
        return tokens, np.concatenate([self.prompts.mask, self.response.mask], axis=1)

    def ids(self, eos: int | tuple[int, ...]) -> list[list[int]]:
        """The tokens of each response without its EOS."""
        rows = zip(np.asarray(self.response.tokens), np.asarray(self.response.mask), strict=True)
        return [[int(t) for t in tokens[mask & ~np.isin(tokens, eos)]] for tokens, mask in rows]

    def ended(self, eos: int | tuple[int, ...]) -> Bool[ndarray, " N"]:
        """Which responses came to their EOS."""
        return np.asarray(np.any(np.isin(self.response.tokens, eos) & self.response.mask, axis=1))


def answer(
    model: LanguageModel,
    params: PyTree,
    prompts: PromptBatch,
    key: Key[Array, ""],
    *,
    batch: int,
    max_tokens: int,
    sampling: Sampling,
    eos: int | tuple[int, ...],
    pad: int,
) -> Answers:
    """Answers to all prompts, in batches of one size, so that one program serves them all."""
    N = prompts.tokens.shape[0]
    responses = []
    for start in range(0, N, batch):
        rows = np.arange(start, start + batch) % N  # the last batch is filled up with rows that are cut off again
        part = PromptBatch(prompts.tokens[rows], prompts.mask[rows])
        at = jax.random.fold_in(key, start)
        written = _write(params, part, at, model, max_tokens, sampling, eos, pad)
        responses.append(jax.device_get(replicate_rows(written)))
    joined = jax.tree.map(lambda *parts: np.concatenate(parts)[:N], *responses)
    return Answers(prompts, joined)


def continued(
    model: LanguageModel,
    params: PyTree,
    contexts: Sequence[Sequence[int]],
    key: Key[Array, ""],
    *,
    room: int,
    batch: int,
    max_tokens: int,
    sampling: Sampling,
    eos: int | tuple[int, ...],
    pad: int,
) -> list[tuple[list[int], bool]]:
    """The tokens that a model writes after each of any number of contexts of tokens, without its EOS, and whether it came to
    it. Contexts longer than `room` lose their beginning. Those of about one length share a batch."""
    rows = [list(ids[-room:]) for ids in contexts]
    order = sorted(range(len(rows)), key=lambda i: -len(rows[i]))
    found: list[tuple[list[int], bool]] = [([], False)] * len(rows)
    for start in range(0, len(rows), batch):
        here = order[start : start + batch]
        width = width_of(len(rows[here[0]]), room)
        tokens = np.full((len(here), width), pad, np.int32)
        for at, i in enumerate(here):
            tokens[at, width - len(rows[i]) :] = rows[i]
        mask = np.arange(width) >= width - np.array([len(rows[i]) for i in here])[:, None]
        about = {"batch": batch, "max_tokens": max_tokens, "sampling": sampling, "eos": eos, "pad": pad}
        said = answer(model, params, PromptBatch(tokens, mask), jax.random.fold_in(key, start), **about)
        for i, ids, ended in zip(here, said.ids(eos), said.ended(eos).tolist(), strict=True):
            found[i] = ids, ended
    return found


@partial(jax.jit, static_argnames=("model", "max_tokens", "sampling", "eos", "pad"))
def _write(params, prompts, key, model, max_tokens, sampling, eos, pad):
    written = generate(model, params, prompts, key, max_tokens, sampling, eos, pad)
    # [B, T, V] and [B, V] of all prompts together would be large, and nothing here reads them
    return replace(written, support=None, repetition=None)


def scores(
    score, params: PyTree, tokens: Int[ndarray, "N L"], mask: Bool[ndarray, "N L"], *, batch: int
) -> Float[ndarray, "N *S"]:
    """score(params, tokens, mask) over all rows, in batches of one size. score is jitted and maps rows to rows."""
    N, parts = len(tokens), []
    for start in range(0, N, batch):
        rows = np.arange(start, start + batch) % N
        parts.append(np.asarray(replicate_rows(score(params, tokens[rows], mask[rows]))))
    return np.concatenate(parts)[:N]
