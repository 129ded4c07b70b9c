"""The keys of config.json against Transformers' own classes: which there are, what each is where it is missing, and what a
key that is dropped, null, changed or added does to the logits."""

import dataclasses
import itertools
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import InputError
from rlhf_jax.models import LanguageModel, hidden_states, load_pretrained, logits, read_transformer_config
from rlhf_jax.models.config_keys import NEEDED, SHARED, default_of, may_be_null
from rlhf_jax.models.families import FAMILIES

transformers = pytest.importorskip("transformers", reason="Transformers is not installed: pip install -e .[oracle]")
initialization = pytest.importorskip("transformers.initialization")
torch = pytest.importorskip("torch")

# What their classes know and no logit depends on: training, tokens, generation, bookkeeping, other heads, dtype.
WITHOUT_EFFECT = {
    *(
        "attention_dropout",
        "attn_pdrop",
        "embd_pdrop",
        "resid_pdrop",
        "hidden_dropout",
        "classifier_dropout",
        "dropout",
    ),
    *("layerdrop", "initializer_range", "init_std", "pretraining_tp", "use_cache", "is_decoder"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "summary_type", "summary_use_proj", "summary_activation"),
    *("summary_proj_to_labels", "summary_first_dropout", "reorder_and_upcast_attn", "dtype", "architectures"),
    *("transformers_version", "output_hidden_states", "return_dict", "chunk_size_feed_forward", "id2label", "label2id"),
    *("problem_type", "tie_last_hidden_states"),
    "attn_logit_softcapping",  # of Gemma 3, whose attention does not read it; Gemma 2's is in the table
}
# What is read of config.json and is no field of the class: old names, and what stands beside rope_parameters today.
NO_FIELD = {
    *("rope_scaling", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings", "rotary_pct"),
    *("rotary_emb_base", "rope_local_base_freq", "sliding_window_pattern", "head_dim", *SHARED),
    *("hidden_size", "max_position_embeddings", "num_attention_heads", "num_hidden_layers"),  # GPT-2's other names
}


def their_class(family: str):
    return type(transformers.AutoConfig.for_model(family))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tables_are_their_classes_fields(family):
    fields = {field.name: field for field in dataclasses.fields(their_class(family))}
    keys = FAMILIES[family].keys
    assert fields.keys() - keys.keys() <= WITHOUT_EFFECT
    assert keys.keys() - fields.keys() <= NO_FIELD
    for name in keys.keys() & fields.keys():
        assert default_of(keys[name]) == fields[name].default, name
        if may_be_null(keys[name]):
            takes_null = "None" in str(fields[name].type) or name in ("num_key_value_heads", "is_causal")
            assert takes_null, name


# --- logits -----------------------------------------------------------------------------------------------------------

MINISTRAL3 = {"rope_type": "yarn", "llama_4_scaling_beta": 0.5}
SIZES = {
    "vocab_size": 48,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 32,
}
BASES = {
    "opt": {key: x for key, x in SIZES.items() if key != "intermediate_size"} | {"ffn_dim": 24, "pad_token_id": 0},
    "gpt2": {"vocab_size": 48, "n_embd": 16, "n_layer": 3, "n_head": 4, "n_positions": 32},
    "gpt_neox": SIZES | {"hidden_size": 32},
}
HEIR = SIZES | {"num_key_value_heads": 2, "head_dim": 8, "rope_theta": 500.0, "pad_token_id": 0}
BASES["ministral3"] = HEIR | {"rope_parameters": MINISTRAL3 | {"factor": 4.0, "original_max_position_embeddings": 8}}
FIXED = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "n_embd", "n_layer", "ffn_dim"}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0, 1.1, 1.3, 1.7], "long_factor": [2.0, 2.2, 3.0, 5.0]}
KINDS = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 300.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 90.0},
}
GROWING = {
    "llama_4_scaling_beta": 0.5,
    "original_max_position_embeddings": 8,
}  # without which ministral3 has no forward
ROTARY = [
    {"type": "linear", "factor": 4.0},
    {"rope_type": "default", "rope_theta": 77.0, "factor": 3.0},
    {"rope_type": "linear", "factor": 2.0, "rope_theta": 77.0, "partial_rotary_factor": 0.5},
    {"rope_theta": 77.0, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2], "spin": 3},
    LLAMA3 | {"original_max_position_embeddings": 8},
    LLAMA3,
    YARN,
    YARN | {"beta_fast": 8, "beta_slow": 0, "attention_factor": 1.3, "truncate": False, "finetuned": True},
    YARN | {"mscale": 1.2, "mscale_all_dim": 0.7, "factor": None},
    YARN | {"mscale": 1.2, "mscale_all_dim": 0.7, "factor": 0.5},
    {"rope_type": "dynamic", "factor": 3.0},
    {"type": "su", "short_factor": [1.0, 1.1, 1.3, 1.7], "long_factor": [2.0, 2.2, 3.0, 5.0]},
    LONGROPE,
    LONGROPE | {"factor": 2.0, "original_max_position_embeddings": 10},
    LONGROPE | {"attention_factor": 1.4, "short_factor": [1.0]},
    KINDS,
    KINDS | {"full_attention": None},
    KINDS | {"sliding_attention": {"rope_type": "dynamic", "factor": 3.0}},
    {"full_attention": KINDS["full_attention"] | YARN | {"truncate": False}},
    {},
]
OTHERS = {  # values that say something else than the base, by key; booleans are turned besides
    "attention_chunk_size": [4],
    "activation_function": ["gelu", "relu", "quick_gelu"],
    "attention_multiplier": [0.3],
    "attn_logit_softcapping": [2.0],
    "embedding_multiplier": [3.0],
    "final_logit_softcapping": [2.0],
    "head_dim": [4, 8, 16],
    "hidden_act": ["gelu", "relu", "gelu_pytorch_tanh", "swish", "quick_gelu"],
    "hidden_activation": ["gelu", "relu", "silu", "gelu_new"],
    "layer_norm_eps": [0.1],
    "layer_norm_epsilon": [0.1],
    "layer_types": [
        ["full_attention"] * 3,
        ["full_attention", "sliding_attention", "sliding_attention"],
        ["mamba"] * 3,
    ],
    "logits_scaling": [4.0],
    "max_position_embeddings": [16, 12, 8],
    "max_window_layers": [0, 1],
    "n_inner": [20],
    "no_rope_layers": [[0, 1, 0]],
    "no_rope_layer_interval": [2],
    "num_attention_heads": [2],
    "num_key_value_heads": [1, 4],
    "original_max_position_embeddings": [8],
    "partial_rotary_factor": [0.5],
    "query_pre_attn_scalar": [9],
    "residual_multiplier": [0.4],
    "rms_norm_eps": [0.1],
    "rope_local_base_freq": [33.0],
    "rope_theta": [20.0],
    "rotary_emb_base": [20.0],
    "rotary_pct": [0.5, 1.0],
    "sliding_window": [3],
    "sliding_window_pattern": [2],
    "_sliding_window_pattern": [2],
    "quantization_config": [{"quant_method": "awq"}],
    "word_embed_proj_dim": [8],
    # written by somebody, read by nobody
    **{name: [False, True, 1] for name in ("use_mrope", "is_llama_config", "rope_interleaved", "unsloth_fixed")},
    **{name: [True, 0] for name in ("_num_labels", "n_special", "predict_special_tokens", "clip_qkv")},
    "transformers.js_config": [{"kv_cache_dtype": "fp16"}],
}
TOGETHER = [  # keys that stand beside each other
    *(
        {"rope_parameters": new, "rope_scaling": old}
        for new, old in itertools.product([*ROTARY[:2], KINDS], ROTARY[:3])
    ),
    *({"rope_scaling": each, "original_max_position_embeddings": 16} for each in (YARN, LLAMA3)),
    *({"rope_scaling": each, "partial_rotary_factor": 0.5} for each in (YARN, {}, ROTARY[0])),
    *({"rope_parameters": each, "rope_theta": None} for each in ROTARY),
    {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
    {"use_sliding_window": True, "sliding_window": None, "max_window_layers": 1},
    {"use_sliding_window": True, "sliding_window": 3, "no_rope_layers": [0, 1, 1]},
    {"layer_types": OTHERS["layer_types"][1], "sliding_window": None},
    {"layer_types": OTHERS["layer_types"][1], "sliding_window": 3},
    {"rope_theta": 30.0, "rope_local_base_freq": 20.0},
    {"do_layer_norm_before": False, "word_embed_proj_dim": 8},
    {"word_embed_proj_dim": 8, "tie_word_embeddings": False},
    {"hidden_size": 16, "num_attention_heads": 2, "n_head": 4},
]


def rotary_of(family: str) -> list[dict]:
    return ROTARY + ([GROWING | each for each in ROTARY] if family == "ministral3" else [])


def base_of(family: str) -> dict:
    return BASES.get(family, HEIR) | {"model_type": family}


def variants(family: str):
    """What is changed, and the config.json."""
    base = base_of(family)
    fields = {field.name for field in dataclasses.fields(their_class(family))} - WITHOUT_EFFECT
    names = sorted(fields | OTHERS.keys() | {name for each in FAMILIES.values() for name in each.keys})
    defaults = {name: default_of(default) for each in FAMILIES.values() for name, default in each.keys.items()}
    yield "as it is", base
    for name in sorted(base.keys() - FIXED - {"model_type"}):
        yield f"without {name}", {key: value for key, value in base.items() if key != name}
    for name in names:
        if name in FIXED:
            continue
        if name in fields | FAMILIES[family].keys.keys():
            yield f"{name} null", base | {name: None}
        others = rotary_of(family) if name in ("rope_scaling", "rope_parameters") else OTHERS.get(name, [])
        default = defaults.get(name, NEEDED)
        for value in [*others, *([not default, default] if isinstance(default, bool) else [])]:
            yield f"{name} = {value}", base | {name: value}
    for each in TOGETHER:
        yield str(each), base | each


def filled(model):
    """The same weights for the same shapes, far enough from 0 that every switch shows in the logits."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator) + (parameter.ndim == 1) * 0.5)
    return model.eval()


TOKENS = np.random.default_rng(0).integers(1, 48, (2, 12))
MASK = np.arange(12) >= np.array([0, 4])[:, None]


def theirs(folder):
    """Their model of the folder's config.json."""
    config = transformers.AutoConfig.from_pretrained(folder)
    config._attn_implementation = "eager"
    with initialization.no_init_weights():
        model = transformers.AutoModelForCausalLM.from_config(config)
    model.tie_weights()
    return filled(model)


def their_logits(model) -> np.ndarray:
    positions = torch.tensor(np.maximum(np.cumsum(MASK, axis=1) - 1, 0))
    with torch.no_grad():
        mask = torch.tensor(MASK).long()
        return model(torch.tensor(TOKENS), attention_mask=mask, position_ids=positions).logits.numpy()[MASK]


def our_logits(folder) -> np.ndarray:
    config, params, _ = load_pretrained(folder)
    model = LanguageModel(config)
    hidden, _ = hidden_states(model, params, jnp.asarray(TOKENS), jnp.asarray(MASK))
    return np.asarray(logits(model, params, hidden))[MASK]


def save_weights(model, folder) -> None:
    """Beside the config.json that is there."""
    model.save_pretrained(folder / "theirs")
    shutil.copy(folder / "theirs" / "model.safetensors", folder)


# What they compute and we refuse has one of these.
NOT_IMPLEMENTED = {
    *(
        "activation_function",
        "hidden_act",
        "add_cross_attention",
        "is_causal",
        "is_encoder_decoder",
        "attention_chunk_size",
    ),
    *("use_bidirectional_attention", "layer_norm_elementwise_affine", "scale_attn_weights", "quantization_config"),
    *("scale_attn_by_inverse_layer_idx", "layer_types", "sliding_window", "no_rope_layers", "head_dim"),
    *("rope_parameters", "rope_scaling", "rope_theta", "original_max_position_embeddings"),
}


@pytest.mark.long
@pytest.mark.parametrize("family", FAMILIES)
def test_every_key_dropped_null_changed_and_added(family, tmp_path):
    """The logits are Transformers', or one of the two refuses; of what they compute most is let through, and what is not
    has a key that is not implemented."""
    ours, refused, compared = {}, [], 0
    for change, values in variants(family):
        (tmp_path / "config.json").write_text(json.dumps(values))
        try:
            config = read_transformer_config(values, "config.json")
        except InputError:
            config = None
        try:
            model = theirs(tmp_path)
            expected = their_logits(model)
        except Exception:  # whatever they raise: they do not compute this
            assert change != "as it is"
            continue
        if config is None:
            base = base_of(family)
            assert {key for key in values if base.get(key) != values[key]} & NOT_IMPLEMENTED, change
            refused.append(change)
            continue
        if config not in ours:
            save_weights(model, tmp_path)
            ours[config] = our_logits(tmp_path)
        atol = 1e-4 * max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(ours[config], expected, atol=atol, err_msg=f"{family}, {change}")
        compared += 1
    print(family, "compared", compared, "distinct", len(ours), "refused", len(refused), refused)
    assert compared > 2 * len(refused)
