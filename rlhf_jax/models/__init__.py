"""Tokens → numbers, in Flax."""

from rlhf_jax.models.chunks import over_logits
from rlhf_jax.models.families import read_transformer_config, write_transformer_config
from rlhf_jax.models.heads import (
    Adapted,
    AnyLanguageModel,
    AnyScalarModel,
    LanguageModel,
    ScalarModel,
    hidden_states,
    last_token_score,
    logits,
    scalar_from_language_model,
    scalar_head,
    scalars,
)
from rlhf_jax.models.lora import init_lora, merge_lora
from rlhf_jax.models.placement import mesh_axes, rows_together
from rlhf_jax.models.pretrained import Pretrained, load_pretrained, read_decoder, save_pretrained
from rlhf_jax.models.rope import Rope
from rlhf_jax.models.rows import all_rows, averaged_over, by_rows, own_rows
from rlhf_jax.models.sampling import draw, generate
from rlhf_jax.models.transformer import (
    Cache,
    Transformer,
    TransformerConfig,
    empty_cache,
    positions_of,
    stack_blocks,
    unstack_blocks,
)
from rlhf_jax.models.warping import Drawn, Sampling, drawn, penalise, rewarp, warp

__all__ = [
    "Adapted",
    "AnyLanguageModel",
    "AnyScalarModel",
    "Cache",
    "Drawn",
    "LanguageModel",
    "Pretrained",
    "Rope",
    "Sampling",
    "ScalarModel",
    "Transformer",
    "TransformerConfig",
    "all_rows",
    "averaged_over",
    "by_rows",
    "draw",
    "drawn",
    "empty_cache",
    "generate",
    "hidden_states",
    "init_lora",
    "last_token_score",
    "load_pretrained",
    "logits",
    "merge_lora",
    "mesh_axes",
    "over_logits",
    "own_rows",
    "penalise",
    "positions_of",
    "read_decoder",
    "read_transformer_config",
    "rewarp",
    "rows_together",
    "save_pretrained",
    "scalar_from_language_model",
    "scalar_head",
    "scalars",
    "stack_blocks",
    "unstack_blocks",
    "warp",
    "write_transformer_config",
]
