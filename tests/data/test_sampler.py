"""The sampler is a pure function of seed and step, and every epoch is a permutation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.data import batch_indices, take, without_padding
from rlhf_jax.errors import InputError
from rlhf_jax.types import MaskedTextBatch, PromptBatch, RankingBatch, TextBatch


@given(n=st.integers(1, 12), batch=st.integers(1, 30), seed=st.integers(0, 3))
def test_every_epoch_of_the_stream_is_a_permutation(n, batch, seed):
    steps = -(-3 * n // batch)
    stream = np.concatenate([batch_indices(n, batch, seed, step) for step in range(steps)])
    for epoch in range(3):
        assert sorted(stream[epoch * n : (epoch + 1) * n]) == list(range(n))


@given(n=st.integers(1, 12), batch=st.integers(1, 30), step=st.integers(0, 10**9))
def test_a_step_is_two_half_steps_and_the_same_whenever_asked(n, batch, step):
    whole = batch_indices(n, 2 * batch, 5, step)
    halves = [batch_indices(n, batch, 5, 2 * step + half) for half in (1, 0)][::-1]
    assert (whole == np.concatenate(halves)).all()
    assert whole.dtype == np.int64


def test_epochs_and_seeds_differ():
    first, second, other = (
        batch_indices(50, 50, 0, 0),
        batch_indices(50, 50, 0, 1),
        batch_indices(50, 50, 1, 0),
    )
    assert (first != second).any()
    assert (first != other).any()
    assert (first != np.arange(50)).any()


def test_no_rows_is_an_error_and_no_endless_loop():
    with pytest.raises(InputError, match="no rows to draw a batch from"):
        batch_indices(0, 4, 0, 0)


def test_the_stream_cannot_be_spoilt_through_a_batch():
    before = batch_indices(6, 6, 0, 0)
    kept = before.copy()
    before[:] = 0
    assert (batch_indices(6, 6, 0, 0) == kept).all()


def test_rows_are_taken_from_every_array_of_a_batch():
    tokens = np.arange(24, dtype=np.int32).reshape(3, 2, 4)
    order = np.array([2, 0, 2])
    for batch in (
        TextBatch(tokens[:, 0], tokens[:, 0] > 5),
        MaskedTextBatch(tokens[:, 0], tokens[:, 1], tokens[:, 0] > 5),
        PromptBatch(tokens[:, 0], tokens[:, 0] > 5),
        RankingBatch(tokens, tokens > 5, tokens[..., 0]),
    ):
        taken = take(batch, order)
        assert type(taken) is type(batch)
        for name, array in vars(batch).items():
            assert (getattr(taken, name) == np.stack([array[2], array[0], array[2]])).all()


@given(st.integers(1, 200), st.data())
def test_columns_that_no_row_needs_are_cut_off_to_one_of_eight_widths(width, data):
    """What is left is the same and what goes is padding; the next narrower would cut something."""
    lengths = np.array(data.draw(st.lists(st.integers(0, width), min_size=4, max_size=4)))
    used = np.arange(width) < lengths.reshape(2, 2, 1)
    tokens = np.where(used, np.arange(width) + 1, 0)
    kept = without_padding(RankingBatch(tokens, used, lengths.reshape(2, 2)))
    n = kept.tokens.shape[-1]
    assert kept.mask.shape == kept.tokens.shape and (kept.ranks == lengths.reshape(2, 2)).all()
    assert (kept.tokens == tokens[..., :n]).all() and (kept.mask == used[..., :n]).all()
    assert not used[..., n:].any()
    widths = {
        without_padding(TextBatch(tokens[0, :1], np.arange(width)[None] == at)).tokens.shape[-1] for at in range(width)
    }  # the last that is to be predicted
    assert n in widths and len(widths) <= 8 and max(widths) == width
    shorter = [w for w in widths if w < n]
    assert not shorter or used[..., max(shorter) :].any()
    assert all(w % 8 == 0 for w in widths - {width})
