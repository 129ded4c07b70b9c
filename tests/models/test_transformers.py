"""Against Transformers itself, where it is installed: what it writes we read, and what we write it reads, to equal logits."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rlhf_jax.models import (
    LanguageModel,
    ScalarModel,
    hidden_states,
    init_lora,
    load_pretrained,
    logits,
    merge_lora,
    save_pretrained,
    scalars,
)

transformers = pytest.importorskip("transformers", reason="Transformers is not installed: pip install -e .[oracle]")
torch = pytest.importorskip("torch")

LLAMA = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "head_dim": 12,
    "pad_token_id": 0,
}
GPT2 = {"vocab_size": 96, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "pad_token_id": 0}
OPT = {k: v for k, v in LLAMA.items() if k not in ("num_key_value_heads", "head_dim", "intermediate_size")} | {
    "ffn_dim": 48
}
WITHOUT_HEAD_DIM = {k: v for k, v in LLAMA.items() if k != "head_dim"}
GRANITE = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.4,
    "logits_scaling": 5.0,
}
NEOX = {k: v for k, v in LLAMA.items() if k not in ("num_key_value_heads", "head_dim")}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LONGROPE = {
    "rope_type": "longrope",
    "short_factor": [1.0, 1.05, 1.1, 1.2, 1.3, 1.4],
    "long_factor": [1.0, 1.5, 2.0, 3.0, 4.5, 6.0],
}
SLIDING = {"sliding_window": 5, "use_sliding_window": True, "max_window_layers": 1}
GEMMA_LAYERS = ["sliding_attention", "sliding_attention", "full_attention"]


def rope(**scaling):
    return {"rope_parameters": {"rope_theta": 10_000.0, "rope_type": "default"} | scaling}


CASES = {
    "gpt2": ("GPT2", GPT2),
    "gpt2 untied, relu, n_inner": (
        "GPT2",
        GPT2 | {"tie_word_embeddings": False, "activation_function": "relu", "n_inner": 40},
    ),
    "neox": ("GPTNeoX", NEOX),
    "neox sequential, tied": ("GPTNeoX", NEOX | {"use_parallel_residual": False, "tie_word_embeddings": True}),
    "neox without attention's biases": ("GPTNeoX", NEOX | {"attention_bias": False}),
    "neox, half rotated, linear": ("GPTNeoX", NEOX | rope(partial_rotary_factor=0.5, rope_type="linear", factor=3.0)),
    "llama": ("Llama", LLAMA),
    "llama, biases, tied": ("Llama", LLAMA | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "llama, gelu": ("Llama", LLAMA | {"hidden_act": "gelu"}),
    "llama, relu": ("Llama", LLAMA | {"hidden_act": "relu"}),
    "llama, linear": ("Llama", LLAMA | rope(rope_type="linear", factor=4.0)),
    "llama, llama3": ("Llama", LLAMA | rope(**LLAMA3)),
    "llama, yarn": ("Llama", LLAMA | rope(**YARN)),
    "llama, yarn, more": (
        "Llama",
        LLAMA | rope(**YARN, beta_fast=8, beta_slow=2, attention_factor=1.3, truncate=False),
    ),
    "llama, yarn, mscale": ("Llama", LLAMA | rope(**YARN, mscale=1.2, mscale_all_dim=0.7)),
    "mistral": ("Mistral", LLAMA | {"sliding_window": None}),
    "mistral, window": ("Mistral", LLAMA | {"sliding_window": 5}),
    "qwen2": ("Qwen2", WITHOUT_HEAD_DIM),
    "qwen2, window, tied": (
        "Qwen2",
        WITHOUT_HEAD_DIM | SLIDING | {"tie_word_embeddings": True},
    ),
    "qwen3": ("Qwen3", LLAMA),
    "qwen3, window, biases": ("Qwen3", LLAMA | SLIDING | {"attention_bias": True}),
    "gemma": ("Gemma", LLAMA),
    "gemma2": ("Gemma2", LLAMA | {"sliding_window": 5, "query_pre_attn_scalar": 20}),
    "gemma2, untied, no caps": (
        "Gemma2",
        LLAMA | {"attn_logit_softcapping": None, "final_logit_softcapping": None, "tie_word_embeddings": False},
    ),
    "gemma3": ("Gemma3", LLAMA | {"sliding_window": 5, "layer_types": GEMMA_LAYERS}),
    "gemma3, every third, linear": (
        "Gemma3",
        LLAMA
        | {
            "sliding_window": 5,
            "layer_types": GEMMA_LAYERS,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5_000.0},
            },
        },
    ),
    "phi3": ("Phi3", WITHOUT_HEAD_DIM),
    "phi3, window, half rotated": (
        "Phi3",
        WITHOUT_HEAD_DIM | rope(partial_rotary_factor=0.5) | {"sliding_window": 5},
    ),
    "olmo2": ("Olmo2", WITHOUT_HEAD_DIM),
    "opt": ("OPT", OPT),
    "opt, 350m": ("OPT", OPT | {"do_layer_norm_before": False, "word_embed_proj_dim": 24}),
    "opt, untied, gelu, no biases": (
        "OPT",
        OPT
        | {
            "tie_word_embeddings": False,
            "activation_function": "gelu",
            "enable_bias": False,
            "word_embed_proj_dim": 24,
        },
    ),
    "granite": ("Granite", WITHOUT_HEAD_DIM | GRANITE),
    "granite, tied, biases": (
        "Granite",
        WITHOUT_HEAD_DIM | GRANITE | {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
    ),
    "smollm3": ("SmolLM3", WITHOUT_HEAD_DIM | {"no_rope_layer_interval": 2}),
    "smollm3, window": ("SmolLM3", WITHOUT_HEAD_DIM | SLIDING | {"no_rope_layers": [1, 0, 0], "attention_bias": True}),
    "olmo3": ("Olmo3", WITHOUT_HEAD_DIM | {"sliding_window": 5}),
    "olmo3, yarn": (
        "Olmo3",
        WITHOUT_HEAD_DIM
        | {
            "sliding_window": 5,
            "layer_types": GEMMA_LAYERS,
            "rope_parameters": {
                "full_attention": YARN | {"attention_factor": 1.2, "rope_theta": 20_000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500_000.0},
            },
        },
    ),
    "ministral": ("Ministral", LLAMA | {"sliding_window": 5, "layer_types": GEMMA_LAYERS}),
    "ministral3": (
        "Ministral3",
        LLAMA
        | rope(**YARN | {"original_max_position_embeddings": 4}, llama_4_scaling_beta=0.5)
        | {"sliding_window": 7},
    ),
    # the rows are longer than the original context
    "llama, longrope": ("Llama", LLAMA | rope(**LONGROPE, original_max_position_embeddings=8)),
    "llama, longrope, short": ("Llama", LLAMA | rope(**LONGROPE, original_max_position_embeddings=16)),
    "llama, dynamic": ("Llama", LLAMA | rope(rope_type="dynamic", factor=4.0) | {"max_position_embeddings": 8}),
    "llama, dynamic, within": ("Llama", LLAMA | rope(rope_type="dynamic", factor=4.0)),
    "phi3, longrope, half rotated": (
        "Phi3",
        WITHOUT_HEAD_DIM
        | rope(rope_type="longrope", partial_rotary_factor=0.5, short_factor=[1.1, 1.4], long_factor=[3.0, 5.0])
        | {"original_max_position_embeddings": 8, "tie_word_embeddings": True},
    ),
}
TOKENS = np.random.default_rng(0).integers(1, 96, (6, 14))
LEFT = np.arange(14) >= np.array([0, 3, 9])[:, None]  # padded on the left; and the same on the right
MASK = np.concatenate([LEFT, LEFT[:, ::-1]])
POSITIONS = np.maximum(np.cumsum(MASK, axis=1) - 1, 0)


def theirs(name: str, kind: str = ""):
    """A model with random weights: matrices far enough from 0 that every switch shows in the logits."""
    classes, settings = CASES[name]
    text = "TextConfig" if classes == "Gemma3" else "Config"
    config = getattr(transformers, f"{classes}{text}")(**settings, **({"num_labels": 1} if kind else {}))
    config._attn_implementation = "eager"
    kind = kind or ("LMHeadModel" if classes == "GPT2" else "ForCausalLM")
    classes = "Gemma3Text" if (classes, kind) == ("Gemma3", "ForSequenceClassification") else classes
    model = getattr(transformers, f"{classes}{kind}")(config).eval()
    return filled(model, 0.0 if classes.startswith("Gemma") else 1.0)


def filled(model, shift: float):
    """shift: of norms' scales and of biases."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn_like(parameter) + (shift if parameter.ndim == 1 else 0.0))
    return model


