"""Packing loses no token but the tail, and masks follow BERT's shares."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rlhf_jax.data import as_text_batch, mask_tokens, pack, read_rows, text_documents
from rlhf_jax.errors import InputError

words = st.lists(st.sampled_from(["The", "cat", "sat", "\n", "é"]), max_size=8).map(" ".join)


@given(st.lists(words, min_size=1), st.integers(1, 9))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_packing_conserves_tokens_and_their_order(tokenizer, documents, length):
    stream = [token for text in documents for token in [*tokenizer.encode(text), tokenizer.eos]]
    if len(stream) < length:
        with pytest.raises(InputError, match=f"has {len(stream)} tokens and one row takes {length}"):
            pack(documents, tokenizer, length)
        return
    rows, tail = pack(documents, tokenizer, length)
    assert rows.dtype == np.int32
    assert rows.shape[1] == length
    assert 0 <= tail < length
    assert rows.ravel().tolist() == stream[: len(stream) - tail]


def test_no_documents_are_less_than_a_row(tokenizer):
    with pytest.raises(InputError, match="has 0 tokens and one row takes 4: add text"):
        pack([], tokenizer, 4)


def test_documents_are_the_text_fields(jsonl):
    assert list(text_documents(read_rows(jsonl({"text": "a", "title": "b"}, {"text": ""})))) == ["a", ""]
    with pytest.raises(InputError, match=r"rows.jsonl, line 2: there is no 'text' \(found: body\)"):
        list(text_documents(read_rows(jsonl({"text": "a"}, {"body": "b"}))))
    with pytest.raises(InputError, match=r"rows.jsonl, line 1: 'text' holds 3: make it a string"):
        list(text_documents(read_rows(jsonl({"text": 3}))))


def test_every_token_but_a_rows_first_is_predicted():
    batch = as_text_batch(np.array([[5, 6, 7], [8, 9, 2]], np.int32))
    assert batch.tokens.tolist() == [[5, 6, 7], [8, 9, 2]]
    assert batch.predict.tolist() == [[False, True, True], [False, True, True]]


def test_masks_follow_the_shares_of_bert():
    n, vocab, mask = 200_000, 1000, 4
    tokens = np.full((20, n // 20), 7, np.int32)
    batch = mask_tokens(tokens, mask, vocab, np.random.default_rng(0))
    inputs = batch.inputs
    assert inputs.dtype == np.int32
    assert (batch.tokens == tokens).all()
    chosen = inputs[batch.predict]
    assert (inputs[~batch.predict] == 7).all()
    # Five standard deviations of a share p of m are 5 √(p (1 − p) / m).
    for share, p, m in [
        (batch.predict.mean(), 0.15, n),
        ((chosen == mask).mean(), 0.8 + 0.1 / vocab, len(chosen)),
        ((chosen == 7).mean(), 0.1 + 0.1 / vocab, len(chosen)),
    ]:
        assert abs(share - p) < 5 * np.sqrt(p * (1 - p) / m)
    noise = chosen[(chosen != mask) & (chosen != 7)]
    assert noise.min() < 20
    assert 980 < noise.max() < vocab


def test_kept_tokens_are_never_masked_and_the_generator_decides_the_rest():
    tokens = np.tile(np.arange(10, dtype=np.int32), (50, 1))
    batch = mask_tokens(tokens, 4, 10, np.random.default_rng(1), rate=1.0, keep=(0, 2))
    assert (batch.inputs[:, [0, 2]] == tokens[:, [0, 2]]).all()
    assert batch.predict.sum(0).tolist() == [0, 50, 0, 50, 50, 50, 50, 50, 50, 50]
    again = mask_tokens(tokens, 4, 10, np.random.default_rng(1), rate=1.0, keep=(0, 2))
    other = mask_tokens(tokens, 4, 10, np.random.default_rng(2), rate=1.0, keep=(0, 2))
    assert (again.inputs == batch.inputs).all()
    assert (other.inputs != batch.inputs).any()


def test_the_books_have_their_text(real_data, tokenizer):
    books = text_documents(read_rows(str(real_data / "books-pd/books.jsonl.xz")))
    rows, tail = pack([next(books)[:5000], next(books)[:5000]], tokenizer, 64)
    assert (rows == tokenizer.eos).sum() + (tail > 0) == 2
