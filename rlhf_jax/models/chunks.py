"""What is read off logits, a chunk of tokens at a time: [B, T, V] is by far the largest array of a loss."""

from collections.abc import Callable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from rlhf_jax.models.heads import AnyLanguageModel, logits


def over_logits(
    fn: Callable[..., PyTree],
    model: AnyLanguageModel,
    spoken: Sequence[tuple[PyTree, Float[Array, "B T D"]]],
    *per_token: PyTree,
) -> PyTree:
    """fn(*logits, *per_token) of B·T tokens, the logits of at most model.config.logit_rows of them in memory at a time.

    spoken: one or several models' parameters and hidden states, of all of which fn gets float32 logits [B, T, V].
    per_token: pytrees of arrays [B, T, …], or [B, 1, …] where all tokens of a row share them; nothing is differentiated
    with respect to them. fn returns a pytree of arrays [B, T], each number of which may depend on that token only: where
    logit_rows is above 0 and below B·T, fn sees N ≤ logit_rows rows of one token each, [N, 1, V] and [N, 1, …], and the
    gradient computes their logits again. Where jit deals out rows to devices, logit_rows counts the tokens of them all.
    """
    B, T = spoken[0][1].shape[:2]
    limit = model.config.logit_rows
    if not 0 < limit < B * T:
        return fn(*(logits(model, params, hidden) for params, hidden in spoken), *per_token)
    chunks = -(-B * T // limit)
    N = -(-B * T // chunks)

    def cut(x: Array) -> Array:
        """[B, T, …] → [N, chunks, …]. A chunk, x[:, i], has tokens of all rows, so that every device that holds some of
        the rows has its share of every chunk. The last token stands again where tokens are lacking, so that fn meets no
        numbers, such as a support without tokens, that it would not meet otherwise."""
        tokens = x.reshape(B * T, *x.shape[2:])
        padding = [(0, N * chunks - B * T)] + [(0, 0)] * (tokens.ndim - 1)
        return jnp.pad(tokens, padding, mode="edge").reshape(N, chunks, *tokens.shape[1:])

    rows = cut(jnp.broadcast_to(jnp.arange(B)[:, None], (B, T)))
    leaves, structure = jax.tree.flatten(per_token)
    by_row = [x.shape[1] == 1 for x in leaves]
    given = [jnp.asarray(x) if shared else cut(jnp.asarray(x)) for x, shared in zip(leaves, by_row, strict=True)]

    # A scan's body is compiled as a whole: nothing outside it could be shared with what the gradient computes again.
    @partial(jax.checkpoint, prevent_cse=False)
    def chunk(i_hidden):
        i, hidden = i_hidden
        here = [x[rows[:, i]] if shared else x[:, i, None] for x, shared in zip(given, by_row, strict=True)]
        each = (logits(model, params, h) for (params, _), h in zip(spoken, hidden, strict=True))
        return fn(*each, *jax.tree.unflatten(structure, here))

    # Hidden states are mapped over, not picked from: the gradient of a pick is as large as all that it picks from.
    hidden = tuple(jnp.moveaxis(cut(h), 1, 0)[:, :, None] for _, h in spoken)
    found = jax.lax.map(chunk, (jnp.arange(chunks), hidden))
    return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(-1)[: B * T].reshape(B, T), found)
