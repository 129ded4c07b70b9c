"""Hugging Face folders: what comes back of what was written, and one sentence for each folder that is bad."""

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from rlhf_jax.errors import InputError
from rlhf_jax.models import (
    LanguageModel,
    Rope,
    ScalarModel,
    hidden_states,
    load_pretrained,
    logits,
    pretrained,
    read_transformer_config,
    save_pretrained,
    scalars,
    stack_blocks,
    write_transformer_config,
)
from rlhf_jax.models.rope import Linear, LongRope, Yarn
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


def test_a_tied_models_file_may_not_hold_another_head(tmp_path):
    """It would be lost; with the key put right it is read."""
    params = wild(LanguageModel(GPT2))
    save_pretrained(tmp_path, GPT2, params)
    tensors = load_file(tmp_path / WEIGHTS)
    head = np.array(tensors["transformer.wte.weight"])
    head[3, 5] += 0.01
    save_file(tensors | {"lm_head.weight": head}, tmp_path / WEIGHTS)
    refused(
        tmp_path,
        tmp_path,
        "lm_head.weight is another than transformer.wte.weight",
        "tie_word_embeddings to false",
        weights=2,
    )
    spoil(tmp_path, tie_word_embeddings=False)
    found = load_pretrained(tmp_path)
    assert not found.config.tied
    np.testing.assert_array_equal(found.params["unembedding"], head.T)


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


def refused(folder, *words, weights=0, **how):
    """weights: how many tensors' values are read before that is known."""
    taken = []

    def counting(path, framework):
        return CountedReads(safe_open(path, framework), taken)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrained, "safe_open", counting)
        with pytest.raises(InputError, match=says(*words)):
            load_pretrained(folder, **how)
    assert len(taken) == weights, taken


class CountedReads:
    """A safetensors file that notes which tensors are read, and not which headers."""

    def __init__(self, file, taken):
        self.file, self.taken = file, taken

    def keys(self):
        return self.file.keys()

    def get_slice(self, name):
        return Header(self.file.get_slice(name))

    def get_tensor(self, name):
        self.taken.append(name)
        return self.file.get_tensor(name)


class Header:
    """Of a tensor whose values cannot be read here."""

    def __init__(self, stored):
        self.get_shape, self.get_dtype = stored.get_shape, stored.get_dtype


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


