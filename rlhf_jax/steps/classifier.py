"""The moderation classifier: one forward pass for each text, a logit for each category (Markov et al. 2022)."""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from rlhf_jax.equations import Mean, label_accuracy, label_loss
from rlhf_jax.models import AnyLabelModel, by_rows, label_logits
from rlhf_jax.steps.optimiser import Schedule, TextCoef, gradient, update
from rlhf_jax.types import LabelBatch, TrainState


def classifier_logits(
    params: PyTree,
    tokens: Int[Array, "B T"],
    mask: Bool[Array, "B T"],
    *,
    model: AnyLabelModel,
    dropout_key: Key[Array, ""] | None = None,
) -> Float[Array, "B C"]:
    """The logit of each category at each text's last token. The same with padding on either side."""

    def logits(t: Int[Array, "B T"], m: Bool[Array, "B T"], row: Int[Array, " B"]) -> Float[Array, "B C"]:
        return label_logits(model, params, t, m, dropout_key=dropout_key, rows=row)

    return by_rows(logits, model, tokens, mask, jnp.arange(len(tokens)))


def classifier_loss(
    params: PyTree,
    batch: LabelBatch,
    coef: TextCoef,
    *,
    model: AnyLabelModel,
    dropout_key: Key[Array, ""] | None = None,
) -> tuple[Float[Array, ""], dict[str, Mean]]:
    """`label_loss` over the labels of the batch that are known, in nats a label. Without a key there is no dropout."""
    tokens, mask = jnp.asarray(batch.tokens), jnp.asarray(batch.mask)
    logits = classifier_logits(params, tokens, mask, model=model, dropout_key=dropout_key)
    labels, known = jnp.asarray(batch.labels), jnp.asarray(batch.known)
    loss = label_loss(logits, labels, known)
    return loss.value, {"loss/train": loss, "accuracy/train": label_accuracy(logits, labels, known)}


def classifier_step(
    state: TrainState,
    batch: LabelBatch,
    coef: TextCoef,
    *,
    model: AnyLabelModel,
    optimiser: optax.GradientTransformation,
    schedule: Schedule = "cosine",
) -> tuple[TrainState, dict[str, Mean]]:
    """One update of the transformer and its heads."""
    dropout_key = jax.random.fold_in(state.key, state.step) if model.config.dropout else None
    grad = gradient(partial(classifier_loss, model=model, dropout_key=dropout_key), model)
    grads, metrics = grad(state.params, batch, coef)
    state, rate = update(state, grads, coef, optimiser, schedule)
    return state, metrics | rate
