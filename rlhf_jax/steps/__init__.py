"""Equations ∘ models → loss(params, batch, coef) and step(state, batch, coef)."""

from rlhf_jax.steps.language_model import TextCoef, masked_token_loss, next_token_loss, text_logps, text_step
from rlhf_jax.steps.optimiser import adam, descend
from rlhf_jax.steps.ppo import (
    Models,
    Optimisers,
    PPOCoef,
    join,
    minibatches,
    policy_loss,
    ppo_step,
    pretrain_loss,
    response_logps,
    response_values,
    value_loss,
)
from rlhf_jax.steps.reward_model import centred, reward, reward_loss, reward_step

__all__ = [
    "Models",
    "Optimisers",
    "PPOCoef",
    "TextCoef",
    "adam",
    "centred",
    "descend",
    "join",
    "masked_token_loss",
    "minibatches",
    "next_token_loss",
    "policy_loss",
    "ppo_step",
    "pretrain_loss",
    "response_logps",
    "response_values",
    "reward",
    "reward_loss",
    "reward_step",
    "text_logps",
    "text_step",
    "value_loss",
]
