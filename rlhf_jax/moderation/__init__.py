"""Texts → what is flagged in them and why: rules, and what becomes of a flagged text before the model and behind it."""

from rlhf_jax.moderation.plain import Plain, plain
from rlhf_jax.moderation.policy import Decision, Policy, moderated
from rlhf_jax.moderation.rules import Rule, Rules, read_rules, read_words, spelled
from rlhf_jax.moderation.verdict import Moderator, Reason, Verdict, both

__all__ = [
    "Decision",
    "Moderator",
    "Plain",
    "Policy",
    "Reason",
    "Rule",
    "Rules",
    "Verdict",
    "both",
    "moderated",
    "plain",
    "read_rules",
    "read_words",
    "spelled",
]
