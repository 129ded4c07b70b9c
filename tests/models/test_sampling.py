from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from rlhf_jax.models import (
    LanguageModel,
    Sampling,
    draw,
    generate,
    hidden_states,
    process_logits,
    processors_of,
    reprocess_logits,
)
from rlhf_jax.types import PromptBatch

PLAIN = Sampling(temperature=1.0, top_k=0, top_p=1.0)
GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0)
PAD, NEVER = 0, -1
PROMPTS = PromptBatch(
    tokens=jnp.array([[PAD, PAD, 5, 6], [1, 2, 3, 4], [PAD, 9, 8, 7]]),
    mask=jnp.array([[False, False, True, True], [True] * 4, [False, True, True, True]]),
)


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
    def compiled(rows, *options):
        def program(params, key, x):
            return generate(model, params, x, key, 6, *options)

        program.__name__ = f"program of {rows} rows, {options}"  # by which chex counts
        return jax.jit(chex.assert_max_traces(program, n=1))

    def write(sampling, seed=0, eos=NEVER, prompts=PROMPTS, params=params, stops=(), samples=1):
        program = compiled(len(prompts.tokens), sampling, eos, PAD, stops, samples)
        return jax.tree.map(np.asarray, program(params, jax.random.key(seed), prompts))

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


def said_before(y, prompts=PROMPTS):
    """[B, T, V]: the tokens of the prompt without its padding, and those of the answer before each column."""
    B, T = y.tokens.shape
    seen = np.zeros((B, T, 13), bool)
    for b in range(B):
        prompt = np.asarray(prompts.tokens[b])[np.asarray(prompts.mask[b])]
        for t in range(T):
            seen[b, t, [*prompt, *y.tokens[b, :t]]] = True
    return seen


rewarped = jax.jit(lambda logits, y: reprocess_logits(logits, processors_of(y)))
warped = jax.jit(process_logits, static_argnums=1)
TRANSFORMS = {
    "plain": PLAIN,
    "greedy": GREEDY,
    "truncated": Sampling(0.7, 5, 0.9),
    "min-p": Sampling(0.7, 0, 1.0, min_p=0.3),
    "penalty": Sampling(0.7, 0, 1.0, repetition_penalty=1.6),
    "all": Sampling(1.3, 8, 0.95, min_p=0.05, repetition_penalty=0.7),
    "greedy penalty": Sampling(0.0, 0, 1.0, repetition_penalty=1.6),
}
LONG = ("truncated", "min-p", "penalty")  # "all" is all three of them
each_transform = pytest.mark.parametrize(
    "sampling",
    [pytest.param(how, id=name, marks=[pytest.mark.long] * (name in LONG)) for name, how in TRANSFORMS.items()],
)


