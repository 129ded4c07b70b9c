"""Likelihoods against the definition, entropies against closed forms."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.evals import Continuation, answer, choice_entropy_bits, likeliest, likelihood, per_row, scores, win_scores
from rlhf_jax.models import LanguageModel, Sampling, TransformerConfig, hidden_states, logits
from rlhf_jax.types import PromptBatch, TextBatch


@pytest.fixture(scope="module")
def small():
    config = TransformerConfig(11, 12, 8, 1, 2, 2, 16, "layernorm", "rope", "gelu", True, True, 0.0)
    model = LanguageModel(config)
    ones = jnp.ones((1, 12), bool)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 12), jnp.int32), ones)["params"]
    return model, jax.tree.map(lambda p: 20.0 * p, params)


@partial(jax.jit, static_argnums=0)
def next_logps(model, params, tokens, mask):
    """After every column of one row; log softmax."""
    return jax.nn.log_softmax(logits(model, params, hidden_states(model, params, tokens, mask)[0])[0])


def by_hand(model, params, context, target):
    """Σ log softmax over the target, one token after the other; the columns after it are padding."""
    total, row, greedy = 0.0, list(context), True
    for token in target:
        tokens, mask = np.zeros((1, 12), np.int32), np.arange(12)[None] < len(row)
        tokens[0, : len(row)] = row
        logp = np.asarray(next_logps(model, params, tokens, mask))[len(row) - 1]
        total, greedy = total + float(logp[token]), greedy and int(logp.argmax()) == token
        row.append(token)
    return total, greedy


@pytest.mark.parametrize("logit_rows", [0, 5])  # of 2 · 11 tokens
def test_likelihood_is_the_sum_over_the_target_only(small, logit_rows):
    model, params = LanguageModel(replace(small[0].config, logit_rows=logit_rows)), small[1]
    rows = [Continuation([3, 1], [4]), Continuation([5], [2, 9, 7]), Continuation([1, 2, 3, 4, 5], [6, 6])]
    found = likelihood(model, params, rows, batch=2, length=12)
    wanted = [by_hand(small[0], params, *row) for row in rows]
    np.testing.assert_allclose(found.total, [w[0] for w in wanted], rtol=1e-4)
    assert found.tokens.tolist() == [1, 3, 2]
    assert found.greedy.tolist() == [w[1] for w in wanted]


def test_a_long_row_loses_the_beginning_of_its_context(small):
    model, params = small
    long = Continuation([*range(1, 11), 3, 4], [5, 6])
    short = Continuation(long.context[2:], long.target)
    a = likelihood(model, params, [long], batch=2, length=12)
    b = likelihood(model, params, [short], batch=2, length=12)
    np.testing.assert_allclose(a.total, b.total, rtol=1e-6)


def test_the_likeliest_choice_of_questions_with_different_numbers_of_choices(small):
    model, params = small
    questions = [
        [Continuation([3, 1], [i]) for i in range(1, 10)],
        [Continuation([5], [2, 9]), Continuation([5], [8, 1])],
        [Continuation([4], [7])],
    ]
    wanted = [int(np.argmax([by_hand(model, params, *choice)[0] for choice in choices])) for choices in questions]
    assert likeliest(model, params, questions, batch=5, length=12) == wanted


def test_a_row_without_context_or_room_is_refused(small):
    model, params = small
    with pytest.raises(ValueError, match="row 0 has 0 tokens of context"):
        likelihood(model, params, [Continuation([], [1])], batch=1, length=12)
    with pytest.raises(ValueError, match="12 to predict"):
        likelihood(model, params, [Continuation([1], [1] * 12)], batch=1, length=12)


def test_rows_do_not_depend_on_the_batch_size(small):
    model, params = small
    tokens = np.random.default_rng(0).integers(0, 11, (5, 12)).astype(np.int32)
    rows = TextBatch(tokens, np.ones((5, 12), bool))
    for a, b in zip(per_row(model, params, rows, batch=2), per_row(model, params, rows, batch=5), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_greedy_answers_do_not_depend_on_the_batch_size(small):
    model, params = small
    prompts = PromptBatch(np.arange(15, dtype=np.int32).reshape(5, 3) % 11, np.ones((5, 3), bool))
    greedy = Sampling(temperature=0.0, top_k=0, top_p=1.0)
    same = {"max_tokens": 4, "sampling": greedy, "eos": 2, "pad": 0}
    a = answer(model, params, prompts, jax.random.key(0), batch=2, **same)
    b = answer(model, params, prompts, jax.random.key(1), batch=5, **same)
    np.testing.assert_array_equal(a.response.tokens, b.response.tokens)
    assert a.concat()[0].shape == (5, 7)
    for ids, ended, mask in zip(a.ids(2), a.ended(2), a.response.mask, strict=True):
        assert len(ids) == mask.sum() - ended


def test_scores_cut_the_filling_rows_off():
    found = scores(
        lambda _, tokens, mask: tokens[:, 0] * 2.0, {}, np.arange(5)[:, None], np.ones((5, 1), bool), batch=3
    )
    assert found.tolist() == [0, 2, 4, 6, 8]


def test_entropy_of_two_choices():
    """1 bit for a tie; for odds 3 : 1, −¾ log₂ ¾ − ¼ log₂ ¼."""
    found = choice_entropy_bits(np.array([[-50.0, -50.0], [np.log(3.0) - 7, -7.0]]))
    np.testing.assert_allclose(found, [1.0, -0.75 * np.log2(0.75) - 0.25 * np.log2(0.25)], rtol=1e-4)


def test_a_tie_is_half_a_win():
    assert win_scores(np.array([1.0, 2.0, 3.0]), np.array([2.0, 2.0, 2.0])).tolist() == [0.0, 0.5, 1.0]
