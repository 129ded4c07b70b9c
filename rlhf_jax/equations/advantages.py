"""From one score per answer to an advantage per token."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.types import Scalar


def token_rewards(
    score: Float[Array, " B"], kl: Float[Array, "B T"], beta: Float[Scalar, ""], mask: Bool[Array, "B T"]
) -> Float[Array, "B T"]:
    """rₜ = −β·klₜ, and the reward model's score on top at the answer's last token (InstructGPT, Eq. 2 and §3.5).

    The sum over an answer is r_θ(x, y) − β log(π_RL(y|x) / π_SFT(y|x)). 0 outside the mask.
    """
    last = mask & ~jnp.pad(mask[:, 1:], ((0, 0), (0, 1)))
    return jnp.where(mask, -beta * kl, 0.0) + jnp.where(last, score[:, None], 0.0)


def gae(
    rewards: Float[Array, "B T"],
    values: Float[Array, "B T"],
    mask: Bool[Array, "B T"],
    discount: Float[Scalar, ""],
    lam: Float[Scalar, ""],
) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
    """Generalised advantage estimation (Schulman et al. 2016, Eq. 16) and the returns A + V that the value fits.

        δₜ = rₜ + discount·V(sₜ₊₁) − V(sₜ)        Aₜ = δₜ + discount·λ·Aₜ₊₁

    V(sₜ) is the value of the state before token yₜ. An answer is an episode: after its last token value and advantage
    are 0. Both results are 0 outside the mask, which must be a prefix of each row.
    """
    values = jnp.where(mask, values, 0.0)
    rewards = jnp.where(mask, rewards, 0.0)
    next_values = jnp.pad(values[:, 1:], ((0, 0), (0, 1)))
    delta = rewards + discount * next_values - values

    def backwards(advantage, delta_t):
        advantage = delta_t + discount * lam * advantage
        return advantage, advantage

    _, advantages = jax.lax.scan(backwards, jnp.zeros_like(delta[:, 0]), delta.T, reverse=True)
    advantages = jnp.where(mask, advantages.T, 0.0)
    return advantages, advantages + values
