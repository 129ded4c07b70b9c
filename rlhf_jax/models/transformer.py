"""The decoder of GPT-2, OPT, NeoX, Llama and its heirs (rlhf_jax/models/families.py), by config. Shape suffixes name the
dimensions:

b rows, t query tokens, s key tokens, d width, h heads, g queries per key/value head, k key/value heads, e head width.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype
from jaxtyping import Array, Bool, Float, Int, PyTree

from rlhf_jax.errors import InputError
from rlhf_jax.models.attention import attend
from rlhf_jax.models.linear import Linear
from rlhf_jax.models.placement import constrain_rows, replicate_columns
from rlhf_jax.models.rope import Rope, rotate
from rlhf_jax.types import AnyArray

PLAIN = Rope()


@dataclass(frozen=True)
class TransformerConfig:
    """What has a default is a switch that is off; a Hugging Face folder sets it (rlhf_jax/models/families.py)."""

    vocab_size: int
    context: int  # tokens; the longest row that learned positions can index
    width: int
    layers: int
    heads: int
    kv_heads: int  # heads: multi-head attention; 1: multi-query; between: grouped-query
    hidden: int  # width of the MLP
    norm: Literal["layernorm", "rmsnorm"]
    position: Literal["learned", "rope"]
    # "gelu" is its tanh form; …glu has a gate (Shazeer 2020, arXiv:2002.05202)
    mlp: Literal["gelu", "gelu_exact", "relu", "silu", "swiglu", "geglu", "geglu_exact", "reglu"]
    bias: bool  # of matrices and of layer norms
    tied: bool  # the unembedding is the embedding
    dropout: float  # of the embedding and of each residual branch
    head_dim: int | None = None  # None is width / heads
    qkv_bias: bool | None = None  # None is `bias`
    out_bias: bool | None = None
    mlp_bias: bool | None = None
    norm_eps: float = 1e-5
    norm_offset: float = 0.0  # added to an RMS norm's weight; Gemma's is 1
    norms: Literal["before", "after", "both", "sum"] = (
        "before"  # of each residual branch; or of its sum with the stream
    )
    final_norm: bool = True
    qk_norm: Literal["off", "head", "width"] = "off"  # over each head, or over all of them together
    parallel: bool = False  # attention and MLP both read the block's input
    rope: Rope = PLAIN
    local_rope: Rope | None = None  # of the sliding layers; None is `rope`
    window: int | None = None  # tokens, itself included, that a sliding layer looks back on
    sliding: tuple[bool, ...] | None = None  # which layers slide; None is all of them where there is a window
    turned: tuple[bool, ...] | None = None  # which layers have rotary positions; None is all
    query_growth: float = (
        0.0  # β of 1 + β·log(1 + ⌊position / query_context⌋), by which queries are multiplied (Llama 4)
    )
    query_context: int = 0
    attention_scale: float | None = None  # None is 1/√head_dim
    attention_cap: float | None = None  # cap·tanh(score/cap)
    logit_cap: float | None = None
    logit_scale: float = 1.0
    embedding_scale: float = 1.0
    residual_scale: float = 1.0  # of each branch
    embedding_width: int | None = None  # where it is not the width; a matrix leads from it into the stream and one back
    position_offset: int = 0  # row of the first learned position
    # Of products; norms, softmax and logits are float32. In float16 there is sampling and reading, and no training.
    compute: Literal["float32", "bfloat16", "float16"] = "float32"
    cache: Literal["float32", "bfloat16", "float16"] = "float32"
    remat: bool = False  # keep each block's input only, and compute the rest again for the gradient
    scan: bool = False  # one compiled block for all layers, parameters stacked; see `stack_blocks`
    logit_rows: int = 0  # tokens whose logits exist at a time, but for sampling; 0 is all
    micro_batches: int = 1  # parts of a training batch that go through one after the other; see models/rows.py
    axis_name: str | None = None  # of jax.pmap, whose devices share out the rows

    @property
    def out_width(self) -> int:
        """Of what the decoder hands to its head."""
        return self.width if self.embedding_width is None else self.embedding_width

    @property
    def head_width(self) -> int:
        return self.width // self.heads if self.head_dim is None else self.head_dim

    def slides(self, layer: int) -> bool:
        return self.window is not None and (self.sliding is None or self.sliding[layer])

    def turns(self, layer: int) -> bool:
        return self.position == "rope" and (self.turned is None or self.turned[layer])


class Kind(NamedTuple):
    """What is a layer's own: Python bools, or with config.scan traced ones."""

    slides: bool | Bool[Array, "*L"]  # it looks back on a window
    turns: bool | Bool[Array, "*L"]  # it has rotary positions


