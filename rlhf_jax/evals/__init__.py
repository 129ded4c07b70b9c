"""Parameters + data → figures."""

from rlhf_jax.evals.ablation import SYMBOLS, Cell, Claim, Line, write_ablation
from rlhf_jax.evals.answers import Answers, answer, continued, scores
from rlhf_jax.evals.attempts import attempts, pass_at
from rlhf_jax.evals.audit import QUANTILES, Audit, Example, write_audit
from rlhf_jax.evals.browser import Browsed, write_browser
from rlhf_jax.evals.crows_pairs import CrowsPair, crows_pairs, read_crows_pairs
from rlhf_jax.evals.figures import MODELS
from rlhf_jax.evals.harness import harness, harness_model
from rlhf_jax.evals.inspector import Inspected, write_inspector
from rlhf_jax.evals.instruction import INSTRUCTIONS, Instruction, instructed
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
    width_of,
    win_scores,
)
from rlhf_jax.evals.measured import Row, Value, differences, figures_of, row_of
from rlhf_jax.evals.report import scale_of, table_text, write_report
from rlhf_jax.evals.task import Ask, Context, Likely, LogProb, Reply, Said, Task, Write
from rlhf_jax.evals.toxicity import (
    NUCLEUS,
    Scorer,
    ToxicityPrompt,
    expected_maximum,
    probability_of_any,
    read_toxicity_prompts,
    toxicity,
    uniform_in_toxicity,
)
from rlhf_jax.evals.winogender import (
    PronounPair,
    WinogenderSentence,
    correlation,
    read_winogender,
    winogender_pronouns,
    winogender_resolution,
)

__all__ = [
    "CONFIDENCE",
    "INSTRUCTIONS",
    "MODELS",
    "NUCLEUS",
    "QUANTILES",
    "RATING",
    "SHARE",
    "SYMBOLS",
    "Answers",
    "Ask",
    "Audit",
    "Browsed",
    "Cell",
    "Claim",
    "Context",
    "Continuation",
    "CrowsPair",
    "Estimate",
    "Example",
    "Inspected",
    "Instruction",
    "Likelihood",
    "Likely",
    "Line",
    "LogProb",
    "PronounPair",
    "Reply",
    "Row",
    "Said",
    "Scale",
    "Scorer",
    "Task",
    "ToxicityPrompt",
    "Value",
    "WinogenderSentence",
    "Write",
    "answer",
    "attempts",
    "choice_entropy_bits",
    "continued",
    "correlation",
    "crows_pairs",
    "differences",
    "expected_maximum",
    "figures_of",
    "harness",
    "harness_model",
    "instructed",
    "likeliest",
    "likelihood",
    "mean_interval",
    "over_seeds",
    "paired_interval",
    "pass_at",
    "per_row",
    "probability_of_any",
    "ratio_interval",
    "read_crows_pairs",
    "read_toxicity_prompts",
    "read_winogender",
    "row_of",
    "scale_of",
    "scores",
    "table_text",
    "toxicity",
    "uniform_in_toxicity",
    "width_of",
    "win_scores",
    "winogender_pronouns",
    "winogender_resolution",
    "write_ablation",
    "write_audit",
    "write_browser",
    "write_inspector",
    "write_report",
]
