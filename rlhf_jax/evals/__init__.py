"""Parameters + data → figures."""

from rlhf_jax.evals.answers import Answers, answer, scores
from rlhf_jax.evals.intervals import Estimate, mean_interval, over_seeds, proportion_interval, ratio_interval
from rlhf_jax.evals.likelihood import (
    Continuation,
    Likelihood,
    choice_entropy_bits,
    likeliest,
    likelihood,
    per_row,
    win_scores,
)
from rlhf_jax.evals.report import table_text, write_report

__all__ = [
    "Answers",
    "Continuation",
    "Estimate",
    "Likelihood",
    "answer",
    "choice_entropy_bits",
    "likeliest",
    "likelihood",
    "mean_interval",
    "over_seeds",
    "per_row",
    "proportion_interval",
    "ratio_interval",
    "scores",
    "table_text",
    "win_scores",
    "write_report",
]
