"""Hugging Face folders: what comes back of what was written, and one sentence for each folder that is bad."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors.numpy import load_file, save_file

from rlhf_jax.errors import InputError
from rlhf_jax.models import (
    LanguageModel,
    ScalarModel,
    hidden_states,
    load_pretrained,
    logits,
    read_transformer_config,
    save_pretrained,
    scalars,
    stack_blocks,
    write_transformer_config,
)
from tests.models.conftest import GPT2, LLAMA, wild

TOKENS = jnp.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
EVERYTHING = jnp.ones((2, 5), bool)
NEOX = replace(GPT2, position="rope", mlp="gelu_exact", tied=False)
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def flat(params):
    return {jax.tree_util.keystr(path): np.asarray(x) for path, x in jax.tree_util.tree_leaves_with_path(params)}


def assert_same_bits(found, expected):
    found, expected = flat(found), flat(expected)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


def rounded_to(dtype, params):
    return jax.tree.map(lambda x: jnp.asarray(np.asarray(x).astype(jnp.dtype(dtype))), params)


def logits_of(config, params):
    model = LanguageModel(config)

    @jax.jit
    def forward(params):
        return logits(model, params, hidden_states(model, params, TOKENS, EVERYTHING)[0])

    return np.asarray(forward(params))


# --- there and back ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shard", [10**9, 2000], ids=["one file", "sharded"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("config", [GPT2, LLAMA, NEOX], ids=["gpt2", "llama", "neox"])
def test_the_same_bits_come_back(tmp_path, config, dtype, shard):
    params = rounded_to(dtype, wild(LanguageModel(config)))
    save_pretrained(tmp_path, config, params, shard=shard)
    files = sorted(tmp_path.glob("*.safetensors"))
    assert [f.name for f in files] == [WEIGHTS] if shard > 2000 else len(files) > 2
    assert shard > 2000 or json.loads((tmp_path / INDEX).read_text())["metadata"]["total_size"] == sum(
        x.nbytes for x in jax.tree.leaves(params)
    )
    found, again, values = load_pretrained(tmp_path, dtype=None)
    assert values["dtype"] == dtype
    assert replace(found, head_dim=None, qkv_bias=None, out_bias=None, mlp_bias=None) == config
    assert_same_bits(again, params)


def test_a_dtype_is_that_of_the_parameters_and_of_the_file(tmp_path):
    """Of float32 weights w, a bfloat16 file holds the w rounded to bfloat16."""
    params = wild(LanguageModel(LLAMA))
    rounded = rounded_to("bfloat16", params)
    save_pretrained(tmp_path / "half", LLAMA, params, dtype="bfloat16")
    assert_same_bits(load_pretrained(tmp_path / "half", dtype=None).params, rounded)
    assert_same_bits(load_pretrained(tmp_path / "half").params, rounded_to("float32", rounded))
    save_pretrained(tmp_path / "whole", LLAMA, params)
    assert_same_bits(load_pretrained(tmp_path / "whole", dtype="bfloat16").params, rounded)


@pytest.mark.parametrize("config", [GPT2, LLAMA], ids=["gpt2", "llama"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_scalar_models_bias_comes_back(tmp_path, config, dtype):
    model = ScalarModel(config)
    params = rounded_to(dtype, wild(model))
    assert abs(float(params["bias"])) > 0.01
    save_pretrained(tmp_path, config, params, scalar=True)
    assert load_file(tmp_path / WEIGHTS)["score.weight"].shape == (1, config.width)  # torch's [out, in]
    _, again, values = load_pretrained(tmp_path, scalar=True, dtype=None)
    assert_same_bits(again, params)
    assert values["architectures"][0].endswith("ForSequenceClassification") and len(values["id2label"]) == 1
    found = jax.jit(lambda params: scalars(model, params, TOKENS, EVERYTHING))
    np.testing.assert_array_equal(found(again), found(params))

    save_pretrained(tmp_path / "again", config, {**params, "bias": jnp.zeros((), dtype)}, values, scalar=True)
    assert float(load_pretrained(tmp_path / "again", scalar=True).params["bias"]) == 0.0  # and not the bias of before


def test_stacked_blocks_are_written_one_by_one(tmp_path):
    params = wild(LanguageModel(LLAMA))
    stacked = {**params, "transformer": stack_blocks(params["transformer"], LLAMA.layers)}
    save_pretrained(tmp_path, replace(LLAMA, scan=True), stacked)
    assert_same_bits(load_pretrained(tmp_path).params, params)


def test_gpt2_as_on_the_hub(tmp_path):
    """Names without "transformer.", and the causal masks of old PyTorch among them."""
    params = wild(LanguageModel(GPT2))
    save_pretrained(tmp_path, GPT2, params)
    old = {name.removeprefix("transformer."): x for name, x in load_file(tmp_path / WEIGHTS).items()}
    assert "h.0.attn.c_attn.weight" in old
    for i in range(GPT2.layers):
        old[f"h.{i}.attn.bias"] = np.tril(np.ones((1, 1, 16, 16), np.float32))
        old[f"h.{i}.attn.masked_bias"] = np.array(-1e4, np.float32)
    save_file(old, tmp_path / WEIGHTS)
    assert_same_bits(load_pretrained(tmp_path).params, params)


def test_a_tied_models_file_may_hold_the_head_as_well(tmp_path):
    params = wild(LanguageModel(GPT2))
    save_pretrained(tmp_path, GPT2, params)
    tensors = load_file(tmp_path / WEIGHTS)
    assert "lm_head.weight" not in tensors
    save_file(tensors | {"lm_head.weight": tensors["transformer.wte.weight"]}, tmp_path / WEIGHTS)
    assert_same_bits(load_pretrained(tmp_path).params, params)


def test_each_tensor_goes_to_its_devices(tmp_path):
    """Matrices with their first axis over 8 devices: each holds one eighth. The rest is on all."""
    config = replace(LLAMA, vocab_size=16, hidden=32)
    model = ScalarModel(config)
    params = wild(model)
    save_pretrained(tmp_path, config, params, scalar=True)
    mesh = Mesh(np.array(jax.devices()), ("fsdp",))
    assert mesh.size == 8
    asked = {}

    def place(path, shape):
        asked[path] = shape
        return NamedSharding(mesh, PartitionSpec("fsdp") if len(shape) == 2 else PartitionSpec())

    placed = load_pretrained(tmp_path, scalar=True, place=place).params
    assert_same_bits(placed, params)
    leaves = {tuple(k.key for k in path): x for path, x in jax.tree_util.tree_leaves_with_path(placed)}
    assert asked == {path: x.shape for path, x in leaves.items()}
    for x in leaves.values():
        part = (x.shape[0] // 8, x.shape[1]) if x.ndim == 2 else x.shape
        assert [shard.data.shape for shard in x.addressable_shards] == [part] * 8
        assert {shard.device for shard in x.addressable_shards} == set(jax.devices())
    forward = jax.jit(lambda params: scalars(model, params, TOKENS, EVERYTHING))
    np.testing.assert_allclose(forward(placed), forward(params), atol=1e-5)


def test_split_over_devices_to_equal_logits(tmp_path):
    config = replace(LLAMA, vocab_size=16, hidden=32)
    params = wild(LanguageModel(config))
    save_pretrained(tmp_path, config, params)
    split = NamedSharding(Mesh(np.array(jax.devices()), ("tensor",)), PartitionSpec(None, "tensor"))
    replicated = NamedSharding(split.mesh, PartitionSpec())
    placed = load_pretrained(tmp_path, place=lambda _, shape: split if len(shape) == 2 else replicated).params
    assert placed["unembedding"].addressable_shards[0].data.shape == (16, 2)
    np.testing.assert_allclose(logits_of(config, placed), logits_of(config, params), atol=1e-5)


# --- bad folders ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good") / "m"
    save_pretrained(folder, LLAMA, wild(LanguageModel(LLAMA)))
    load_pretrained(folder)
    return folder


@pytest.fixture
def folder(good, tmp_path):
    """A good folder, to be spoilt."""
    return Path(shutil.copytree(good, tmp_path / "m"))


def says(*words):
    """In this order, in one line."""
    return re.compile("^" + "".join(f"[^\n]*{re.escape(str(word))}" for word in words) + "[^\n]*$")


def refused(folder, *words, **how):
    with pytest.raises(InputError, match=says(*words)):
        load_pretrained(folder, **how)


def spoil(folder, **changes):
    values = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(values | changes))


def test_no_folder(tmp_path):
    refused(tmp_path / "none", tmp_path / "none" / "config.json", "does not exist")


def test_a_file_instead_of_a_folder(folder):
    refused(folder / "config.json", folder / "config.json", "config.json", "cannot be read")


def test_no_config(folder):
    (folder / "config.json").unlink()
    refused(folder, folder / "config.json", "does not exist", "name a folder")


@pytest.mark.parametrize("text", ["", '{"model_type": "llama"', "\xff", "[1, 2]", '"llama"'])
def test_a_config_that_is_no_json(folder, text):
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    refused(folder, folder / "config.json", "copy it anew")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "mamba"}, ["model_type 'mamba' is not implemented", "llama"]),
        ({"model_type": None}, ["model_type None is not implemented"]),
        ({"model_type": ["llama"]}, ["model_type ['llama'] is not implemented"]),
        ({"rope_scaling": {"type": "longrope"}, "rope_parameters": None}, ["rope_type 'longrope' is not implemented"]),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}}, ["rope_type 'dynamic' is not", "yarn"]),
        ({"rope_parameters": {"rope_type": "linear"}}, ["rotary positions", "'factor'"]),
        ({"rope_parameters": {"rope_type": "linear", "factor": "2"}}, ["factor = '2' is not a number"]),
        ({"rope_parameters": {"rope_theta": 1e4, "spin": 3}}, ["spin = 3 is not implemented"]),
        ({"rope_parameters": [1e4]}, ["rope_parameters = [10000.0] is not a map"]),
        ({"rope_parameters": {"full_attention": {}}}, ["rope_parameters by kind of layer"]),
        ({"residual_multiplier": 0.5}, ["residual_multiplier = 0.5 is not implemented", "remove the key"]),
        ({"hidden_act": "quick_gelu"}, ["hidden_act = 'quick_gelu' is not implemented", "'silu'"]),
        ({"hidden_act": ["silu"]}, ["hidden_act = ['silu'] is not implemented"]),
        ({"use_bidirectional_attention": True}, ["use_bidirectional_attention = True is not implemented"]),
        ({"hidden_size": None}, ["no 'hidden_size'"]),
        ({"hidden_size": "big"}, ["hidden_size = 'big' is not a whole number"]),
        ({"hidden_size": -16}, ["hidden_size = -16 is not a whole number from 1 up"]),
        ({"num_hidden_layers": 2.0}, ["num_hidden_layers = 2.0 is not a whole number"]),
        ({"vocab_size": True}, ["vocab_size = True is not a whole number"]),
        ({"attention_bias": "no"}, ["attention_bias = 'no' is not true or false"]),
        ({"rms_norm_eps": "1e-5"}, ["rms_norm_eps = '1e-5' is not a number"]),
        ({"rms_norm_eps": float("nan")}, ["rms_norm_eps = nan is not a number"]),
        ({"num_key_value_heads": 3}, ["4 heads", "3 keys"]),
        ({"head_dim": 3}, ["3 rotated dimensions"]),
    ],
    ids=lambda x: " ".join(map(str, x)) if isinstance(x, dict) else "",
)
def test_a_config_that_we_do_not_implement(folder, changes, words):
    spoil(folder, **changes)
    refused(folder, folder / "config.json", *words)


BASE = {
    "model_type": "llama",
    "vocab_size": 16,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 16,
}
SEVERAL = {"full_attention": {"rope_theta": 1e6}, "sliding_attention": {"rope_theta": 1e4}}
FULL = {  # every key that each family reads
    "gpt2": write_transformer_config(GPT2) | {"scale_attn_weights": True},
    "gpt_neox": BASE
    | {"rotary_pct": 0.5, "rotary_emb_base": 1e4, "hidden_act": "gelu", "layer_norm_eps": 1e-5}
    | {"use_parallel_residual": True, "attention_bias": True, "tie_word_embeddings": False},
    "llama": BASE
    | {"num_key_value_heads": 2, "head_dim": 4, "hidden_act": "silu", "rms_norm_eps": 1e-5, "attention_bias": False}
    | {"mlp_bias": False, "rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "mistral": BASE | {"sliding_window": 4},
    "qwen2": BASE | {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 0},
    "qwen3": BASE | {"head_dim": 4, "layer_types": ["full_attention"] * 2},
    "gemma": BASE | {"head_dim": 4, "hidden_activation": "gelu_pytorch_tanh"},
    "gemma2": BASE | {"query_pre_attn_scalar": 4, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": BASE | {"rope_parameters": SEVERAL, "sliding_window_pattern": 2, "rope_local_base_freq": 1e4},
    "phi3": BASE | {"partial_rotary_factor": 0.5, "original_max_position_embeddings": 16},
    "olmo2": BASE | {"attention_bias": False},
}
FULL = {family: values | {"model_type": family} for family, values in FULL.items()}
NONSENSE = ["big", "", [], ["big"], {"a": [1]}, -1, 0.5, 10**400]


@pytest.mark.parametrize("family", FULL)
def test_no_value_of_a_wrong_kind_ends_in_a_traceback(family):
    """Whatever stands at a key, it is read as a config or refused in one line; a map where none belongs is refused."""
    values = FULL[family]
    read_transformer_config(values, "here")
    for name in values:
        for value in NONSENSE:
            refusal = None
            try:
                read_transformer_config(values | {name: value}, "here")
            except InputError as error:
                refusal = str(error)
            assert refusal is not None or not isinstance(value, dict), (name, value)
            assert refusal is None or says("here").match(refusal), (name, value)


@pytest.mark.parametrize("scaling", ["linear", "llama3", "yarn"])
def test_no_rotary_value_of_a_wrong_kind_ends_in_a_traceback(scaling):
    rotary = {
        "linear": {"factor": 2.0},
        "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
        "yarn": {"beta_fast": 32, "beta_slow": 1, "attention_factor": 1.1, "mscale": 1.0, "mscale_all_dim": 0.5}
        | {"truncate": True},
    }[scaling] | {"rope_type": scaling, "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 8}
    for values in (BASE, FULL["gemma3_text"]):
        read_transformer_config(values | {"rope_parameters": rotary}, "here")
        for name in rotary:
            for value in ["big", [], {"a": [1]}, -1, True if name != "truncate" else 1]:
                with pytest.raises(InputError, match=says("here")):
                    read_transformer_config(values | {"rope_parameters": rotary | {name: value}}, "here")
    kinds = SEVERAL | {"gate_attention": {}}
    with pytest.raises(InputError, match=says("gate_attention")):
        read_transformer_config(FULL["gemma3_text"] | {"rope_parameters": kinds}, "here")


@pytest.mark.parametrize(
    "kept", [0, 5, 40, -200, -1], ids=["empty", "no header", "half a header", "less data", "one byte"]
)
def test_cut_off_weights(folder, kept):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:kept])
    refused(folder, folder / WEIGHTS, "broken or cut off", "copy it anew")


def test_weights_that_are_another_format(folder):
    (folder / WEIGHTS).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 548105171\n")
    refused(folder, folder / WEIGHTS, "copy it anew")


def test_an_index_that_names_a_missing_file(tmp_path):
    save_pretrained(tmp_path, LLAMA, wild(LanguageModel(LLAMA)), shard=2000)
    last = sorted(tmp_path.glob("*.safetensors"))[-1]
    last.unlink()
    refused(tmp_path, last, "does not exist", "index")


def test_an_index_that_names_another_file(tmp_path):
    save_pretrained(tmp_path, LLAMA, wild(LanguageModel(LLAMA)), shard=2000)
    index = json.loads((tmp_path / INDEX).read_text())
    first = index["weight_map"]["model.embed_tokens.weight"]
    index["weight_map"]["model.norm.weight"] = first
    (tmp_path / INDEX).write_text(json.dumps(index))
    refused(tmp_path, tmp_path / first, "model.norm.weight")


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {"model.norm.weight": 3}}'])
def test_a_broken_index(folder, text):
    (folder / INDEX).write_text(text)
    refused(folder, folder / INDEX, "copy it anew")


def with_tensors(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_a_missing_tensor(folder):
    with_tensors(folder, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    refused(folder, folder, "no tensor model.layers.1.mlp.up_proj.weight")


def test_a_missing_head(folder):
    with_tensors(folder, lambda t: t.pop("lm_head.weight"))
    refused(folder, folder, "no tensor lm_head.weight")


def test_a_language_model_has_no_score(folder):
    refused(folder, folder, "no tensor score.weight", scalar=True)


@pytest.mark.parametrize("name", ["model.layers.2.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.bias"])
def test_a_tensor_too_many(folder, name):
    with_tensors(folder, lambda t: t.update({name: np.zeros(16, np.float32)}))
    refused(folder, folder, f"a tensor {name}", "does not ask for")


def test_a_misshapen_tensor(folder):
    name = "model.layers.0.self_attn.k_proj.weight"  # torch's [out, in]: 2 heads of 4, width 16
    with_tensors(folder, lambda t: t.update({name: np.zeros((16, 16), np.float32)}))
    refused(folder, folder / WEIGHTS, name, "(16, 16)", "config.json", "(8, 16)")


def test_quantised_weights(folder):
    name = "model.layers.0.self_attn.k_proj.weight"
    with_tensors(folder, lambda t: t.update({name: np.zeros((8, 16), np.int8)}))
    refused(folder, folder / WEIGHTS, name, "I8", "F32")


def test_only_pytorchs_own_format(folder):
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    refused(folder, folder, "neither model.safetensors nor", "convert")


def test_a_score_bias_that_is_no_number(tmp_path):
    save_pretrained(tmp_path, LLAMA, wild(ScalarModel(LLAMA)), scalar=True)
    spoil(tmp_path, rlhf_jax_score_bias="none")
    refused(tmp_path, tmp_path / "config.json", "rlhf_jax_score_bias = 'none'", scalar=True)


# --- what cannot be written -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        replace(LLAMA, position="learned"),
        replace(GPT2, norm="rmsnorm"),
        replace(LLAMA, logit_cap=30.0),
        replace(LLAMA, window=4),
        replace(GPT2, parallel=True),
    ],
    ids=["learned positions and RMS norms", "GPT-2 with RMS norms", "capped", "windowed", "a parallel GPT-2"],
)
def test_a_decoder_that_no_family_can_say(tmp_path, config):
    with pytest.raises(InputError, match=says("no family's config.json can say this decoder")):
        save_pretrained(tmp_path / "m", config, wild(LanguageModel(config)))
    assert not (tmp_path / "m").exists()


def test_another_model_than_its_config_says(tmp_path, folder):
    config, params, values = load_pretrained(folder)
    with pytest.raises(InputError, match=says("another one than its config.json says")):
        save_pretrained(tmp_path / "n", replace(config, norm_eps=0.5), params, values)
    with pytest.raises(InputError, match=says("another one than its config.json says")):
        save_pretrained(tmp_path / "n", config, params, values | {"tie_word_embeddings": True})
    assert not (tmp_path / "n").exists()
    save_pretrained(tmp_path / "n", config, params, values)
    with pytest.raises(InputError, match="holds a model already; name another folder"):
        save_pretrained(tmp_path / "n", config, params, values)
