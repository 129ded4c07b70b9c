"""Log-probabilities of tokens, and the one place where "the state before the token" is lined up with the token."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def states_before(x: Float[Array, "B L *D"], T: int) -> Float[Array, "B T *D"]:
    """Of a row of L columns, those that the last T tokens are predicted from: column j speaks of token j + 1.

    T = L − 1 for rows of text (every token but the first), T = the response's columns for prompt ⊕ response.
    """
    L = x.shape[1]
    return x[:, L - T - 1 : L - 1]


def token_logps(logits: Float[Array, "*B V"], tokens: Int[Array, "*B"]) -> Float[Array, "*B"]:
    """log π(yₜ|…) = logitsₜ[yₜ] − log Σᵥ exp logitsₜ[v], in nats. What an id past the vocabulary (an
    added PAD) gets means nothing."""
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1, mode="clip")[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def entropy(logits: Float[Array, "*B V"]) -> Float[Array, "*B"]:
    """H = −Σᵥ πᵥ log πᵥ in nats, of each distribution; a token with logit −∞ counts 0."""
    logp = jax.nn.log_softmax(logits, axis=-1)
    p = jnp.exp(logp)
    return -jnp.sum(p * jnp.where(p > 0, logp, 0.0), axis=-1)
