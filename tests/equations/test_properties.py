"""What holds of every equation, whatever it is given: any mask, any padding, any split into micro-batches, any K."""

import ast
from functools import cache
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rlhf_jax import equations
from rlhf_jax.equations import (
    Mean,
    adapted_scale,
    averaged,
    best_of_n_kl,
    clipped_policy_loss,
    clipped_value_loss,
    constant,
    cosine,
    dpo_loss,
    ema,
    ensemble_score,
    entropy,
    explained_variance,
    gae,
    group_relative,
    hinge,
    hinge_loss,
    ipo_loss,
    kl_exact,
    kl_k1,
    kl_k2,
    kl_k3,
    kto_loss,
    label_accuracy,
    label_loss,
    leave_one_out,
    linear,
    linear_decay,
    linear_warmup,
    log_ratio_margin,
    logistic,
    masked_mean,
    masked_sum,
    masked_variance,
    mean,
    mismatched_kl,
    normalised,
    nothing_seen,
    odds_ratio_loss,
    pair_accuracy,
    plackett_luce_loss,
    preferred,
    ranking_loss,
    rating_loss,
    row_sums,
    seen,
    simpo_loss,
    states_before,
    summed,
    token_logps,
    token_rewards,
    values,
    whiten,
)

B, T, K, V = 3, 5, 6, 4
few = settings(max_examples=10, deadline=None, report_multiple_bugs=False)


def reals(*shape: int, size: float = 4.0):
    return arrays(np.float32, shape, elements=st.floats(-size, size, width=32)).map(jnp.asarray)


answers = st.lists(st.integers(0, T), min_size=B, max_size=B).map(
    lambda n: jnp.asarray(np.arange(T) < np.array(n)[:, None])
)
gapped = st.one_of(answers, arrays(bool, (B, T)).map(jnp.asarray))  # between an episode's turns others speak
rankings = arrays(np.int32, (B, K), elements=st.integers(0, K)).map(jnp.asarray)
units = st.floats(0, 1, width=32)
positives = st.floats(0.125, 4, width=32)


def close(a, b, tolerance: float = 2e-5):
    chex.assert_trees_all_close(a, b, rtol=tolerance, atol=tolerance)


# --- over the tokens of answers ---------------------------------------------------------------------------------------


def waves(mask):
    """Numbers of either sign, the same for a token however long its row and wherever its gaps."""
    return jnp.sin(jnp.cumsum(mask, axis=1))


# name → (a, b, mask) → a tree of arrays [B, T] or [B], or of Mean
OVER_TOKENS = {
    "masked_mean": lambda a, b, m: masked_mean(a, m),
    "masked_sum": lambda a, b, m: masked_sum(a, m),
    "masked_variance": lambda a, b, m: [masked_variance(a, m, unbiased) for unbiased in (False, True)],
    "averaged token": lambda a, b, m: averaged(a, m, "token"),
    "averaged answer": lambda a, b, m: averaged(a, m, "answer"),
    "averaged constant": lambda a, b, m: averaged(a, m, "constant").total,
    "row_sums": lambda a, b, m: row_sums(a, m),
    "whiten": lambda a, b, m: [whiten(a, m), whiten(a, m, shift_mean=False, unbiased=True)],
    "token_rewards": lambda a, b, m: token_rewards(jnp.arange(1.0, B + 1), a, 0.3, m),
    "gae": lambda a, b, m: gae(a, b, m, 0.9, 0.8),
    "clipped_policy_loss": lambda a, b, m: clipped_policy_loss(a / 4, b / 4, waves(m), m, 0.1, 0.2, 3.0),
    "clipped_value_loss": lambda a, b, m: clipped_value_loss(a, waves(m), b, m, 0.2),
    "explained_variance": lambda a, b, m: explained_variance(a, b, m),
}


# Compiled: an operation at a time would be slower than what it computes.
OVER_TOKENS = {name: jax.jit(function) for name, function in OVER_TOKENS.items()}