class Cache(NamedTuple):
    """Keys and values of the tokens seen so far, one entry a layer. [B, H, S, d] updates in place, [B, S, H, d] copies.

    A sliding layer has a ring of `window` columns where that is less than all: column c stands at c mod window. With
    config.scan there is one entry, all layers' on a leading axis, and no ring.
    """

    keys: tuple[Float[Array, "*L B k S e"], ...]
    values: tuple[Float[Array, "*L B k S e"], ...]


def empty_cache(config: TransformerConfig, rows: int, columns: int) -> Cache:
    """A cache with room for so many columns, to be filled from column 0."""

    def zeros(*lead: int, room: int):
        shape = (*lead, rows, config.kv_heads, room, config.head_width)
        return jnp.zeros(shape, config.cache)

    if config.scan:
        one = (zeros(config.layers, room=columns),)
        return Cache(one, one)
    rooms = [min(config.window or columns, columns) if config.slides(i) else columns for i in range(config.layers)]
    each = tuple(zeros(room=room) for room in rooms)
    return Cache(each, each)


def positions_of(mask: Bool[Array, "B T"]) -> Int[Array, "B T"]:
    """Position of each token among its row's real tokens, so that padding on the left moves no score."""
    return jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)


class Tokens(NamedTuple):
    """Where the tokens at hand stand. Columns count from the row's left end, padding included."""

    positions_bt: Int[Array, "B T"]
    mask_bs: Bool[Array, "B S"]
    start: int | Int[Array, ""]  # column of the first token
    allowed_bts: Bool[Array, "B T S"]  # which columns a token may look at, were it not for a window
    row_b: Int[Array, " B"]  # of the batch, by which dropout is drawn

    def within(self, window: int) -> Bool[Array, "B T S"]:
        """Which columns a token of a sliding layer may look at."""
        T, S = self.allowed_bts.shape[1:]
        columns_t = self.start + jnp.arange(T)
        return self.allowed_bts & (jnp.arange(S)[None, None, :] > columns_t[None, :, None] - window)

    def in_ring(self, window: int) -> Bool[Array, "B 1 W"]:
        """The same of a ring's slots, for one token, whose own key is in the ring already."""
        slots = jnp.arange(window)
        columns = self.start - jnp.mod(self.start - slots, window)  # the last column that each slot was given
        real = jnp.take(self.mask_bs, jnp.maximum(columns, 0), axis=1)
        return (real & (columns >= 0)[None, :])[:, None, :]