def their_logits(model) -> np.ndarray:
    with torch.no_grad():
        return model(
            torch.tensor(TOKENS), attention_mask=torch.tensor(MASK).long(), position_ids=torch.tensor(POSITIONS)
        ).logits.numpy()


def our_logits(config, params) -> np.ndarray:
    model = LanguageModel(config)
    hidden, _ = hidden_states(model, params, jnp.asarray(TOKENS), jnp.asarray(MASK))
    return np.asarray(logits(model, params, hidden))


def assert_close(found, expected):
    np.testing.assert_allclose(found[MASK], expected[MASK], atol=1e-4 * max(1.0, np.abs(expected[MASK]).max()))


def old_form(folder) -> None:
    """config.json as Transformers 4 wrote it."""
    values = json.loads((folder / "config.json").read_text())
    rotary = values.pop("rope_parameters", None)
    values["torch_dtype"] = values.pop("dtype")
    if rotary is not None and "full_attention" in rotary:
        values["rope_local_base_freq"] = rotary["sliding_attention"]["rope_theta"]
        rotary = rotary["full_attention"]
    if rotary is not None:
        share, theta = rotary.pop("partial_rotary_factor", None), rotary.pop("rope_theta")
        neox = values["model_type"] == "gpt_neox"
        values["rotary_emb_base" if neox else "rope_theta"] = theta
        if share is not None:
            values["rotary_pct" if neox else "partial_rotary_factor"] = share
        values["rope_scaling"] = None if rotary["rope_type"] == "default" else rotary
    (folder / "config.json").write_text(json.dumps(values))


