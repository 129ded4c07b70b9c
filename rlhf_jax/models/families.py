"""The families of decoders as Hugging Face folders have them: a table of names and a few switches each.

A family says how its config.json reads as a TransformerConfig, and which of its tensors holds which of our parameters. To
add one: write its `read` (what has no key there is off), list its tensors, and put it in FAMILIES.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.errors import InputError
from rlhf_jax.models.rope import Linear, Llama3, Rope, Yarn
from rlhf_jax.models.transformer import TransformerConfig


class Keys:
    """A config.json that remembers what was read of it, so that nothing in it is silently left out."""

    def __init__(self, values: dict, source: str):
        self.values, self.source, self.unread = values, source, set(values)

    def get(self, name: str, default: Any = None) -> Any:
        """The value, or the default where the key is missing or null. A default of ... is none: the key must be there."""
        self.unread.discard(name)
        value = self.values.get(name)
        if value is None and default is ...:
            raise InputError(f"{self.source} has no {name!r}; add it, or copy the file anew")
        return default if value is None else value

    def _checked(self, name: str, default: Any, fits: Callable[[Any], bool], kind: str) -> Any:
        value = self.get(name, default)
        if self.values.get(name) is not None and not fits(value):
            raise InputError(f"{self.source}: {name} = {value!r} is not {kind}; mend it, or copy the file anew")
        return value

    def whole(self, name: str, default: Any = ..., least: int = 1) -> Any:
        return self._checked(
            name, default, lambda x: type(x) is int and least <= x < 2**31, f"a whole number from {least} up"
        )

    def number(self, name: str, default: Any = ..., zero: bool = False, sign: bool = False) -> Any:
        """zero, sign: whether it may be 0, or any."""

        def fits(x: Any) -> bool:
            return type(x) in (int, float) and abs(x) < 1e38 and (x > 0 or sign or (zero and x == 0))

        return self._checked(name, default, fits, "a number" if sign else f"a number {'≥' if zero else '>'} 0")

    def switch(self, name: str, default: Any) -> Any:
        return self._checked(name, default, lambda x: type(x) is bool, "true or false")

    def map(self, name: str, default: Any = None) -> Any:
        return self._checked(name, default, lambda x: type(x) is dict, "a map of keys and values")

    def only(self, name: str, *allowed: Any) -> None:
        """A switch of which we have one position (the first, where it is missing)."""
        value = self.get(name, allowed[0])
        if value not in allowed:
            raise InputError(f"{self.source}: {name} = {value!r} is not implemented, only {allowed[0]!r} is")

    def one_of(self, name: str, value: Any, known: dict) -> Any:
        if not isinstance(value, str) or value not in known:
            raise InputError(
                f"{self.source}: {name} = {value!r} is not implemented, only {', '.join(map(repr, known))}"
            )
        return known[value]

    def finish(self) -> None:
        if unread := sorted(self.unread - UNRELATED):
            name = unread[0]
            raise InputError(
                f"{self.source}: {name} = {self.values[name]!r} is not implemented; remove the key if it is off"
            )


# Keys that say nothing about what the model computes: training, generation, bookkeeping.
UNRELATED = {
    "_name_or_path",
    "_attn_implementation_autoset",
    "architectures",
    "attention_dropout",
    "attn_pdrop",
    "auto_map",
    "begin_suppress_tokens",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "decoder_start_token_id",
    "dtype",
    "embd_pdrop",
    "eos_token_id",
    "finetuning_task",
    "gradient_checkpointing",
    "hidden_dropout",
    "id2label",
    "initializer_range",
    "is_decoder",
    "label2id",
    "model_type",
    "n_ctx",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    "prefix",
    "pretraining_tp",
    "problem_type",
    "resid_pdrop",
    "return_dict",
    "rlhf_jax_score_bias",
    "sep_token_id",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "unk_token_id",
    "use_cache",
}


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


def rope_of(keys: Keys, context: int, values: dict | None, theta: float, share: float) -> Rope:
    """From Transformers 5's rope_parameters, or from rope_scaling and the keys beside it."""
    inner = Keys(values or {}, f"{keys.source}, rotary positions")
    kind = inner.get("rope_type", inner.get("type", "default"))
    inner.get("type")
    theta, share = float(inner.number("rope_theta", theta)), float(inner.number("partial_rotary_factor", share))
    if theta <= 1 or share > 1:
        raise InputError(f"{keys.source}: rope_theta {theta} and the rotated share {share} must be > 1 and ≤ 1")
    original = inner.whole("original_max_position_embeddings", keys.whole("original_max_position_embeddings", context))
    match kind:
        case "default":
            inner.unread -= {"factor", "original_max_position_embeddings"}
            scaling = None
        case "linear":
            scaling = Linear(float(inner.number("factor")))
        case "llama3":
            low, high = float(inner.number("low_freq_factor")), float(inner.number("high_freq_factor"))
            if low >= high:
                raise InputError(f"{inner.source}: low_freq_factor {low} is not below high_freq_factor {high}")
            scaling = Llama3(float(inner.number("factor")), low, high, inner.whole("original_max_position_embeddings"))
        case "yarn":
            factor = float(inner.number("factor", context / original))
            attention = inner.number("attention_factor", None)
            mscale, all_dim = (inner.number(name, None, zero=True) for name in ("mscale", "mscale_all_dim"))
            if attention is None and mscale and all_dim:
                attention = (0.1 * mscale * math.log(factor) + 1.0) / (0.1 * all_dim * math.log(factor) + 1.0)
            fast, slow = float(inner.number("beta_fast", 32)), float(inner.number("beta_slow", 1))
            scaling = Yarn(factor, original, fast, slow, attention, inner.switch("truncate", True))
        case _:
            raise InputError(
                f"{keys.source}: rope_type {kind!r} is not implemented, only default, linear, llama3 and yarn"
            )
    inner.finish()
    return Rope(theta, share, scaling)