@pytest.mark.parametrize("name", OVER_TOKENS)
@given(a=reals(B, T), b=reals(B, T), mask=gapped, junk=st.sampled_from([np.nan, np.inf, -1e30]))
@few
def test_what_stands_outside_the_mask_has_no_influence(name, a, b, mask, junk):
    (clean_grads, clean), (grads, found) = gradients(name)(a, b, mask), gradients(name)(*spoilt(a, b, mask, junk), mask)
    close(found, clean)
    close(grads, clean_grads, 2e-4)
    assert all(np.all(np.asarray(g)[~np.asarray(mask)] == 0) for g in grads)


def spoilt(a, b, mask, junk):
    return (jnp.asarray(np.where(mask, x, np.float32(junk))) for x in (a, b))


@cache
def gradients(name):
    """Of a number that every entry of the results has a part in, and the results."""

    def scalar(a, b, mask):
        leaves = jax.tree.leaves(OVER_TOKENS[name](a, b, mask))
        return sum(jnp.sum(leaf * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape)) for leaf in leaves), leaves

    return jax.jit(jax.grad(scalar, argnums=(0, 1), has_aux=True))


@pytest.mark.parametrize("name", OVER_TOKENS)
@given(a=reals(B, T), b=reals(B, T), mask=gapped)
@few
def test_padding_moves_nothing(name, a, b, mask):
    longer = [jnp.pad(x, ((0, 0), (0, 3))) for x in (a, b, mask)]
    found, expected = (jax.tree.leaves(OVER_TOKENS[name](*rows)) for rows in (longer, (a, b, mask)))
    close([x[:, :T] if x.ndim == 2 else x for x in found], expected)


@pytest.mark.parametrize("name", OVER_TOKENS)
@given(a=reals(B, T), b=reals(B, T), mask=gapped)
@few
def test_a_row_with_gaps_is_the_row_without_them(name, a, b, mask):
    order = np.argsort(~np.asarray(mask), axis=1, kind="stable")  # what is inside the mask, moved to the left
    without = [jnp.take_along_axis(x, order, axis=1) for x in (a, b, mask)]
    found, expected = (jax.tree.leaves(OVER_TOKENS[name](*rows)) for rows in ((a, b, mask), without))
    close([np.take_along_axis(np.asarray(x), order, axis=1) if x.ndim == 2 else x for x in found], expected)


# --- means over rows --------------------------------------------------------------------------------------------------

# name → (scores [B, K], ranks [B, K]) → a Mean over rows
MEANS = {
    "mean": lambda s, r: mean(s),
    "averaged token": lambda s, r: averaged(s, r > 0, "token"),
    "averaged answer": lambda s, r: averaged(s, r > 0, "answer"),
    "averaged constant": lambda s, r: averaged(s, r > 0, "constant"),
    "clipped_value_loss": lambda s, r: clipped_value_loss(s, jnp.sin(s), jnp.cos(s), r > 0, 0.1)[0],
    "ranking_loss": ranking_loss,
    "ranking_loss, hinge": lambda s, r: ranking_loss(s, r, hinge),
    "plackett_luce_loss": plackett_luce_loss,
    "rating_loss": lambda s, r: rating_loss(s, r.astype(jnp.float32), r > 0),
    "pair_accuracy": pair_accuracy,
    "label_loss": lambda s, r: label_loss(s, r > 3, r > 0),
    "label_accuracy": lambda s, r: label_accuracy(s, r > 3, r > 0),
    "dpo_loss": lambda s, r: dpo_loss(s[:, 0], 0.3, 0.1),
    "ipo_loss": lambda s, r: ipo_loss(s[:, 0], 0.3),
    "hinge_loss": lambda s, r: hinge_loss(s[:, 0], 0.3),
    "simpo_loss": lambda s, r: simpo_loss(s[:, 0], s[:, 1], 0.3, 0.2),
    "odds_ratio_loss": lambda s, r: odds_ratio_loss(s[:, 0] - 5, s[:, 1] - 5),
    "kto_loss": lambda s, r: kto_loss(s[:, 0], r[:, 0] > 2, jnp.float32(0.4), 0.3, 1.5, 0.5),
}


