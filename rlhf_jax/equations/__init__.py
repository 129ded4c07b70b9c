"""Arrays → arrays: no parameters, no config. Each function cites its formula."""

from rlhf_jax.equations.advantages import gae, token_rewards
from rlhf_jax.equations.averages import ema
from rlhf_jax.equations.kl import adapted_scale, kl_k1, kl_k3
from rlhf_jax.equations.logprobs import entropy, states_before, token_logps
from rlhf_jax.equations.masked import (
    Mean,
    masked_mean,
    masked_sum,
    masked_variance,
    mean,
    row_sums,
    summed,
    values,
    whiten,
)
from rlhf_jax.equations.ppo import clipped_policy_loss, clipped_value_loss
from rlhf_jax.equations.ranking import pair_accuracy, preferred, ranking_loss
from rlhf_jax.equations.schedules import cosine, linear_warmup

__all__ = [
    "Mean",
    "adapted_scale",
    "clipped_policy_loss",
    "clipped_value_loss",
    "cosine",
    "ema",
    "entropy",
    "gae",
    "kl_k1",
    "kl_k3",
    "linear_warmup",
    "masked_mean",
    "masked_sum",
    "masked_variance",
    "mean",
    "pair_accuracy",
    "preferred",
    "ranking_loss",
    "row_sums",
    "states_before",
    "summed",
    "token_logps",
    "token_rewards",
    "values",
    "whiten",
]
