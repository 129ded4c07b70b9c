"""Losses that learn from preferences without a reward model, over log-probabilities of whole answers.

    h = [log π(y_w|x) − log π_ref(y_w|x)] − [log π(y_l|x) − log π_ref(y_l|x)]

y_w is the preferred answer, y_l the other. A log-probability of an answer is the sum over its tokens where the paper says
so, or their mean (SimPO, ORPO; TRL's IPO): the caller decides which it hands in.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from rlhf_jax.equations.masked import Mean, mean
from rlhf_jax.equations.ranking import hinge, logistic
from rlhf_jax.types import Scalar


def log_ratio_margin(
    chosen: Float[Array, " B"],
    rejected: Float[Array, " B"],
    ref_chosen: Float[Array, " B"],
    ref_rejected: Float[Array, " B"],
) -> Float[Array, " B"]:
    """h, in nats."""
    return (chosen - ref_chosen) - (rejected - ref_rejected)


def dpo_loss(h: Float[Array, " B"], beta: Float[Scalar, ""], smoothing: Float[Scalar, ""] = 0.0) -> Mean:
    """−(1 − ε) log σ(β·h) − ε log σ(−β·h): DPO (Rafailov et al. 2023, arXiv:2305.18290, Eq. 7) at ε = 0.

    With ε, the share of labels thought to be flipped, it is conservative DPO (Mitchell 2023).
    """
    return mean(logistic(beta * h, smoothing))


def ipo_loss(h: Float[Array, " B"], beta: Float[Scalar, ""]) -> Mean:
    """(h − 1/(2β))² (Azar et al. 2023, arXiv:2310.12036, Eq. 17; β is their τ)."""
    return mean((h - 1.0 / (2.0 * beta)) ** 2)


def hinge_loss(h: Float[Array, " B"], beta: Float[Scalar, ""]) -> Mean:
    """max(0, 1 − β·h): SLiC's hinge (Zhao et al. 2023, arXiv:2305.10425) on log-ratios, as Liu et al. 2023
    (arXiv:2309.06657) have it."""
    return mean(hinge(beta * h))


def simpo_loss(
    chosen: Float[Array, " B"], rejected: Float[Array, " B"], beta: Float[Scalar, ""], margin: Float[Scalar, ""]
) -> Mean:
    """−log σ(β·(p̄_w − p̄_l) − margin), p̄ the mean log-probability of a token, no reference (Meng et al. 2024,
    arXiv:2405.14734, Eq. 6; margin is their γ)."""
    return mean(logistic(beta * (chosen - rejected) - margin))


def odds_ratio_loss(chosen: Float[Array, " B"], rejected: Float[Array, " B"]) -> Mean:
    """−log σ(log odds(y_w) − log odds(y_l)), odds = p/(1 − p) with log p the mean log-probability of a token: the second
    term of ORPO, whose first is the loss of fine-tuning on y_w (Hong et al. 2024, arXiv:2403.07691, Eq. 6 and 7)."""
    return mean(logistic(_log_odds(chosen) - _log_odds(rejected)))


def _log_odds(logp: Float[Array, " B"]) -> Float[Array, " B"]:
    # Below 0, so that an answer of probability 1 has odds that float32 can hold.
    logp = jnp.minimum(logp, -1e-6)
    return logp - jnp.log(-jnp.expm1(logp))


def kto_loss(
    log_ratio: Float[Array, " B"],
    desirable: Bool[Array, " B"],
    kl: Float[Array, ""],
    beta: Float[Scalar, ""],
    desirable_weight: Float[Scalar, ""] = 1.0,
    undesirable_weight: Float[Scalar, ""] = 1.0,
) -> Mean:
    """λ_D·(1 − σ(β·(r − z))) of an answer that was liked, λ_U·(1 − σ(β·(z − r))) of one that was not (Ethayarajh et al.
    2024, arXiv:2402.01306).

    log_ratio: r = log π(y|x) − log π_ref(y|x). kl: z, an estimate of KL(π‖π_ref) in nats per answer, `mismatched_kl`;
    no gradient flows through it.
    """
    z = jax.lax.stop_gradient(kl)
    liked = desirable_weight * jax.nn.sigmoid(-beta * (log_ratio - z))
    disliked = undesirable_weight * jax.nn.sigmoid(-beta * (z - log_ratio))
    return mean(jnp.where(desirable, liked, disliked))


def mismatched_kl(logp: Float[Array, " B"], logp_ref: Float[Array, " B"]) -> Float[Array, ""]:
    """max(0, mean log π(y'|x) − log π_ref(y'|x)) over prompts with the answers of other prompts (the same paper).
    Biased: the answers are not the policy's own."""
    return jnp.maximum(mean(logp - logp_ref).value, 0.0)