@pytest.mark.parametrize("name", MEANS)
@given(scores=reals(B, K), ranks=rankings, cut=st.sampled_from([1, 2]))
@few
def test_any_split_into_micro_batches_is_the_same_mean_and_gradient(name, scores, ranks, cut):
    scores, ranks = np.asarray(scores), np.asarray(ranks)
    (grad, whole), *parts = (
        mean_and_gradient(name)(scores[rows], ranks[rows]) for rows in (slice(None), slice(cut), slice(cut, None))
    )
    close(parts[0][1] + parts[1][1], whole)
    stacked = Mean(*(jnp.stack([getattr(mean, field) for _, mean in parts]) for field in ("total", "count")))
    close(values(summed({"m": stacked}))["m"], whole.value)
    close(np.concatenate([grad for grad, _ in parts]), grad)


@cache
def mean_and_gradient(name):
    def total(s, r):
        mean = MEANS[name](s, r)
        return mean.total, mean

    return jax.jit(jax.grad(total, has_aux=True))


# --- of K answers -----------------------------------------------------------------------------------------------------

OF_RANKINGS = {
    "ranking_loss": ranking_loss,
    "ranking_loss, hinge": lambda s, r: ranking_loss(s, r, hinge),
    "plackett_luce_loss": plackett_luce_loss,
    "pair_accuracy": pair_accuracy,
}


OF_RANKINGS = {name: jax.jit(function) for name, function in OF_RANKINGS.items()}


@pytest.mark.parametrize("name", OF_RANKINGS)
@given(scores=reals(B, K), ranks=rankings, order=st.permutations(range(K)), shift=st.floats(-3, 3, width=32))
@few
def test_a_ranking_knows_neither_the_order_of_its_slots_nor_the_empty_ones_nor_a_shift(
    name, scores, ranks, order, shift
):
    loss = OF_RANKINGS[name]
    scores = jnp.round(8 * scores) / 8  # so that a shift makes no tie
    shift, order = np.float32(round(8 * shift) / 8), np.array(order)
    close(loss(scores[:, order], ranks[:, order]), loss(scores, ranks), 1e-4)
    close(
        loss(jnp.pad(scores, ((0, 0), (0, 3)), constant_values=9.0), jnp.pad(ranks, ((0, 0), (0, 3)))),
        loss(scores, ranks),
        1e-4,
    )
    close(loss(scores + shift, ranks), loss(scores, ranks), 1e-4)


@given(ranks=rankings)
@few
def test_a_preference_has_one_direction(ranks):
    pairs, ranks = np.asarray(jax.jit(preferred)(ranks)), np.asarray(ranks)
    assert not (pairs & pairs.swapaxes(1, 2)).any()
    present = ranks > 0
    both = present[:, :, None] & present[:, None, :]
    tied = (ranks[:, :, None] == ranks[:, None, :]) & both
    np.testing.assert_array_equal(pairs | pairs.swapaxes(1, 2) | tied, both)


@given(k=st.sampled_from([2, 3, 9]), seed=st.integers(0, 99), shift=st.floats(-3, 3, width=32))
@few
def test_advantages_of_a_group_sum_to_0_and_know_no_shift(k, seed, shift):
    scores = np.random.default_rng(seed).normal(size=(B, k)).astype(np.float32)
    found = jax.tree.map(np.asarray, advantages_of_groups(scores))
    # Each difference from the mean is rounded once; what is left of the sum is divided by the group's own spread.
    rounded = 2 * k * 2.0**-24 * np.abs(scores).max(axis=1)
    assert (np.abs(found["group"].sum(axis=1)) < 1e-5 + rounded / (scores.std(axis=1, ddof=1) + 1e-4)).all()
    others = {how: a.sum(axis=1) for how, a in found.items() if how != "group"}
    close(others, dict.fromkeys(others, np.zeros(B, np.float32)), 1e-4)
    close(advantages_of_groups(scores + np.float32(shift)), found, 1e-3)
    close(found["leave one out"], found["none"] * np.float32(k / (k - 1)))


@jax.jit
def advantages_of_groups(scores):
    relative = {how: group_relative(scores, how) for how in ("group", "batch", "none")}
    return relative | {"leave one out": leave_one_out(scores)}


# --- of two log-probabilities -----------------------------------------------------------------------------------------


