"""The families of decoders as Hugging Face folders have them: a table of names and a few switches each.

A family says how its config.json reads as a TransformerConfig, and which of its tensors holds which of our parameters. To
add one: write its `read` (what has no key there is off), list its tensors, and put it in FAMILIES.
"""

import math
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.errors import InputError
from rlhf_jax.models import config_keys
from rlhf_jax.models.config_keys import NEEDED, SCALING, OrNull, default_of, may_be_null
from rlhf_jax.models.rope import Dynamic, Linear, Llama3, LongRope, Rope, Yarn
from rlhf_jax.models.transformer import TransformerConfig


class Keys:
    """A config.json that remembers what was read of it, so that nothing that counts is silently left out.

    defaults: the keys that count and what each is where it is missing (rlhf_jax/models/config_keys.py).
    """

    def __init__(self, values: dict, defaults: dict, source: str):
        self.values, self.defaults, self.source = values, defaults, source
        self.unread, self.refusals = set(values) & set(defaults), []

    def get(self, name: str) -> Any:
        """The value, or the default where the key is missing. InputError: there is none, or a null that says nothing."""
        self.unread.discard(name)
        default = self.defaults[name]
        if name not in self.values:
            if default_of(default) is NEEDED:
                raise InputError(f"{self.source} has no {name!r}; add it, or copy the file anew")
            return default_of(default)
        if self.values[name] is None and not may_be_null(default):
            raise InputError(f"{self.source}: {name} is null; give it a value, or remove it for the usual one")
        return self.values[name]

    def _checked(self, name: str, fits: Callable[[Any], bool], kind: str) -> Any:
        value = self.get(name)
        if self.values.get(name) is not None and not fits(value):
            raise InputError(f"{self.source}: {name} = {value!r} is not {kind}; mend it, or copy the file anew")
        return value

    def whole(self, name: str, least: int = 1) -> Any:
        return self._checked(name, lambda x: type(x) is int and least <= x < 2**31, f"a whole number from {least} up")

    def number(self, name: str, zero: bool = False, sign: bool = False) -> Any:
        """zero, sign: whether it may be 0, or any."""

        def fits(x: Any) -> bool:
            return type(x) in (int, float) and abs(x) < 1e38 and (x > 0 or sign or (zero and x == 0))

        return self._checked(name, fits, "a number" if sign else f"a number {'≥' if zero else '>'} 0")

    def switch(self, name: str) -> Any:
        return self._checked(name, lambda x: type(x) is bool, "true or false")

    def map(self, name: str) -> Any:
        return self._checked(name, lambda x: type(x) is dict, "a map of keys and values")

    def list(self, name: str) -> Any:
        return self._checked(name, lambda x: type(x) is list, "a list")

    def one_of(self, name: str, value: Any, known: dict) -> Any:
        """What is known under a value; of one that is not, any, for `finish` says so."""
        if not isinstance(value, str) or value not in known:
            self.refuse(name, value, f"only {', '.join(map(repr, known))}")
            return next(iter(known.values()))
        return known[value]

    def refuse(self, name: str, value: Any, advice: str) -> None:
        """Notes a value that is not implemented."""
        self.refusals.append(f"{name} = {reprlib.repr(value)} is not implemented, {advice}")

    def finish(self) -> None:
        """InputError: all that is not implemented."""
        for name in sorted(self.unread):
            value, off = self.values[name], default_of(self.defaults[name])
            if value != off and (value or off):
                self.refuse(
                    name, value, ADVICE.get(name, f"only {off!r} is" if off is not None else "remove it if it is off")
                )
        if self.refusals:
            raise InputError(f"{self.source}: {'; '.join(self.refusals)}")


ADVICE = {"quantization_config": "save the weights as floats, without it"}


# --- tensors ----------------------------------------------------------------------------------------------------------


class Tensor(NamedTuple):
    """One of their tensors, and the parameters of ours in it. "{i}" is the layer. split: their array and our config → our
    arrays. join: back."""

    name: str
    paths: tuple[str, ...]
    split: Callable[[np.ndarray, TransformerConfig], Sequence[np.ndarray]]
    join: Callable[[Sequence[np.ndarray], TransformerConfig], np.ndarray]


def same(name: str, path: str) -> Tensor:
    """One parameter, as it is."""
    return Tensor(name, (path,), lambda x, c: (x,), lambda xs, c: xs[0])


def turned(name: str, path: str) -> Tensor:
    """A matrix that torch has as [out, in]."""
    return Tensor(name, (path,), lambda x, c: (x.T,), lambda xs, c: xs[0].T)


def linear(name: str, path: str) -> list[Tensor]:
    """torch's Linear."""
    return [turned(f"{name}.weight", f"{path}/kernel"), same(f"{name}.bias", f"{path}/bias")]


def conv1d(name: str, path: str) -> list[Tensor]:
    """GPT-2's, which is [in, out] as ours."""
    return [same(f"{name}.weight", f"{path}/kernel"), same(f"{name}.bias", f"{path}/bias")]


def norm(name: str, path: str) -> list[Tensor]:
    """A normalisation."""
    return [same(f"{name}.weight", f"{path}/scale"), same(f"{name}.bias", f"{path}/bias")]


