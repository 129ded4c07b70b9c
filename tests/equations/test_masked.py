from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from rlhf_jax import equations
from rlhf_jax.equations import Mean, averaged, summed, values

# Compiled: an operation at a time would be slower than what it computes. test_variants.py compares the two.
masked_mean, masked_sum, mean = jax.jit(equations.masked_mean), jax.jit(equations.masked_sum), jax.jit(equations.mean)
row_sums, masked_variance = jax.jit(equations.row_sums), jax.jit(equations.masked_variance, static_argnames="unbiased")
whiten = jax.jit(equations.whiten, static_argnames=("shift_mean", "unbiased"))

X = np.array([[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]], np.float32)
MASK = np.array([[True, True, False], [True, False, False]])  # 1, 2, 8


def test_closed_forms():
    assert float(masked_sum(X, MASK)) == 1 + 2 + 8
    assert float(masked_mean(X, MASK).value) == pytest.approx(11 / 3)
    assert float(mean(X).value) == pytest.approx(63 / 6)
    np.testing.assert_array_equal(row_sums(X, MASK), [3.0, 8.0])
    squares = (1 - 11 / 3) ** 2 + (2 - 11 / 3) ** 2 + (8 - 11 / 3) ** 2
    assert float(masked_variance(X, MASK, unbiased=False)) == pytest.approx(squares / 3)
    assert float(masked_variance(X, MASK, unbiased=True)) == pytest.approx(squares / 2)


def test_whiten_by_hand():
    # 1, 2, 8: mean 11/3, biased variance 86/9
    std = (86 / 9) ** 0.5
    np.testing.assert_allclose(
        whiten(X, MASK), [[(1 - 11 / 3) / std, (2 - 11 / 3) / std, 0], [(8 - 11 / 3) / std, 0, 0]], rtol=1e-6
    )
    kept_mean = whiten(X, MASK, shift_mean=False)
    np.testing.assert_allclose(kept_mean, np.where(MASK, whiten(X, MASK) + np.float32(11 / 3), 0.0), rtol=1e-6)


def test_whitening_a_constant_gives_zeros_not_nan():
    np.testing.assert_array_equal(whiten(np.full((2, 3), 7.0), np.ones((2, 3), bool)), np.zeros((2, 3)))


def test_integers_and_truths_are_averaged_as_fractions():
    assert float(mean(np.array([1, 2])).value) == 1.5
    assert float(mean(np.array([True, False, False, False])).value) == 0.25
    assert mean(np.array([1, 2])).total.dtype == jnp.float32


@pytest.mark.parametrize(
    "reduce",
    [
        equations.masked_sum,
        lambda x, m: equations.masked_mean(x, m).value,
        lambda x, m: equations.masked_variance(x, m, unbiased=True),
        lambda x, m: equations.masked_variance(x, m, unbiased=False),
        lambda x, m: jnp.sum(equations.whiten(x, m) * np.arange(1.0, 7.0, dtype=np.float32).reshape(2, 3)),
        lambda x, m: jnp.sum(equations.row_sums(x, m)),
    ],
    ids=["sum", "mean", "unbiased", "variance", "whiten", "rows"],
)
class TestEveryReduction:
    def test_nothing_counts(self, reduce):
        value, grad = jax.jit(jax.value_and_grad(reduce))(X, np.zeros_like(MASK))
        assert float(value) == 0
        np.testing.assert_array_equal(grad, np.zeros_like(X))

    def test_what_stands_outside_the_mask_is_without_influence(self, reduce):
        both = jax.jit(jax.value_and_grad(reduce))
        clean = both(np.where(MASK, X, 5.0), MASK)
        for rubbish in (np.nan, np.inf):
            dirty = both(np.where(MASK, X, rubbish), MASK)
            np.testing.assert_array_equal(dirty[0], clean[0])
            np.testing.assert_array_equal(dirty[1], clean[1])


ANY = hnp.arrays(np.float32, (4, 5), elements=st.floats(-100, 100, width=32))
ANY_MASK = hnp.arrays(bool, (4, 5))


