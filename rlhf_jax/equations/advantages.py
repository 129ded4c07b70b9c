"""From one score per answer to an advantage per token."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.types import Scalar


def token_rewards(
    score: Float[Array, " B"],
    kl: Float[Array, "B T"],
    beta: Float[Scalar, ""],
    mask: Bool[Array, "B T"],
    earned: Float[Array, "B N"] | None = None,
) -> Float[Array, "B T"]:
    """rₜ = −β·klₜ, and the reward model's score on top at the answer's last token (InstructGPT, Eq. 2 and §3.5).

    The sum over an answer is r_θ(x, y) − β log(π_RL(y|x) / π_SFT(y|x)). 0 outside the mask, which may have gaps: an episode
    of several turns, between which somebody else speaks. earned: what of an episode's score each of its turns but the last
    one earned, which stands at that turn's last token; the rest stands at the episode's.
    """
    final = last_of_row(mask)
    if earned is None:
        return jnp.where(mask, -beta * kl, 0.0) + jnp.where(final, score[:, None], 0.0)
    ends = mask & ~jnp.pad(mask[:, 1:], ((0, 0), (0, 1)))
    turn = jnp.minimum(jnp.cumsum(ends, axis=1) - ends, earned.shape[1] - 1)
    before = jnp.where(ends & ~final, jnp.take_along_axis(earned, turn, axis=1), 0.0)
    rest = score - jnp.sum(before, axis=1)
    return jnp.where(mask, -beta * kl, 0.0) + before + jnp.where(final, rest[:, None], 0.0)


def last_of_row(mask: Bool[Array, "B T"]) -> Bool[Array, "B T"]:
    """True at each row's last entry of the mask; nowhere in a row without any."""
    so_far = jnp.cumsum(mask, axis=1)
    return mask & (so_far == so_far[:, -1:])


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
    are 0. Both results are 0 outside the mask. In one with gaps t + 1 is the next token inside it, over what an environment
    says between two turns: a step is a token of the policy's own, and so discount and λ count them.
    """
    values = jnp.where(mask, values, 0.0)
    rewards = jnp.where(mask, rewards, 0.0)

    def backwards(after, now):
        advantage, value = after  # of the next token inside the mask
        r, V, inside = now
        delta = r + discount * value - V
        found = delta + discount * lam * advantage
        return (jnp.where(inside, found, advantage), jnp.where(inside, V, value)), found

    nothing = jnp.zeros_like(values[:, 0])
    _, advantages = jax.lax.scan(backwards, (nothing, nothing), (rewards.T, values.T, mask.T), reverse=True)
    advantages = jnp.where(mask, advantages.T, 0.0)
    return advantages, advantages + values
