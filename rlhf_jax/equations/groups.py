"""Advantages from K answers to one prompt, without a value network: the other answers are the baseline."""

from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float


def leave_one_out(scores: Float[Array, "B K"]) -> Float[Array, "B K"]:
    """Aₖ = rₖ − mean of the other K − 1: RLOO (Kool et al. 2019; Ahmadian et al. 2024, arXiv:2402.14740). The
    baseline does not depend on the answer, so REINFORCE with it is unbiased. K is at least 2."""
    K = scores.shape[-1]
    others = (jnp.sum(scores, axis=-1, keepdims=True) - scores) / (K - 1)
    return scores - others


def group_relative(scores: Float[Array, "B K"], scale: Literal["group", "batch", "none"]) -> Float[Array, "B K"]:
    """Aₖ = (rₖ − mean r) / (std + 1e-4): GRPO (Shao et al. 2024, arXiv:2402.03300, §4.1.2).

    scale: the standard deviation (over n − 1) of the group's scores, of the whole batch's (Hu et al. 2025,
    arXiv:2501.03262), or 1, which is Dr. GRPO (Liu et al. 2025, arXiv:2503.20783). Biased: the mean has the answer
    itself in it, which shrinks the gradient by (K − 1)/K, and the standard deviation weighs prompts by their spread.
    """
    centred = scores - jnp.mean(scores, axis=-1, keepdims=True)
    if scale == "none":
        return centred
    axis = -1 if scale == "group" else None
    return centred / (jnp.std(scores, axis=axis, ddof=1, keepdims=True) + 1e-4)