def side_by_side(
    name: str, paths: Sequence[str], widths: Callable[[TransformerConfig], Sequence[int]], turn: bool
) -> list[Tensor]:
    """Several matrices whose outputs stand next to each other in one."""

    def split(x: np.ndarray, c: TransformerConfig) -> Sequence[np.ndarray]:
        x = x.T if turn and x.ndim > 1 else x
        return np.split(x, np.cumsum(widths(c))[:-1], axis=-1)

    def join(xs: Sequence[np.ndarray], c: TransformerConfig) -> np.ndarray:
        x = np.concatenate(xs, axis=-1)
        return x.T if turn and x.ndim > 1 else x

    return [
        Tensor(f"{name}.{theirs}", tuple(f"{path}/{ours}" for path in paths), split, join)
        for theirs, ours in (("weight", "kernel"), ("bias", "bias"))
    ]


def head_by_head(name: str, paths: Sequence[str]) -> list[Tensor]:
    """NeoX's query, key and value: of each head all three, then the next head's; torch's [out, in]."""

    def split(x: np.ndarray, c: TransformerConfig) -> Sequence[np.ndarray]:
        parts = x.reshape(c.heads, 3, c.head_width, *x.shape[1:])
        return [parts[:, j].reshape(-1, *x.shape[1:]).T for j in range(3)]

    def join(xs: Sequence[np.ndarray], c: TransformerConfig) -> np.ndarray:
        parts = [x.T.reshape(c.heads, c.head_width, *x.T.shape[1:]) for x in xs]
        return np.stack(parts, axis=1).reshape(-1, *xs[0].T.shape[1:])

    return [
        Tensor(f"{name}.{theirs}", tuple(f"{path}/{ours}" for path in paths), split, join)
        for theirs, ours in (("weight", "kernel"), ("bias", "bias"))
    ]


QKV = tuple(f"transformer/block_{{i}}/attention/{name}" for name in ("query", "key", "value"))
BLOCK = "transformer/block_{i}"


def qkv_widths(c: TransformerConfig) -> tuple[int, int, int]:
    """Columns of query, key and value."""
    return c.heads * c.head_width, c.kv_heads * c.head_width, c.kv_heads * c.head_width


GPT2_TENSORS = [
    same("transformer.wte.weight", "transformer/embedding/embedding"),
    same("transformer.wpe.weight", "transformer/position/embedding"),
    *norm("transformer.h.{i}.ln_1", f"{BLOCK}/attention_norm"),
    *side_by_side("transformer.h.{i}.attn.c_attn", QKV, qkv_widths, turn=False),
    *conv1d("transformer.h.{i}.attn.c_proj", f"{BLOCK}/attention/out"),
    *norm("transformer.h.{i}.ln_2", f"{BLOCK}/mlp_norm"),
    *conv1d("transformer.h.{i}.mlp.c_fc", f"{BLOCK}/mlp/up"),
    *conv1d("transformer.h.{i}.mlp.c_proj", f"{BLOCK}/mlp/down"),
    *norm("transformer.ln_f", "transformer/final_norm"),
    turned("lm_head.weight", "unembedding"),
]

NEOX_TENSORS = [
    same("gpt_neox.embed_in.weight", "transformer/embedding/embedding"),
    *norm("gpt_neox.layers.{i}.input_layernorm", f"{BLOCK}/attention_norm"),
    *head_by_head("gpt_neox.layers.{i}.attention.query_key_value", QKV),
    *linear("gpt_neox.layers.{i}.attention.dense", f"{BLOCK}/attention/out"),
    *norm("gpt_neox.layers.{i}.post_attention_layernorm", f"{BLOCK}/mlp_norm"),
    *linear("gpt_neox.layers.{i}.mlp.dense_h_to_4h", f"{BLOCK}/mlp/up"),
    *linear("gpt_neox.layers.{i}.mlp.dense_4h_to_h", f"{BLOCK}/mlp/down"),
    *norm("gpt_neox.final_layer_norm", "transformer/final_norm"),
    turned("embed_out.weight", "unembedding"),
]

OPT_LAYER = "model.decoder.layers.{i}"
OPT_TENSORS = [
    same("model.decoder.embed_tokens.weight", "transformer/embedding/embedding"),
    same("model.decoder.embed_positions.weight", "transformer/position/embedding"),
    turned("model.decoder.project_in.weight", "transformer/embedding_in/kernel"),
    *norm(f"{OPT_LAYER}.self_attn_layer_norm", f"{BLOCK}/attention_norm"),
    *linear(f"{OPT_LAYER}.self_attn.q_proj", f"{BLOCK}/attention/query"),
    *linear(f"{OPT_LAYER}.self_attn.k_proj", f"{BLOCK}/attention/key"),
    *linear(f"{OPT_LAYER}.self_attn.v_proj", f"{BLOCK}/attention/value"),
    *linear(f"{OPT_LAYER}.self_attn.out_proj", f"{BLOCK}/attention/out"),
    *norm(f"{OPT_LAYER}.final_layer_norm", f"{BLOCK}/mlp_norm"),
    *linear(f"{OPT_LAYER}.fc1", f"{BLOCK}/mlp/up"),
    *linear(f"{OPT_LAYER}.fc2", f"{BLOCK}/mlp/down"),
    *norm("model.decoder.final_layer_norm", "transformer/final_norm"),
    turned("model.decoder.project_out.weight", "transformer/embedding_out/kernel"),
    turned("lm_head.weight", "unembedding"),
]

