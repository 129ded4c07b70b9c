from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from rlhf_jax.models import LanguageModel, Sampling, draw, generate, warp
from rlhf_jax.types import PromptBatch

PLAIN = Sampling(temperature=1.0, top_k=0, top_p=1.0)
GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0)
PAD, NEVER = 0, -1
PROMPTS = PromptBatch(
    tokens=jnp.array([[PAD, PAD, 5, 6], [1, 2, 3, 4], [PAD, 9, 8, 7]]),
    mask=jnp.array([[False, False, True, True], [True] * 4, [False, True, True, True]]),
)


@pytest.mark.parametrize("bad", [(-0.1, 0, 1.0), (1.0, -1, 1.0), (1.0, 0, 0.0), (1.0, 0, 1.1)])
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match="sampling needs"):
        Sampling(*bad)


def probabilities(logits, sampling):
    return np.asarray(jax.nn.softmax(warp(jnp.asarray(logits, jnp.float32), sampling), axis=-1))


def test_warp_by_hand():
    logits = np.log([0.4, 0.3, 0.2, 0.1])
    np.testing.assert_allclose(probabilities(logits, PLAIN), [0.4, 0.3, 0.2, 0.1], rtol=1e-6)
    np.testing.assert_allclose(probabilities(logits, GREEDY), [1, 0, 0, 0])
    np.testing.assert_allclose(probabilities(logits, Sampling(0.5, 0, 1.0)), np.array([16, 9, 4, 1]) / 30, rtol=1e-5)
    np.testing.assert_allclose(probabilities(logits, Sampling(1.0, 2, 1.0)), [4 / 7, 3 / 7, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(probabilities(logits, Sampling(1.0, 0, 0.65)), [4 / 7, 3 / 7, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(probabilities(logits, Sampling(1.0, 0, 0.01)), [1, 0, 0, 0])


def test_warp_composes_temperature_then_top_k_then_top_p():
    """After temperature ½ the masses are 16, 9, 4, 1 of 30; of the best 3 they are 16, 9, 4 of 29: top-p 0.6 takes two
    (16/29 < 0.6). Top-p first, on 0.4, 0.3, 0.2, 0.1, would take two as well, but 0.56 would take two before and one
    … so 0.54 (16/30 < 0.54 < 16/29) tells top-k before top-p from after it."""
    logits = np.log([0.4, 0.3, 0.2, 0.1])
    assert 16 / 30 < 0.54 < 16 / 29
    np.testing.assert_allclose(probabilities(logits, Sampling(0.5, 3, 0.54)), [1, 0, 0, 0])
    np.testing.assert_allclose(probabilities(logits, Sampling(0.5, 0, 0.54)), [0.64, 0.36, 0, 0], rtol=1e-5)
    # 0.4 < 0.54: without the temperature before it, top-p would keep two
    np.testing.assert_allclose(probabilities(logits, Sampling(1.0, 3, 0.54)), [4 / 7, 3 / 7, 0, 0], rtol=1e-5)


def chi_square(drawn, p):
    """The chance of counts at least this far from a distribution, over its possible tokens."""
    counts = np.bincount(drawn, minlength=len(p))
    possible = p > 0
    assert counts[~possible].sum() == 0
    return stats.chisquare(counts[possible], p[possible] / p[possible].sum() * len(drawn)).pvalue


@pytest.mark.parametrize("V", [2, 23, 100])
def test_draw_matches_its_distribution(V):
    n = 20_000
    logits = np.random.default_rng(V).normal(size=V)
    logits[::3] = -np.inf if V > 2 else logits[::3]  # the first, and for V = 100 the last token
    p = np.exp(logits) / np.exp(logits).sum()
    drawn = np.asarray(jax.jit(draw)(jax.random.key(0), np.tile(logits.astype(np.float32), (n, 1))))
    assert chi_square(drawn, p) > 1e-3
    other = p**1.1 / (p**1.1).sum() if V > 2 else p * np.array([0.95, 1.05])
    assert chi_square(drawn, other) < 1e-3  # the test sees a temperature that is a tenth off


def test_draw_takes_the_only_possible_token():
    only = np.full((23, 23), -np.inf, np.float32)
    np.fill_diagonal(only, -50.0)
    for seed in range(3):
        np.testing.assert_array_equal(jax.jit(draw)(jax.random.key(seed), only), np.arange(23))


def test_rows_are_drawn_independently():
    drawn = np.asarray(jax.jit(draw)(jax.random.key(1), np.zeros((4000, 2), np.float32)))
    pairs = np.bincount(2 * drawn[::2] + drawn[1::2], minlength=4)
    assert stats.chisquare(pairs).pvalue > 1e-3


@pytest.fixture(scope="module")
def written(llama):
    """What the model writes after the prompts, under some settings; one compilation for each of them."""
    model, params = llama

    @cache
    def compiled(sampling, eos):
        return jax.jit(lambda params, key, x: generate(model, params, x, key, 6, sampling, eos=eos, pad=PAD))

    def write(sampling, seed=0, eos=NEVER, prompts=PROMPTS, params=params):
        return jax.tree.map(np.asarray, compiled(sampling, eos)(params, jax.random.key(seed), prompts))

    return write


@pytest.fixture(scope="module")
def full_logits(llama):
    """Logits of every response token by a forward pass over prompt and response, without a cache."""
    model, params = llama

    @jax.jit
    def forward(tokens, mask):
        hidden, _ = model.apply({"params": params}, tokens, mask)
        return model.apply({"params": params}, hidden, method=LanguageModel.logits)

    def logits(response, prompts=PROMPTS):
        P = prompts.tokens.shape[1]
        tokens = np.concatenate([prompts.tokens, response.tokens], axis=1)
        mask = np.concatenate([prompts.mask, response.mask], axis=1)
        return np.asarray(forward(tokens, mask))[:, P - 1 : -1]

    return logits


def test_greedy_is_the_argmax_of_a_full_forward(written, full_logits):
    y = written(GREEDY)
    assert y.mask.all()
    np.testing.assert_array_equal(y.tokens, full_logits(y).argmax(axis=-1))
    np.testing.assert_array_equal(y.logp, np.zeros_like(y.logp))  # of a certain token
    assert len({tuple(row) for row in y.tokens}) == 3


def test_a_row_ends_with_its_eos_and_is_padded_after_it(written):
    """The token that greedy decoding writes third in row 1 becomes EOS: every row must equal its text without an end,
    up to and with the first such token."""
    endless = written(GREEDY)
    eos = int(endless.tokens[1, 2])
    y = written(GREEDY, eos=eos)
    ended = 0
    for row, mask, whole in zip(y.tokens, y.mask, endless.tokens, strict=True):
        n = list(whole).index(eos) + 1 if eos in whole else 6
        ended += n < 6
        np.testing.assert_array_equal(row[:n], whole[:n])
        np.testing.assert_array_equal(row[n:], PAD)
        np.testing.assert_array_equal(mask, np.arange(6) < n)
    assert ended >= 1
    assert (y.logp[~y.mask] == 0).all()


def test_stopping_early_changes_nothing(written):
    """A row that ends writes the same alone, where the loop stops with it, as beside rows that go on."""
    endless = written(GREEDY)
    eos = int(endless.tokens[1, 2])
    together = written(GREEDY, eos=eos)
    one = PromptBatch(PROMPTS.tokens[1:2], PROMPTS.mask[1:2])
    alone = written(GREEDY, eos=eos, prompts=one)
    for name in ("tokens", "mask", "logp"):
        np.testing.assert_array_equal(getattr(alone, name)[0], getattr(together, name)[1])


@pytest.mark.parametrize("sampling", [PLAIN, Sampling(0.7, 5, 0.9)], ids=["plain", "warped"])
def test_logp_is_of_the_distribution_that_was_sampled_from(written, full_logits, sampling):
    y = written(sampling, eos=3)
    logp = np.asarray(jax.nn.log_softmax(warp(jnp.asarray(full_logits(y)), sampling), axis=-1))
    expected = np.take_along_axis(logp, y.tokens[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(y.logp[y.mask], expected[y.mask], atol=1e-5)
    assert np.isfinite(y.logp).all()
    assert (y.logp[y.mask] < 0).any()


def test_keys(written):
    first, again, other = written(PLAIN, 0, eos=3), written(PLAIN, 0, eos=3), written(PLAIN, 1, eos=3)
    np.testing.assert_array_equal(first.tokens, again.tokens)
    np.testing.assert_array_equal(first.logp, again.logp)
    assert (first.tokens != other.tokens).any()
    assert (first.tokens[:, 0] != first.tokens[:, 1]).any()


def test_samples_follow_the_model(written, full_logits):
    """The first token's distribution over 4000 samples of one prompt."""
    n = 4000
    prompts = PromptBatch(jnp.tile(PROMPTS.tokens[1:2], (n, 1)), jnp.tile(PROMPTS.mask[1:2], (n, 1)))
    y = written(PLAIN, 5, eos=3, prompts=prompts)
    logits = np.asarray(full_logits(y, prompts)[0, 0], float)
    assert chi_square(y.tokens[:, 0], np.exp(logits) / np.exp(logits).sum()) > 1e-3


def test_every_token_is_drawn_anew(written, llama):
    """A model whose parameters are all 0 writes each of 13 tokens alike: first and second tokens are independent."""
    n = 4000
    prompts = PromptBatch(jnp.tile(PROMPTS.tokens[1:2], (n, 1)), jnp.tile(PROMPTS.mask[1:2], (n, 1)))
    y = written(PLAIN, 6, eos=3, prompts=prompts, params=jax.tree.map(jnp.zeros_like, llama[1]))
    first, second = y.tokens[y.mask[:, 1], :2].T
    pairs = np.bincount(13 * first + second, minlength=169)
    possible = np.arange(169) // 13 != 3  # a row that has ended has no second token
    assert pairs[~possible].sum() == 0
    assert stats.chisquare(pairs[possible]).pvalue > 1e-3
