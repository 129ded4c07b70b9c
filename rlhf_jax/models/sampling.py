"""y ~ π(·|x): sampling with a key/value cache, left-padded prompts, and an early end when every row has ended."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from rlhf_jax.models.heads import AnyLanguageModel, hidden_states
from rlhf_jax.models.heads import logits as unembed
from rlhf_jax.models.logits_processors import Sampling, penalise, process_logits
from rlhf_jax.models.rows import all_gather_rows, local_rows
from rlhf_jax.models.transformer import empty_cache
from rlhf_jax.types import PromptBatch, Repetition, Response


def draw(key: Key[Array, ""], logits: Float[Array, "B V"], axis_name: str | None = None) -> Int[Array, " B"]:
    """One token a row by inverting the distribution function, first over blocks of the vocabulary, then inside one.

    One uniform number a row instead of V Gumbel numbers: thirty times faster than jax.random.categorical on a CPU at
    V = 50,000; the two levels keep the running sums short, hence exact, in float32. axis_name: of jax.pmap, where these are
    some of the rows; each gets the number that it has among all.
    """
    B, V = logits.shape
    width = int(V**0.5) + 1
    weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
    blocks = jnp.pad(weights, ((0, 0), (0, -V % width))).reshape(B, -1, width)
    mass = jnp.sum(blocks, axis=-1)
    devices = 1 if axis_name is None else jax.lax.axis_size(axis_name)
    u = local_rows(jax.random.uniform(key, (B * devices,)), axis_name)
    block, rest = _invert(mass, u * jnp.sum(mass, axis=-1))
    inside, _ = _invert(jnp.take_along_axis(blocks, block[:, None, None], axis=1)[:, 0], rest)
    return block * width + inside


def _invert(weights: Float[Array, "B N"], target: Float[Array, " B"]) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
    """The first index whose running sum exceeds the target (never one of weight 0), and what is left of the target."""
    running = jnp.cumsum(weights, axis=-1)
    index = jnp.sum(running <= target[:, None], axis=-1)
    last_possible = weights.shape[-1] - 1 - jnp.argmax(weights[:, ::-1] > 0, axis=-1)
    index = jnp.minimum(index, last_possible)  # rounding can put the target at the very end
    at = index[:, None]
    before = jnp.take_along_axis(running, at, axis=-1)[:, 0] - jnp.take_along_axis(weights, at, axis=-1)[:, 0]
    return index, jnp.maximum(target - before, 0.0)


def generate(
    model: AnyLanguageModel,
    params: PyTree,
    prompts: PromptBatch,
    key: Key[Array, ""],
    max_tokens: int,
    sampling: Sampling,
    eos: int | tuple[int, ...],
    pad: int,
    stops: tuple[tuple[int, ...], ...] = (),
    samples: int = 1,
) -> Response:
    """Up to T = max_tokens tokens after each of B prompts, as B · samples rows; a row ends with its EOS, which belongs to
    the response, and is pad after it. eos: the id, or several, any of which ends a row.

    stops: token sequences that end a row as EOS does, once its answer (not the prompt and it) ends with one of them.
    samples: answers to each prompt, which share the prompt's forward pass. Rows come prompt by prompt, all answers to x₁,
    then those to x₂, and equal those of prompts that are repeated so many times each, but for rounding.
    What is off (stops, penalty, truncation) is no part of the program, and None in the response.
    ValueError: an empty stop sequence, or samples < 1.
    """
    if samples < 1 or () in stops:
        raise ValueError(f"generate needs samples ≥ 1 and stop sequences of a token or more, not {samples} and {stops}")
    P, T, V, axis_name = prompts.tokens.shape[1], max_tokens, model.config.vocab_size, model.config.axis_name
    prompts = local_rows(prompts, axis_name)
    truncated, penalty = sampling.truncates(V), sampling.repetition_penalty
    mask = jnp.pad(prompts.mask, ((0, 0), (0, T)))
    hidden, cache = hidden_states(model, params, prompts.tokens, mask, empty_cache(model.config, len(mask), P + T), 0)
    first = unembed(model, params, hidden[:, -1:])[:, 0]
    if samples > 1:
        cache = jax.tree.map(lambda x: jnp.repeat(x, samples, axis=x.ndim - 4), cache)  # [*L, B, k, S, e]
        first, mask, prompts = jax.tree.map(lambda x: jnp.repeat(x, samples, axis=0), (first, mask, prompts))
    B = len(mask)

    def unfinished(loop):
        t, _, _, _, done, _ = loop
        return (t < T) & ~jnp.all(done)

    def one_token(loop):
        t, logits, cache, mask, done, response = loop
        if response.repetition is not None:
            logits = penalise(logits, response.repetition.since <= t, penalty)
        logits = process_logits(logits, sampling)
        token = jnp.where(done, pad, draw(jax.random.fold_in(key, t), logits, axis_name))
        logp = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=1)[:, 0]
        response = replace(
            response,
            tokens=response.tokens.at[:, t].set(token),
            mask=response.mask.at[:, t].set(~done),
            logp=response.logp.at[:, t].set(jnp.where(done, 0.0, logp)),
        )
        if truncated:
            kept = jnp.isfinite(logits) | done[:, None]
            response = replace(response, support=response.support.at[:, t].set(kept))
        if response.repetition is not None:
            after = jnp.where(done, T, t + 1)
            since = response.repetition.since.at[jnp.arange(B), token].min(after)
            response = replace(response, repetition=replace(response.repetition, since=since))
        mask = mask.at[:, P + t].set(~done)
        hidden, cache = hidden_states(model, params, token[:, None], mask, cache, P + t)
        done = done | jnp.isin(token, jnp.asarray(eos))
        for stop in stops:
            done = done | _ends_with(response.tokens, t, stop)
        return t + 1, unembed(model, params, hidden)[:, 0], cache, mask, done, response

    nothing = Response(
        tokens=jnp.full((B, T), pad, jnp.int32),
        mask=jnp.zeros((B, T), bool),
        logp=jnp.zeros((B, T), jnp.float32),
        temperature=jnp.full(B, sampling.temperature or 1.0, jnp.float32),
        support=jnp.ones((B, T, V), bool) if truncated else None,
        repetition=None if penalty == 1 else _repetition(prompts, T, V, penalty),
    )
    loop = (jnp.int32(0), first, cache, mask, jnp.zeros(B, bool), nothing)
    return all_gather_rows(jax.lax.while_loop(unfinished, one_token, loop)[-1], axis_name)


def _ends_with(tokens: Int[Array, "B T"], t: Int[Array, ""], stop: tuple[int, ...]) -> Bool[Array, " B"]:
    """Which rows end with the sequence at column t."""
    n = len(stop)
    if n > tokens.shape[1]:
        return jnp.zeros(len(tokens), bool)
    last = jax.lax.dynamic_slice_in_dim(tokens, t + 1 - n, n, axis=1)  # of no meaning before column n − 1
    return (t + 1 >= n) & jnp.all(last == jnp.asarray(stop, jnp.int32)[None, :], axis=1)


def _repetition(prompts: PromptBatch, T: int, V: int, penalty: float) -> Repetition:
    """Before the first token of the answer. Padding was not said."""
    B = len(prompts.tokens)
    since = jnp.full((B, V), T, jnp.int32)
    since = since.at[jnp.arange(B)[:, None], prompts.tokens].min(jnp.where(prompts.mask, 0, T))
    return Repetition(jnp.full(B, penalty, jnp.float32), since)
