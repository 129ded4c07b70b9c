"""The decoder, and generate, against Transformers 5.23 on the weights of the golden folder."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from rlhf_jax.models import LanguageModel, Sampling, TransformerConfig, generate
from rlhf_jax.types import PromptBatch

GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0)


def gpt2(folder):
    """GPT-2 stores its matrices as [in, out], and query, key and value as one. gelu_new is the tanh form, as ours."""
    c, w = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    assert (c["activation_function"], c["layer_norm_epsilon"]) == ("gelu_new", 1e-5)
    D = c["n_embd"]
    config = TransformerConfig(
        vocab_size=c["vocab_size"],
        context=c["n_positions"],
        width=D,
        layers=c["n_layer"],
        heads=c["n_head"],
        kv_heads=c["n_head"],
        hidden=4 * D,
        norm="layernorm",
        position="learned",
        mlp="gelu",
        bias=True,
        tied=True,
        dropout=0.0,
    )

    def linear(name):
        return {"kernel": w[f"{name}.weight"], "bias": w[f"{name}.bias"]}

    def norm(name):
        return {"scale": w[f"{name}.weight"], "bias": w[f"{name}.bias"]}

    transformer = {
        "embedding": {"embedding": w["transformer.wte.weight"]},
        "position": {"embedding": w["transformer.wpe.weight"]},
        "final_norm": norm("transformer.ln_f"),
    }
    for i in range(c["n_layer"]):
        h = f"transformer.h.{i}"
        qkv = linear(f"{h}.attn.c_attn")
        split = [{k: v[..., j * D : (j + 1) * D] for k, v in qkv.items()} for j in range(3)]
        transformer[f"block_{i}"] = {
            "attention_norm": norm(f"{h}.ln_1"),
            "attention": dict(zip(("query", "key", "value"), split, strict=True)) | {"out": linear(f"{h}.attn.c_proj")},
            "mlp_norm": norm(f"{h}.ln_2"),
            "mlp": {"up": linear(f"{h}.mlp.c_fc"), "down": linear(f"{h}.mlp.c_proj")},
        }
    return config, {"transformer": transformer}


def llama(folder):
    """Llama stores its matrices as [out, in]. Its ε is 1e-6 and our RMSNorm's is 1e-5: with the residual stream, that
    is the embedding and all that is added to it, scaled by √10, √10·x / √(10·x̄² + 1e-5) = x / √(x̄² + 1e-6) exactly."""
    c, w = json.loads((folder / "config.json").read_text()), load_file(folder / "model.safetensors")
    assert (c["hidden_act"], c["rope_parameters"]["rope_theta"], c["rms_norm_eps"]) == ("silu", 10_000.0, 1e-6)
    stream = np.float32(10**0.5)
    config = TransformerConfig(
        vocab_size=c["vocab_size"],
        context=c["max_position_embeddings"],
        width=c["hidden_size"],
        layers=c["num_hidden_layers"],
        heads=c["num_attention_heads"],
        kv_heads=c["num_key_value_heads"],
        hidden=c["intermediate_size"],
        norm="rmsnorm",
        position="rope",
        mlp="swiglu",
        bias=False,
        tied=False,
        dropout=0.0,
    )
    transformer = {
        "embedding": {"embedding": stream * w["model.embed_tokens.weight"]},
        "final_norm": {"scale": w["model.norm.weight"]},
    }
    for i in range(c["num_hidden_layers"]):
        h = f"model.layers.{i}"

        def linear(name, h=h):
            return w[f"{h}.{name}_proj.weight"].T

        transformer[f"block_{i}"] = {
            "attention_norm": {"scale": w[f"{h}.input_layernorm.weight"]},
            "attention": {
                "query": {"kernel": linear("self_attn.q")},
                "key": {"kernel": linear("self_attn.k")},
                "value": {"kernel": linear("self_attn.v")},
                "out": {"kernel": stream * linear("self_attn.o")},
            },
            "mlp_norm": {"scale": w[f"{h}.post_attention_layernorm.weight"]},
            "mlp": {
                "gate": {"kernel": linear("mlp.gate")},
                "up": {"kernel": linear("mlp.up")},
                "down": {"kernel": stream * linear("mlp.down")},
            },
        }
    return config, {"transformer": transformer, "unembedding": w["lm_head.weight"].T}


@pytest.fixture(scope="module", params=[("gpt2_tied", gpt2), ("llama_untied", llama)], ids=lambda p: p[0])
def peer(request, golden_folder):
    name, load = request.param
    folder = golden_folder / "models" / name
    config, params = load(folder)
    return LanguageModel(config), jax.tree.map(jnp.asarray, params), dict(np.load(folder / "reference.npz"))


def test_logits_at_real_tokens(peer):
    model, params, g = peer

    @jax.jit
    def logits_of(tokens, mask):
        hidden, _ = model.apply({"params": params}, tokens, mask)
        return model.apply({"params": params}, hidden, method=LanguageModel.logits)

    for side in ("right", "left"):
        mask = g[f"mask_{side}"] == 1
        logits = np.asarray(logits_of(g[f"ids_{side}"], mask))
        np.testing.assert_allclose(logits[mask], g[f"logits_{side}"][mask], atol=1e-4)


def test_greedy_decoding(peer):
    model, params, g = peer
    prompts = PromptBatch(jnp.asarray(g["prompt_ids"], jnp.int32), jnp.asarray(g["prompt_mask"] == 1))
    eos = int(g["greedy_eos_id"])
    y = jax.jit(lambda: generate(model, params, prompts, jax.random.key(0), 16, GREEDY, eos=eos, pad=0))()
    expected = np.zeros((3, 16), int)
    expected[:, : g["greedy_tokens_eos"].shape[1]] = g["greedy_tokens_eos"]
    np.testing.assert_array_equal(y.tokens, expected)
    ended = np.cumsum(expected == eos, axis=1) - (expected == eos) > 0
    np.testing.assert_array_equal(y.mask, ~ended)
