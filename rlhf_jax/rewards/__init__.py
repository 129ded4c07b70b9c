"""Prompts and answers → numbers: ready-made reward functions, and what makes one of another."""

from rlhf_jax.rewards.answer import AnswerText
from rlhf_jax.rewards.checks import exact, length, numeric, overlong, pattern
from rlhf_jax.rewards.each import each
from rlhf_jax.rewards.mathematics import math_equal
from rlhf_jax.rewards.trl import from_trl

__all__ = [
    "AnswerText",
    "each",
    "exact",
    "from_trl",
    "length",
    "math_equal",
    "numeric",
    "overlong",
    "pattern",
]
