"""The clipped losses of PPO (Schulman et al. 2017, arXiv:1707.06347), over the tokens of answers."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.equations.masked import Mean, masked_mean, masked_variance
from rlhf_jax.types import Scalar


def clipped_policy_loss(
    logp: Float[Array, "*B T"],
    logp_old: Float[Array, "*B T"],
    advantages: Float[Array, "*B T"],
    mask: Bool[Array, "*B T"],
    clip_low: Float[Scalar, ""],
    clip_high: Float[Scalar, ""],
    dual_clip: Float[Scalar, ""] = jnp.inf,
) -> tuple[Float[Array, "*B T"], dict[str, Mean]]:
    """max(−A·ρ, −A·clip(ρ, 1 − clip_low, 1 + clip_high)) of each token, ρ = π(yₜ)/π_old(yₜ) (Eq. 7); 0 outside the mask.

    A higher clip_high than clip_low is DAPO's clip-higher (Yu et al. 2025, arXiv:2503.14476, Eq. 10). dual_clip c > 1
    bounds the loss of a token with A < 0 by −A·c (Ye et al. 2020, arXiv:1912.09729, Eq. 4); infinite is off.

    Metrics: val/ratio = mean ρ, policy/clipfrac_avg = share of tokens where the clipped branch is the larger,
    policy/approxkl_avg = ½ mean (log ρ)² in nats (Schulman's k2 of the update).
    """
    log_ratio = jnp.where(mask, logp - logp_old, 0.0)
    advantages = jnp.where(mask, advantages, 0.0)
    ratio = jnp.exp(log_ratio)
    near = jnp.clip(ratio, 1.0 - clip_low, 1.0 + clip_high)
    worst = jnp.where(advantages < 0, jnp.minimum(jnp.maximum(ratio, near), dual_clip), jnp.minimum(ratio, near))
    clipped = -advantages * near > -advantages * ratio
    return -advantages * worst, {
        "val/ratio": masked_mean(ratio, mask),
        "policy/clipfrac_avg": masked_mean(clipped.astype(jnp.float32), mask),
        "policy/approxkl_avg": masked_mean(0.5 * log_ratio**2, mask),
    }


def clipped_value_loss(
    values: Float[Array, "*B T"],
    values_old: Float[Array, "*B T"],
    returns: Float[Array, "*B T"],
    mask: Bool[Array, "*B T"],
    clip: Float[Scalar, ""],
) -> tuple[Mean, dict[str, Mean]]:
    """½ mean over tokens of max((V − R)², (V_old + clip(V − V_old, ± clip) − R)²) (Ziegler et al. 2019, code).

    An infinite clip is the plain squared error. Metric: val/clipfrac_avg, the share of tokens where the clipped error
    is the larger.
    """
    near = jnp.clip(values, values_old - clip, values_old + clip)
    # The mask also stands before the square, whose gradient would carry a NaN from outside it.
    error = jnp.where(mask, values - returns, 0.0) ** 2
    error_near = jnp.where(mask, near - returns, 0.0) ** 2
    return masked_mean(0.5 * jnp.maximum(error, error_near), mask), {
        "val/clipfrac_avg": masked_mean((error_near > error).astype(jnp.float32), mask)
    }


def explained_variance(
    values: Float[Array, "*B T"], returns: Float[Array, "*B T"], mask: Bool[Array, "*B T"]
) -> Float[Array, ""]:
    """1 − Var(R − V)/Var(R) over the tokens: 1 is a perfect value, 0 is no better than a constant."""
    residual = masked_variance(jnp.where(mask, returns - values, 0.0), mask, unbiased=False)
    return 1.0 - residual / jnp.maximum(masked_variance(returns, mask, unbiased=False), 1e-8)