GEMMA2_OF_NOTHING = {"model_type": "gemma2"}
LONGROPE = {"type": "longrope", "short_factor": [1, 2], "long_factor": [2, 3], "original_max_position_embeddings": 8}
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
HEIR = BASE | {"num_key_value_heads": 2, "head_dim": 4}
FULL = {  # every key that each family reads
    "gpt2": write_transformer_config(GPT2) | {"scale_attn_weights": True},
    "gpt_neox": BASE
    | {"rotary_pct": 0.5, "rotary_emb_base": 1e4, "hidden_act": "gelu", "layer_norm_eps": 1e-5}
    | {"use_parallel_residual": True, "attention_bias": True, "tie_word_embeddings": False},
    "llama": BASE
    | {"num_key_value_heads": 2, "head_dim": 4, "hidden_act": "silu", "rms_norm_eps": 1e-5, "attention_bias": False}
    | {"mlp_bias": False, "rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
    "mistral": HEIR | {"sliding_window": 4},
    "ministral": HEIR | {"sliding_window": 4, "layer_types": ["full_attention"] * 2},
    "ministral3": HEIR | {"sliding_window": 4},
    "qwen2": HEIR | {"sliding_window": 4, "use_sliding_window": True, "max_window_layers": 0},
    "qwen3": HEIR | {"head_dim": 4, "layer_types": ["full_attention"] * 2},
    "gemma": HEIR | {"hidden_act": "gelu_pytorch_tanh"},
    "gemma2": HEIR | {"query_pre_attn_scalar": 4, "attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
    "gemma3_text": HEIR | {"rope_parameters": SEVERAL, "sliding_window_pattern": 2, "rope_local_base_freq": 1e4},
    "phi3": HEIR | {"partial_rotary_factor": 0.5, "original_max_position_embeddings": 16},
    "olmo2": HEIR | {"attention_bias": False},
    "olmo3": HEIR | {"rope_parameters": SEVERAL, "layer_types": ["full_attention"] * 2, "sliding_window": 4},
    "granite": HEIR
    | {"embedding_multiplier": 12, "attention_multiplier": 0.1, "residual_multiplier": 0.2, "logits_scaling": 8},
    "smollm3": HEIR | {"no_rope_layers": [1, 0], "no_rope_layer_interval": 2, "use_sliding_window": False},
    "opt": {key: value for key, value in BASE.items() if key != "intermediate_size"}
    | {"ffn_dim": 24, "do_layer_norm_before": False, "word_embed_proj_dim": 8, "enable_bias": True}
    | {"activation_function": "relu", "_remove_final_layer_norm": False},
}
FULL = {family: values | {"model_type": family} for family, values in FULL.items()}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "mamba"}, ["model_type 'mamba' is not implemented", "llama"]),
        ({"model_type": None}, ["model_type None is not implemented"]),
        ({"model_type": ["llama"]}, ["model_type ['llama'] is not implemented"]),
        (
            {"rope_scaling": {"type": "mrope"}, "rope_parameters": None},
            ["rope_type = 'mrope' is not implemented", "yarn"],
        ),
        ({"rope_parameters": {"rope_type": "longrope", "long_factor": [1, 2]}}, ["no 'short_factor'"]),
        ({"rope_scaling": LONGROPE | {"long_factor": [1, 2, 3]}}, ["long_factor has 3 numbers for 2 pairs"]),
        ({"rope_scaling": LONGROPE | {"short_factor": [1, "2"]}}, ["short_factor", "is not a list of numbers > 0"]),
        ({"rope_scaling": LONGROPE | {"short_factor": 1}}, ["short_factor = 1 is not a list"]),
        ({"rope_parameters": {"rope_type": "dynamic"}}, ["no 'factor'"]),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "partial_rotary_factor": 0.5}, ["partial_rotary_factor"]),
        ({"rope_parameters": {"rope_type": "linear"}}, ["rotary positions", "'factor'"]),
        ({"rope_parameters": {"rope_type": "linear", "factor": "2"}}, ["factor = '2' is not a number"]),
        ({"rope_parameters": [1e4]}, ["rope_parameters = [10000.0] is not a map"]),
        ({"rope_parameters": {"full_attention": {}}}, ["rope_parameters by kind of layer"]),
        (
            {"quantization_config": {"bits": 4}},
            ["quantization_config = {'bits': 4} is not implemented", "save", "floats"],
        ),
        ({"is_causal": False}, ["is_causal = False is not implemented, only True is"]),
        ({"sliding_window": 8}, ["sliding_window = 8 is not implemented, remove it"]),
        (
            {
                "is_causal": False,
                "hidden_act": "quick_gelu",
                "per_layer_config": {"0": {}},
                "rope_scaling": {"type": "su"},
            },
            ["hidden_act = 'quick_gelu'", "rope_type = 'su'", "is_causal = False", "per_layer_config"],
        ),
        ({"hidden_act": "quick_gelu"}, ["hidden_act = 'quick_gelu' is not implemented", "'silu'"]),
        ({"hidden_act": ["silu"]}, ["hidden_act = ['silu'] is not implemented"]),
        ({"hidden_size": None}, ["hidden_size is null", "remove it"]),
        ({"model_type": "gpt_neox", "head_dim": 8}, ["head_dim = 8 is not implemented, only 4 is"]),
        ({"model_type": "gemma", "use_bidirectional_attention": True}, ["use_bidirectional_attention = True is not"]),
        ({"model_type": "gpt2", "scale_attn_by_inverse_layer_idx": True}, ["only False is"]),
        ({"model_type": "qwen2", "layer_types": ["sliding_attention"] * 2}, ["layers slide", "sliding_window is off"]),
        ({"model_type": "smollm3", "no_rope_layers": [1]}, ["no_rope_layers = [1] is not", "each layer"]),
        (
            {"model_type": "opt", "layer_norm_elementwise_affine": False},
            ["layer_norm_elementwise_affine = False", "True"],
        ),
        ({"model_type": "gemma3"}, ["no 'text_config'"]),
        ({"model_type": "gemma3", "text_config": [1]}, ["text_config = [1] is not a map"]),
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


