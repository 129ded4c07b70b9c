"""config.json as it is published, one of each shape: it is read, and small models of it have Transformers' logits.

Keys and values are those of the named files, but for the sizes and the ids of special tokens, which are small here. The
table of largest errors:

    python -m tests.models.test_published_configs
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.models.families import read_transformer_config, text_part

TOKENS = {"bos_token_id": 1, "eos_token_id": 2}
BOOKS = {"initializer_range": 0.02, "torch_dtype": "bfloat16", "transformers_version": "4.40.1", "use_cache": True}
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "vocab_size": 64}
HEIR = SIZES | {"num_key_value_heads": 2, "hidden_act": "silu", "max_position_embeddings": 64} | TOKENS | BOOKS
LLAMA = HEIR | {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "rms_norm_eps": 1e-5, "pretraining_tp": 1}
LLAMA |= {"attention_bias": False, "attention_dropout": 0.0, "rope_theta": 1e4, "rope_scaling": None}
LLAMA3 = {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0, "original_max_position_embeddings": 8}
GPT2 = {
    **{"activation_function": "gelu_new", "architectures": ["GPT2LMHeadModel"], "attn_pdrop": 0.1, "embd_pdrop": 0.1},
    **{"initializer_range": 0.02, "layer_norm_epsilon": 1e-5, "model_type": "gpt2", "n_ctx": 32, "n_embd": 32},
    **{"n_head": 4, "n_layer": 3, "n_positions": 32, "resid_pdrop": 0.1, "summary_activation": None},
    **{"summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index"},
    **{"summary_use_proj": True, "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}},
    **{"vocab_size": 64, "bos_token_id": 63, "eos_token_id": 63},
}
NEOX = (
    SIZES | TOKENS | BOOKS | {"architectures": ["GPTNeoXForCausalLM"], "model_type": "gpt_neox", "hidden_act": "gelu"}
)
NEOX |= {"layer_norm_eps": 1e-5, "max_position_embeddings": 64, "rotary_emb_base": 10000, "rotary_pct": 0.25}
NEOX |= {"tie_word_embeddings": False, "use_parallel_residual": True}
MISTRAL = HEIR | {
    "architectures": ["MistralForCausalLM"],
    "model_type": "mistral",
    "rms_norm_eps": 1e-5,
    "rope_theta": 1e4,
}
MISTRAL |= {"sliding_window": 5, "tie_word_embeddings": False}
QWEN = HEIR | {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "max_window_layers": 2,
    "model_type": "qwen2",
}
QWEN |= {"rms_norm_eps": 1e-6, "rope_theta": 1e6, "sliding_window": 32, "tie_word_embeddings": True}
QWEN |= {"use_sliding_window": False}
GEMMA = HEIR | {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "head_dim": 16,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
}
GEMMA |= {"pad_token_id": 0}
GEMMA2 = GEMMA | {
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 24,
}
PHI3 = HEIR | {
    "architectures": ["Phi3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "embd_pdrop": 0.0,
}
PHI3 |= {"auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "model_type": "phi3", "pad_token_id": 0}
PHI3 |= {"resid_pdrop": 0.0, "rms_norm_eps": 1e-5, "rope_theta": 1e4, "tie_word_embeddings": False}
OPT = {key: value for key, value in SIZES.items() if key != "intermediate_size"} | BOOKS | TOKENS
OPT |= {"activation_dropout": 0.0, "activation_function": "relu", "architectures": ["OPTForCausalLM"], "ffn_dim": 48}
OPT |= {"attention_dropout": 0.0, "do_layer_norm_before": True, "dropout": 0.1, "init_std": 0.02, "layerdrop": 0.0}
OPT |= {
    "max_position_embeddings": 64,
    "model_type": "opt",
    "pad_token_id": 1,
    "prefix": "</s>",
    "word_embed_proj_dim": 32,
}
SLIDES = ["sliding_attention", "sliding_attention", "sliding_attention", "full_attention"]

PUBLISHED = {
    "gpt2": GPT2,
    "gpt2-medium": GPT2 | {"n_special": 0, "predict_special_tokens": True},
    "distilgpt2": GPT2 | {"_num_labels": 1, "id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}},
    "microsoft/DialoGPT": {key: GPT2[key] for key in GPT2 if not key.startswith("n_ctx")} | {"conversational": {}},
    "EleutherAI/pythia": NEOX,
    "EleutherAI/gpt-neox-20b": NEOX | {"attention_probs_dropout_prob": 0, "hidden_dropout_prob": 0},
    "meta-llama/Llama-2": LLAMA | {"max_length": 4096, "pad_token_id": 0, "tie_word_embeddings": False},
    "lmsys/longchat, vicuna-16k": LLAMA | {"rope_scaling": {"factor": 4.0, "type": "linear"}},
    "meta-llama/Llama-3.1": LLAMA | {"mlp_bias": False, "rope_scaling": LLAMA3 | {"rope_type": "llama3"}},
    "meta-llama/Llama-3.2": LLAMA
    | {"head_dim": 8, "mlp_bias": False, "rope_scaling": LLAMA3 | {"rope_type": "llama3"}, "tie_word_embeddings": True},
    "unsloth/Llama-3.2": LLAMA | {"unsloth_fixed": True, "pad_token_id": 4, "eos_token_id": [2, 3]},
    "HuggingFaceTB/SmolLM": LLAMA | {"is_llama_config": True, "rope_interleaved": False, "tie_word_embeddings": True},
    "HuggingFaceTB/SmolLM2": LLAMA
    | {"is_llama_config": True, "rope_interleaved": False, "tie_word_embeddings": True}
    | {"transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16", "fp16": "float16"}}},
    "NousResearch/Yarn-Llama-2": LLAMA
    | {"rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 8, "type": "yarn", "finetuned": True}},
    "dynamic, as LLaMA-Factory writes it": LLAMA
    | {"max_position_embeddings": 8, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
    "tiiuae/Falcon3": LLAMA | {"activation": "swiglu", "head_dim": 16},
    "mistralai/Mistral-7B-v0.1": MISTRAL,
    "mistralai/Mistral-7B-v0.3": MISTRAL | {"sliding_window": None, "rope_theta": 1e6},
    "mistralai/Mistral-Nemo": MISTRAL | {"sliding_window": None, "head_dim": 16},
    "mistralai/Ministral-8B": MISTRAL
    | {"head_dim": 8, "layer_types": ["full_attention", *SLIDES[:3]], "rope_theta": 1e8, "sliding_window": 5},
    "mistralai/Ministral-3": {
        **{"architectures": ["Mistral3ForConditionalGeneration"], "dtype": "bfloat16", "image_token_index": 62},
        **{"model_type": "mistral3", "multimodal_projector_bias": False, "projector_hidden_act": "gelu"},
        **{"spatial_merge_size": 2, "tie_word_embeddings": True, "vision_feature_layer": -1},
        "text_config": HEIR
        | {
            "attention_dropout": 0.0,
            "head_dim": 8,
            "model_type": "ministral3",
            "rms_norm_eps": 1e-5,
            "sliding_window": None,
        }
        | {
            "rope_parameters": {"beta_fast": 32.0, "beta_slow": 1.0, "factor": 16.0, "llama_4_scaling_beta": 0.1}
            | {"mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 8, "rope_theta": 1e6}
            | {"rope_type": "yarn", "type": "yarn"}
        },
        "vision_config": {
            **{"attention_dropout": 0.0, "head_dim": 8, "hidden_act": "silu", "hidden_size": 16, "image_size": 28},
            **{"intermediate_size": 16, "model_type": "pixtral", "num_attention_heads": 2, "num_channels": 3},
            **{"num_hidden_layers": 1, "patch_size": 14},
        },
    },
    "Qwen/Qwen2.5": QWEN | {"use_mrope": False},
    "deepseek-ai/DeepSeek-R1-Distill-Qwen": QWEN | {"use_mrope": False, "tie_word_embeddings": False},
    "Qwen/Qwen2.5, long": QWEN
    | {"rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 8, "type": "yarn"}},
    "Qwen/Qwen3": QWEN
    | {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False, "head_dim": 16}
    | {"rope_scaling": None, "sliding_window": None},
    "google/gemma": GEMMA | {"model_type": "gemma", "hidden_act": "gelu", "hidden_activation": None},
    "google/gemma-2": GEMMA2
    | {"model_type": "gemma2", "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 5}
    | {"cache_implementation": "hybrid", "sliding_window_size": 4096},
    "google/gemma-3-1b": GEMMA2
    | {
        "model_type": "gemma3_text",
        "attn_logit_softcapping": None,
        "final_logit_softcapping": None,
        "rope_scaling": None,
    }
    | {"rope_local_base_freq": 1e4, "rope_theta": 1e6, "sliding_window": 5, "sliding_window_pattern": 2}
    | {"cache_implementation": "hybrid"},
    "google/gemma-3-4b": {
        **{"architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 60, "eoi_token_index": 61},
        **{"eos_token_id": [1, 7], "image_token_index": 62, "initializer_range": 0.02, "mm_tokens_per_image": 4},
        **{"model_type": "gemma3", "torch_dtype": "bfloat16", "transformers_version": "4.50.0.dev0"},
        "text_config": {
            **{"hidden_size": 32, "intermediate_size": 48, "model_type": "gemma3_text", "num_hidden_layers": 7},
            **{"rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 5},
            **{"head_dim": 8, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64},  # not there
        },
        "vision_config": {
            **{"hidden_size": 16, "image_size": 28, "intermediate_size": 16, "model_type": "siglip_vision_model"},
            **{"num_attention_heads": 2, "num_hidden_layers": 1, "patch_size": 14, "vision_use_head": False},
        },
    },
    "microsoft/Phi-3-mini-4k": PHI3
    | {"original_max_position_embeddings": 64, "rope_scaling": None, "sliding_window": 5, "num_key_value_heads": 4},
    "microsoft/Phi-3-mini-128k, Phi-3.5": PHI3
    | {"original_max_position_embeddings": 8, "sliding_window": 262144}
    | {"rope_scaling": {"long_factor": [1.1, 2.0, 3.0, 5.0], "short_factor": [1.0, 1.1, 1.2, 1.3], "type": "longrope"}},
    "microsoft/Phi-4-mini": PHI3
    | {"original_max_position_embeddings": 8, "sliding_window": 262144, "tie_word_embeddings": True, "head_dim": 8}
    | {
        "full_attn_mod": 1,
        "interpolate_factor": 1,
        "lm_head_bias": False,
        "mlp_bias": False,
        "partial_rotary_factor": 0.75,
    }
    | {"rope_scaling": {"long_factor": [1.1, 2.0, 3.0], "short_factor": [1.0, 1.1, 1.2], "type": "longrope"}},
    "microsoft/phi-4": PHI3
    | {"original_max_position_embeddings": 64, "rope_scaling": None, "sliding_window": None, "rope_theta": 250000},
    "allenai/OLMo-2": HEIR
    | {"architectures": ["Olmo2ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "model_type": "olmo2"}
    | {
        "pad_token_id": 1,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 500000,
        "tie_word_embeddings": False,
    },
    "allenai/Olmo-3": HEIR
    | {"architectures": ["Olmo3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "model_type": "olmo3"}
    | {"pad_token_id": 1, "rms_norm_eps": 1e-6, "rope_theta": 500000, "tie_word_embeddings": False}
    | {
        "rope_scaling": {"attention_factor": 1.2079441541679836, "beta_fast": 32, "beta_slow": 1, "factor": 8.0}
        | {"original_max_position_embeddings": 8, "rope_type": "yarn"}
    }
    | {"layer_types": SLIDES, "sliding_window": 5},
    "HuggingFaceTB/SmolLM3": HEIR
    | {"architectures": ["SmolLM3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "mlp_bias": False}
    | {"layer_types": ["full_attention"] * 4, "max_window_layers": 28, "model_type": "smollm3", "pad_token_id": 4}
    | {"no_rope_layer_interval": 4, "no_rope_layers": [1, 1, 1, 0], "pretraining_tp": 2, "rms_norm_eps": 1e-6}
    | {"rope_scaling": None, "rope_theta": 5e6, "sliding_window": None, "use_sliding_window": False},
    "ibm-granite/granite-3.1": HEIR
    | {"architectures": ["GraniteForCausalLM"], "attention_bias": False, "attention_dropout": 0.1, "mlp_bias": False}
    | {
        "attention_multiplier": 0.015625,
        "embedding_multiplier": 12.0,
        "logits_scaling": 8.0,
        "residual_multiplier": 0.22,
    }
    | {"model_type": "granite", "pad_token_id": 0, "rms_norm_eps": 1e-5, "rope_scaling": None, "rope_theta": 5e6}
    | {"tie_word_embeddings": True},
    "facebook/opt-125m": OPT | {"_remove_final_layer_norm": False},
    "facebook/opt-350m": OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 16},
    "facebook/galactica": OPT | {"activation_function": "gelu", "enable_bias": False, "learn_position": True},
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_is_read(name):
    read_transformer_config(text_part(PUBLISHED[name], name), name)


@pytest.mark.long
@pytest.mark.parametrize("name", PUBLISHED)
def test_its_logits_are_transformers(name, tmp_path):
    """In the hub's form and in the one that Transformers writes today, largest errors over the largest logit."""
    pytest.importorskip("transformers", reason="Transformers is not installed: pip install -e .[oracle]")
    for left, right in errors(PUBLISHED[name], tmp_path).values():
        assert max(left, right) < 1e-4