LLAMA_FRAME = [
    same("model.embed_tokens.weight", "transformer/embedding/embedding"),
    *linear("model.layers.{i}.self_attn.o_proj", f"{BLOCK}/attention/out"),
    *linear("model.layers.{i}.mlp.down_proj", f"{BLOCK}/mlp/down"),
    *norm("model.norm", "transformer/final_norm"),
    turned("lm_head.weight", "unembedding"),
]
LLAMA_MATRICES = [
    *LLAMA_FRAME,
    *linear("model.layers.{i}.self_attn.q_proj", f"{BLOCK}/attention/query"),
    *linear("model.layers.{i}.self_attn.k_proj", f"{BLOCK}/attention/key"),
    *linear("model.layers.{i}.self_attn.v_proj", f"{BLOCK}/attention/value"),
    *linear("model.layers.{i}.mlp.gate_proj", f"{BLOCK}/mlp/gate"),
    *linear("model.layers.{i}.mlp.up_proj", f"{BLOCK}/mlp/up"),
    *norm("model.layers.{i}.self_attn.q_norm", f"{BLOCK}/attention/query_norm"),
    *norm("model.layers.{i}.self_attn.k_norm", f"{BLOCK}/attention/key_norm"),
]
NORMS_BEFORE = [
    *norm("model.layers.{i}.input_layernorm", f"{BLOCK}/attention_norm"),
    *norm("model.layers.{i}.post_attention_layernorm", f"{BLOCK}/mlp_norm"),
]
LLAMA_TENSORS = [*LLAMA_MATRICES, *NORMS_BEFORE]
GEMMA2_TENSORS = [
    *LLAMA_MATRICES,
    *norm("model.layers.{i}.input_layernorm", f"{BLOCK}/attention_norm"),
    *norm("model.layers.{i}.post_attention_layernorm", f"{BLOCK}/attention_out_norm"),
    *norm("model.layers.{i}.pre_feedforward_layernorm", f"{BLOCK}/mlp_norm"),
    *norm("model.layers.{i}.post_feedforward_layernorm", f"{BLOCK}/mlp_out_norm"),
]
OLMO2_TENSORS = [
    *LLAMA_MATRICES,
    *norm("model.layers.{i}.post_attention_layernorm", f"{BLOCK}/attention_out_norm"),
    *norm("model.layers.{i}.post_feedforward_layernorm", f"{BLOCK}/mlp_out_norm"),
]
PHI3_TENSORS = [
    *LLAMA_FRAME,
    *NORMS_BEFORE,
    *side_by_side("model.layers.{i}.self_attn.qkv_proj", QKV, qkv_widths, turn=True),
    *side_by_side(
        "model.layers.{i}.mlp.gate_up_proj",
        (f"{BLOCK}/mlp/gate", f"{BLOCK}/mlp/up"),
        lambda c: (c.hidden, c.hidden),
        turn=True,
    ),
]


# --- configs ----------------------------------------------------------------------------------------------------------

