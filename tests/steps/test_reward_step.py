from functools import partial
from math import exp, log1p

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.equations import Mean, hinge, plackett_luce_loss, ranking_loss
from rlhf_jax.steps import TextCoef, adam, centred, reward, reward_loss, reward_step
from rlhf_jax.types import RankingBatch, TrainState

COEF = TextCoef(*(jnp.float32(c) for c in (0.02, 100.0, 0.1, 0.0)))


@pytest.fixture(scope="module")
def batch():
    """Two prompts, with 3 and 2 answers of different lengths; one empty slot."""
    rng = np.random.default_rng(0)
    lengths = np.array([[6, 4, 6], [4, 6, 0]])
    mask = np.arange(6) < lengths[..., None]
    tokens = np.where(mask, rng.integers(2, 11, (2, 3, 6)), 0).astype(np.int32)
    return RankingBatch(tokens, mask, np.array([[2, 1, 3], [1, 2, 0]], np.int32))


@pytest.fixture(scope="module")
def score(tiny):
    return jax.jit(partial(reward, model=tiny.models.value))


def test_the_loss_is_eq_1_on_the_scores_of_single_answers(tiny, batch, score):
    """Each answer scored alone, without padding; then by hand."""
    params = tiny.frozen.reward[0]

    def alone(i, k):
        n = batch.mask[i, k].sum()
        return float(score(params, batch.tokens[i, k, :n][None], np.ones((1, n), bool))[0])

    def cost(winner, loser):
        return log1p(exp(loser - winner))

    a, b, c = (alone(0, k) for k in range(3))
    d, e = (alone(1, k) for k in range(2))
    expected = ((cost(b, a) + cost(a, c) + cost(b, c)) / 3 + cost(d, e)) / 2
    value, metrics = jax.jit(partial(reward_loss, model=tiny.models.value))(params, batch, COEF)
    assert float(value) == pytest.approx(expected, rel=1e-5)
    right = [b > a, a > c, b > c, d > e]
    assert float(metrics["accuracy/train"].value) == pytest.approx(np.mean(right))


OBJECTIVES = {"hinge": partial(ranking_loss, pair_loss=hinge), "plackett_luce": plackett_luce_loss}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_objective_is_an_argument(tiny, batch, score, name):
    """The gradient is that of the objective of the answers' scores; the schedule is an argument as well."""
    model, params, objective = tiny.models.value, tiny.frozen.reward[0], OBJECTIVES[name]

    def by_hand(params):
        scores = score(params, batch.tokens.reshape(6, 6), batch.mask.reshape(6, 6)).reshape(2, 3)
        return objective(scores, jnp.asarray(batch.ranks)).value

    expected, grads = jax.jit(jax.value_and_grad(by_hand))(params)
    loss = partial(reward_loss, model=model, objective=objective)
    (value, _), found = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, batch, COEF)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    chex.assert_trees_all_close(found, grads, atol=1e-5)

    optimiser = adam()
    state = TrainState(jnp.int32(60), params, optimiser.init(params), jax.random.key(0))
    step = partial(reward_step, model=model, optimiser=optimiser, schedule="constant", objective=objective)
    _, metrics = jax.jit(step)(state, batch, COEF)
    assert float(metrics["loss/train"].value) == pytest.approx(float(expected), rel=1e-5)
    assert float(metrics["lr"].value) == pytest.approx(0.02)


def test_one_forward_pass_for_each_answer(tiny, batch):
    """12 comparisons or 6: the model sees B·K rows, once."""
    seen = []
    model = tiny.models.value

    class Counted(type(model)):
        def apply(self, variables, tokens, mask):
            seen.append(tokens.shape)
            return model.apply(variables, tokens, mask)

    jax.eval_shape(lambda p: reward_loss(p, batch, COEF, model=Counted(model.config))[0], tiny.frozen.reward[0])
    assert seen == [(6, 6)]


def test_empty_slots_and_padding_are_without_influence(tiny, batch):
    run = jax.jit(jax.value_and_grad(partial(reward_loss, model=tiny.models.value), has_aux=True))
    (clean, _), grads = run(tiny.frozen.reward[0], batch, COEF)
    tokens = np.where(batch.mask, batch.tokens, 9).astype(np.int32)
    (dirty, _), dirty_grads = run(tiny.frozen.reward[0], batch.replace(tokens=tokens), COEF)
    np.testing.assert_array_equal(dirty, clean)
    for g, h in zip(jax.tree.leaves(grads), jax.tree.leaves(dirty_grads), strict=True):
        np.testing.assert_allclose(h, g, atol=1e-7)
    pad = ((0, 0), (0, 2), (0, 2))
    wider = RankingBatch(np.pad(batch.tokens, pad), np.pad(batch.mask, pad), np.pad(batch.ranks, pad[:2]))
    (wide, _), _ = run(tiny.frozen.reward[0], wider, COEF)
    np.testing.assert_allclose(wide, clean, rtol=1e-5)


