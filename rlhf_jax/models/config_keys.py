"""The keys of config.json that change what a model computes, family by family, with Transformers' defaults.

A key that is not in its family's table is not read by Transformers' class of that model_type, or says nothing about numbers
(training, generation, bookkeeping): whatever it holds is let through. tests/models/test_config_keys.py compares the tables
with Transformers.
"""

from typing import Any, NamedTuple

NEEDED = ...  # there is no default


class OrNull(NamedTuple):
    """The default of a key that may be null as well, which then says something else than leaving it out."""

    default: Any


def may_be_null(default: Any) -> bool:
    """Whether null is a value of the key that has this default."""
    return default is None or isinstance(default, OrNull)


def default_of(default: Any) -> Any:
    """The value that stands for a missing key."""
    return default.default if isinstance(default, OrNull) else default


# Read of every config, whatever its class, by what Transformers' classes share.
SHARED = {
    "attention_chunk_size": None,
    "is_causal": True,
    "is_encoder_decoder": False,
    "layer_types": None,
    "per_layer_config": None,
    "quantization_config": None,
    "sliding_window": None,
}
ROTARY = {
    "rope_parameters": None,
    "rope_scaling": None,
    "rope_theta": 10_000.0,
    "partial_rotary_factor": None,
    "original_max_position_embeddings": None,
}
HEIR = (  # of Llama
    SHARED
    | ROTARY
    | {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": None,
        "head_dim": None,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": False,
    }
)

LLAMA = HEIR | {"attention_bias": False, "mlp_bias": False}
MISTRAL = HEIR | {
    "intermediate_size": 14336,
    "num_key_value_heads": OrNull(8),
    "max_position_embeddings": 131072,
    "sliding_window": OrNull(4096),
}
MINISTRAL = MISTRAL
MINISTRAL3 = MISTRAL | {
    "vocab_size": 131072,
    "num_hidden_layers": 34,
    "head_dim": 128,
    "max_position_embeddings": 262144,
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
}
QWEN2 = HEIR | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": OrNull(32),
    "max_position_embeddings": 32768,
    "use_sliding_window": False,
    "sliding_window": OrNull(4096),
    "max_window_layers": 28,
}
QWEN3 = QWEN2 | {"head_dim": 128, "attention_bias": False}
GEMMA = HEIR | {
    "vocab_size": 256000,
    "hidden_size": 3072,
    "intermediate_size": 24576,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "attention_bias": False,
    "use_bidirectional_attention": None,
}
GEMMA2 = {key: value for key, value in GEMMA.items() if key != "hidden_act"} | {
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": OrNull(4096),
    "attn_logit_softcapping": OrNull(50.0),
    "final_logit_softcapping": OrNull(30.0),
}
# Gemma 3 has a cap of its scores among its keys, which its attention does not read.
GEMMA3 = {key: value for key, value in GEMMA2.items() if key != "attn_logit_softcapping"} | {
    "vocab_size": 262208,
    "max_position_embeddings": 131072,
    "final_logit_softcapping": None,
    "sliding_window_pattern": 6,
    "rope_theta": 1_000_000.0,
    "rope_local_base_freq": 10_000.0,
    "use_bidirectional_attention": OrNull(False),
}
PHI3 = HEIR | {
    "vocab_size": 32064,
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "max_position_embeddings": 4096,
    "original_max_position_embeddings": 4096,
    "partial_rotary_factor": 1.0,
    "rms_norm_eps": 1e-5,
}
GRANITE = LLAMA | {
    "attention_multiplier": 1.0,
    "embedding_multiplier": 1.0,
    "logits_scaling": 1.0,
    "residual_multiplier": 1.0,
}
SMOLLM3 = LLAMA | {
    "vocab_size": 128256,
    "hidden_size": 2048,
    "num_hidden_layers": 36,
    "num_attention_heads": 16,
    "num_key_value_heads": OrNull(4),
    "max_position_embeddings": 32768,
    "rope_theta": 2_000_000.0,
    "tie_word_embeddings": True,
    "use_sliding_window": False,
    "no_rope_layers": None,
    "no_rope_layer_interval": 4,
}
OLMO2 = HEIR | {"vocab_size": 50304, "rms_norm_eps": 1e-5, "attention_bias": False}
OLMO3 = OLMO2 | {"rope_theta": 500_000.0, "sliding_window": OrNull(4096)}
GPT2 = SHARED | {
    "vocab_size": 50257,
    "n_positions": 1024,
    "n_embd": 768,
    "n_layer": 12,
    "n_head": 12,
    "n_inner": None,
    "activation_function": "gelu_new",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
    "tie_word_embeddings": True,
    # other names of four of these
    "max_position_embeddings": NEEDED,
    "hidden_size": NEEDED,
    "num_hidden_layers": NEEDED,
    "num_attention_heads": NEEDED,
}
OPT = SHARED | {
    "vocab_size": 50272,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "ffn_dim": 3072,
    "num_attention_heads": 12,
    "max_position_embeddings": 2048,
    "activation_function": "relu",
    "do_layer_norm_before": True,
    "_remove_final_layer_norm": False,
    "word_embed_proj_dim": None,
    "enable_bias": True,
    "layer_norm_elementwise_affine": True,
    "tie_word_embeddings": True,
}
NEOX = SHARED | {
    "vocab_size": 50432,
    "hidden_size": 6144,
    "num_hidden_layers": 44,
    "num_attention_heads": 64,
    "intermediate_size": 24576,
    "hidden_act": "gelu",
    "max_position_embeddings": 2048,
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
    "attention_bias": True,
    "head_dim": None,
    "rope_parameters": None,
    "rope_scaling": None,
    "rotary_emb_base": 10_000.0,
    "rotary_pct": 0.25,
    "original_max_position_embeddings": None,
}

# What rope_parameters and rope_scaling hold; each way of stretching reads some of it.
SCALING = {
    "rope_type": "default",
    "type": "default",  # its old name
    "rope_theta": NEEDED,
    "partial_rotary_factor": NEEDED,
    "factor": OrNull(NEEDED),
    "original_max_position_embeddings": NEEDED,
    "low_freq_factor": NEEDED,
    "high_freq_factor": NEEDED,
    "attention_factor": None,
    "beta_fast": None,
    "beta_slow": None,
    "mscale": None,
    "mscale_all_dim": None,
    "truncate": True,
    "llama_4_scaling_beta": NEEDED,
    "short_factor": NEEDED,
    "long_factor": NEEDED,
}
