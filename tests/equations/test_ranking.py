import math
from functools import partial
from itertools import combinations, permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rlhf_jax import equations

# Compiled: an operation at a time would be slower than what it computes. test_variants.py compares the two.
ranking_loss, pair_accuracy = jax.jit(equations.ranking_loss), jax.jit(equations.pair_accuracy)
plackett_luce = jax.jit(equations.plackett_luce_loss)
plackett_luce_and_grad = jax.jit(
    jax.value_and_grad(lambda scores, ranks: equations.plackett_luce_loss(scores, ranks).value)
)
loss_and_grad = jax.jit(jax.value_and_grad(lambda scores, ranks: equations.ranking_loss(scores, ranks).value))

loss_and_grad_with_margins = jax.jit(
    jax.value_and_grad(lambda scores, ranks, wanted: equations.ranking_loss(scores, ranks, wanted=wanted).value)
)


def softplus(x: float) -> float:
    """−log σ(−x)"""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def by_hand(scores, ranks) -> float:
    """Eq. 1 of InstructGPT with loops: each prompt its pairs over C(K,2), then the mean over prompts with a pair."""
    totals = []
    for row, order in zip(np.asarray(scores, float), np.asarray(ranks), strict=True):
        slots = [i for i in range(len(order)) if order[i] > 0]
        pairs = [(i, j) for i in slots for j in slots if order[i] < order[j]]
        if pairs:
            possible = len(list(combinations(slots, 2)))
            totals.append(sum(softplus(row[j] - row[i]) for i, j in pairs) / possible)
    return sum(totals) / max(len(totals), 1)


def test_two_answers_are_bradley_terry():
    scores = np.array([[0.3, 1.5], [2.0, -1.0]])
    ranks = np.array([[1, 2], [1, 2]])
    expected = (softplus(1.5 - 0.3) + softplus(-1.0 - 2.0)) / 2
    assert float(ranking_loss(scores, ranks).value) == pytest.approx(expected, rel=1e-6)
    assert float(ranking_loss(scores, 3 - ranks).value) == pytest.approx(
        (softplus(0.3 - 1.5) + softplus(3.0)) / 2, rel=1e-6
    )
    assert float(pair_accuracy(scores, ranks).value) == 0.5


def test_equal_scores_cost_log_2_whatever_k_is():
    for K in (2, 4, 9):
        ranks = np.arange(1, K + 1)[None]
        assert float(ranking_loss(np.zeros((1, K)), ranks).value) == pytest.approx(math.log(2), rel=1e-6)
        assert float(pair_accuracy(np.zeros((1, K)), ranks).value) == 0.5


def test_ties_are_dropped_from_the_sum_and_not_from_the_count_of_comparisons():
    scores = np.array([[1.0, 2.0, 4.0]])
    expected = (softplus(4.0 - 1.0) + softplus(4.0 - 2.0)) / 3  # of 3 comparisons one is a tie
    ranks = np.array([[1, 1, 2]])
    assert float(ranking_loss(scores, ranks).value) == pytest.approx(expected, rel=1e-6)
    np.testing.assert_array_equal(loss_and_grad(scores, np.array([[1, 1, 1]]))[1], np.zeros((1, 3)))


def test_a_prompt_of_ties_alone_does_not_count():
    scores = np.array([[1.0, 2.0], [5.0, 3.0]])
    only = ranking_loss(scores[:1], np.array([[1, 2]]))
    both = ranking_loss(scores, np.array([[1, 2], [1, 1]]))
    np.testing.assert_allclose(both.value, only.value, rtol=1e-6)


def test_k_varies_within_a_batch():
    scores = np.array([[1.0, 0.0, 9.0, 9.0], [0.5, 2.0, -1.0, 3.0]])
    ranks = np.array([[2, 1, 0, 0], [4, 1, 3, 2]])
    alone = [ranking_loss(scores[:1, :2], ranks[:1, :2]), ranking_loss(scores[1:], ranks[1:])]
    together = ranking_loss(scores, ranks)
    np.testing.assert_allclose(together.value, (alone[0].value + alone[1].value) / 2, rtol=1e-6)
    np.testing.assert_allclose((alone[0] + alone[1]).value, together.value, rtol=1e-6)
    assert float(together.value) == pytest.approx(by_hand(scores, ranks), rel=1e-6)