@pytest.mark.parametrize("objective", [ranking_loss, *OBJECTIVES.values()])
def test_what_was_made_up_adds_a_term_and_dilutes_no_comparison(tiny, batch, score, objective):
    """Answers of rank −1: the loss of the others is what it is without them, to it comes that of a ranking in which all
    others are first and they second; the accuracy is over the others."""
    params, loss = tiny.frozen.reward[0], jax.jit(partial(reward_loss, model=tiny.models.value, objective=objective))
    rng = np.random.default_rng(1)
    made_up = rng.integers(2, 11, (2, 2, 6)).astype(np.int32)
    ranks = np.concatenate([batch.ranks, np.array([[-1, -1], [-1, 0]], np.int32)], axis=1)
    more = RankingBatch(
        np.concatenate([batch.tokens, made_up], axis=1), np.concatenate([batch.mask, made_up > 0], axis=1), ranks
    )
    alone, metrics = loss(params, batch, COEF)
    assert float(metrics["made_up/loss"].value) == 0
    both, parts = loss(params, more, COEF)
    scores = score(params, more.tokens.reshape(10, 6), more.mask.reshape(10, 6)).reshape(2, 5)
    below = objective(scores, jnp.array([[1, 1, 1, 2, 2], [1, 1, 0, 2, 0]]))
    assert float(below.value) > 0.1
    assert float(both) == pytest.approx(float(alone + below.value), rel=1e-5)
    assert float(parts["loss/train"].value) == pytest.approx(float(alone), rel=1e-5)
    assert float(parts["made_up/loss"].value) == pytest.approx(float(below.value), rel=1e-5)
    for name in ("total", "count"):
        assert getattr(parts["accuracy/train"], name) == getattr(metrics["accuracy/train"], name)


def test_where_nothing_is_made_up_the_loss_is_the_objective_and_nothing_else(tiny, batch, score):
    """Of one that has a term without pairs, and that is not finite where there is no pair."""

    def objective(scores, ranks):
        higher = (ranks[:, :, None] < ranks[:, None, :]) & (ranks[:, :, None] > 0)
        wins = jnp.sum(higher, axis=2) / jnp.sum(higher)
        return Mean(jnp.sum(0.1 * scores**2 * (ranks > 0)) - jnp.sum(wins * scores), jnp.float32(1.0))

    def by_hand(params):
        scores = score(params, batch.tokens.reshape(6, 6), batch.mask.reshape(6, 6)).reshape(2, 3)
        return objective(scores, jnp.asarray(batch.ranks)).value

    params = tiny.frozen.reward[0]
    loss = partial(reward_loss, model=tiny.models.value, objective=objective)
    expected, grads = jax.jit(jax.value_and_grad(by_hand))(params)
    (value, metrics), found = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, batch, COEF)
    assert float(value) == pytest.approx(float(expected), rel=1e-5)
    assert float(metrics["made_up/loss"].value) == 0
    chex.assert_trees_all_close(found, grads, atol=1e-5)


def test_rankings_are_learned(tiny, batch):
    optimiser = adam(1e-8, 1.0)
    params = tiny.frozen.reward[0]
    state = TrainState(step=jnp.int32(0), params=params, opt_state=optimiser.init(params), key=jax.random.key(0))
    step = jax.jit(partial(reward_step, model=tiny.models.value, optimiser=optimiser))
    losses = []
    for _ in range(40):
        state, metrics = step(state, batch, COEF)
        losses.append(float(metrics["loss/train"].value))
    assert losses[-1] < 0.1 * losses[0]
    assert float(metrics["accuracy/train"].value) == 1


def test_centring_makes_the_mean_0_and_keeps_the_differences(tiny, batch, score):
    rows = batch.tokens[0], batch.mask[0]
    before = np.asarray(score(tiny.frozen.reward[0], *rows))
    after = np.asarray(score(centred(tiny.frozen.reward[0], jnp.asarray(before)), *rows))
    assert abs(before.mean()) > 1e-2
    assert after.mean() == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_allclose(np.diff(after), np.diff(before), atol=1e-6)