class Attention(nn.Module):
    config: TransformerConfig

    @nn.compact
    def __call__(self, x_btd, at: Tokens, layer_cache, kind: Kind):
        c = self.config
        B, T, _ = x_btd.shape
        e = c.head_width
        qkv_bias = c.bias if c.qkv_bias is None else c.qkv_bias
        q_btx = Linear(c.heads * e, qkv_bias, dtype=c.compute, name="query")(x_btd)
        k_btx = Linear(c.kv_heads * e, qkv_bias, dtype=c.compute, name="key")(x_btd)
        v_btke = Linear(c.kv_heads * e, qkv_bias, dtype=c.compute, name="value")(x_btd).reshape(B, T, c.kv_heads, e)
        if c.qk_norm == "width":
            q_btx, k_btx = norm(c, "query_norm")(q_btx), norm(c, "key_norm")(k_btx)
        q_bthe, k_btke = q_btx.reshape(B, T, c.heads, e), k_btx.reshape(B, T, c.kv_heads, e)
        if c.qk_norm == "head":
            q_bthe, k_btke = norm(c, "query_norm")(q_bthe), norm(c, "key_norm")(k_btke)
        if c.position == "rope":
            q_bthe, k_btke = (self.turn(x, at, kind) for x in (q_bthe, k_btke))
        if c.query_growth:
            growth_bt = 1.0 + c.query_growth * jnp.log1p(jnp.floor(at.positions_bt / c.query_context))
            q_bthe = (q_bthe * growth_bt[:, :, None, None]).astype(q_bthe.dtype)
        k_bkse, v_bkse = k_btke.swapaxes(1, 2), v_btke.swapaxes(1, 2)

        allowed_bts = at.allowed_bts
        if (window := c.window) is not None:
            allowed_bts = _either(kind.slides, lambda: at.within(window), lambda: at.allowed_bts)
        if layer_cache is not None:
            room = layer_cache[0].shape[2]
            if room == at.mask_bs.shape[1]:
                layer_cache = tuple(
                    _put(kept, new, at.start) for kept, new in zip(layer_cache, (k_bkse, v_bkse), strict=True)
                )
                k_bkse, v_bkse = layer_cache
            elif T == 1:
                slot = jnp.mod(at.start, room)
                layer_cache = tuple(
                    _put(kept, new, slot) for kept, new in zip(layer_cache, (k_bkse, v_bkse), strict=True)
                )
                k_bkse, v_bkse = layer_cache
                allowed_bts = at.in_ring(room)
            else:  # the prompt, into an empty ring: it looks at its own keys, and the last ones of them stay
                layer_cache = tuple(_last(kept, new) for kept, new in zip(layer_cache, (k_bkse, v_bkse), strict=True))
                allowed_bts = allowed_bts[:, :, :T]
        scale = e**-0.5 if c.attention_scale is None else c.attention_scale
        k_bkse, v_bkse = k_bkse.astype(c.compute), v_bkse.astype(c.compute)
        out_bthe = attend(q_bthe, k_bkse, v_bkse, allowed_bts, scale, c.attention_cap)
        out_bias = c.bias if c.out_bias is None else c.out_bias
        out = Linear(c.width, out_bias, residual_layers=c.layers, dtype=c.compute, name="out")
        return out(out_bthe.reshape(B, T, c.heads * e)), layer_cache

    def turn(self, x_bthe, at: Tokens, kind: Kind):
        c, room = self.config, at.mask_bs.shape[1]

        def by(rope):
            return lambda: rotate(x_bthe, at.positions_bt, rope, room)

        def rotated():
            return by(c.rope)() if c.local_rope is None else _either(kind.slides, by(c.local_rope), by(c.rope))

        return _either(kind.turns, rotated, lambda: x_bthe)


def _either(choice, this, that):
    """Of two functions' results; a Python bool computes one of them only."""
    if isinstance(choice, bool):
        return this() if choice else that()
    return jnp.where(choice, this(), that())


def _put(kept_bkse, new_bkte, column):
    return jax.lax.dynamic_update_slice(kept_bkse, new_bkte.astype(kept_bkse.dtype), (0, 0, column, 0))


def _last(ring_bkwe, new_bkte):
    W, T = ring_bkwe.shape[2], new_bkte.shape[2]
    if T <= W:
        return _put(ring_bkwe, new_bkte, 0)
    return jnp.roll(new_bkte[:, :, T - W :], T - W, axis=2).astype(ring_bkwe.dtype)


ACTIVATIONS = {
    "gelu": jax.nn.gelu,
    "gelu_exact": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
}
GATES = {"swiglu": "silu", "geglu": "gelu", "geglu_exact": "gelu_exact", "reglu": "relu"}


class MLP(nn.Module):
    config: TransformerConfig

    @nn.compact
    def __call__(self, x_btd):
        c = self.config
        bias = c.bias if c.mlp_bias is None else c.mlp_bias
        up = Linear(c.hidden, bias, dtype=c.compute, name="up")(x_btd)
        if c.mlp in GATES:
            up = ACTIVATIONS[GATES[c.mlp]](Linear(c.hidden, bias, dtype=c.compute, name="gate")(x_btd)) * up
        else:
            up = ACTIVATIONS[c.mlp](up)
        return Linear(c.width, bias, residual_layers=c.layers, dtype=c.compute, name="down")(up)