def test_empty_slots_are_without_influence():
    scores, ranks = np.array([[1.0, 0.0, 2.0]]), np.array([[2, 1, 0]])
    clean = loss_and_grad(scores, ranks)
    assert float(clean[0]) == pytest.approx(softplus(1.0), rel=1e-6)
    for rubbish in (1e30, np.nan, np.inf):
        dirty = np.array([[1.0, 0.0, rubbish]])
        for p, q in zip(loss_and_grad(dirty, ranks), clean, strict=True):
            np.testing.assert_array_equal(p, q)
        assert float(pair_accuracy(dirty, ranks).value) == 0.0


def test_nothing_counts():
    value, grad = loss_and_grad(np.ones((2, 3)), np.zeros((2, 3), int))
    assert float(value) == 0
    np.testing.assert_array_equal(grad, np.zeros((2, 3)))


def test_extreme_margins_have_finite_losses_and_gradients():
    scores, ranks = np.array([[-1e4, 1e4]]), np.array([[1, 2]])
    value, grad = loss_and_grad(scores, ranks)
    assert float(value) == pytest.approx(2e4)
    np.testing.assert_allclose(grad, [[-1.0, 1.0]])


SCORES = hnp.arrays(np.float32, (3, 4), elements=st.floats(-8, 8, width=32))
RANKS = hnp.arrays(np.int32, (3, 4), elements=st.integers(0, 4))  # 0: no answer there, so that K is 0 to 4


@settings(max_examples=60, deadline=None)
@given(scores=SCORES, ranks=RANKS, order=st.permutations(range(4)))
def test_any_ranking(scores, ranks, order):
    """Equal to the loops; blind to the order of the answers, to empty slots and to the names of the ranks."""
    loss = float(ranking_loss(scores, ranks).value)
    assert loss == pytest.approx(by_hand(scores, ranks), rel=1e-4, abs=1e-5)
    permuted = ranking_loss(scores[:, order], ranks[:, order])
    assert float(permuted.value) == pytest.approx(loss, rel=1e-4, abs=1e-5)
    wider = [np.pad(x, ((0, 0), (0, 2))) for x in (scores, ranks)]
    assert float(ranking_loss(*wider).value) == pytest.approx(loss, rel=1e-4, abs=1e-5)
    renamed = ranking_loss(scores, ranks * 3)
    assert float(renamed.value) == pytest.approx(loss, rel=1e-4, abs=1e-5)
    pairs = np.asarray(jax.jit(equations.preferred)(ranks))
    assert not (pairs & pairs.swapaxes(1, 2)).any()


def test_smoothing_hinge_and_wanted_margins_by_hand():
    scores, ranks = jnp.asarray([[2.0, 0.5]]), jnp.asarray([[1, 2]])
    smoothed = equations.ranking_loss(scores, ranks, partial(equations.logistic, smoothing=0.1))
    assert float(smoothed.value) == pytest.approx(0.9 * softplus(-1.5) + 0.1 * softplus(1.5), rel=1e-6)
    assert float(equations.ranking_loss(scores, ranks, equations.hinge).value) == 0.0
    assert float(equations.ranking_loss(scores, 3 - ranks, equations.hinge).value) == 2.5
    wanted = jnp.asarray([[[0.0, 1.0], [0.0, 0.0]]])
    assert float(equations.ranking_loss(scores, ranks, wanted=wanted).value) == pytest.approx(softplus(-0.5), rel=1e-6)


def test_with_smoothing_the_best_margin_is_the_log_odds_of_the_labels():
    """d/dm = 0 at σ(m) = 1 − ε."""
    at = math.log(0.9 / 0.1)
    assert float(jax.grad(lambda m: equations.logistic(m, 0.1))(jnp.float32(at))) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("order", list(permutations((1, 2, 3))))
