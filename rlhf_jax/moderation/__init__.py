"""Texts → what is flagged in them and why, by rules or a classifier, and what becomes of it before and behind the model."""

from rlhf_jax.moderation.bag_of_words import BagOfWords, fit_bag_of_words
from rlhf_jax.moderation.calibration import (
    Calibrated,
    Method,
    Wanted,
    as_json,
    calibration_of,
    fit_category,
    fit_isotonic,
    fit_temperature,
    threshold,
)
from rlhf_jax.moderation.classifier import Classifier
from rlhf_jax.moderation.measures import (
    Curve,
    auprc,
    auprc_gain,
    average_precision,
    figure_text,
    precision_at,
    precision_recall,
    recall_at,
)
from rlhf_jax.moderation.plain import Plain, plain
from rlhf_jax.moderation.policy import Decision, Policy, moderated
from rlhf_jax.moderation.rules import Rule, Rules, read_rules, read_words, spelled
from rlhf_jax.moderation.verdict import Both, Moderator, Reason, Verdict, both, verdicts_of

__all__ = [
    "BagOfWords",
    "Both",
    "Calibrated",
    "Classifier",
    "Curve",
    "Decision",
    "Method",
    "Moderator",
    "Plain",
    "Policy",
    "Reason",
    "Rule",
    "Rules",
    "Verdict",
    "Wanted",
    "as_json",
    "auprc",
    "auprc_gain",
    "average_precision",
    "both",
    "calibration_of",
    "figure_text",
    "fit_bag_of_words",
    "fit_category",
    "fit_isotonic",
    "fit_temperature",
    "moderated",
    "plain",
    "precision_at",
    "precision_recall",
    "read_rules",
    "read_words",
    "recall_at",
    "spelled",
    "threshold",
    "verdicts_of",
]