class OffsetRMSNorm(nn.Module):
    """x / √(mean x² + ε) · (offset + w), over the last axis, in float32 (Gemma)."""

    epsilon: float
    offset: float
    dtype: Any

    @nn.compact
    def __call__(self, x):
        scale = self.param("scale", nn.initializers.constant(1.0 - self.offset), (x.shape[-1],))
        x = nn.RMSNorm(epsilon=self.epsilon, use_scale=False, dtype=jnp.float32)(x)
        return (x * (self.offset + scale.astype(jnp.float32)).reshape((1,) * (x.ndim - 1) + (-1,))).astype(self.dtype)


def norm(config: TransformerConfig, name: str) -> nn.Module:
    """The config's normalisation, over the last axis."""
    c = config
    if c.norm == "layernorm":
        return nn.LayerNorm(epsilon=c.norm_eps, use_bias=c.bias, dtype=c.compute, name=name)
    if c.norm_offset:
        return OffsetRMSNorm(c.norm_eps, c.norm_offset, c.compute, name=name)
    return nn.RMSNorm(epsilon=c.norm_eps, dtype=c.compute, name=name)


def embed(count: int, deviation: float, config: TransformerConfig, name: str, width: int | None = None) -> nn.Embed:
    """A table of so many vectors, as wide as the residual stream or as said."""

    def promoted(*tables: Any, dtype: Any = None, inexact: bool = True) -> list[Any]:
        return [replicate_columns(table_vd) for table_vd in promote_dtype(*tables, dtype=dtype, inexact=inexact)]

    init, dtype = nn.initializers.normal(deviation), config.compute
    return nn.Embed(count, width or config.width, embedding_init=init, dtype=dtype, promote_dtype=promoted, name=name)


class Dropout(nn.Module):
    """x/(1 − p) with probability 1 − p, else 0, for each number. Each row's draws come from a key of its own, which is told
    by the row's number in its batch: they are the same wherever the row is and whatever goes through beside it."""

    rate: float
    deterministic: bool

    @nn.compact
    def __call__(self, x_btd: Float[Array, "B T D"], row_b: Int[Array, " B"]) -> Float[Array, "B T D"]:
        if self.deterministic or self.rate == 0:
            return x_btd
        key = self.make_rng("dropout")

        def kept(row: Int[Array, ""]) -> Bool[Array, "T D"]:
            return jax.random.bernoulli(jax.random.fold_in(key, row), 1 - self.rate, x_btd.shape[1:])

        return jnp.where(jax.vmap(kept)(row_b), x_btd / (1 - self.rate), 0).astype(x_btd.dtype)


class Block(nn.Module):
    """x + Attention(x) + MLP(x + Attention(x)), each behind a norm, or before one; NeoX's parallel form reads x twice."""

    config: TransformerConfig
    deterministic: bool
    kind: Kind | None  # None: config.scan hands it in with the layer's cache

    @nn.compact
    def __call__(self, x_btd, layer, at: Tokens):
        c = self.config
        layer_cache, kind = layer if self.kind is None else (layer, self.kind)

        def dropout(x):
            return Dropout(c.dropout, self.deterministic)(x, at.row_b)

        def before(x, name):
            return norm(c, f"{name}_norm")(x) if c.norms in ("before", "both") else x

        def after(x, name):
            x = norm(c, f"{name}_out_norm")(x) if c.norms in ("after", "both") else x
            return x if c.residual_scale == 1.0 else x * jnp.asarray(c.residual_scale, x.dtype)

        def of_sum(x, name):
            return norm(c, f"{name}_norm")(x) if c.norms == "sum" else x

        attention, mlp = Attention(c, name="attention"), MLP(c, name="mlp")
        attended, layer_cache = attention(before(x_btd, "attention"), at, layer_cache, kind)
        attended = dropout(after(attended, "attention"))
        read = x_btd if c.parallel else of_sum(x_btd + attended, "attention")
        mixed = dropout(after(mlp(before(read, "mlp")), "mlp"))
        mixed = read + mixed + attended if c.parallel else of_sum(read + mixed, "mlp")
        return constrain_rows(mixed), layer_cache