@given(logits=reals(B, V), ref=reals(B, V), shift=st.floats(-50, 50, width=32))
@few
def test_of_two_distributions(logits, ref, shift):
    logp, shifted, uncertain, exact, k1, k2, k3 = map(np.asarray, of_two(logits, ref, shift))
    p = np.exp(logp)
    close(p.sum(axis=1), np.ones(B, np.float32))
    close(shifted, logp, 1e-4)
    assert ((uncertain > -1e-6) & (uncertain < np.log(V) + 1e-6)).all()
    assert (exact > -1e-6).all()
    close((p * k1).sum(axis=1), exact, 1e-4)  # k1 and k3 are unbiased
    close((p * k3).sum(axis=1), exact, 1e-3)
    assert (k2 >= 0).all() and (k3 > -1e-5).all()


@jax.jit
def of_two(logits, ref, shift):
    tokens = jnp.broadcast_to(jnp.arange(V), (B, V))
    logp, logp_ref, shifted = (
        token_logps(jnp.broadcast_to(x[:, None], (B, V, V)), tokens) for x in (logits, ref, logits + shift)
    )
    estimates = (k(logp, logp_ref) for k in (kl_k1, kl_k2, kl_k3))
    return logp, shifted, entropy(logits), kl_exact(logits, ref), *estimates


@given(n=st.integers(1, 10_000))
@few
def test_the_kl_of_best_of_n_grows(n):
    assert 0 <= best_of_n_kl(n) < best_of_n_kl(n + 1) < np.log(n + 1)


@given(scale=positives, kl=st.floats(-20, 200, width=32), n=st.integers(1, 512), horizon=st.floats(1000, 1e6, width=32))
@few
def test_the_coefficient_of_the_kl_moves_a_little_and_the_right_way(scale, kl, n, horizon):
    scale, kl = jnp.float32(scale), jnp.float32(kl)
    moved = adapted_scale(scale, kl, 6.0, n, horizon) / scale - 1
    assert abs(float(moved)) <= 0.2 * n / horizon + 1e-6
    assert float(moved) * float(kl - 6.0) >= -1e-5
    assert float(adapted_scale(scale, kl, 6.0, n, jnp.inf)) == float(scale)


@given(L=st.integers(2, 9), data=st.data())
@few
def test_the_state_before_a_token_is_one_column_to_its_left(L, data):
    length = data.draw(st.integers(1, L - 1))
    columns = np.broadcast_to(np.arange(L, dtype=np.float32), (B, L))
    close(np.asarray(states_before(jnp.asarray(columns), length)), columns[:, L - length :] - 1)


# --- of pairs ---------------------------------------------------------------------------------------------------------


@given(h=reals(B, size=20.0), beta=positives, flipped=st.floats(0, 0.5, width=32))
@few
def test_of_pairs(h, beta, flipped):
    close(dpo_loss(h, beta).total - dpo_loss(-h, beta).total, -beta * jnp.sum(h), 1e-3)
    close(
        dpo_loss(h, beta, flipped).total,
        (1 - flipped) * dpo_loss(h, beta).total + flipped * dpo_loss(-h, beta).total,
        1e-3,
    )
    close(logistic(h, flipped), logistic(-h, 1 - flipped), 1e-4)
    close(hinge(h) - hinge(-h), jnp.clip(-2 * h, -1 - jnp.abs(h), 1 + jnp.abs(h)), 1e-4)
    assert float(hinge_loss(h, beta).value) >= float(jnp.maximum(1 - beta * jnp.mean(h), 0)) - 1e-4  # it is convex
    assert float(ipo_loss(h, beta).value) >= 0 == float(ipo_loss(jnp.full(B, 1 / (2 * beta)), beta).value)
    close(simpo_loss(h, -h, beta, 0.5), dpo_loss(h - 0.25 / beta, 2 * beta), 1e-4)


@given(a=reals(4, B))
@few
def test_swapping_the_answers_of_a_pair(a):
    chosen, rejected, ref_chosen, ref_rejected = a
    close(log_ratio_margin(*a), -log_ratio_margin(rejected, chosen, ref_rejected, ref_chosen))
    chosen, rejected = chosen - 5, rejected - 5  # log-probabilities
    close(odds_ratio_loss(chosen, chosen).value, jnp.log(2.0))
    odds = (jnp.exp(x) / (1 - jnp.exp(x)) for x in (chosen, rejected))
    ratio = next(odds) / next(odds)
    close(
        odds_ratio_loss(chosen, rejected).total - odds_ratio_loss(rejected, chosen).total,
        -jnp.sum(jnp.log(ratio)),
        1e-3,
    )