@pytest.mark.parametrize("name", CASES)
def test_there_and_back(name, tmp_path):
    model = theirs(name)
    expected = their_logits(model)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert (tmp_path / "theirs" / "model.safetensors.index.json").exists()
    config, params, values = load_pretrained(tmp_path / "theirs")
    assert_close(our_logits(config, params), expected)

    save_pretrained(tmp_path / "ours", config, params, values)
    again = type(model).from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    for (ours, a), (theirs_, b) in zip(again.state_dict().items(), model.state_dict().items(), strict=True):
        assert ours == theirs_ and torch.equal(a, b), ours  # to the bit
    np.testing.assert_array_equal(their_logits(again), expected)

    old_form(tmp_path / "theirs")
    config_of_old, params, _ = load_pretrained(tmp_path / "theirs")
    assert config_of_old == config


def test_the_text_part_of_a_model_that_reads_images(tmp_path):
    """In the hub's order of words and in Transformers' own; what comes out is the text decoder alone."""
    text = CASES["gemma3"][1] | {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "final_logit_softcapping": 2.0}
    images = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.Gemma3Config(
        text_config=text, vision_config=images | {"image_size": 28, "patch_size": 14}, eos_token_id=[1, 7]
    )
    config._attn_implementation = "eager"
    model = filled(transformers.Gemma3ForConditionalGeneration(config).eval(), 0.0)
    expected = their_logits(model)
    model.save_pretrained(tmp_path / "hub")
    tensors = load_file(tmp_path / "hub" / "model.safetensors")
    assert any(name.startswith("language_model.model.layers.") for name in tensors)
    assert any("vision_tower." in name for name in tensors)
    theirs_now = {name: x.contiguous() for name, x in model.state_dict().items() if name != "lm_head.weight"}
    assert any(name.startswith("model.language_model.layers.") for name in theirs_now)
    shutil.copytree(tmp_path / "hub", tmp_path / "now")
    save_file({name: x.numpy() for name, x in theirs_now.items()}, tmp_path / "now" / "model.safetensors")
    for folder in (tmp_path / "hub", tmp_path / "now"):
        config, params, values = load_pretrained(folder)
        assert_close(our_logits(config, params), expected)
    assert values["eos_token_id"] == [1, 7]
    save_pretrained(tmp_path / "ours", config, params, values)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "ours", attn_implementation="eager").eval()
    assert type(again).__name__ == "Gemma3ForCausalLM"
    assert_close(their_logits(again), expected)


