"""Estimators of KL(π‖π_ref) from tokens sampled from π, and the controller of its coefficient."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from rlhf_jax.types import Scalar


def kl_k1(logp: Float[Array, "*B T"], logp_ref: Float[Array, "*B T"]) -> Float[Array, "*B T"]:
    """k1 = log π(yₜ) − log π_ref(yₜ): unbiased, of either sign (Schulman 2020, "Approximating KL divergence").

    It is the log-ratio of the reward in InstructGPT, Eq. 2, token by token.
    """
    return logp - logp_ref


def kl_k2(logp: Float[Array, "*B T"], logp_ref: Float[Array, "*B T"]) -> Float[Array, "*B T"]:
    """k2 = ½·k1²: biased, never negative; its gradient at fixed samples is the unbiased one of the KL (Schulman 2020)."""
    return 0.5 * (logp - logp_ref) ** 2


def kl_k3(logp: Float[Array, "*B T"], logp_ref: Float[Array, "*B T"]) -> Float[Array, "*B T"]:
    """k3 = e^(−k1) − 1 + k1: unbiased, never negative, of lower variance (Schulman 2020)."""
    return jnp.expm1(logp_ref - logp) - (logp_ref - logp)


def kl_exact(logits: Float[Array, "*B V"], logits_ref: Float[Array, "*B V"]) -> Float[Array, "*B"]:
    """Σᵥ πᵥ (log πᵥ − log π_ref,ᵥ) of each token's two distributions. A token that π rules out (−∞) counts 0."""
    logp, logp_ref = jax.nn.log_softmax(logits, axis=-1), jax.nn.log_softmax(logits_ref, axis=-1)
    p = jnp.exp(logp)
    return jnp.sum(p * jnp.where(p > 0, logp - logp_ref, 0.0), axis=-1)


def best_of_n_kl(n: int) -> float:
    """log n − (n − 1)/n nats: KL from a policy of the choice of its best of n answers by any score without ties, and an
    upper bound with them (Stiennon et al. 2020, arXiv:2009.01325, App. G.3; Beirami et al. 2024, arXiv:2401.01879)."""
    return math.log(n) - (n - 1) / n


def adapted_scale(
    scale: Float[Array, ""],
    kl: Float[Array, ""],
    target: Float[Scalar, ""],
    episodes: int | Float[Scalar, ""],
    horizon: Float[Scalar, ""],
) -> Float[Array, ""]:
    """β ← β · (1 + clip(KL/target − 1, ±0.2) · n/horizon) (Ziegler et al. 2019, §2.2 and code), as a factor on β.

    kl and target in nats per answer, n episodes since the last change. An infinite horizon keeps β fixed, which is
    InstructGPT's choice.
    """
    error = jnp.clip(kl / target - 1.0, -0.2, 0.2)
    return scale * (1.0 + error * episodes / horizon)