def ropes(
    keys: Keys,
    context: int,
    share_key: str = "partial_rotary_factor",
    theta_key: str = "rope_theta",
    theta: float = 10_000.0,
) -> dict[str, Rope]:
    """By kind of layer, where there are several, else under ""."""
    theta, share = float(keys.number(theta_key, theta)), float(keys.number(share_key, 1.0))
    new, old = keys.map("rope_parameters"), keys.map("rope_scaling")
    if new is not None and "full_attention" in new:
        kinds = Keys(new, f"{keys.source}, rope_parameters")
        found = {kind: kinds.map(kind) for kind in ("full_attention", "sliding_attention")}
        kinds.finish()
        return {kind: rope_of(keys, context, each, theta, share) for kind, each in found.items() if each is not None}
    return {"": rope_of(keys, context, new if new is not None else old, theta, share)}


def the_rope(keys: Keys, context: int, share_key: str = "partial_rotary_factor", theta_key: str = "rope_theta") -> Rope:
    """Of a family that has one for all layers."""
    found = ropes(keys, context, share_key, theta_key)
    if "" not in found:
        raise InputError(f"{keys.source}: rope_parameters by kind of layer is not implemented for this model_type")
    return found[""]


def sliding_layers(keys: Keys, layers: int, default: Sequence[bool]) -> tuple[bool, ...]:
    """By layer_types where there are any."""
    kinds = keys.get("layer_types")
    if kinds is None:
        return tuple(default)
    if not isinstance(kinds, list):
        raise InputError(f"{keys.source}: layer_types = {kinds!r} is not a list of kinds, one a layer")
    if len(kinds) != layers:
        raise InputError(f"{keys.source}: layer_types names {len(kinds)} layers and num_hidden_layers is {layers}")
    known = {"sliding_attention": True, "full_attention": False}
    return tuple(keys.one_of("layer_types", kind, known) for kind in kinds)


