"""Logits → the distribution that a token is drawn from: the transforms of Hugging Face's generate(), in its order."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from rlhf_jax.types import AnyArray, Repetition, Response, Scalar


@dataclass(frozen=True)
class Sampling:
    """The transform between a model's logits and the distribution that is sampled from.

    ValueError: a number outside its range.
    """

    temperature: float  # 0 is greedy
    top_k: int  # 0 is off
    top_p: float  # 1 is off
    min_p: float = 0.0  # 0 is off
    repetition_penalty: float = 1.0  # 1 is off; `penalise`

    def __post_init__(self):
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(f"sampling needs temperature ≥ 0, top_k ≥ 0 and 0 < top_p ≤ 1, not {self}")
        if not 0 <= self.min_p <= 1 or self.repetition_penalty <= 0:
            raise ValueError(f"sampling needs 0 ≤ min_p ≤ 1 and repetition_penalty > 0, not {self}")

    def truncates(self, V: int) -> bool:
        """Whether there are tokens, of a vocabulary of V, that it never draws."""
        return self.temperature == 0 or 0 < self.top_k < V or self.top_p < 1 or self.min_p > 0


def penalise(
    logits: Float[Array, "*B V"], seen: Bool[Array, "*B V"], penalty: Float[Scalar, "..."]
) -> Float[Array, "*B V"]:
    """The repetition penalty θ: zᵥ/θ where zᵥ ≥ 0 and θ·zᵥ where zᵥ < 0, for tokens v that were seen; others keep zᵥ.

    Keskar et al. 2019, §4.1 (arXiv:1909.05858) divide every logit, which would favour what was seen and has a negative
    one; the two signs are Hugging Face's. penalty: a number, or an array that broadcasts against the logits at their rank.
    """
    penalised = jnp.where(logits < 0, logits * penalty, logits / penalty)
    return jnp.where(seen, penalised, logits)


def process_logits(logits: Float[Array, "*B V"], sampling: Sampling) -> Float[Array, "*B V"]:
    """Temperature, then top-k, then top-p, then min-p; what is left out gets −∞. The penalty comes before: `penalise`.

    Top-k (Fan et al. 2018, arXiv:1805.04833) keeps the k most likely tokens and those as likely as the k-th; top-p
    (Holtzman et al. 2020, arXiv:1904.09751) the smallest set of most likely tokens whose mass reaches p, at least one;
    min-p (Nguyen et al. 2024, arXiv:2407.01082) those whose probability is at least min_p times that of the likeliest.
    """
    if sampling.temperature == 0:
        best = jax.nn.one_hot(jnp.argmax(logits, axis=-1), logits.shape[-1], dtype=bool)
        return jnp.where(best, 0.0, -jnp.inf)
    logits = logits / sampling.temperature
    if 0 < sampling.top_k < logits.shape[-1]:
        kth = jax.lax.top_k(logits, sampling.top_k)[0][..., -1:]
        logits = jnp.where(logits < kth, -jnp.inf, logits)
    if sampling.top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        mass_before = jnp.cumsum(jax.nn.softmax(ordered, axis=-1), axis=-1) - jax.nn.softmax(ordered, axis=-1)
        kept = jnp.sum(mass_before < sampling.top_p, axis=-1, keepdims=True)
        least = jnp.take_along_axis(ordered, kept - 1, axis=-1)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if sampling.min_p > 0:
        least = jnp.max(logits, axis=-1, keepdims=True) + math.log(sampling.min_p)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return logits


class Processors(NamedTuple):
    """The transform that tokens were drawn through, in arrays that broadcast against their [B, T]; None: there is none."""

    temperature: Float[AnyArray, "B 1"]
    support: Bool[AnyArray, "B T V"] | None
    repetition: Repetition | None  # [B, 1] and [B, 1, V]
    columns: Int[AnyArray, "B T"]  # of the response, where the tokens stand


def processors_of(response: Response) -> Processors:
    """Of a response's tokens."""
    temperature, repetition = jax.tree.map(
        lambda by_row: jnp.asarray(by_row)[:, None], (response.temperature, response.repetition)
    )
    columns = jnp.broadcast_to(jnp.arange(response.tokens.shape[1])[None, :], response.tokens.shape)
    return Processors(temperature, response.support, repetition, columns)


def reprocess_logits(logits: Float[Array, "B T V"], through: Processors) -> Float[Array, "B T V"]:
    """Any model's logits of tokens under the transform that the tokens were drawn through.

    What top-k, top-p and min-p keep is the sampler's choice, the same tokens for every model: each then is a distribution
    over the same set, so that ratios and KLs are finite, and KL(π‖π) is 0. The repetition penalty depends on nothing but
    the tokens before, so that it is applied to each model's logits anew.
    """
    repetition = through.repetition
    if repetition is not None:
        seen = repetition.since <= through.columns[..., None]
        logits = penalise(logits, seen, repetition.penalty[..., None])
    logits = logits / through.temperature[..., None]
    return logits if through.support is None else jnp.where(through.support, logits, -jnp.inf)
