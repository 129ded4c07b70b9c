from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import LanguageModel
from rlhf_jax.steps import TextCoef, adam, masked_token_loss, next_token_loss, text_step
from rlhf_jax.types import MaskedTextBatch, TextBatch, TrainState

COEF = TextCoef(*(jnp.float32(c) for c in (0.05, 100.0, 0.1, 0.0)))


def state_of(params):
    return TrainState(step=jnp.int32(0), params=params, opt_state=OPTIMISER.init(params), key=jax.random.key(0))


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    predict = np.ones((3, 6), bool)
    predict[0, :3], predict[2, 4:] = False, False
    return TextBatch(rng.integers(2, 11, (3, 6)).astype(np.int32), predict)


CLIP = 0.1  # of the gradient's norm
OPTIMISER = adam(1e-8, CLIP)


@pytest.fixture(scope="module")
def step(tiny):
    return jax.jit(partial(text_step, model=tiny.models.policy, optimiser=OPTIMISER))


@pytest.fixture(scope="module")
def loss(tiny):
    return jax.jit(partial(next_token_loss, model=tiny.models.policy))


@pytest.fixture(scope="module")
def logits_of(tiny):
    model = tiny.models.policy

    @jax.jit
    def logits(params, tokens):
        hidden, _ = model.apply({"params": params}, tokens, jnp.ones(tokens.shape, bool))
        return model.apply({"params": params}, hidden, method=LanguageModel.logits)

    return logits


def nll(logits, token):
    logits = np.asarray(logits, np.float64)
    return np.log(np.exp(logits).sum()) - logits[token]


def test_the_loss_is_the_mean_surprise_of_the_predicted_tokens(tiny, batch, loss, logits_of):
    logits = logits_of(tiny.state.policy, batch.tokens)
    expected = [nll(logits[b, t - 1], batch.tokens[b, t]) for b in range(3) for t in range(1, 6) if batch.predict[b, t]]
    value, metrics = loss(tiny.state.policy, batch, COEF)
    assert float(value) == pytest.approx(np.mean(expected), rel=1e-5)
    assert float(metrics["loss/train"].count) == len(expected)


def test_what_follows_the_last_predicted_token_is_without_influence(tiny, batch, loss):
    """Row 2 predicts columns 1 to 3: columns 4 and 5 are neither targets nor seen by a target."""
    clean = loss(tiny.state.policy, batch, COEF)[0]
    tokens = batch.tokens.copy()
    tokens[2, 4:] = 10
    np.testing.assert_array_equal(loss(tiny.state.policy, batch.replace(tokens=tokens), COEF)[0], clean)
    tokens[2, 3] = (tokens[2, 3] + 1) % 11
    assert float(loss(tiny.state.policy, batch.replace(tokens=tokens), COEF)[0]) != float(clean)


def test_padding_and_micro_batches(tiny, batch, loss):
    whole = loss(tiny.state.policy, batch, COEF)[1]["loss/train"]
    pad = ((0, 0), (0, 3))
    wider = TextBatch(np.pad(batch.tokens, pad), np.pad(batch.predict, pad))
    np.testing.assert_allclose(loss(tiny.state.policy, wider, COEF)[0], whole.value, rtol=1e-6)
    parts = [
        loss(tiny.state.policy, TextBatch(batch.tokens[i : i + 1], batch.predict[i : i + 1]), COEF)[1]["loss/train"]
        for i in range(3)
    ]
    np.testing.assert_allclose((parts[0] + parts[1] + parts[2]).value, whole.value, rtol=1e-6)
    unweighted = np.mean([float(p.value) for p in parts])
    assert abs(unweighted - float(whole.value)) > 1e-4  # what a mean of means would give


def test_nothing_to_predict(tiny, batch):
    nothing = batch.replace(predict=np.zeros((3, 6), bool))
    (value, _), grads = jax.jit(jax.value_and_grad(partial(next_token_loss, model=tiny.models.policy), has_aux=True))(
        tiny.state.policy, nothing, COEF
    )
    assert float(value) == 0
    assert all((np.asarray(g) == 0).all() for g in jax.tree.leaves(grads))


def test_the_masked_loss_sees_both_sides_and_counts_hidden_tokens_only(tiny):
    rng = np.random.default_rng(1)
    tokens = rng.integers(2, 11, (2, 5)).astype(np.int32)
    hidden = np.zeros((2, 5), bool)
    hidden[0, 1] = hidden[1, 0] = True
    inputs = np.where(hidden, 10, tokens).astype(np.int32)
    loss = jax.jit(partial(masked_token_loss, model=tiny.models.policy))
    params = tiny.state.policy
    clean, metrics = loss(params, MaskedTextBatch(inputs, tokens, hidden), COEF)
    assert float(metrics["loss/train"].count) == 2
    other_targets = np.where(hidden, tokens, (tokens + 1) % 11)
    np.testing.assert_array_equal(loss(params, MaskedTextBatch(inputs, other_targets, hidden), COEF)[0], clean)
    later = inputs.copy()
    later[0, 4] = (later[0, 4] + 1) % 11  # after the hidden token: seen, since attention goes both ways
    assert float(loss(params, MaskedTextBatch(later, tokens, hidden), COEF)[0]) != float(clean)