@each_transform
def test_logp_is_of_the_distribution_that_was_sampled_from(written, full_logits, sampling):
    y = written(sampling, eos=3)
    logits, seen = full_logits(y), said_before(y)
    penalty = np.float32(sampling.repetition_penalty)
    penalised = np.where(seen, np.where(logits < 0, logits * penalty, logits / penalty), logits)
    logp = special.log_softmax(warped(penalised, sampling), axis=-1)
    expected = np.take_along_axis(logp, y.tokens[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(y.logp[y.mask], expected[y.mask], atol=1e-5)
    assert np.isfinite(y.logp).all()
    assert (y.logp[y.mask] < 0).any() or sampling.temperature == 0


@each_transform
def test_rewarp_gives_back_the_distribution_that_was_sampled_from(written, full_logits, sampling):
    """The same model's logits: π/π_old = 1. Another's: the same tokens are possible, and what was said is penalised."""
    y = written(sampling, eos=3)
    logits = full_logits(y)
    logp = special.log_softmax(rewarped(logits, y), axis=-1)
    found = np.take_along_axis(logp, y.tokens[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(found[y.mask], y.logp[y.mask], atol=1e-5)

    seen, penalty = said_before(y), np.float32(sampling.repetition_penalty)
    other = np.random.default_rng(0).normal(size=logits.shape).astype(np.float32)
    expected = np.where(seen, np.where(other < 0, other * penalty, other / penalty), other)
    expected = expected / np.float32(sampling.temperature or 1.0)
    possible = np.isfinite(
        warped(np.where(seen, np.where(logits < 0, logits * penalty, logits / penalty), logits), sampling)
    )
    expected = np.where(possible, expected, -np.inf)
    np.testing.assert_allclose(rewarped(other, y)[y.mask], expected[y.mask], rtol=1e-6)


def test_what_is_off_takes_no_memory(llama):
    def kept(name):
        """Support and repetition, as shapes."""

        def program():
            y = generate(*llama, PROMPTS, jax.random.key(0), 6, TRANSFORMS[name], 3, PAD)
            return y.support, None if y.repetition is None else y.repetition.since

        return tuple(None if x is None else x.shape for x in jax.eval_shape(program))

    assert kept("plain") == (None, None)
    assert kept("min-p") == ((3, 6, 13), None)
    assert kept("penalty") == (None, (3, 13))


def test_a_penalty_keeps_greedy_decoding_from_repeating_itself(written, full_logits):
    """θ → ∞ puts every positive logit that was seen at 0 and every negative one at −∞: no token is said twice while
    there is a positive logit that was not seen. Padding was not said: row 0, whose prompt is padded, may say it."""
    y = written(Sampling(0.0, 0, 1.0, repetition_penalty=1e6))
    logits, seen = full_logits(y), said_before(y)
    fresh = np.where(seen, -np.inf, logits)
    assert (fresh.max(axis=-1) > 1e-3).all()
    np.testing.assert_array_equal(y.tokens, fresh.argmax(axis=-1))
    assert (y.tokens != written(GREEDY).tokens).any()
    assert (y.repetition.since[[0, 2], PAD] > 0).all()


def first_end(row, stops):
    """The length of the shortest beginning of a row that ends with one of the sequences, else the row's."""
    ends = (n for n in range(1, len(row) + 1) for s in stops if tuple(row[:n][-len(s) :]) == s)
    return next(ends, len(row))


def test_a_row_ends_with_its_stop_sequence(written):
    whole = written(GREEDY).tokens
    pair, triple = tuple(whole[1, 1:3].tolist()), tuple(whole[2, 2:5].tolist())
    across = (int(PROMPTS.tokens[0, -1]), int(whole[0, 0]))  # the prompt's last token and the answer's first
    never = (*whole[0].tolist(), 1)  # longer than the answer
    for stops, eos in (((across, triple, pair, never, (PAD, PAD)), NEVER), ((pair,), int(whole[2, 5]))):
        y = written(GREEDY, eos=eos, stops=stops)
        lengths = [first_end(row.tolist(), (*stops, (eos,))) for row in whole]
        kept = np.arange(6)[None, :] < np.array(lengths)[:, None]
        np.testing.assert_array_equal(y.mask, kept)
        np.testing.assert_array_equal(y.tokens, np.where(kept, whole, PAD))
    assert first_end(whole[1].tolist(), (pair,)) == 3


def test_samples_of_a_prompt_are_those_of_a_repeated_prompt(written):
    np.testing.assert_array_equal(written(GREEDY, samples=3).tokens, np.repeat(written(GREEDY).tokens, 3, axis=0))
    repeated = PromptBatch(np.repeat(PROMPTS.tokens, 3, axis=0), np.repeat(PROMPTS.mask, 3, axis=0))
    together = written(TRANSFORMS["all"], 4, eos=3, samples=3)
    apart = written(TRANSFORMS["all"], 4, eos=3, prompts=repeated)
    chex.assert_trees_all_close(together, apart, rtol=1e-7, atol=1e-5)
    assert any((rows != rows[:1]).any() for rows in together.tokens.reshape(3, 3, 6))  # each is drawn for itself


def test_samples_share_their_prompt_s_forward_pass(llama, monkeypatch):
    model, params = llama
    shapes = []

    def watched(model, params, tokens, *rest):
        shapes.append(tokens.shape)
        return hidden_states(model, params, tokens, *rest)

    monkeypatch.setattr("rlhf_jax.models.sampling.hidden_states", watched)
    jax.eval_shape(lambda: generate(model, params, PROMPTS, jax.random.key(0), 6, PLAIN, 3, PAD, samples=5).tokens)
    assert set(shapes) == {(3, 4), (15, 1)}


@pytest.mark.parametrize("bad", [{"samples": 0}, {"stops": ((4,), ())}])
def test_impossible_arguments_are_refused(llama, bad):
    with pytest.raises(ValueError, match="generate needs"):
        generate(*llama, PROMPTS, jax.random.key(0), 6, PLAIN, 3, PAD, **bad)


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
