"""The loss of a classifier that says of each of several labels whether it fits, some of which nobody has given."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.equations.masked import Mean, masked_mean
from rlhf_jax.equations.ranking import logistic


def label_loss(logits: Float[Array, "*B C"], labels: Bool[Array, "*B C"], known: Bool[Array, "*B C"]) -> Mean:
    """−y log σ(z) − (1 − y) log σ(−z), mean over the labels that are known: binary cross-entropy of independent labels, in
    nats a label. Labels that nobody gave are in neither the sum nor the count (as Markov et al. 2022, arXiv:2208.03274, have
    texts of which only some categories were labelled)."""
    z = jnp.where(known, logits, 0.0)
    return masked_mean(logistic(jnp.where(labels, z, -z)), known)


def label_accuracy(logits: Float[Array, "*B C"], labels: Bool[Array, "*B C"], known: Bool[Array, "*B C"]) -> Mean:
    """Share of the known labels on whose side of 0 the logit is; a logit of 0 says that the label does not fit."""
    return masked_mean(((logits > 0) == labels).astype(jnp.float32), known)