def common(keys: Keys, tied: bool, mlp: str | None = None) -> dict[str, Any]:
    """What Llama's config and its heirs' share."""
    heads = keys.whole("num_attention_heads")
    width = keys.whole("hidden_size")
    keys.only("use_bidirectional_attention", False)
    return {
        "vocab_size": keys.whole("vocab_size"),
        "context": keys.whole("max_position_embeddings"),
        "width": width,
        "layers": keys.whole("num_hidden_layers"),
        "heads": heads,
        "kv_heads": keys.whole("num_key_value_heads", heads),
        "hidden": keys.whole("intermediate_size"),
        "norm": "rmsnorm",
        "position": "rope",
        "mlp": mlp or keys.one_of("hidden_act", keys.get("hidden_act", "silu"), GATED),
        "bias": False,
        "tied": keys.switch("tie_word_embeddings", tied),
        "dropout": 0.0,
        "head_dim": keys.whole("head_dim", width // heads),
        "norm_eps": keys.number("rms_norm_eps", 1e-6),
    }


def gpt2(keys: Keys) -> TransformerConfig:
    """GPT-2 (Radford et al. 2019)."""
    width, heads = keys.whole("n_embd"), keys.whole("n_head")
    for name, position in (
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("add_cross_attention", False),
    ):
        keys.only(name, position)
    keys.get("reorder_and_upcast_attn")  # our scores are float32 anyhow
    return TransformerConfig(
        vocab_size=keys.whole("vocab_size"),
        context=keys.whole("n_positions"),
        width=width,
        layers=keys.whole("n_layer"),
        heads=heads,
        kv_heads=heads,
        hidden=keys.whole("n_inner", 4 * width),
        norm="layernorm",
        position="learned",
        mlp=keys.one_of("activation_function", keys.get("activation_function", "gelu_new"), PLAIN),
        bias=True,
        tied=keys.switch("tie_word_embeddings", True),
        dropout=0.0,
        norm_eps=keys.number("layer_norm_epsilon", 1e-5),
    )


def neox(keys: Keys) -> TransformerConfig:
    """GPT-NeoX and Pythia (Biderman et al. 2023, arXiv:2304.01373)."""
    context, heads = keys.whole("max_position_embeddings"), keys.whole("num_attention_heads")
    bias = keys.switch("attention_bias", True)
    return TransformerConfig(
        vocab_size=keys.whole("vocab_size"),
        context=context,
        width=keys.whole("hidden_size"),
        layers=keys.whole("num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        hidden=keys.whole("intermediate_size"),
        norm="layernorm",
        position="rope",
        mlp=keys.one_of("hidden_act", keys.get("hidden_act", "gelu"), PLAIN),
        bias=True,
        tied=keys.switch("tie_word_embeddings", False),
        dropout=0.0,
        qkv_bias=bias,
        out_bias=bias,
        norm_eps=keys.number("layer_norm_eps", 1e-5),
        parallel=keys.switch("use_parallel_residual", True),
        rope=the_rope(keys, context, "rotary_pct", "rotary_emb_base"),
    )


def llama(keys: Keys) -> TransformerConfig:
    """Llama 1 to 3."""
    fields, bias = common(keys, tied=False), keys.switch("attention_bias", False)
    mlp_bias = keys.switch("mlp_bias", False)
    rope = the_rope(keys, fields["context"])
    return TransformerConfig(**fields, qkv_bias=bias, out_bias=bias, mlp_bias=mlp_bias, rope=rope)


def mistral(keys: Keys) -> TransformerConfig:
    """Mistral: Llama with a window, in all layers."""
    fields, window = common(keys, tied=False), keys.whole("sliding_window", None)
    return TransformerConfig(**fields, rope=the_rope(keys, fields["context"]), window=window)


def qwen2(keys: Keys) -> TransformerConfig:
    """Qwen 2 and 2.5: Llama with biases on query, key and value."""
    return TransformerConfig(**common(keys, tied=False), **qwen_window(keys), qkv_bias=True)


def qwen3(keys: Keys) -> TransformerConfig:
    """Qwen 3: norms on each head's query and key."""
    bias = keys.switch("attention_bias", False)
    fields = common(keys, tied=False) | {"head_dim": keys.whole("head_dim", 128)}
    return TransformerConfig(**fields, **qwen_window(keys), qkv_bias=bias, out_bias=bias, qk_norm="head")


def qwen_window(keys: Keys) -> dict[str, Any]:
    """The window, which the first max_window_layers layers do not have."""
    layers, first = keys.whole("num_hidden_layers"), keys.whole("max_window_layers", 28, least=0)
    window = keys.whole("sliding_window", 4096) if keys.switch("use_sliding_window", False) else None
    keys.get("sliding_window")
    sliding = sliding_layers(keys, layers, [window is not None and i >= first for i in range(layers)])
    rope = the_rope(keys, keys.whole("max_position_embeddings"))
    return {"rope": rope} | ({"window": window, "sliding": sliding} if window is not None and any(sliding) else {})


def gemma_common(keys: Keys) -> dict[str, Any]:
    """Gemma writes "gelu" in old files and computes its tanh form all the same."""
    act = keys.get("hidden_activation", keys.get("hidden_act", "gelu_pytorch_tanh"))
    keys.get("hidden_act")
    mlp = keys.one_of("hidden_activation", act, {"gelu": "geglu", "gelu_pytorch_tanh": "geglu"})
    fields, bias = common(keys, tied=True, mlp=mlp), keys.switch("attention_bias", False)
    return fields | {
        "head_dim": keys.whole("head_dim", 256),
        "norm_offset": 1.0,
        "qkv_bias": bias,
        "out_bias": bias,
        "embedding_scale": fields["width"] ** 0.5,
    }


def gemma(keys: Keys) -> TransformerConfig:
    """Gemma 1: scaled embeddings, norms that multiply by 1 + w."""
    fields = gemma_common(keys)
    return TransformerConfig(**fields, rope=the_rope(keys, fields["context"]))


def gemma2(keys: Keys) -> TransformerConfig:
    """Gemma 2: every other layer slides, norms on both sides, capped scores and logits."""
    fields = gemma_common(keys)
    return TransformerConfig(
        **fields,
        norms="both",
        rope=the_rope(keys, fields["context"]),
        window=keys.whole("sliding_window", 4096),
        sliding=sliding_layers(keys, fields["layers"], [i % 2 == 0 for i in range(fields["layers"])]),
        attention_scale=keys.number("query_pre_attn_scalar", 256) ** -0.5,
        attention_cap=keys.number("attn_logit_softcapping", None),
        logit_cap=keys.number("final_logit_softcapping", None),
    )


def gemma3(keys: Keys) -> TransformerConfig:
    """Gemma 3's text decoder: five layers slide, with a base of their own, the sixth does not."""
    fields = gemma_common(keys)
    layers, every = fields["layers"], keys.whole("sliding_window_pattern", keys.whole("_sliding_window_pattern", 6))
    keys.get("_sliding_window_pattern")
    found = ropes(keys, fields["context"], theta=1_000_000.0)
    local_theta = float(keys.number("rope_local_base_freq", 10_000.0))
    return TransformerConfig(
        **fields,
        norms="both",
        qk_norm="head",
        rope=found.get("full_attention", found.get("", Rope())),
        local_rope=found.get("sliding_attention", Rope(local_theta)),
        window=keys.whole("sliding_window", 4096),
        sliding=sliding_layers(keys, layers, [bool((i + 1) % every) for i in range(layers)]),
        attention_scale=keys.number("query_pre_attn_scalar", 256) ** -0.5,
        attention_cap=keys.number("attn_logit_softcapping", None),
        logit_cap=keys.number("final_logit_softcapping", None),
    )


def phi3(keys: Keys) -> TransformerConfig:
    """Phi-3: Llama with its matrices side by side."""
    fields = common(keys, tied=False)
    return TransformerConfig(
        **fields, rope=the_rope(keys, fields["context"]), window=keys.whole("sliding_window", None)
    )


def olmo2(keys: Keys) -> TransformerConfig:
    """OLMo 2: norms after each branch, and over all heads' queries and keys."""
    fields, bias = common(keys, tied=False), keys.switch("attention_bias", False)
    rope = the_rope(keys, fields["context"])
    return TransformerConfig(**fields, rope=rope, norms="after", qk_norm="width", qkv_bias=bias, out_bias=bias)


class Family(NamedTuple):
    classes: str  # what the names of its classes begin with
    read: Callable[[Keys], TransformerConfig]
    tensors: Sequence[Tensor]  # the embedding first
    head: str = "ForCausalLM"  # what the name of its language model ends with


FAMILIES = {
    "gpt2": Family("GPT2", gpt2, GPT2_TENSORS, head="LMHeadModel"),
    "gpt_neox": Family("GPTNeoX", neox, NEOX_TENSORS),
    "llama": Family("Llama", llama, LLAMA_TENSORS),
    "mistral": Family("Mistral", mistral, LLAMA_TENSORS),
    "qwen2": Family("Qwen2", qwen2, LLAMA_TENSORS),
    "qwen3": Family("Qwen3", qwen3, LLAMA_TENSORS),
    "gemma": Family("Gemma", gemma, LLAMA_TENSORS),
    "gemma2": Family("Gemma2", gemma2, GEMMA2_TENSORS),
    "gemma3_text": Family("Gemma3", gemma3, GEMMA2_TENSORS),
    "phi3": Family("Phi3", phi3, PHI3_TENSORS),
    "olmo2": Family("Olmo2", olmo2, OLMO2_TENSORS),
}


def family_of(values: dict, source: str) -> Family:
    """The family that config.json names. InputError: one that we do not have."""
    name = values.get("model_type")
    if not isinstance(name, str) or name not in FAMILIES:
        raise InputError(f"{source}: model_type {name!r} is not implemented, only {', '.join(FAMILIES)}")
    return FAMILIES[name]


def read_transformer_config(values: dict, source: str) -> TransformerConfig:
    """What config.json describes. InputError: a key or a value that we do not implement, by name."""
    keys = Keys(values, source)
    config = family_of(values, source).read(keys)
    keys.finish()
    if config.heads % config.kv_heads or (config.head_dim is None and config.width % config.heads):
        raise InputError(
            f"{source}: {config.heads} heads share neither a width of {config.width} nor {config.kv_heads} keys evenly"
        )
    if config.position == "rope" and config.rope.rotated(config.head_width) % 2:
        raise InputError(
            f"{source}: {config.rope.rotated(config.head_width)} rotated dimensions a head; they must be even"
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
