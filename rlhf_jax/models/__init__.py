"""Tokens → numbers, in Flax."""

from rlhf_jax.models.heads import (
    LanguageModel,
    ScalarModel,
    hidden_states,
    last_token_score,
    logits,
    scalar_from_language_model,
    scalars,
)
from rlhf_jax.models.sampling import draw, generate
from rlhf_jax.models.transformer import Cache, Transformer, TransformerConfig, empty_cache, positions_of
from rlhf_jax.models.warping import Sampling, penalise, rewarp, warp

__all__ = [
    "Cache",
    "LanguageModel",
    "Sampling",
    "ScalarModel",
    "Transformer",
    "TransformerConfig",
    "draw",
    "empty_cache",
    "generate",
    "hidden_states",
    "last_token_score",
    "logits",
    "penalise",
    "positions_of",
    "rewarp",
    "scalar_from_language_model",
    "scalars",
    "warp",
]
