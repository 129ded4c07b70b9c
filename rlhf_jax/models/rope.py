"""Rotary positions (Su et al. 2021, arXiv:2104.09864) and the ways in which they are stretched to a longer context."""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@dataclass(frozen=True)
class Linear:
    """Positions divided by the factor (Chen et al. 2023, arXiv:2306.15595)."""

    factor: float


@dataclass(frozen=True)
class Llama3:
    """Low frequencies divided by the factor, high ones kept, those between interpolated (Llama 3.1, reference code)."""

    factor: float
    low: float  # turns over the original context below which a frequency counts as low
    high: float
    original_context: int


@dataclass(frozen=True)
class Yarn:
    """Divided or kept by the turns over the original context, and attention sharpened (Peng et al. 2023,
    arXiv:2309.00071)."""

    factor: float
    original_context: int
    fast: float = 32.0  # turns above which a frequency is kept
    slow: float = 1.0  # and below which it is divided
    attention: float | None = None  # factor on cos and sin; None is the paper's 0.1·log(factor) + 1
    whole: bool = True  # the bounds are rounded to whole pairs of dimensions

    @property
    def attention_factor(self) -> float:
        usual = 0.1 * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0
        return usual if self.attention is None else self.attention


@dataclass(frozen=True)
class LongRope:
    """Each frequency divided by a factor of its own, of which there are two lists, and attention sharpened (Ding et al. 2024,
    arXiv:2402.13753)."""

    short: tuple[float, ...]
    long: tuple[float, ...]  # where a row has room for more than the original context
    original_context: int
    attention_factor: float  # on cos and sin


@dataclass(frozen=True)
class Dynamic:
    """A larger base where a row has room for more than the context ("dynamic NTK", Peng et al. 2023, arXiv:2309.00071,
    App. B.1)."""

    factor: float
    context: int


ROPE_SCALINGS = {kind.__name__: kind for kind in (Linear, Llama3, Yarn, LongRope, Dynamic)}


@dataclass(frozen=True)
class Rope:
    theta: float = 10_000.0  # the base of the frequencies
    share: float = 1.0  # of each head's width that is rotated
    scaling: Linear | Llama3 | Yarn | LongRope | Dynamic | None = None

    def rotated(self, head_dim: int) -> int:
        return int(head_dim * self.share)


def frequencies(rope: Rope, head_dim: int, room: int) -> Float[Array, " E"]:
    """Radians a position of each rotated pair of dimensions.

    room: columns of a row, padding and tokens yet to come included. LongRope and Dynamic go by it, and not by how many
    tokens a row or its batch has by now: keys in a cache were turned before that was known, and sampling and learning have
    to agree. Transformers goes by the longest row of a batch, which is the same where that row is full.
    """
    half = rope.rotated(head_dim) // 2
    plain = rope.theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    match rope.scaling:
        case None:
            return plain
        case LongRope(short, long, original):
            return plain / jnp.array(long if room > original else short, jnp.float32)
        case Dynamic(factor, context):
            stretched = factor * max(room, context) / context - (factor - 1)
            theta = rope.theta * stretched ** (half / (half - 1))
            return theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
        case Linear(factor):
            return plain / factor
        case Llama3(factor, low, high, original):
            turns = original * plain / (2 * math.pi)
            kept = jnp.clip((turns - low) / (high - low), 0.0, 1.0)
        case Yarn(factor, original) as yarn:

            def pair(turns: float) -> float:
                """The pair, as a fraction, that makes so many turns over the original context."""
                return half * math.log(original / (turns * 2 * math.pi)) / math.log(rope.theta)

            first, last = pair(yarn.fast), pair(yarn.slow)
            if yarn.whole:
                first, last = math.floor(first), math.ceil(last)
            first, last = max(first, 0), min(last, 2 * half - 1)
            last = last if last != first else last + 0.001
            kept = 1.0 - jnp.clip((jnp.arange(half, dtype=jnp.float32) - first) / (last - first), 0.0, 1.0)
    return plain / factor * (1.0 - kept) + plain * kept


def rotate(
    x_bthe: Float[Array, "B T H E"], positions_bt: Int[Array, "B T"], rope: Rope, room: int
) -> Float[Array, "B T H E"]:
    """The first `share` of each head rotated by its position, halves paired as in Llama and NeoX. room: columns of a row."""
    rotated = rope.rotated(x_bthe.shape[-1])
    frequency_e = frequencies(rope, x_bthe.shape[-1], room)
    angle_bt1e = positions_bt[:, :, None, None] * frequency_e[None, None, None, :]
    cos, sin = jnp.cos(angle_bt1e), jnp.sin(angle_bt1e)
    if isinstance(rope.scaling, Yarn | LongRope):
        cos, sin = (each * rope.scaling.attention_factor for each in (cos, sin))
    left, right, rest = jnp.split(x_bthe, [rotated // 2, rotated], axis=-1)
    turned = [left * cos - right * sin, right * cos + left * sin, rest]
    return jnp.concatenate(turned, axis=-1).astype(x_bthe.dtype)
