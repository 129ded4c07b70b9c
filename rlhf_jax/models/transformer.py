"""The decoder: GPT-2-style and Llama-style blocks by config. Shape suffixes name the dimensions of an array:

b rows, t query tokens, s key tokens, d width, h heads, g queries per key/value head, k key/value heads, e head width.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.models.linear import Linear


@dataclass(frozen=True)
class TransformerConfig:
    vocab_size: int
    context: int  # tokens; the longest row that learned positions can index
    width: int
    layers: int
    heads: int
    kv_heads: int  # heads: multi-head attention; 1: multi-query; between: grouped-query
    hidden: int  # width of the MLP
    norm: Literal["layernorm", "rmsnorm"]
    position: Literal["learned", "rope"]
    mlp: Literal["gelu", "swiglu"]
    bias: bool
    tied: bool  # the unembedding is the embedding
    dropout: float  # of the embedding and of each residual branch


class Cache(NamedTuple):
    """Keys and values of the tokens seen so far, one entry a layer. [B, H, S, d] updates in place, [B, S, H, d] copies."""

    keys: tuple[Float[Array, "B k S e"], ...]
    values: tuple[Float[Array, "B k S e"], ...]


def empty_cache(config: TransformerConfig, rows: int, columns: int, dtype=jnp.float32) -> Cache:
    """A cache with room for so many columns, to be filled from column 0."""
    shape = (rows, config.kv_heads, columns, config.width // config.heads)
    zeros = tuple(jnp.zeros(shape, dtype) for _ in range(config.layers))
    return Cache(zeros, zeros)


def positions_of(mask: Bool[Array, "B T"]) -> Int[Array, "B T"]:
    """Position of each token among its row's real tokens, so that padding on the left moves no score."""
    return jnp.maximum(jnp.cumsum(mask, axis=1) - 1, 0)


def rotate(x_bthe: Float[Array, "B T H E"], positions_bt: Int[Array, "B T"]) -> Float[Array, "B T H E"]:
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864), halves paired as in Llama, base 10,000."""
    half = x_bthe.shape[-1] // 2
    frequency_e = 10_000.0 ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle_bt1e = positions_bt[:, :, None, None] * frequency_e[None, None, None, :]
    cos, sin = jnp.cos(angle_bt1e), jnp.sin(angle_bt1e)
    left, right = x_bthe[..., :half], x_bthe[..., half:]
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)


class Attention(nn.Module):
    config: TransformerConfig

    @nn.compact
    def __call__(self, x_btd, positions_bt, allowed_bts, layer_cache, start):
        c = self.config
        B, T, _ = x_btd.shape
        e, g = c.width // c.heads, c.heads // c.kv_heads
        q_bthe = Linear(c.width, c.bias, name="query")(x_btd).reshape(B, T, c.heads, e)
        k_btke = Linear(c.kv_heads * e, c.bias, name="key")(x_btd).reshape(B, T, c.kv_heads, e)
        v_btke = Linear(c.kv_heads * e, c.bias, name="value")(x_btd).reshape(B, T, c.kv_heads, e)
        if c.position == "rope":
            q_bthe, k_btke = rotate(q_bthe, positions_bt), rotate(k_btke, positions_bt)
        k_bkse, v_bkse = k_btke.swapaxes(1, 2), v_btke.swapaxes(1, 2)
        if layer_cache is not None:
            k_bkse = jax.lax.dynamic_update_slice(layer_cache[0], k_bkse, (0, 0, start, 0))
            v_bkse = jax.lax.dynamic_update_slice(layer_cache[1], v_bkse, (0, 0, start, 0))
        q_bkgte = q_bthe.reshape(B, T, c.kv_heads, g, e).transpose(0, 2, 3, 1, 4)
        scores_bkgts = jnp.einsum("bkgte,bkse->bkgts", q_bkgte, k_bkse) * e**-0.5
        # A finite floor: a padding token that may look at nothing gets a uniform row, not NaN.
        scores_bkgts = jnp.where(allowed_bts[:, None, None, :, :], scores_bkgts, -1e30)
        out_bkgte = jnp.einsum("bkgts,bkse->bkgte", jax.nn.softmax(scores_bkgts, axis=-1), v_bkse)
        out_btd = out_bkgte.transpose(0, 3, 1, 2, 4).reshape(B, T, c.width)
        out_btd = Linear(c.width, c.bias, residual_layers=c.layers, name="out")(out_btd)
        return out_btd, (k_bkse, v_bkse)


class MLP(nn.Module):
    config: TransformerConfig

    @nn.compact
    def __call__(self, x_btd):
        c = self.config
        up = Linear(c.hidden, c.bias, name="up")(x_btd)
        if c.mlp == "swiglu":
            up = jax.nn.silu(Linear(c.hidden, c.bias, name="gate")(x_btd)) * up
        else:
            up = jax.nn.gelu(up)
        return Linear(c.width, c.bias, residual_layers=c.layers, name="down")(up)


def norm(config: TransformerConfig, name: str) -> nn.Module:
    """The normalisation of a block: over the width, ε = 1e-5."""
    if config.norm == "rmsnorm":
        return nn.RMSNorm(epsilon=1e-5, name=name)
    return nn.LayerNorm(epsilon=1e-5, use_bias=config.bias, name=name)


class Block(nn.Module):
    config: TransformerConfig

    @nn.compact
    def __call__(self, x_btd, positions_bt, allowed_bts, layer_cache, start, deterministic):
        dropout = nn.Dropout(self.config.dropout, deterministic=deterministic)
        normed = norm(self.config, "attention_norm")(x_btd)
        attended, layer_cache = Attention(self.config, name="attention")(
            normed, positions_bt, allowed_bts, layer_cache, start
        )
        x_btd = x_btd + dropout(attended)
        mixed = MLP(self.config, name="mlp")(norm(self.config, "mlp_norm")(x_btd))
        return x_btd + dropout(mixed), layer_cache


class Transformer(nn.Module):
    """Tokens → hidden states. With a cache, the tokens stand at columns start, start + 1, … of the mask."""

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
    ) -> tuple[Float[Array, "B T D"], Cache]:
        c = self.config
        T, S = tokens_bt.shape[1], mask_bs.shape[1]
        positions_bt = jax.lax.dynamic_slice_in_dim(positions_of(mask_bs), start, T, axis=1)
        columns_t = start + jnp.arange(T)
        allowed_bts = jnp.broadcast_to(mask_bs[:, None, :], (mask_bs.shape[0], T, S))
        if causal:
            allowed_bts = allowed_bts & (jnp.arange(S)[None, None, :] <= columns_t[None, :, None])

        x_btd = nn.Embed(c.vocab_size, c.width, embedding_init=nn.initializers.normal(0.02), name="embedding")(
            tokens_bt
        )
        if c.position == "learned":
            x_btd = x_btd + nn.Embed(c.context, c.width, embedding_init=nn.initializers.normal(0.01), name="position")(
                positions_bt
            )
        x_btd = nn.Dropout(c.dropout, deterministic=deterministic)(x_btd)
        keys, values = [], []
        for i in range(c.layers):
            layer_cache = None if cache is None else (cache.keys[i], cache.values[i])
            x_btd, (k, v) = Block(c, name=f"block_{i}")(
                x_btd, positions_bt, allowed_bts, layer_cache, start, deterministic
            )
            keys.append(k)
            values.append(v)
        return norm(c, "final_norm")(x_btd), Cache(tuple(keys), tuple(values))
