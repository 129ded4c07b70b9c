"""Completions → rankings."""

from rlhf_jax.labelers.gold import RANGE, Facets, Gold, gold_score, rating
from rlhf_jax.labelers.simulated import Labeler, agreements, impression, make_labelers, rank

__all__ = [
    "RANGE",
    "Facets",
    "Gold",
    "Labeler",
    "agreements",
    "gold_score",
    "impression",
    "make_labelers",
    "rank",
    "rating",
]
