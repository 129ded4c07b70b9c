"""Pretraining and supervised fine-tuning: the two differ in which tokens are predicted, which the batch says."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Key, PyTree

from rlhf_jax.equations import Mean, masked_mean, states_before, token_logps
from rlhf_jax.models import AnyLanguageModel, hidden_states, over_logits
from rlhf_jax.steps.optimiser import TextCoef, update
from rlhf_jax.types import MaskedTextBatch, TextBatch, TrainState


def text_logps(
    params: PyTree, batch: TextBatch, *, model: AnyLanguageModel, dropout_key: Key[Array, ""] | None = None
) -> Float[Array, "B _"]:
    """log p(yₜ | y₍<ₜ₎) of every token but the first of each row, in nats."""
    everything = jnp.ones(batch.tokens.shape, bool)  # rows are padded on the right: causality hides the padding
    hidden, _ = hidden_states(model, params, batch.tokens, everything, dropout_key=dropout_key)
    before = states_before(hidden, batch.tokens.shape[1] - 1)
    return over_logits(token_logps, model, [(params, before)], jnp.asarray(batch.tokens[:, 1:]))


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
    everything = jnp.ones(batch.inputs.shape, bool)
    hidden, _ = hidden_states(model, params, batch.inputs, everything, causal=False, dropout_key=dropout_key)
    logp = over_logits(token_logps, model, [(params, hidden)], jnp.asarray(batch.tokens))
    nll = masked_mean(-logp, jnp.asarray(batch.predict))
    return nll.value, {"loss/train": nll}


def text_step(
    state: TrainState,
    batch: TextBatch | MaskedTextBatch,
    coef: TextCoef,
    *,
    model: AnyLanguageModel,
    optimiser: optax.GradientTransformation,
) -> tuple[TrainState, dict[str, Mean]]:
    """One update of all parameters."""
    loss = masked_token_loss if isinstance(batch, MaskedTextBatch) else next_token_loss
    dropout_key = jax.random.fold_in(state.key, state.step) if model.config.dropout else None
    grad = jax.grad(partial(loss, model=model, dropout_key=dropout_key), has_aux=True)
    grads, metrics = grad(state.params, batch, coef)
    state, rate = update(state, grads, coef, optimiser)
    return state, metrics | rate
