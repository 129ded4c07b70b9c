"""Every key gives a bijection of range(n), every index goes everywhere equally often, and keys differ."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2

from rlhf_jax.data import permute


@given(n=st.integers(1, 700), seed=st.integers(0, 2**70), epoch=st.integers(0, 2**40))
def test_it_is_a_bijection(n, seed, epoch):
    assert sorted(permute(i, n, (seed, epoch)) for i in range(n)) == list(range(n))


@pytest.mark.parametrize("n", [4096, 4097, 9000])
def test_it_is_a_bijection_at_and_past_powers_of_two(n):
    assert len({permute(i, n, (1,)) for i in range(n)}) == n


@given(n=st.integers(1, 2**64 - 1), data=st.data())
def test_sizes_that_no_memory_holds(n, data):
    first, second = (data.draw(st.integers(0, n - 1)) for _ in range(2))
    here, there = (permute(i, n, (3, 1)) for i in (first, second))
    assert 0 <= here < n and 0 <= there < n
    assert (here == there) == (first == second)


def assert_uniform(counts):
    """Pearson's χ² of equal expectations is below what one uniform sample in 10⁶ exceeds."""
    expected = counts.sum() / counts.size
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-6, counts.size - 1)


@pytest.mark.parametrize("n", [5, 16])
def test_an_index_goes_everywhere_and_so_does_a_pair(n):
    epochs = 1_500
    one, pairs = np.zeros((n, n)), np.zeros((n, n))
    for epoch in range(epochs):
        order = [permute(i, n, (7, epoch)) for i in range(n)]
        one[np.arange(n), order] += 1
        pairs[order[0], order[1]] += 1
    for row in one:
        assert_uniform(row)
    assert_uniform(pairs[~np.eye(n, dtype=bool)])


def test_every_order_of_four_comes_up_equally_often():
    count = dict.fromkeys(permutations(range(4)), 0)
    for epoch in range(3_000):
        count[tuple(permute(i, 4, (0, epoch)) for i in range(4))] += 1
    assert_uniform(np.array(list(count.values())))


def test_neighbours_are_torn_apart():
    """Of a uniform permutation, |π(i + 1) − π(i)| has the mean (n + 1) / 3 and a deviation below n / √18."""
    n = 10_000
    steps = np.abs(np.diff([permute(i, n, (5, 2)) for i in range(n)]))
    assert abs(steps.mean() - (n + 1) / 3) < 5 * n / np.sqrt(18) / np.sqrt(n)


def test_keys_differ():
    orders = {tuple(permute(i, 50, key) for i in range(50)) for key in [(0, 0), (0, 1), (1, 0), (1, 1), (0, 2), (2, 0)]}
    assert len(orders) == 6
    assert tuple(range(50)) not in orders


@pytest.mark.parametrize("i", [-1, 7])
def test_an_index_outside_is_refused(i):
    with pytest.raises(ValueError, match=r"outside of range\(7\)"):
        permute(i, 7, (0,))
