"""Arrays → arrays: no parameters, no config. Each function cites its formula."""

from rlhf_jax.equations.advantages import gae, token_rewards
from rlhf_jax.equations.averages import ema
from rlhf_jax.equations.groups import group_relative, leave_one_out
from rlhf_jax.equations.kl import adapted_scale, best_of_n_kl, kl_exact, kl_k1, kl_k2, kl_k3
from rlhf_jax.equations.labels import label_accuracy, label_loss
from rlhf_jax.equations.logprobs import entropy, states_before, token_logps
from rlhf_jax.equations.masked import (
    Mean,
    averaged,
    masked_mean,
    masked_sum,
    masked_variance,
    mean,
    row_sums,
    summed,
    values,
    whiten,
)
from rlhf_jax.equations.ppo import clipped_policy_loss, clipped_value_loss, explained_variance
from rlhf_jax.equations.preference import (
    dpo_loss,
    hinge_loss,
    ipo_loss,
    kto_loss,
    log_ratio_margin,
    mismatched_kl,
    odds_ratio_loss,
    simpo_loss,
)
from rlhf_jax.equations.ranking import (
    hinge,
    logistic,
    pair_accuracy,
    plackett_luce_loss,
    preferred,
    ranking_loss,
    rating_loss,
)
from rlhf_jax.equations.schedules import constant, cosine, linear, linear_decay, linear_warmup
from rlhf_jax.equations.scores import ensemble_score, normalised, nothing_seen, seen

__all__ = [
    "Mean",
    "adapted_scale",
    "averaged",
    "best_of_n_kl",
    "clipped_policy_loss",
    "clipped_value_loss",
    "constant",
    "cosine",
    "dpo_loss",
    "ema",
    "ensemble_score",
    "entropy",
    "explained_variance",
    "gae",
    "group_relative",
    "hinge",
    "hinge_loss",
    "ipo_loss",
    "kl_exact",
    "kl_k1",
    "kl_k2",
    "kl_k3",
    "kto_loss",
    "label_accuracy",
    "label_loss",
    "leave_one_out",
    "linear",
    "linear_decay",
    "linear_warmup",
    "log_ratio_margin",
    "logistic",
    "masked_mean",
    "masked_sum",
    "masked_variance",
    "mean",
    "mismatched_kl",
    "normalised",
    "nothing_seen",
    "odds_ratio_loss",
    "pair_accuracy",
    "plackett_luce_loss",
    "preferred",
    "ranking_loss",
    "rating_loss",
    "row_sums",
    "seen",
    "simpo_loss",
    "states_before",
    "summed",
    "token_logps",
    "token_rewards",
    "values",
    "whiten",
]