@pytest.mark.parametrize(
    ("family", "keys"),
    [
        ("qwen2", {"use_mrope": False}),  # Qwen2.5, and what was distilled from DeepSeek-R1 into it
        ("llama", {"is_llama_config": True, "rope_interleaved": False, "transformers.js_config": {"dtype": "q4"}}),
        ("llama", {"unsloth_fixed": True, "unsloth_version": "2025.1", "_flash_attn_2_enabled": True}),
        ("gpt2", {"_num_labels": 1, "n_special": 0, "predict_special_tokens": True, "output_past": True, "n_ctx": 8}),
        ("phi3", {"attention_bias": False, "full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False}),
        ("gemma2", {"hidden_act": "relu", "cache_implementation": "hybrid", "is_causal": True}),
        ("gemma3_text", {"attn_logit_softcapping": 5.0, "_sliding_window_pattern": 2}),
        ("gemma", {"hidden_activation": "relu", "add_cross_attention": True}),
        ("opt", {"hidden_act": "gelu", "layerdrop": 0.5, "do_sample": True, "prefix": "</s>"}),
        ("gpt_neox", {"rope_theta": 3.0, "partial_rotary_factor": 0.7, "is_decoder": True}),
        ("granite", {"partial_rotary_factor": 0.5, "use_bidirectional_attention": True}),
    ],
    ids=lambda x: " ".join(x) if isinstance(x, dict) else x,
)
def test_keys_that_change_no_number(family, keys):
    """By what Transformers reads of them, which tests/models/test_config_keys.py compares: none of it."""
    values = FULL[family]
    assert read_transformer_config(values | keys, "here") == read_transformer_config(values, "here")


def test_what_is_missing_is_what_transformers_takes():
    """The defaults of its classes, which are not Llama's."""
    assert read(GEMMA2_OF_NOTHING).attention_cap == 50.0 and read(GEMMA2_OF_NOTHING).logit_cap == 30.0
    assert read(GEMMA2_OF_NOTHING | {"attn_logit_softcapping": None}).attention_cap is None
    assert read({"model_type": "gpt_neox"}).rope.share == 0.25
    assert read({"model_type": "phi3"}).norm_eps == read({"model_type": "olmo2"}).norm_eps == 1e-5
    gemma3 = read({"model_type": "gemma3_text"})
    assert gemma3.local_rope == Rope(10_000.0) and gemma3.rope == Rope(1_000_000.0)
    mistral = read({"model_type": "mistral"})
    assert mistral.window == 4096 and mistral.kv_heads == 8
    assert read({"model_type": "mistral", "sliding_window": None}).window is None


def test_rope_scaling_stands_for_rope_parameters():
    both = {"rope_parameters": {"rope_theta": 5.0, "rope_type": "default"}, "rope_theta": 7.0}
    assert read({"model_type": "llama"} | both).rope == Rope(5.0)
    assert read({"model_type": "llama", "rope_scaling": {"type": "linear", "factor": 2.0}} | both).rope == Rope(
        7.0, scaling=Linear(2.0)
    )
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
    beside = read({"model_type": "llama", "rope_parameters": yarn, "original_max_position_embeddings": 32})
    assert beside.rope == Rope(scaling=Yarn(4.0, 32))  # what stands beside the map comes first
    kinds = {"full_attention": {"rope_theta": 5.0}, "sliding_attention": {"rope_theta": 3.0}}
    gemma3 = {"model_type": "gemma3_text", "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    found = read(gemma3 | {"rope_parameters": kinds})
    assert found.rope == Rope(5.0, scaling=Linear(8.0)) and found.local_rope == Rope(3.0)


def test_longrope_by_its_old_name():
    """Phi-3's "su" of 2024, where the original context stands beside the map."""
    scaling = {name: x for name, x in LONGROPE.items() if name != "original_max_position_embeddings"}
    phi3 = FULL["phi3"] | {"original_max_position_embeddings": 8, "partial_rotary_factor": 1.0}
    for name in ("su", "longrope"):
        found = read(phi3 | {"rope_scaling": scaling | {"type": name}}).rope.scaling
        assert found == LongRope((1.0, 2.0), (2.0, 3.0), 8, math.sqrt(1 + math.log(16 / 8) / math.log(8)))


def read(values):
    return read_transformer_config(values, "here")


NONSENSE = ["big", "", [], ["big"], {"a": [1]}, -1, 0.5, 10**400]


@pytest.mark.parametrize("family", FULL)
def test_no_value_of_a_wrong_kind_ends_in_a_traceback(family):
    """Whatever stands at a key, it is read as a config or refused in one line; a map where none belongs is refused, but for
    what a map of rotary positions holds beside what is read of it."""
    values = FULL[family]
    read_transformer_config(values, "here")
    for name in values:
        for value in NONSENSE:
            refusal = None
            try:
                read_transformer_config(values | {name: value}, "here")
            except InputError as error:
                refusal = str(error)
            assert refusal is not None or not isinstance(value, dict) or name.startswith("rope_"), (name, value)
            assert refusal is None or says("here").match(refusal), (name, value)


@pytest.mark.parametrize("scaling", ["linear", "dynamic", "llama3", "longrope", "yarn"])
def test_no_rotary_value_of_a_wrong_kind_ends_in_a_traceback(scaling):
    rotary = {
        "linear": {"factor": 2.0},
        "dynamic": {"factor": 2.0},
        "longrope": {"short_factor": [1.0, 1.5], "long_factor": [2.0, 2.5], "attention_factor": 1.1},
        "llama3": {"low_freq_factor": 1.0, "high_freq_factor": 4.0},
        "yarn": {"beta_fast": 32, "beta_slow": 1, "attention_factor": 1.1, "mscale": 1.0, "mscale_all_dim": 0.5}
        | {"truncate": True},
    }[scaling] | {"rope_type": scaling, "factor": 2.0, "rope_theta": 1e4, "original_max_position_embeddings": 8}
    for values, put in ((BASE, lambda x: x), (FULL["gemma3_text"], lambda x: SEVERAL | {"full_attention": x})):
        read_transformer_config(values | {"rope_parameters": put(rotary)}, "here")
        for name in rotary:
            for value in ["big", [], {"a": [1]}, -1, True if name != "truncate" else 1]:
                with pytest.raises(InputError, match=says("here")):
                    read_transformer_config(values | {"rope_parameters": put(rotary | {name: value})}, "here")
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
