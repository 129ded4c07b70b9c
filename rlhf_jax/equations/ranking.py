"""The losses of a reward model over the rankings, or the ratings, of K answers."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.equations.masked import Mean, masked_mean
from rlhf_jax.types import Scalar


def preferred(ranks: Int[Array, "*B K"]) -> Bool[Array, "*B K K"]:
    """[i, j] is True where answer i was ranked above answer j. Ties and empty slots (rank 0) give no pair."""
    present = ranks > 0
    both = present[..., :, None] & present[..., None, :]
    return both & (ranks[..., :, None] < ranks[..., None, :])


def logistic(margin: Float[Array, "*P"], smoothing: Float[Scalar, ""] = 0.0) -> Float[Array, "*P"]:
    """−(1 − ε) log σ(m) − ε log σ(−m): Bradley–Terry's likelihood at ε = 0; with ε, the share of labels thought to be
    flipped, it does not pay to be surer than that."""
    return -(1.0 - smoothing) * jax.nn.log_sigmoid(margin) - smoothing * jax.nn.log_sigmoid(-margin)


def hinge(margin: Float[Array, "*P"]) -> Float[Array, "*P"]:
    """max(0, 1 − m)."""
    return jnp.maximum(1.0 - margin, 0.0)


def ranking_loss(
    scores: Float[Array, "*B K"],
    ranks: Int[Array, "*B K"],
    pair_loss: Callable[[Array], Array] = logistic,
    wanted: Float[Array, "*B K K"] | None = None,
) -> Mean:
    """1/C(K,2) Σ over ranked pairs of pair_loss(r(x, y_w) − r(x, y_l)), mean over prompts: with `logistic` it is Eq. 1 of
    InstructGPT.

    wanted: what [i, j] should differ by at least, taken off the margin (Llama 2, Touvron et al. 2023, arXiv:2307.09288,
    Eq. 2: more where labelers said "significantly better").

    All C(K,2) comparisons of a prompt stand in one batch element, so each answer costs one forward pass. K is the
    prompt's own number of answers and may vary within a batch; a tie is dropped from the sum and not from C(K,2),
    so that every comparison of a ranking of K weighs the same. A prompt without any ranked pair does not count.
    """
    pairs = preferred(ranks)
    margin = scores[..., :, None] - scores[..., None, :]
    margin = jnp.where(pairs, margin if wanted is None else margin - wanted, 0.0)
    K = jnp.sum(ranks > 0, axis=-1)
    comparisons = jnp.maximum(K * (K - 1) / 2, 1.0)
    per_prompt = jnp.sum(jnp.where(pairs, pair_loss(margin), 0.0), axis=(-2, -1)) / comparisons
    counts = jnp.any(pairs, axis=(-2, -1)).astype(jnp.float32)
    return Mean(jnp.sum(per_prompt * counts), jnp.sum(counts))


def plackett_luce_loss(scores: Float[Array, "*B K"], ranks: Int[Array, "*B K"]) -> Mean:
    """−log Π over places of e^r(best) / Σ e^r(those still to be placed), mean over prompts (Plackett 1975; Luce 1959).

    The likelihood of the whole ranking; of two answers it is Bradley–Terry's. Answers that tie are each placed against
    those ranked below them, not against each other. A prompt without any ranked pair does not count.
    """
    below, scores = preferred(ranks), jnp.where(ranks > 0, scores, 0.0)
    placed = jnp.any(below, axis=-1)
    itself = jnp.broadcast_to(jnp.eye(ranks.shape[-1], dtype=bool), below.shape)
    rest = below | itself  # [i, j]: j is answer i itself or one ranked below it
    mass = jax.nn.logsumexp(jnp.where(rest, scores[..., None, :], -1e30), axis=-1)
    per_prompt = jnp.sum(jnp.where(placed, mass - scores, 0.0), axis=-1)
    counts = jnp.any(placed, axis=-1).astype(jnp.float32)
    return Mean(jnp.sum(per_prompt * counts), jnp.sum(counts))


def rating_loss(scores: Float[Array, "*B K"], ratings: Float[Array, "*B K"], present: Bool[Array, "*B K"]) -> Mean:
    """(r(x, y) − rating)², mean over the answers: regression to ratings."""
    return masked_mean(jnp.where(present, scores - ratings, 0.0) ** 2, present)


def pair_accuracy(scores: Float[Array, "*B K"], ranks: Int[Array, "*B K"]) -> Mean:
    """Share of ranked pairs in which the preferred answer scores higher; equal scores count one half."""
    pairs = preferred(ranks)
    margin = scores[..., :, None] - scores[..., None, :]
    right = jnp.where(margin > 0, 1.0, jnp.where(margin == 0, 0.5, 0.0))
    return Mean(jnp.sum(jnp.where(pairs, right, 0.0)), jnp.sum(pairs, dtype=jnp.float32))
