"""Parameters + data → figures."""

from rlhf_jax.evals.ablation import SYMBOLS, Cell, Claim, Line, write_ablation
from rlhf_jax.evals.answers import Answers, answer, scores
from rlhf_jax.evals.audit import QUANTILES, Audit, Example, write_audit
from rlhf_jax.evals.browser import Browsed, write_browser
from rlhf_jax.evals.closed_domain import Closed, closed_domain, read_closed_domain, unsupported
from rlhf_jax.evals.figures import MODELS
from rlhf_jax.evals.held_out import Piece, held_out, read_pieces
from rlhf_jax.evals.hellaswag import Ending, hellaswag, read_hellaswag
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
from rlhf_jax.evals.lambada import LastWord, lambada, read_lambada
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
from rlhf_jax.evals.reading import (
    Passage,
    drop,
    drop_exact,
    drop_f1,
    read_drop,
    read_squad,
    squad,
    squad_exact,
    squad_f1,
)
from rlhf_jax.evals.report import scale_of, table_text, write_report
from rlhf_jax.evals.task import Ask, Context, Likely, LogProb, Reply, Said, Task, Write
from rlhf_jax.evals.tax import tax_table
from rlhf_jax.evals.truthfulqa import Question, one_by_one, read_truthfulqa, truthfulqa_answers, truthfulqa_choices

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
    "Cell",
    "Claim",
    "Closed",
    "Context",
    "Continuation",
    "Ending",
    "Estimate",
    "Example",
    "Inspected",
    "LastWord",
    "Likelihood",
    "Likely",
    "Line",
    "LogProb",
    "Passage",
    "Piece",
    "Question",
    "Reply",
    "Row",
    "Said",
    "Scale",
    "Task",
    "Value",
    "Write",
    "answer",
    "choice_entropy_bits",
    "closed_domain",
    "differences",
    "drop",
    "drop_exact",
    "drop_f1",
    "figures_of",
    "held_out",
    "hellaswag",
    "lambada",
    "likeliest",
    "likelihood",
    "mean_interval",
    "one_by_one",
    "over_seeds",
    "paired_interval",
    "per_row",
    "ratio_interval",
    "read_closed_domain",
    "read_drop",
    "read_hellaswag",
    "read_lambada",
    "read_pieces",
    "read_squad",
    "read_truthfulqa",
    "row_of",
    "scale_of",
    "scores",
    "squad",
    "squad_exact",
    "squad_f1",
    "table_text",
    "tax_table",
    "truthfulqa_answers",
    "truthfulqa_choices",
    "unsupported",
    "width_of",
    "win_scores",
    "write_ablation",
    "write_audit",
    "write_browser",
    "write_inspector",
    "write_report",
]