def test_plackett_luce_is_a_distribution_over_rankings(order):
    """−log of drawing the answers in their order without replacement, in proportion to e^r."""
    r = np.array([0.3, -1.0, 2.0])
    drawn, left = 1.0, [0, 1, 2]
    for place in (1, 2, 3):
        answer = order.index(place)
        drawn *= math.exp(r[answer]) / sum(math.exp(r[i]) for i in left)
        left.remove(answer)
    loss = plackett_luce(r[None], np.array([order]))
    assert float(loss.value) == pytest.approx(-math.log(drawn), rel=1e-5)


def test_plackett_luce_of_two_is_bradley_terry_and_of_a_tie_nothing():
    scores = np.array([[1.0, 2.5]])
    assert float(plackett_luce(scores, np.array([[1, 2]])).value) == pytest.approx(softplus(1.5), rel=1e-6)
    both = plackett_luce(np.repeat(scores, 2, 0), np.array([[1, 2], [1, 1]]))
    assert float(both.value) == pytest.approx(softplus(1.5), rel=1e-6)
    tied = plackett_luce(np.array([[1.0, 1.0, 0.0]]), np.array([[1, 1, 2]]))  # each of the two against the third
    assert float(tied.value) == pytest.approx(2 * softplus(-1.0), rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(scores=SCORES, ranks=RANKS, order=st.permutations(range(4)), shift=st.floats(-5, 5, width=32))
def test_plackett_luce_of_any_ranking(scores, ranks, order, shift):
    """Blind to the order of the answers, to empty slots, to rubbish in them and to a constant on all scores."""
    loss, grad = plackett_luce_and_grad(scores, ranks)
    for s, k in (
        (scores[:, order], ranks[:, order]),
        (scores + shift, ranks),
        (np.pad(scores, ((0, 0), (0, 2)), constant_values=np.nan), np.pad(ranks, ((0, 0), (0, 2)))),
    ):
        np.testing.assert_allclose(plackett_luce(s, k).value, loss, rtol=1e-4, atol=1e-4)
    assert np.isfinite(grad).all()
    np.testing.assert_allclose(grad.sum(axis=1), np.zeros(3), atol=1e-5)
    split = plackett_luce(scores[:1], ranks[:1]) + plackett_luce(scores[1:], ranks[1:])
    np.testing.assert_allclose(split.value, loss, rtol=1e-5, atol=1e-6)


def test_regression_to_ratings_is_over_the_answers_there_are():
    scores = np.array([[1.0, 3.0, np.nan]])
    loss = equations.rating_loss(
        jnp.asarray(scores), jnp.asarray([[2.0, 5.0, 0.0]]), jnp.asarray([[True, True, False]])
    )
    assert float(loss.value) == pytest.approx((1 + 4) / 2)


def test_golden_reward_loss_of_trl(golden, agree):
    """RewardTrainer's loss on pairs is ours with K = 2; the K-wise case is the mean over prompts × 6 pairs."""
    g = golden("losses/reward")
    pairs = np.stack([g["chosen"], g["rejected"]], axis=1)
    ranks = np.broadcast_to([1, 2], pairs.shape)
    value, grad = loss_and_grad(pairs, ranks)
    agree(value, g["plain/loss"])
    agree(grad, np.stack([g["plain/grad_chosen"], g["plain/grad_rejected"]], 1))
    wanted = np.zeros((len(pairs), 2, 2), np.float32)
    wanted[:, 0, 1] = g["margin"]
    value, grad = loss_and_grad_with_margins(pairs, ranks, wanted)
    agree(value, g["margin/loss"])
    agree(grad, np.stack([g["margin/grad_chosen"], g["margin/grad_rejected"]], 1))
    scores = g["kwise/scores"]
    ranks = np.broadcast_to(np.arange(1, 5), scores.shape)
    value, grad = loss_and_grad(scores, ranks)
    agree(value, g["kwise/loss"])
    agree(grad, g["kwise/grad"])
