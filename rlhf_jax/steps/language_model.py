"""Pretraining and supervised fine-tuning: the two differ in which tokens are predicted, which the batch says."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from rlhf_jax.equations import Mean, masked_mean, states_before, token_logps
from rlhf_jax.models import AnyLanguageModel, by_rows, hidden_states, over_logits
from rlhf_jax.steps.optimiser import Schedule, TextCoef, gradient, update
from rlhf_jax.types import MaskedTextBatch, TextBatch, TrainState

TextLoss = Callable[..., tuple[Float[Array, ""], dict[str, Mean]]]  # (params, batch, coef, *, model, dropout_key)


def text_logps(
    params: PyTree, batch: TextBatch, *, model: AnyLanguageModel, dropout_key: Key[Array, ""] | None = None
) -> Float[Array, "B _"]:
    """log p(yₜ | y₍<ₜ₎) of every token but the first of each row, in nats."""

    def logps(tokens: Int[Array, "B T"], row: Int[Array, " B"]) -> Float[Array, "B _"]:
        everything = jnp.ones(tokens.shape, bool)  # rows are padded on the right: causality hides the padding
        hidden, _ = hidden_states(model, params, tokens, everything, dropout_key=dropout_key, rows=row)
        return over_logits(token_logps, model, [(params, states_before(hidden, tokens.shape[1] - 1))], tokens[:, 1:])

    return by_rows(logps, model, jnp.asarray(batch.tokens), jnp.arange(len(batch.tokens)))


def next_token_loss(
    params: PyTree,
    batch: TextBatch,
    coef: TextCoef,
    *,
    model: AnyLanguageModel,
    dropout_key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """−mean over the predicted tokens of log p(yₜ | y₍<ₜ₎), in nats a token. Without a key there is no dropout."""
    nll = masked_mean(
        -text_logps(params, batch, model=model, dropout_key=dropout_key), jnp.asarray(batch.predict[:, 1:])
    )
    return nll.value, {"loss/train": nll}


def masked_token_loss(
    params: PyTree,
    batch: MaskedTextBatch,
    coef: TextCoef,
    *,
    model: AnyLanguageModel,
    dropout_key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """−mean over the hidden tokens of log p(yₜ | the rest), attention both ways (Devlin et al. 2018, §3.1)."""

    def logps(inputs: Int[Array, "B T"], tokens: Int[Array, "B T"], row: Int[Array, " B"]) -> Float[Array, "B T"]:
        everything = jnp.ones(inputs.shape, bool)
        hidden, _ = hidden_states(model, params, inputs, everything, causal=False, dropout_key=dropout_key, rows=row)
        return over_logits(token_logps, model, [(params, hidden)], tokens)

    inputs, tokens = jnp.asarray(batch.inputs), jnp.asarray(batch.tokens)
    nll = masked_mean(-by_rows(logps, model, inputs, tokens, jnp.arange(len(tokens))), jnp.asarray(batch.predict))
    return nll.value, {"loss/train": nll}


def text_step(
    state: TrainState,
    batch: TextBatch | MaskedTextBatch,
    coef: TextCoef,
    *,
    model: AnyLanguageModel,
    optimiser: optax.GradientTransformation,
    schedule: Schedule = "cosine",
    loss: TextLoss | None = None,
) -> tuple[TrainState, dict[str, Mean]]:
    """One update of all parameters. loss: None is `masked_token_loss` or `next_token_loss`, as the batch is."""
    if loss is None:
        loss = masked_token_loss if isinstance(batch, MaskedTextBatch) else next_token_loss
    dropout_key = jax.random.fold_in(state.key, state.step) if model.config.dropout else None
    grad = gradient(partial(loss, model=model, dropout_key=dropout_key), model)
    grads, metrics = grad(state.params, batch, coef)
    state, rate = update(state, grads, coef, optimiser, schedule)
    return state, metrics | rate
