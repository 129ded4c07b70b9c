"""Tokens → numbers, in Flax."""

from rlhf_jax.models.chunks import over_logits
from rlhf_jax.models.families import read_transformer_config, write_transformer_config
from rlhf_jax.models.heads import (
    Adapted,
    AnyLabelModel,
    AnyLanguageModel,
    AnyModel,
    AnyScalarModel,
    LabelModel,
    LanguageModel,
    ScalarModel,
    hidden_states,
    label_head,
    label_logits,
    last_token_score,
    logits,
    scalar_from_language_model,
    scalar_head,
    scalars,
)
from rlhf_jax.models.logits_processors import (
    Processors,
    Sampling,
    penalise,
    process_logits,
    processors_of,
    reprocess_logits,
)
from rlhf_jax.models.lora import init_lora, merge_lora
from rlhf_jax.models.placement import mesh_axes, replicate_rows
from rlhf_jax.models.pretrained import SCORE_BIAS, Pretrained, load_pretrained, read_decoder, save_pretrained
from rlhf_jax.models.rope import ROPE_SCALINGS, Rope
from rlhf_jax.models.rows import all_gather_rows, averaged_over, by_rows, in_parts, local_rows
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

__all__ = [
    "ROPE_SCALINGS",
    "SCORE_BIAS",
    "Adapted",
    "AnyLabelModel",
    "AnyLanguageModel",
    "AnyModel",
    "AnyScalarModel",
    "Cache",
    "LabelModel",
    "LanguageModel",
    "Pretrained",
    "Processors",
    "Rope",
    "Sampling",
    "ScalarModel",
    "Transformer",
    "TransformerConfig",
    "all_gather_rows",
    "averaged_over",
    "by_rows",
    "draw",
    "empty_cache",
    "generate",
    "hidden_states",
    "in_parts",
    "init_lora",
    "label_head",
    "label_logits",
    "last_token_score",
    "load_pretrained",
    "local_rows",
    "logits",
    "merge_lora",
    "mesh_axes",
    "over_logits",
    "penalise",
    "positions_of",
    "process_logits",
    "processors_of",
    "read_decoder",
    "read_transformer_config",
    "replicate_rows",
    "reprocess_logits",
    "save_pretrained",
    "scalar_from_language_model",
    "scalar_head",
    "scalars",
    "stack_blocks",
    "unstack_blocks",
    "write_transformer_config",
]