@given(
    r=reals(B),
    liked=arrays(np.bool_, B).map(jnp.asarray),
    beta=positives,
    kl=reals(B),
    weights=st.tuples(positives, positives),
)
@few
def test_kto_is_bounded_and_liking_mirrors_disliking(r, liked, beta, kl, weights):
    z = mismatched_kl(kl, jnp.zeros(B))
    assert float(z) == pytest.approx(max(0.0, float(jnp.mean(kl))), abs=1e-6)
    loss = kto_loss(r, liked, z, beta, *weights)
    assert 0 <= float(loss.value) <= max(weights)
    close(kto_loss(2 * z - r, ~liked, z, beta, *weights[::-1]), loss, 1e-4)


# --- of scores, averages and steps ------------------------------------------------------------------------------------


@given(scores=reals(K, B), order=st.permutations(range(K)), uncertainty=units)
@few
def test_an_ensemble_knows_no_order_and_doubt_lowers_it(scores, order, uncertainty):
    for how in ("mean", "minimum"):
        close(ensemble_score(scores[np.array(order)], how, uncertainty), ensemble_score(scores, how, uncertainty), 1e-4)
    average = ensemble_score(scores, "mean", 0.0)
    close(average, jnp.mean(scores, axis=0))
    assert bool(jnp.all(ensemble_score(scores, "mean", uncertainty) <= average + 1e-5))
    assert bool(jnp.all(ensemble_score(scores, "minimum", 0.0) <= average + 1e-5))


@given(x=reals(K), cut=st.integers(1, K - 1))
@few
def test_moments_know_no_split_and_normalise(x, cut):
    whole = seen(nothing_seen(), x)
    close(seen(seen(nothing_seen(), x[:cut]), x[cut:]), whole, 1e-4)
    close((whole.mean, whole.squares / K), (jnp.mean(x), jnp.var(x)), 1e-4)
    if float(jnp.std(x)) > 1e-2:
        white = normalised(x, whole)
        close((jnp.mean(white), jnp.std(white)), (0.0, 1.0), 1e-3)
    close(normalised(x, nothing_seen()), x)


@given(a=reals(B), b=reals(B), decay=units)
@few
def test_a_moving_average_stays_between(a, b, decay):
    moved, weight = ema({"w": a}, {"w": b}, decay, 3.0)
    assert bool(jnp.all((moved["w"] >= jnp.minimum(a, b) - 1e-5) & (moved["w"] <= jnp.maximum(a, b) + 1e-5)))
    assert 1.0 <= weight <= 4.0


@given(steps=st.integers(1, 200), warmup=st.integers(0, 20), floor=units, end=st.floats(0, 2, width=32))
@few
def test_schedules_stay_in_bounds_and_turn_once(steps, warmup, floor, end):
    *rates, factor, rise = map(np.asarray, schedules(float(steps), floor, float(warmup), end))
    for rate in rates:
        assert ((rate >= 0) & (rate <= 1 + 1e-6)).all()
        assert (np.diff(rate[max(warmup - 1, 0) :]) <= 1e-6).all()
    assert factor[0] == 1 and factor[-1] == pytest.approx(end, abs=1e-6)
    assert (np.diff(factor) * np.sign(end - 1) >= -1e-6).all()
    assert rise[0] == pytest.approx(0.1) and rise[-1] == 1 and (np.diff(rise) >= 0).all()


@jax.jit
def schedules(steps, floor, warmup, end):
    rates = (lambda i, shape=shape: shape(i, steps, floor, warmup) for shape in (constant, linear_decay, cosine))
    others = (lambda i: linear(i, steps, end), lambda i: linear_warmup(i, steps))
    return [jax.vmap(schedule)(jnp.arange(221)) for schedule in (*rates, *others)]


def test_every_equation_has_a_property():
    tree = ast.parse(Path(__file__).read_text())
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    tables = [node for node in tree.body if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict)]

    def names(nodes):
        return {name.id for node in nodes for name in ast.walk(node) if isinstance(name, ast.Name)}

    used = names([*tables, *(f for f in functions if f.name.startswith("test_"))])
    used |= names(f for f in functions if f.name in used)  # what the properties are made with
    assert set(equations.__all__) - used == set()