def errors(values: dict, folder: Path) -> dict[str, tuple[float, float]]:
    """Form → largest error of the logits of rows padded on the left and on the right, over the largest logit."""
    import jax.numpy as jnp
    import torch
    import transformers

    from rlhf_jax.models import LanguageModel, hidden_states, load_pretrained, logits

    (folder / "config.json").write_text(json.dumps(values))
    config = transformers.AutoConfig.from_pretrained(folder)
    whole = config.model_type in ("gemma3", "mistral3")
    classes = transformers.AutoModelForImageTextToText if whole else transformers.AutoModelForCausalLM
    config._attn_implementation = "eager"
    model = classes.from_config(config, dtype=torch.float32).eval()  # in bfloat16 Gemma's √width would be rounded
    generator, shift = torch.Generator().manual_seed(0), 0.0 if config.model_type.startswith("gemma") else 1.0
    with torch.no_grad():
        for x in model.parameters():
            x.copy_(0.2 * torch.randn(x.shape, generator=generator) + (shift if x.ndim == 1 else 0.0))
    model.save_pretrained(folder / "now")
    (folder / "hub").mkdir()
    (folder / "hub" / "config.json").write_text(json.dumps(values))
    (folder / "hub" / "model.safetensors").write_bytes((folder / "now" / "model.safetensors").read_bytes())

    tokens = np.random.default_rng(0).integers(5, 60, (3, 14))
    found = {}
    for form in ("hub", "now"):
        both = []
        for mask in (np.arange(14) >= np.array([0, 3, 9])[:, None], np.arange(14) < np.array([14, 11, 5])[:, None]):
            positions = torch.tensor(np.maximum(np.cumsum(mask, axis=1) - 1, 0))
            with torch.no_grad():
                expected = model(
                    torch.tensor(tokens), attention_mask=torch.tensor(mask).long(), position_ids=positions
                ).logits.numpy()[mask]
            ours, params, _ = load_pretrained(folder / form)
            hidden, _ = hidden_states(LanguageModel(ours), params, jnp.asarray(tokens), jnp.asarray(mask))
            error = np.abs(np.asarray(logits(LanguageModel(ours), params, hidden))[mask] - expected).max()
            both.append(float(error / np.abs(expected).max()))
        found[form] = (both[0], both[1])
    return found


def main() -> None:
    for name, values in PUBLISHED.items():
        with tempfile.TemporaryDirectory() as folder:
            found = errors(values, Path(folder))
        print(f"{name:42}", *(f"{form} {left:.1e} {right:.1e}" for form, (left, right) in found.items()), flush=True)


if __name__ == "__main__":
    main()
