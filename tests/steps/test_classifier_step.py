"""A step of the classifier: what is unknown teaches nothing, padding changes nothing, and it learns."""

from dataclasses import replace
from functools import partial
from math import exp, log1p

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.data import take
from rlhf_jax.models import LabelModel, LanguageModel, hidden_states, label_head, scalar_from_language_model
from rlhf_jax.steps import TextCoef, adam, classifier_logits, classifier_loss, classifier_step
from rlhf_jax.types import LabelBatch, TrainState
from tests.models.conftest import wild
from tests.steps.conftest import CONFIG

COEF = TextCoef(*(jnp.float32(c) for c in (0.02, 100.0, 0.1, 0.0)))
MODEL = LabelModel(CONFIG, 3)
loss_and_grad = jax.jit(jax.value_and_grad(partial(classifier_loss, model=MODEL), has_aux=True))
logits_of = jax.jit(partial(classifier_logits, model=MODEL))


@pytest.fixture(scope="module")
def params():
    return wild(MODEL, 5)


@pytest.fixture(scope="module")
def batch():
    """Four texts of different lengths; nobody has said whether the first is of the last category, nor of the third any."""
    rng = np.random.default_rng(0)
    mask = np.arange(6) < np.array([6, 4, 3, 5])[:, None]
    tokens = np.where(mask, rng.integers(2, 11, (4, 6)), 0).astype(np.int32)
    labels = np.array([[True, False, True], [False, True, False], [True, True, True], [False, False, True]])
    known = np.array([[True, True, False], [True, True, True], [False, False, False], [True, True, True]])
    return LabelBatch(tokens, mask, labels, known)


def test_the_loss_is_the_cross_entropy_of_texts_read_alone(params, batch):
    def alone(i):
        n = batch.mask[i].sum()
        return np.asarray(logits_of(params, batch.tokens[i, :n][None], np.ones((1, n), bool)))[0]

    rows = [alone(i) for i in range(4)]
    at = [(i, c) for i in range(4) for c in range(3) if batch.known[i, c]]
    terms = [log1p(exp(-rows[i][c] if batch.labels[i, c] else rows[i][c])) for i, c in at]
    right = [(rows[i][c] > 0) == batch.labels[i, c] for i, c in at]
    (value, metrics), _ = loss_and_grad(params, batch, COEF)
    assert float(value) == pytest.approx(sum(terms) / 8, rel=1e-5)
    assert float(metrics["accuracy/train"].value) == pytest.approx(np.mean(right))


def test_the_heads_read_the_state_of_the_last_token(batch):
    """By a language model's states: its transformer below fresh projections."""
    language = LanguageModel(CONFIG)
    below = wild(language, 2)
    head = label_head(CONFIG, 3, jax.random.key(0))
    tokens, mask = jnp.asarray(batch.tokens), jnp.asarray(batch.mask)
    drawn = MODEL.init(jax.random.key(0), tokens, mask)["params"]
    for name in ("kernel", "bias"):
        np.testing.assert_array_equal(head[name], drawn[name])
    hidden, _ = hidden_states(language, below, tokens, mask)
    last = np.asarray(hidden)[np.arange(4), batch.mask.sum(axis=1) - 1]
    found = logits_of(scalar_from_language_model(below, head), tokens, mask)
    np.testing.assert_allclose(found, last @ np.asarray(head["kernel"]), atol=1e-5)


def test_a_category_that_nobody_labelled_has_a_gradient_of_exactly_0(params, batch):
    known = batch.known.copy()
    known[:, 1] = False
    _, grads = loss_and_grad(params, batch.replace(known=known), COEF)
    assert np.all(np.asarray(grads["kernel"])[:, 1] == 0) and np.asarray(grads["bias"])[1] == 0
    assert np.any(np.asarray(grads["kernel"])[:, 0] != 0)


def test_what_stands_where_a_label_is_unknown_has_no_influence(params, batch):
    clean = loss_and_grad(params, batch, COEF)
    other = loss_and_grad(params, batch.replace(labels=batch.labels ^ ~batch.known), COEF)
    for found, expected in zip(jax.tree.leaves(other[1]), jax.tree.leaves(clean[1]), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(other[0][0], clean[0][0])


def test_rows_without_labels_and_padding_change_nothing(params, batch):
    (value, _), grads = loss_and_grad(params, batch, COEF)
    wider = LabelBatch(
        np.pad(batch.tokens, ((0, 0), (0, 2)), constant_values=9),
        np.pad(batch.mask, ((0, 0), (0, 2))),
        batch.labels,
        batch.known,
    )
    kept = take(batch, np.array([0, 1, 3]))
    for same in (wider, kept):
        (found, _), others = loss_and_grad(params, same, COEF)
        np.testing.assert_allclose(found, value, rtol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), others, grads)


def test_parts_of_a_batch_one_after_the_other_are_the_batch(params, batch):
    model = LabelModel(replace(CONFIG, micro_batches=2), 3)
    (value, _), grads = jax.jit(jax.value_and_grad(partial(classifier_loss, model=model), has_aux=True))(
        params, batch, COEF
    )
    (whole, _), expected = loss_and_grad(params, batch, COEF)
    np.testing.assert_allclose(value, whole, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), grads, expected)


def test_labels_are_learned(params, batch):
    optimiser = adam(1e-8, 1.0)
    state = TrainState(step=jnp.int32(0), params=params, opt_state=optimiser.init(params), key=jax.random.key(0))
    step, losses = jax.jit(partial(classifier_step, model=MODEL, optimiser=optimiser)), []
    for _ in range(40):
        state, metrics = step(state, batch, COEF)
        losses.append(float(metrics["loss/train"].value))
    assert losses[-1] < 0.1 * losses[0] and float(metrics["accuracy/train"].value) == 1