def test_a_batch_is_memorised(tiny, batch, step):
    state, losses = state_of(tiny.state.policy), []
    for _ in range(60):
        state, metrics = step(state, batch, COEF)
        losses.append(float(metrics["loss/train"].value))
    assert losses[-1] < 0.2 * losses[0]
    assert int(state.step) == 60


def test_the_learning_rate_is_an_argument(tiny, batch, step):
    """lr 0 leaves the parameters; Adam's first step moves each of them by lr·g/(|g| + ε), so by lr where g is large."""
    state = state_of(tiny.state.policy)
    still, _ = step(state, batch, COEF._replace(lr=jnp.float32(0)))
    moved, metrics = step(state, batch, COEF._replace(lr=jnp.float32(0.01)))
    assert float(metrics["lr"].value) == pytest.approx(0.01)
    for old, same, new in zip(*map(jax.tree.leaves, (state.params, still.params, moved.params)), strict=True):
        np.testing.assert_array_equal(same, old)
        assert np.abs(np.asarray(new) - np.asarray(old)).max() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(("schedule", "share"), [("constant", 1.0), ("linear", 0.775), ("cosine", 0.8681981)])
def test_the_schedule_is_an_argument(tiny, batch, schedule, share):
    """A quarter of the way to a floor of 0.1; (1 + cos 45°)/2 of the 0.9 above it are left of the cosine."""
    run = jax.jit(partial(text_step, model=tiny.models.policy, optimiser=OPTIMISER, schedule=schedule))
    state = state_of(tiny.state.policy).replace(step=jnp.int32(25))
    _, metrics = run(state, batch, COEF._replace(steps=jnp.float32(101)))
    assert float(metrics["lr"].value) == pytest.approx(share * 0.05, rel=1e-5)


def test_the_loss_is_an_argument(tiny, batch, step):
    """Uphill on the default loss: Adam's first step is the same one in the other direction."""

    def uphill(*arguments, **settings):
        value, metrics = next_token_loss(*arguments, **settings)
        return -value, {"loss/own": metrics["loss/train"]}

    start = state_of(tiny.state.policy)
    own = jax.jit(partial(text_step, model=tiny.models.policy, optimiser=OPTIMISER, loss=uphill))
    up, metrics = own(start, batch, COEF)
    assert "loss/own" in metrics and "loss/train" not in metrics
    down, _ = step(start, batch, COEF)
    back = jax.tree.map(lambda new, old: 2 * old - new, down.params, start.params)
    chex.assert_trees_all_close(up.params, back, atol=1e-6)


def test_dropout(tiny, batch, step):
    """Off: two steps from one state agree. On: the noise follows the step's number, and nothing else."""
    frozen = COEF._replace(lr=jnp.float32(0))
    model = LanguageModel(replace(tiny.models.policy.config, dropout=0.5))
    noisy = jax.jit(partial(text_step, model=model, optimiser=OPTIMISER))
    state = state_of(tiny.state.policy)
    for run, off in ((step, True), (noisy, False)):
        losses = [float(run(state.replace(step=jnp.int32(i)), batch, frozen)[1]["loss/train"].value) for i in (0, 0, 1)]
        assert losses[0] == losses[1]
        assert (losses[0] == losses[2]) == off


def test_clipping_the_norm_of_the_gradient(tiny, batch, step):
    """The gradient of norm n is scaled by c/n before Adam sees it: its first moment after one step is 0.1·c/n·g."""
    params = tiny.state.policy
    grads = jax.jit(jax.grad(partial(next_token_loss, model=tiny.models.policy), has_aux=True))(params, batch, COEF)[0]
    norm = np.sqrt(sum(float((np.asarray(g) ** 2).sum()) for g in jax.tree.leaves(grads)))
    assert norm > CLIP
    state, metrics = step(state_of(params), batch, COEF)
    assert float(metrics["grad_norm"].value) == pytest.approx(norm, rel=1e-5)
    moment = state.opt_state[1].mu
    for m, g in zip(jax.tree.leaves(moment), jax.tree.leaves(grads), strict=True):
        np.testing.assert_allclose(m, 0.1 * CLIP / norm * np.asarray(g), rtol=1e-4, atol=1e-10)