def test_a_mistral_whose_layers_differ_is_a_ministral(tmp_path):
    """As AutoConfig reads it."""
    model = theirs("ministral")
    model.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values | {"model_type": "mistral"}))
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    config, params, _ = load_pretrained(tmp_path)
    assert_close(our_logits(config, params), their_logits(again))


@pytest.mark.parametrize("name", ["gpt2", "neox", "llama", "qwen3", "gemma2", "mistral, window", "phi3", "opt, 350m"])
def test_scalar_heads(name, tmp_path):
    model = theirs(name, "ForSequenceClassification")
    model.save_pretrained(tmp_path / "theirs")
    config, params, values = load_pretrained(tmp_path / "theirs", scalar=True)
    found = np.asarray(scalars(ScalarModel(config), params, jnp.asarray(TOKENS), jnp.asarray(MASK)))[:, -1]
    left = slice(len(LEFT))  # theirs reads the last token that is not PAD, which is the last column there
    np.testing.assert_allclose(found[left], their_logits(model)[left, 0], rtol=1e-4, atol=1e-4)
    save_pretrained(tmp_path / "ours", config, params, values, scalar=True)
    again = type(model).from_pretrained(tmp_path / "ours").eval()
    np.testing.assert_allclose(their_logits(again)[left, 0], found[left], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_corrections_merged(name, tmp_path):
    theirs(name).save_pretrained(tmp_path / "theirs")
    config, params, values = load_pretrained(tmp_path / "theirs")
    lora = init_lora(params, ("query", "value", "down"), 3, jax.random.key(0))
    lora = jax.tree.map(lambda x: x + 0.1, lora)
    whole = merge_lora(params, lora, 0.5)
    save_pretrained(tmp_path / "ours", config, whole, values)
    kind = transformers.GPT2LMHeadModel if name == "gpt2" else transformers.LlamaForCausalLM
    assert_close(their_logits(kind.from_pretrained(tmp_path / "ours").eval()), our_logits(config, whole))


def test_half_precision(tmp_path):
    theirs("llama").to(torch.bfloat16).save_pretrained(tmp_path / "theirs")
    config, params, values = load_pretrained(tmp_path / "theirs", dtype=None)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"bfloat16"}
    save_pretrained(tmp_path / "ours", config, params, values)
    again = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "ours")
    assert (
        again.dtype == torch.bfloat16
        and json.loads((tmp_path / "ours" / "config.json").read_text())["dtype"] == "bfloat16"
    )


@pytest.mark.parametrize("gated", [False, True])
def test_a_decoder_of_our_own(tmp_path, gated):
    """The demo's, layer norms and rotary positions, is a NeoX; without biases and with a gate it is a Llama."""
    from rlhf_jax.models import TransformerConfig

    ours = (
        {"norm": "rmsnorm", "mlp": "swiglu", "bias": False}
        if gated
        else {"norm": "layernorm", "mlp": "gelu", "bias": True}
    )
    sizes = {"vocab_size": 96, "context": 32, "width": 32, "layers": 2, "heads": 4, "kv_heads": 4, "hidden": 64}
    config = TransformerConfig(**sizes, **ours, position="rope", tied=True, dropout=0.1)
    tokens, mask = jnp.asarray(TOKENS), jnp.asarray(MASK)
    params = LanguageModel(config).init(jax.random.key(0), tokens, mask)["params"]
    save_pretrained(tmp_path, config, params)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert_close(their_logits(model), our_logits(config, params))