class Transformer(nn.Module):
    """Tokens → hidden states. With a cache, the tokens stand at columns start, start + 1, … of the mask.

    row_b: which rows of their batch these are, by which dropout is drawn; None is all of them. InputError: learned positions
    for fewer tokens than a row has columns.
    """

    config: TransformerConfig

    @nn.compact
    def __call__(
        self,
        tokens_bt: Int[Array, "B T"],
        mask_bs: Bool[Array, "B S"],
        cache: Cache | None = None,
        start: int | Int[Array, ""] = 0,
        causal: bool = True,
        deterministic: bool = True,
        row_b: Int[AnyArray, " B"] | None = None,
    ) -> tuple[Float[Array, "B T D"], Cache | None]:
        c = self.config
        T, S = tokens_bt.shape[1], mask_bs.shape[1]
        if c.position == "learned" and c.context < S:
            raise InputError(
                f"the model has learned positions for {c.context} tokens and a row here has room for {S}; shorten prompts "
                "and answers, or train with a longer context"
            )
        positions_bt = jax.lax.dynamic_slice_in_dim(positions_of(mask_bs), start, T, axis=1)
        columns_t = start + jnp.arange(T)
        allowed_bts = jnp.broadcast_to(mask_bs[:, None, :], (mask_bs.shape[0], T, S))
        if causal:
            allowed_bts = allowed_bts & (jnp.arange(S)[None, None, :] <= columns_t[None, :, None])
        row_b = jnp.arange(len(tokens_bt)) if row_b is None else jnp.asarray(row_b)
        at = Tokens(positions_bt, mask_bs, start, allowed_bts, row_b)

        embedding = embed(c.vocab_size, 0.02, c, "embedding", c.embedding_width)
        # PAD may be one past the vocabulary; nobody looks at it
        x_btd = embedding(jnp.minimum(tokens_bt, c.vocab_size - 1))
        if c.embedding_scale != 1.0:
            x_btd = x_btd * jnp.asarray(c.embedding_scale, c.compute)
        if c.embedding_width is not None:
            x_btd = Linear(c.width, False, dtype=c.compute, name="embedding_in")(x_btd)
        if c.position == "learned":
            x_btd = x_btd + embed(c.position_offset + c.context, 0.01, c, "position")(positions_bt + c.position_offset)
        x_btd = constrain_rows(Dropout(c.dropout, deterministic)(x_btd, row_b))

        block: Any = nn.remat(Block) if c.remat else Block
        if c.scan:
            caches = None if cache is None else (cache.keys[0], cache.values[0])
            kinds = Kind(*(jnp.array([each(i) for i in range(c.layers)]) for each in (c.slides, c.turns)))
            scan: Any = nn.scan
            all_blocks = scan(
                block,
                variable_axes={"params": 0, "lora": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(0, nn.broadcast),
                length=c.layers,
            )
            x_btd, caches = all_blocks(c, deterministic, None, name="blocks")(x_btd, (caches, kinds), at)
            layers = [caches]
        else:
            layers = []
            for i in range(c.layers):
                layer_cache = None if cache is None else (cache.keys[i], cache.values[i])
                kind = Kind(c.slides(i), c.turns(i))
                x_btd, layer_cache = block(c, deterministic, kind, name=f"block_{i}")(x_btd, layer_cache, at)
                layers.append(layer_cache)
        if cache is not None:
            cache = Cache(*(tuple(each) for each in zip(*layers, strict=True)))
        if c.final_norm:
            x_btd = norm(c, "final_norm")(x_btd)
        if c.embedding_width is not None:
            x_btd = Linear(c.embedding_width, False, dtype=c.compute, name="embedding_out")(x_btd)
        return x_btd, cache


def stack_blocks(params: PyTree, layers: int) -> PyTree:
    """A transformer's parameters as config.scan has them: "blocks", every leaf with an axis of layers in front."""
    rest = {name: each for name, each in params.items() if not name.startswith("block_")}
    blocks = (params[f"block_{i}"] for i in range(layers))
    return rest | {"blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}


def unstack_blocks(params: PyTree, layers: int) -> PyTree:
    """And back: "block_0", "block_1", …"""
    rest = {name: each for name, each in params.items() if name != "blocks"}
    blocks = {f"block_{i}": jax.tree.map(lambda x, i=i: x[i], params["blocks"]) for i in range(layers)}
    return rest | blocks
