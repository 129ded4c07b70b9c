"""Dropout falls on the same numbers however the rows of a batch are cut up."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.data import take, without_padding
from rlhf_jax.models import LanguageModel, hidden_states, mesh_axes
from rlhf_jax.models.transformer import Dropout
from rlhf_jax.runtime import make_mesh, mapped, place, replicated, shard_rows
from rlhf_jax.steps import adam, masked_token_loss, next_token_loss, text_coef, text_step
from rlhf_jax.types import MaskedTextBatch, TextBatch, TrainState
from tests.models.conftest import wild
from tests.steps.conftest import CONFIG as SMALL

CONFIG = replace(SMALL, layers=2, dropout=0.3)
OPTIMISER = adam(1e-8, 1.0)
LONG = pytest.mark.long
COEF = text_coef(0.1, 10, 1.0)
LOSS = partial(next_token_loss, dropout_key=jax.random.key(0))


def batch() -> TextBatch:
    rng = np.random.default_rng(0)
    return TextBatch(rng.integers(2, 11, (8, 6)).astype(np.int32), np.ones((8, 6), bool))


@cache
def after(mesh=(1, 1, 1), pmap=False, micro_batches=1, scan=False, remat=False, dropout=0.3):
    """The loss of the first update's batch, and the parameters after it."""
    config = replace(CONFIG, dropout=dropout, micro_batches=micro_batches, axis_name="data" if pmap else None)
    model, over = LanguageModel(replace(config, scan=scan, remat=remat)), make_mesh(*mesh)
    params = wild(model)
    state = TrainState(step=jnp.int32(3), params=params, opt_state=OPTIMISER.init(params), key=jax.random.key(5))
    step = mapped(partial(text_step, model=model, optimiser=OPTIMISER), over, pmap)
    given = place(state, over, replicated if pmap else mesh_axes)
    # Adam's first step at so large an ε is the gradient itself, up to a factor.
    state, metrics = step(given, shard_rows(batch(), over), place(text_coef(0.1, 10, 1.0), over))
    return float(metrics["loss/train"].value), [np.asarray(x) for x in jax.tree.leaves(state.opt_state[1].mu)]


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param({"micro_batches": 2}, marks=LONG),
        {"micro_batches": 4},
        {"mesh": (4, 1, 1), "pmap": True},
        pytest.param({"mesh": (2, 1, 1), "pmap": True, "micro_batches": 2}, marks=LONG),
        {"mesh": (2, 2, 2)},
        pytest.param({"mesh": (1, 2, 1), "micro_batches": 2}, marks=LONG),
        pytest.param({"remat": True}, marks=LONG),
        pytest.param({"scan": True, "micro_batches": 2}, marks=LONG),
    ],
    ids=str,
)
def test_the_loss_and_the_gradient_are_those_of_the_whole_batch(cut):
    loss, moments = after(**cut)
    expected, those = after(scan=cut.get("scan", False))
    assert abs(expected - after(dropout=0.0)[0]) > 1e-2  # it acts
    assert loss == pytest.approx(expected, rel=1e-6)
    for found, known in zip(moments, those, strict=True):
        np.testing.assert_allclose(found, known, atol=1e-6)


def test_columns_of_padding_that_are_cut_off_change_nothing():
    """Rows of 5 to 9 tokens in 16 columns, of which 8 are left without the last row and 16 with it."""
    rng, model = np.random.default_rng(0), LanguageModel(CONFIG)
    inside = np.arange(16) < np.array([[5], [7], [8], [9]])
    text = TextBatch(np.where(inside, rng.integers(2, 11, (4, 16)), 0).astype(np.int32), inside & (np.arange(16) > 2))
    run = jax.jit(jax.value_and_grad(lambda params, rows: LOSS(params, rows, COEF, model=model)[0]))
    for rows, columns in ((3, 8), (4, 16)):
        whole = take(text, np.arange(rows))
        narrow = without_padding(whole)
        assert narrow.tokens.shape == narrow.predict.shape == (rows, columns)
        (loss, grads), (same, those) = run(wild(model), narrow), run(wild(model), whole)
        assert float(loss) == pytest.approx(float(same), rel=1e-6)
        for found, known in zip(jax.tree.leaves(grads), jax.tree.leaves(those), strict=True):
            np.testing.assert_allclose(found, known, atol=1e-6)


def test_masked_text_as_well():
    rows, losses = batch(), []
    hidden = MaskedTextBatch(np.where(np.arange(6) == 2, 0, rows.tokens), rows.tokens, rows.predict)
    for parts in (1, 4):
        model = LanguageModel(replace(CONFIG, micro_batches=parts))
        loss = jax.jit(partial(masked_token_loss, model=model, dropout_key=jax.random.key(0)))
        losses.append(float(loss(wild(model), hidden, text_coef(0.1, 10, 1.0))[0]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_what_is_dropped():
    """A share of 0.3, the rest scaled up by 1/0.7; other numbers in each row, each layer's branch and for each key."""
    x, dropout = jnp.ones((8, 64, 32)), Dropout(0.3, False)
    apply = jax.jit(lambda key, rows: dropout.apply({}, x, rows, rngs={"dropout": key}))
    found = np.asarray(apply(jax.random.key(0), jnp.arange(8)))
    assert set(np.unique(found)) == {0.0, np.float32(1 / 0.7)}
    share = (found == 0).mean(axis=(1, 2))
    np.testing.assert_allclose(share, 0.3, atol=5 * np.sqrt(0.3 * 0.7 / 2048))
    together = [np.corrcoef(found[i].ravel(), found[j].ravel())[0, 1] for i in range(8) for j in range(i)]
    assert np.abs(together).max() < 5 / np.sqrt(2048)
    np.testing.assert_array_equal(apply(jax.random.key(0), jnp.arange(8)[::-1]), found[::-1])
    assert (np.asarray(apply(jax.random.key(1), jnp.arange(8))) != found).mean() == pytest.approx(0.42, abs=0.05)


@pytest.mark.parametrize("scan", [False, True])
def test_each_layer_drops_others(scan):
    """Of two layers that add 1 each, dropped or doubled, half of the numbers keep one, a quarter both, a quarter none."""
    model = LanguageModel(replace(CONFIG, scan=scan, bias=True, dropout=0.5, width=32))

    def of_ones(path, x):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return jnp.ones_like(x) if name.endswith(("down/bias", "scale")) else jnp.zeros_like(x)

    params = jax.tree_util.tree_map_with_path(of_ones, wild(model))
    tokens = jnp.full((8, 16), 3)
    hidden, _ = hidden_states(model, params, tokens, tokens > 0, dropout_key=jax.random.key(0))
    twice = np.asarray(hidden) / np.asarray(hidden).max(axis=-1, keepdims=True)  # of what the final norm has scaled
    for kept, share in ((0.0, 0.25), (0.5, 0.5), (1.0, 0.25)):
        assert (np.abs(twice - kept) < 1e-3).mean() == pytest.approx(share, abs=0.05)
