"""Parameters + data → figures."""

from rlhf_jax.evals.ablation import SYMBOLS, Cell, Claim, Line, write_ablation
from rlhf_jax.evals.answers import Answers, answer, scores
from rlhf_jax.evals.audit import QUANTILES, Audit, Example, write_audit
from rlhf_jax.evals.browser import Browsed, write_browser
from rlhf_jax.evals.card import Carded, Made, Measurement, Setting, difference_of, settings_of, write_card
from rlhf_jax.evals.figures import MODELS
from rlhf_jax.evals.inspector import Inspected, write_inspector
from rlhf_jax.evals.intervals import (
    CONFIDENCE,
    RATING,
    SHARE,
    Estimate,
    Scale,
    independent_difference,
    mean_interval,
    over_seeds,
    paired_interval,
    ratio_interval,
    says_little,
)
from rlhf_jax.evals.likelihood import (
    Continuation,
    Likelihood,
    choice_entropy_bits,
    likeliest,
    likelihood,
    per_row,
    width_of,
    win_scores,
)
from rlhf_jax.evals.lineage import Edge, Origins, edges
from rlhf_jax.evals.measured import Row, Value, differences, figures_of, row_of
from rlhf_jax.evals.report import scale_of, table_text, write_report
from rlhf_jax.evals.task import Ask, Context, Likely, LogProb, Reply, Said, Task, Write

__all__ = [
    "CONFIDENCE",
    "MODELS",
    "QUANTILES",
    "RATING",
    "SHARE",
    "SYMBOLS",
    "Answers",
    "Ask",
    "Audit",
    "Browsed",
    "Carded",
    "Cell",
    "Claim",
    "Context",
    "Continuation",
    "Edge",
    "Estimate",
    "Example",
    "Inspected",
    "Likelihood",
    "Likely",
    "Line",
    "LogProb",
    "Made",
    "Measurement",
    "Origins",
    "Reply",
    "Row",
    "Said",
    "Scale",
    "Setting",
    "Task",
    "Value",
    "Write",
    "answer",
    "choice_entropy_bits",
    "difference_of",
    "differences",
    "edges",
    "figures_of",
    "independent_difference",
    "likeliest",
    "likelihood",
    "mean_interval",
    "over_seeds",
    "paired_interval",
    "per_row",
    "ratio_interval",
    "row_of",
    "says_little",
    "scale_of",
    "scores",
    "settings_of",
    "table_text",
    "width_of",
    "win_scores",
    "write_ablation",
    "write_audit",
    "write_browser",
    "write_card",
    "write_inspector",
    "write_report",
]
