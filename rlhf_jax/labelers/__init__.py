"""Completions → rankings."""

from rlhf_jax.labelers.gold import RANGE, WEIGHTS, Facets, Gold, rating, rude_words
from rlhf_jax.labelers.simulated import Labeler, agreements, impression, make_labelers, rank

__all__ = [
    "RANGE",
    "WEIGHTS",
    "Facets",
    "Gold",
    "Labeler",
    "agreements",
    "impression",
    "make_labelers",
    "rank",
    "rating",
    "rude_words",
]
