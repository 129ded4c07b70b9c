"""Parameters + data → figures."""

from rlhf_jax.evals.ablation import SYMBOLS, Cell, Claim, Line, write_ablation
from rlhf_jax.evals.answers import Answers, answer, scores
from rlhf_jax.evals.audit import QUANTILES, Audit, Example, write_audit
from rlhf_jax.evals.browser import Browsed, write_browser
from rlhf_jax.evals.figures import MODELS
from rlhf_jax.evals.inspector import Inspected, write_inspector
from rlhf_jax.evals.intervals import (
    CONFIDENCE,
    RATING,
    SHARE,
    Estimate,
    Scale,
    mean_interval,
    over_seeds,
    paired_interval,
    ratio_interval,
)
from rlhf_jax.evals.likelihood import (
    Continuation,
    Likelihood,
    choice_entropy_bits,
    likeliest,
    likelihood,
    per_row,
    win_scores,
)
from rlhf_jax.evals.report import scale_of, table_text, write_report

__all__ = [
    "CONFIDENCE",
    "MODELS",
    "QUANTILES",
    "RATING",
    "SHARE",
    "SYMBOLS",
    "Answers",
    "Audit",
    "Browsed",
    "Cell",
    "Claim",
    "Continuation",
    "Estimate",
    "Example",
    "Inspected",
    "Likelihood",
    "Line",
    "Scale",
    "answer",
    "choice_entropy_bits",
    "likeliest",
    "likelihood",
    "mean_interval",
    "over_seeds",
    "paired_interval",
    "per_row",
    "ratio_interval",
    "scale_of",
    "scores",
    "table_text",
    "win_scores",
    "write_ablation",
    "write_audit",
    "write_browser",
    "write_inspector",
    "write_report",
]