@settings(max_examples=50, deadline=None)
@given(x=ANY, mask=ANY_MASK)
def test_masked_is_dropped(x, mask):
    kept = x[mask].astype(np.float64)
    n = len(kept)
    assert float(masked_sum(x, mask)) == pytest.approx(kept.sum(), abs=1e-3)
    expected = kept.mean() if n else 0.0
    assert float(masked_mean(x, mask).value) == pytest.approx(expected, abs=1e-4)
    for unbiased in (False, True):
        expected = kept.var(ddof=int(unbiased)) if n > 1 else 0.0
        got = float(masked_variance(x, mask, unbiased))
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-3)


@settings(max_examples=50, deadline=None)
@given(x=ANY, mask=ANY_MASK, cut=st.sampled_from([1, 2]))
def test_a_mean_does_not_depend_on_the_split_into_micro_batches(x, mask, cut):
    whole = masked_mean(x, mask)
    halves = [masked_mean(x[rows], mask[rows]) for rows in (slice(cut), slice(cut, None))]
    np.testing.assert_allclose((halves[0] + halves[1]).value, whole.value, atol=1e-4)
    stacked = Mean(jnp.stack([h.total for h in halves]), jnp.stack([h.count for h in halves]))
    np.testing.assert_allclose(summed({"m": stacked})["m"].value, whole.value, atol=1e-4)


def test_averaging_the_means_of_unequal_parts_would_be_another_number():
    few, many = mean(np.array([0.0])), mean(np.array([4.0, 4.0, 4.0]))
    assert float((few + many).value) == 3.0
    assert values({"a": few + many, "b": Mean(jnp.float32(5), jnp.float32(0))}) == {"a": 3.0, "b": 5.0}


def test_golden_helpers_of_trl(golden, agree):
    """TRL's masked_whiten is ours with unbiased=True: Ziegler et al.'s code, and we, divide by n."""
    g = golden("ppo/helpers")
    x, mask = g["x"], g["mask"]
    agree(masked_mean(x, mask).value, g["masked_mean"])
    by_row = jax.vmap(lambda x, m: masked_mean(x, m).value)(x, mask)
    agree(by_row, g["masked_mean_axis1"])
    agree(masked_variance(x, mask, unbiased=True), g["masked_var"])
    agree(masked_variance(x, mask, unbiased=False), g["masked_var_biased"])
    for shift_mean, name in ((True, "masked_whiten"), (False, "masked_whiten_noshift")):
        ours = whiten(x, mask, shift_mean=shift_mean, unbiased=True)
        agree(ours, np.where(g["mask"], g[name], 0.0))


def test_what_a_mean_is_taken_over():
    """Rows of 3, 1 and 0 tokens: sums 6 and 10 over 4 tokens, means 2 and 10 over 2 answers, 9 places in all."""
    x = jnp.asarray([[1.0, 2.0, 3.0], [10.0, np.nan, np.nan], [np.nan] * 3])
    mask = jnp.asarray([[True] * 3, [True, False, False], [False] * 3])
    assert float(averaged(x, mask, "token").value) == pytest.approx(16 / 4)
    assert float(averaged(x, mask, "answer").value) == pytest.approx((2 + 10) / 2)
    assert float(averaged(x, mask, "constant").value) == pytest.approx(16 / 9)


@pytest.mark.parametrize("over", ["token", "answer", "constant"])
def test_each_of_them_splits_into_micro_batches(over):
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(5, 4)).astype(np.float32), np.arange(4) < np.array([4, 1, 0, 2, 3])[:, None]
    of = jax.jit(partial(averaged, over=over))
    whole, parts = of(x, mask), of(x[:2], mask[:2]) + of(x[2:], mask[2:])
    assert float(parts.value) == pytest.approx(float(whole.value), rel=1e-6)
    chex.assert_tree_all_finite(jax.jit(jax.grad(lambda x, mask: of(x, mask).value))(x, np.zeros_like(mask)))
