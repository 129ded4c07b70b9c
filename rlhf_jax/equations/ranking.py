"""The loss of a reward model over the rankings of K answers."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.equations.masked import Mean


def preferred(ranks: Int[Array, "*B K"]) -> Bool[Array, "*B K K"]:
    """[i, j] is True where answer i was ranked above answer j. Ties and empty slots (rank 0) give no pair."""
    present = ranks > 0
    both = present[..., :, None] & present[..., None, :]
    return both & (ranks[..., :, None] < ranks[..., None, :])


def ranking_loss(scores: Float[Array, "*B K"], ranks: Int[Array, "*B K"]) -> Mean:
    """−1/C(K,2) Σ over ranked pairs of log σ(r(x, y_w) − r(x, y_l)), mean over prompts (InstructGPT, Eq. 1).

    All C(K,2) comparisons of a prompt stand in one batch element, so each answer costs one forward pass. K is the
    prompt's own number of answers and may vary within a batch; a tie is dropped from the sum and not from C(K,2),
    so that every comparison of a ranking of K weighs the same. A prompt without any ranked pair does not count.
    """
    pairs = preferred(ranks)
    margin = jnp.where(pairs, scores[..., :, None] - scores[..., None, :], 0.0)
    K = jnp.sum(ranks > 0, axis=-1)
    comparisons = jnp.maximum(K * (K - 1) / 2, 1.0)
    per_prompt = jnp.sum(jnp.where(pairs, -jax.nn.log_sigmoid(margin), 0.0), axis=(-2, -1)) / comparisons
    counts = jnp.any(pairs, axis=(-2, -1)).astype(jnp.float32)
    return Mean(jnp.sum(per_prompt * counts), jnp.sum(counts))


def pair_accuracy(scores: Float[Array, "*B K"], ranks: Int[Array, "*B K"]) -> Mean:
    """Share of ranked pairs in which the preferred answer scores higher; equal scores count one half."""
    pairs = preferred(ranks)
    margin = scores[..., :, None] - scores[..., None, :]
    right = jnp.where(margin > 0, 1.0, jnp.where(margin == 0, 0.5, 0.0))
    return Mean(jnp.sum(jnp.where(pairs, right, 0.0)), jnp.sum(pairs, dtype=jnp.float32))