PLAIN = {
    "gelu": "gelu_exact",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "gelu_fast": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
GATED = {
    act: {"silu": "swiglu", "gelu": "geglu", "gelu_exact": "geglu_exact", "relu": "reglu"}[ours]
    for act, ours in PLAIN.items()
}


def rope_of(keys: Keys, context: int, values: dict, theta: float, share: float, original: int, partial: bool) -> Rope:
    """Of what rope_parameters or rope_scaling holds. partial: whether the family rotates a share of a head; what does not
    leaves that key unread where nothing is stretched."""
    defaults = {
        "rope_theta": theta,
        "partial_rotary_factor": OrNull(share),
        "original_max_position_embeddings": original,
    }
    inner = Keys(values, SCALING | defaults, f"{keys.source}, rotary positions")
    kind = inner.get("rope_type" if "rope_type" in values else "type")
    theta, share = float(inner.number("rope_theta")), inner.number("partial_rotary_factor")
    share = 1.0 if share is None or (kind == "default" and not partial) else float(share)
    if theta <= 1 or share > 1:
        raise InputError(f"{keys.source}: rope_theta {theta} and the rotated share {share} must be > 1 and ≤ 1")
    if share < 1 and not partial:
        keys.refuse("partial_rotary_factor", share, "only 1 is for this model_type")
    original = inner.whole("original_max_position_embeddings")
    match kind:
        case "default":
            scaling = None
        case "linear":
            scaling = Linear(_factor(inner, context, original))
        case "llama3":
            low, high = float(inner.number("low_freq_factor")), float(inner.number("high_freq_factor"))
            if low >= high:
                raise InputError(f"{inner.source}: low_freq_factor {low} is not below high_freq_factor {high}")
            scaling = Llama3(_factor(inner, context, original), low, high, original)
        case "yarn":
            factor, attention = _factor(inner, context, original), inner.number("attention_factor")
            mscale, all_dim = (inner.number(name, zero=True) for name in ("mscale", "mscale_all_dim"))
            if attention is None and mscale and all_dim and factor > 1:
                attention = (0.1 * mscale * math.log(factor) + 1.0) / (0.1 * all_dim * math.log(factor) + 1.0)
            fast, slow = inner.number("beta_fast", zero=True) or 32, inner.number("beta_slow", zero=True) or 1
            scaling = Yarn(factor, original, float(fast), float(slow), attention, inner.switch("truncate"))
        case "longrope":
            short, long = (tuple(_factors(inner, name)) for name in ("short_factor", "long_factor"))
            # the factor and not a factor's default: here it need not be
            factor = _factor(inner, context, original) if "factor" in values else context / original
            attention = inner.number("attention_factor")
            if attention is None:
                attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
            scaling = LongRope(short, long, original, float(attention))
        case "dynamic":
            scaling = Dynamic(_factor(inner, context, original), context)
        case _:
            keys.refuse("rope_type", kind, "only default, linear, dynamic, llama3, longrope and yarn are")
            scaling = None
    return Rope(theta, share, scaling)


def _factor(inner: Keys, context: int, original: int) -> float:
    """By which positions are stretched; null is by as much as the context is longer than the original one."""
    factor = inner.number("factor")
    return context / original if factor is None else float(factor)


def _factors(inner: Keys, name: str) -> list[float]:
    """One a pair of dimensions."""
    found = inner.list(name)
    if not all(type(x) in (int, float) and 0 < x < 1e38 for x in found):
        raise InputError(f"{inner.source}: {name} = {reprlib.repr(found)} is not a list of numbers > 0")
    return [float(x) for x in found]


def rotary_values(keys: Keys, usual: dict | None = None) -> dict:
    """What rope_scaling says, or where it says nothing rope_parameters; usual: where that is missing."""
    new, old = keys.map("rope_parameters"), keys.map("rope_scaling")
    return dict(old or (usual if new is None else new) or {})


def the_rope(
    keys: Keys,
    context: int,
    share_key: str = "partial_rotary_factor",
    theta_key: str = "rope_theta",
    partial: bool = False,
    names: dict[str, str] | None = None,
    usual: dict | None = None,
) -> Rope:
    """Of a family that has one for all layers. names: old ones of ways to stretch. The original context is what stands
    beside rope_parameters before what stands in them."""
    theta, share = float(keys.number(theta_key)), keys.number(share_key)
    values = rotary_values(keys, usual)
    if original := keys.whole("original_max_position_embeddings"):
        values["original_max_position_embeddings"] = original
    kind = values.get("rope_type", values.get("type"))
    if names and isinstance(kind, str):
        values["rope_type"] = names.get(kind, kind)
    if values.keys() & KINDS:
        raise InputError(f"{keys.source}: rope_parameters by kind of layer is not implemented for this model_type")
    return rope_of(keys, context, values, theta, 1.0 if share is None else share, context, partial)


def ropes_by_kind(keys: Keys, context: int, local_theta: float) -> tuple[Rope, Rope]:
    """Of a family that has one for the layers that see all and one for those that slide; rope_scaling is the former's."""
    theta, share = float(keys.number("rope_theta")), keys.number("partial_rotary_factor")
    new, old = keys.map("rope_parameters") or {}, keys.map("rope_scaling") or {}
    if unknown := sorted(new.keys() - KINDS):
        raise InputError(
            f"{keys.source}: rope_parameters has {unknown[0]!r} and may have only {', '.join(sorted(KINDS))}"
        )
    kinds = Keys(new, dict.fromkeys(KINDS), f"{keys.source}, rope_parameters")
    full, local = (kinds.map(kind) or {} for kind in ("full_attention", "sliding_attention"))
    for values in (full, local, old):
        if values.get("truncate") not in (None, True):  # Transformers looks for it where it cannot stand here
            keys.refuse("truncate", values["truncate"], "only true is for this model_type")
    share = 1.0 if share is None else share
    return (
        rope_of(keys, context, full | old, theta, share, context, False),
        rope_of(keys, context, local, local_theta, share, context, False),
    )


KINDS = {"full_attention", "sliding_attention"}


def sliding_layers(keys: Keys, layers: int, window: int | None, default: Sequence[bool]) -> dict[str, Any]:
    """The window and the layers that have it, by layer_types where there are any."""
    kinds = keys.list("layer_types")
    sliding = tuple(default)
    if kinds is not None:
        if len(kinds) != layers:
            raise InputError(f"{keys.source}: layer_types names {len(kinds)} layers and num_hidden_layers is {layers}")
        known = {"sliding_attention": True, "full_attention": False}
        sliding = tuple(keys.one_of("layer_types", kind, known) for kind in kinds)
    if window is None and any(sliding):
        raise InputError(f"{keys.source}: layers slide and sliding_window is off; give it, or make all layers full")
    return {"window": window, "sliding": sliding} if any(sliding) else {}


def common(keys: Keys, activation: str = "hidden_act", gates: dict[str, str] = GATED) -> dict[str, Any]:
    """What Llama's config and its heirs' share."""
    heads, width = keys.whole("num_attention_heads"), keys.whole("hidden_size")
    head_dim, kv_heads = keys.whole("head_dim"), keys.whole("num_key_value_heads")
    return {
        "vocab_size": keys.whole("vocab_size"),
        "context": keys.whole("max_position_embeddings"),
        "width": width,
        "layers": keys.whole("num_hidden_layers"),
        "heads": heads,
        "kv_heads": heads if kv_heads is None else kv_heads,
        "hidden": keys.whole("intermediate_size"),
        "norm": "rmsnorm",
        "position": "rope",
        "mlp": keys.one_of(activation, keys.get(activation), gates),
        "bias": False,
        "tied": keys.switch("tie_word_embeddings"),
        "dropout": 0.0,
        "head_dim": width // heads if head_dim is None else head_dim,
        "norm_eps": keys.number("rms_norm_eps"),
    }


def attention_biases(keys: Keys) -> dict[str, Any]:
    """One switch for query, key, value and out."""
    bias = keys.switch("attention_bias")
    return {"qkv_bias": bias, "out_bias": bias}


def gpt2(keys: Keys) -> TransformerConfig:
    """GPT-2 (Radford et al. 2019). Four of its keys go by the names of other families too, which come first."""
    width, heads, layers, context = (
        keys.whole(usual if usual in keys.values else own)
        for own, usual in (
            ("n_embd", "hidden_size"),
            ("n_head", "num_attention_heads"),
            ("n_layer", "num_hidden_layers"),
            ("n_positions", "max_position_embeddings"),
        )
    )
    keys.unread -= {"n_embd", "n_head", "n_layer", "n_positions"}
    return TransformerConfig(
        vocab_size=keys.whole("vocab_size"),
        context=context,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        hidden=keys.whole("n_inner") or 4 * width,
        norm="layernorm",
        position="learned",
        mlp=keys.one_of("activation_function", keys.get("activation_function"), PLAIN),
        bias=True,
        tied=keys.switch("tie_word_embeddings"),
        dropout=0.0,
        norm_eps=keys.number("layer_norm_epsilon"),
    )


def neox(keys: Keys) -> TransformerConfig:
    """GPT-NeoX and Pythia (Biderman et al. 2023, arXiv:2304.01373)."""
    context, heads, width = (
        keys.whole(name) for name in ("max_position_embeddings", "num_attention_heads", "hidden_size")
    )
    if (head_dim := keys.whole("head_dim")) not in (None, width // heads):
        keys.refuse("head_dim", head_dim, f"only {width // heads} is, which is hidden_size / num_attention_heads")
    return TransformerConfig(
        vocab_size=keys.whole("vocab_size"),
        context=context,
        width=width,
        layers=keys.whole("num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        hidden=keys.whole("intermediate_size"),
        norm="layernorm",
        position="rope",
        mlp=keys.one_of("hidden_act", keys.get("hidden_act"), PLAIN),
        bias=True,
        tied=keys.switch("tie_word_embeddings"),
        dropout=0.0,
        **attention_biases(keys),
        norm_eps=keys.number("layer_norm_eps"),
        parallel=keys.switch("use_parallel_residual"),
        rope=the_rope(keys, context, "rotary_pct", "rotary_emb_base", partial=True),
    )


def llama(keys: Keys) -> TransformerConfig:
    """Llama 1 to 3."""
    fields = common(keys)
    rope = the_rope(keys, fields["context"])
    return TransformerConfig(**fields, **attention_biases(keys), mlp_bias=keys.switch("mlp_bias"), rope=rope)


def mistral(keys: Keys) -> TransformerConfig:
    """Mistral: Llama with a window, in all layers."""
    fields, window = common(keys), keys.whole("sliding_window")
    return TransformerConfig(**fields, rope=the_rope(keys, fields["context"]), window=window)


def qwen2(keys: Keys) -> TransformerConfig:
    """Qwen 2 and 2.5: Llama with biases on query, key and value."""
    return TransformerConfig(**common(keys), **qwen_window(keys), qkv_bias=True)


def qwen3(keys: Keys) -> TransformerConfig:
    """Qwen 3: norms on each head's query and key."""
    return TransformerConfig(**common(keys), **qwen_window(keys), **attention_biases(keys), qk_norm="head")


def qwen_window(keys: Keys) -> dict[str, Any]:
    """The window, which the first max_window_layers layers do not have."""
    layers, first = keys.whole("num_hidden_layers"), keys.whole("max_window_layers", least=0)
    window = keys.whole("sliding_window")
    window = window if keys.switch("use_sliding_window") else None
    usual = [window is not None and i >= first for i in range(layers)]
    rope = the_rope(keys, keys.whole("max_position_embeddings"))
    return {"rope": rope} | sliding_layers(keys, layers, window, usual)


def gemma_common(keys: Keys, *activation: Any) -> dict[str, Any]:
    """Scaled embeddings, norms that multiply by 1 + w."""
    fields = common(keys, *activation)
    return fields | attention_biases(keys) | {"norm_offset": 1.0, "embedding_scale": fields["width"] ** 0.5}


def gemma(keys: Keys) -> TransformerConfig:
    """Gemma 1, which writes "gelu" in old files and computes its tanh form all the same."""
    fields = gemma_common(keys, "hidden_act", GATED | {"gelu": "geglu"})
    return TransformerConfig(**fields, rope=the_rope(keys, fields["context"]))


def gemma2(keys: Keys) -> TransformerConfig:
    """Gemma 2: every other layer slides, norms on both sides, capped scores and logits."""
    fields = gemma_common(keys, "hidden_activation")
    layers = fields["layers"]
    return TransformerConfig(
        **fields,
        **sliding_layers(keys, layers, keys.whole("sliding_window"), [i % 2 == 0 for i in range(layers)]),
        norms="both",
        rope=the_rope(keys, fields["context"]),
        attention_scale=keys.number("query_pre_attn_scalar") ** -0.5,
        attention_cap=keys.number("attn_logit_softcapping"),
        logit_cap=keys.number("final_logit_softcapping"),
    )


def gemma3(keys: Keys) -> TransformerConfig:
    """Gemma 3's text decoder: five layers slide, with a base of their own, the sixth does not."""
    fields = gemma_common(keys, "hidden_activation")
    layers, every = fields["layers"], keys.whole("sliding_window_pattern")
    usual = [bool((i + 1) % every) for i in range(layers)]
    rope, local_rope = ropes_by_kind(keys, fields["context"], float(keys.number("rope_local_base_freq")))
    return TransformerConfig(
        **fields,
        **sliding_layers(keys, layers, keys.whole("sliding_window"), usual),
        norms="both",
        qk_norm="head",
        rope=rope,
        local_rope=local_rope,
        attention_scale=keys.number("query_pre_attn_scalar") ** -0.5,
        logit_cap=keys.number("final_logit_softcapping"),
    )


def phi3(keys: Keys) -> TransformerConfig:
    """Phi-3 and 4: Llama with its matrices side by side. Its longrope went by other names."""
    fields = common(keys)
    rope = the_rope(keys, fields["context"], partial=True, names={"su": "longrope", "yarn": "longrope"})
    return TransformerConfig(**fields, rope=rope, window=keys.whole("sliding_window"))


def olmo2(keys: Keys) -> TransformerConfig:
    """OLMo 2: norms after each branch, and over all heads' queries and keys."""
    fields, rope = common(keys) | attention_biases(keys), the_rope(keys, keys.whole("max_position_embeddings"))
    return TransformerConfig(**fields, rope=rope, norms="after", qk_norm="width")


def olmo3(keys: Keys) -> TransformerConfig:
    """OLMo 3: OLMo 2, of which three layers slide and the fourth does not; those that slide have positions unstretched."""
    fields, window = common(keys) | attention_biases(keys), keys.whole("sliding_window")
    usual = [bool((i + 1) % 4) for i in range(fields["layers"])]
    rope, local_rope = ropes_by_kind(keys, fields["context"], keys.defaults["rope_theta"])
    return TransformerConfig(
        **fields,
        **sliding_layers(keys, fields["layers"], window, usual),
        rope=rope,
        local_rope=local_rope,
        norms="after",
        qk_norm="width",
    )


def ministral(keys: Keys) -> TransformerConfig:
    """Ministral: Mistral whose layers slide or not, one by one."""
    fields, window = common(keys), keys.whole("sliding_window")
    sliding = sliding_layers(keys, fields["layers"], window, [window is not None] * fields["layers"])
    return TransformerConfig(**fields, **sliding, rope=the_rope(keys, fields["context"]))


def ministral3(keys: Keys) -> TransformerConfig:
    """Ministral 3: Mistral whose queries grow with their positions, which are stretched as a rule."""
    fields, window, context = common(keys), keys.whole("sliding_window"), keys.whole("max_position_embeddings")
    said, rope = rotary_values(keys, MINISTRAL3_ROTARY), the_rope(keys, context, usual=MINISTRAL3_ROTARY)
    inner = Keys(said, SCALING, f"{keys.source}, rotary positions")
    growth = float(inner.number("llama_4_scaling_beta", zero=True))
    original = getattr(rope.scaling, "original_context", None) or inner.whole("original_max_position_embeddings")
    return TransformerConfig(**fields, rope=rope, window=window, query_growth=growth, query_context=original)


MINISTRAL3_ROTARY = {
    "rope_type": "yarn",
    "rope_theta": 1_000_000.0,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}


def granite(keys: Keys) -> TransformerConfig:
    """Granite 3: Llama with a factor on each of embeddings, scores, branches and logits."""
    fields, rope = common(keys) | attention_biases(keys), the_rope(keys, keys.whole("max_position_embeddings"))
    return TransformerConfig(
        **fields,
        rope=rope,
        mlp_bias=keys.switch("mlp_bias"),
        embedding_scale=float(keys.number("embedding_multiplier")),
        attention_scale=float(keys.number("attention_multiplier")),
        residual_scale=float(keys.number("residual_multiplier")),
        logit_scale=1.0 / keys.number("logits_scaling"),
    )


def smollm3(keys: Keys) -> TransformerConfig:
    """SmolLM3: Llama of which every fourth layer has no positions."""
    fields, layers = common(keys) | attention_biases(keys), keys.whole("num_hidden_layers")
    rotary, every = keys.list("no_rope_layers"), keys.whole("no_rope_layer_interval")
    if rotary is None:
        rotary = [bool((i + 1) % every) for i in range(layers)]
    elif len(rotary) < layers or any(x not in (0, 1) for x in rotary):
        raise InputError(f"{keys.source}: no_rope_layers = {reprlib.repr(rotary)} is not a 0 or a 1 for each layer")
    window = keys.whole("sliding_window")
    window = window if keys.switch("use_sliding_window") else None
    usual = [window is not None and not rotary[i] for i in range(layers)]
    return TransformerConfig(
        **fields,
        **sliding_layers(keys, layers, window, usual),
        mlp_bias=keys.switch("mlp_bias"),
        rope=the_rope(keys, fields["context"]),
        turned=tuple(bool(x) for x in rotary[:layers]),
    )


def opt(keys: Keys) -> TransformerConfig:
    """OPT (Zhang et al. 2022, arXiv:2205.01068). Its 350M has norms of sums, none at the end, and narrower embeddings."""
    width, heads, before = (
        keys.whole("hidden_size"),
        keys.whole("num_attention_heads"),
        keys.switch("do_layer_norm_before"),
    )
    bias, embedding = keys.switch("enable_bias"), keys.whole("word_embed_proj_dim")
    return TransformerConfig(
        vocab_size=keys.whole("vocab_size"),
        context=keys.whole("max_position_embeddings"),
        width=width,
        layers=keys.whole("num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        hidden=keys.whole("ffn_dim"),
        norm="layernorm",
        position="learned",
        mlp=keys.one_of("activation_function", keys.get("activation_function"), PLAIN),
        bias=True,
        tied=keys.switch("tie_word_embeddings"),
        dropout=0.0,
        qkv_bias=bias,
        out_bias=bias,
        mlp_bias=bias,
        norms="before" if before else "sum",
        final_norm=before and not keys.switch("_remove_final_layer_norm"),
        embedding_width=None if embedding == width else embedding,
        position_offset=2,
    )


class Family(NamedTuple):
    classes: str  # what the names of its classes begin with
    keys: dict[str, Any]  # of its config.json that count, and their defaults
    read: Callable[[Keys], TransformerConfig]
    tensors: Sequence[Tensor]  # the embedding first
    head: str = "ForCausalLM"  # what the name of its language model ends with


FAMILIES = {
    "gpt2": Family("GPT2", config_keys.GPT2, gpt2, GPT2_TENSORS, head="LMHeadModel"),
    "gpt_neox": Family("GPTNeoX", config_keys.NEOX, neox, NEOX_TENSORS),
    "llama": Family("Llama", config_keys.LLAMA, llama, LLAMA_TENSORS),
    "mistral": Family("Mistral", config_keys.MISTRAL, mistral, LLAMA_TENSORS),
    "qwen2": Family("Qwen2", config_keys.QWEN2, qwen2, LLAMA_TENSORS),
    "qwen3": Family("Qwen3", config_keys.QWEN3, qwen3, LLAMA_TENSORS),
    "gemma": Family("Gemma", config_keys.GEMMA, gemma, LLAMA_TENSORS),
    "gemma2": Family("Gemma2", config_keys.GEMMA2, gemma2, GEMMA2_TENSORS),
    "gemma3_text": Family("Gemma3", config_keys.GEMMA3, gemma3, GEMMA2_TENSORS),
    "phi3": Family("Phi3", config_keys.PHI3, phi3, PHI3_TENSORS),
    "olmo2": Family("Olmo2", config_keys.OLMO2, olmo2, OLMO2_TENSORS),
    "olmo3": Family("Olmo3", config_keys.OLMO3, olmo3, OLMO2_TENSORS),
    "ministral": Family("Ministral", config_keys.MINISTRAL, ministral, LLAMA_TENSORS),
    "ministral3": Family("Ministral3", config_keys.MINISTRAL3, ministral3, LLAMA_TENSORS),
    "granite": Family("Granite", config_keys.GRANITE, granite, LLAMA_TENSORS),
    "smollm3": Family("SmolLM3", config_keys.SMOLLM3, smollm3, LLAMA_TENSORS),
    "opt": Family("OPT", config_keys.OPT, opt, OPT_TENSORS),
}


def text_part(values: dict, source: str) -> dict:
    """The config.json of the text decoder alone, where a folder's model reads images too (Gemma 3, Ministral 3); else the
    same values.

    What stands outside of text_config holds for the whole: ids of special tokens, weights' type, and whether the head is the
    embedding. A Gemma 3 that reads images does not cap its logits, whatever its text_config says.
    """
    if values.get("model_type") not in READ_IMAGES:
        return values
    text = Keys(values, {"text_config": NEEDED}, source).map("text_config")
    outer = ("bos_token_id", "eos_token_id", "pad_token_id", "dtype", "torch_dtype", "quantization_config")
    shared = {name: values[name] for name in outer if values.get(name) is not None}
    tied = {"tie_word_embeddings": values.get("tie_word_embeddings", True)}
    if values["model_type"] == "gemma3":
        text = text | {"model_type": "gemma3_text", "final_logit_softcapping": None}
    return text | shared | tied


READ_IMAGES = ("gemma3", "mistral3")


def family_of(values: dict, source: str) -> Family:
    """The family that config.json names. InputError: one that we do not have."""
    name = values.get("model_type")
    if name == "mistral" and "layer_types" in values:  # as Transformers' AutoConfig has it
        name = "ministral"
    if not isinstance(name, str) or name not in FAMILIES:
        raise InputError(
            f"{source}: model_type {name!r} is not implemented, only {', '.join([*FAMILIES, *READ_IMAGES])}"
        )
    return FAMILIES[name]


def read_transformer_config(values: dict, source: str) -> TransformerConfig:
    """What config.json describes. InputError: keys or values that we do not implement, all of them by name."""
    family = family_of(values, source)
    keys = Keys(values, family.keys, source)
    config = family.read(keys)
    keys.finish()
    if config.heads % config.kv_heads or (config.head_dim is None and config.width % config.heads):
        raise InputError(
            f"{source}: {config.heads} heads share neither a width of {config.width} nor {config.kv_heads} keys evenly"
        )
    for rope in (config.rope, config.local_rope) if config.position == "rope" else ():
        rotated = config.head_width if rope is None else rope.rotated(config.head_width)
        if rotated % 2 or not rotated:
            raise InputError(f"{source}: {rotated} rotated dimensions a head; they must be even")
        if rope is not None and isinstance(rope.scaling, Dynamic) and rotated == 2:
            raise InputError(f"{source}: rope_type dynamic stretches more than 2 rotated dimensions a head")
        if rope is not None and isinstance(rope.scaling, LongRope):
            for name, factors in (("short_factor", rope.scaling.short), ("long_factor", rope.scaling.long)):
                if len(factors) != rotated // 2:
                    raise InputError(
                        f"{source}: {name} has {len(factors)} numbers for {rotated // 2} pairs of dimensions"
                    )
    return config


# --- and back ---------------------------------------------------------------------------------------------------------


def write_transformer_config(config: TransformerConfig) -> dict:
    """A config.json for a decoder that came from no folder: GPT-2's, NeoX's or Llama's. InputError: none of them has it."""
    c = config
    shared = {"vocab_size": c.vocab_size, "tie_word_embeddings": c.tied}
    rope = {"rope_type": "default", "rope_theta": c.rope.theta, "partial_rotary_factor": c.rope.share}
    sizes = {
        "max_position_embeddings": c.context,
        "hidden_size": c.width,
        "num_hidden_layers": c.layers,
        "num_attention_heads": c.heads,
        "intermediate_size": c.hidden,
        "rope_parameters": rope,
    }
    plain = {"gelu": "gelu_new", "gelu_exact": "gelu", "relu": "relu", "silu": "silu"}.get(c.mlp)
    gated = {"swiglu": "silu", "geglu": "gelu_pytorch_tanh", "geglu_exact": "gelu", "reglu": "relu"}.get(c.mlp)
    candidates = [
        {
            "model_type": "gpt2",
            "n_positions": c.context,
            "n_embd": c.width,
            "n_layer": c.layers,
            "n_head": c.heads,
            "n_inner": c.hidden,
            "activation_function": plain,
            "layer_norm_epsilon": c.norm_eps,
        },
        sizes
        | {
            "model_type": "gpt_neox",
            "hidden_act": plain,
            "layer_norm_eps": c.norm_eps,
            "use_parallel_residual": c.parallel,
            "attention_bias": c.bias if c.qkv_bias is None else c.qkv_bias,
        },
        sizes
        | {
            "model_type": "llama",
            "num_key_value_heads": c.kv_heads,
            "head_dim": c.head_width,
            "hidden_act": gated,
            "rms_norm_eps": c.norm_eps,
            "attention_bias": bool(c.qkv_bias),
            "mlp_bias": bool(c.mlp_bias),
        },
    ]
    for candidate in candidates:
        values = shared | candidate
        if None not in values.values() and computed(read_transformer_config(values, "config.json")) == computed(config):
            return values
    raise InputError(
        "no family's config.json can say this decoder: GPT-2 has layer norms and learned positions, NeoX layer norms and "
        "rotary ones, Llama RMS norms, rotary positions and a gated MLP without biases"
    )


def computed(config: TransformerConfig) -> TransformerConfig:
    """The config with everything spelled out that says what is computed, and nothing that says how."""
    c = config
    return replace(
        c,
        head_dim=c.head_width,
        qkv_bias=c.bias if c.qkv_bias is None else c.qkv_bias,
        out_bias=c.bias if c.out_bias is None else c.out_bias,
        mlp_bias=c.bias if c.mlp_bias is None else c.mlp_bias,
        rope=c.rope if c.position == "rope" else Rope(),
        dropout=0.0,
        compute="float32",
        cache="float32",
        remat=False,
        scan=False,
        logit_rows=0,
        micro_batches=1,
        axis_name=None,
    )
