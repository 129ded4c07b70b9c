"""The clipped losses of PPO (Schulman et al. 2017, arXiv:1707.06347), over the tokens of answers."""

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.equations.masked import Mean, masked_mean
from rlhf_jax.types import Scalar


def clipped_policy_loss(
    logp: Float[Array, "*B T"],
    logp_old: Float[Array, "*B T"],
    advantages: Float[Array, "*B T"],
    mask: Bool[Array, "*B T"],
    clip: Float[Scalar, ""],
) -> tuple[Mean, dict[str, Mean]]:
    """mean over tokens of max(−A·ρ, −A·clip(ρ, 1 ± clip)), ρ = π(yₜ)/π_old(yₜ) (Eq. 7).

    Metrics: val/ratio = mean ρ, policy/clipfrac_avg = share of tokens where the clipped branch is the larger,
    policy/approxkl_avg = ½ mean (log ρ)² in nats (Schulman's k2 of the update).
    """
    log_ratio = jnp.where(mask, logp - logp_old, 0.0)
    ratio = jnp.exp(log_ratio)
    unclipped = -advantages * ratio
    clipped = -advantages * jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
    return masked_mean(jnp.maximum(unclipped, clipped), mask), {
        "val/ratio": masked_mean(ratio, mask),
        "policy/clipfrac_avg": masked_mean((clipped > unclipped).astype(jnp.float32), mask),
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
