"""Demonstrations of every shape give one prompt and one answer, and only the answer is learned."""

import numpy as np
import pytest

from rlhf_jax.data import Demonstration, Messages, encode_demonstrations, exchange_answers, fits, read_demonstrations
from rlhf_jax.errors import InputError
from rlhf_jax.types import TextBatch

PROMPT = "\n\nHuman: Name a fruit.\n\nAssistant:"
QUESTION = {"role": "user", "content": "Name a fruit."}
ANSWER = {"role": "assistant", "content": "A pear."}
EXPECTED = Demonstration(PROMPT, "A pear.")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Name a fruit.", "completion": " A pear.\n"},
        {"prompt": "Name a fruit.", "completion": "A pear.<|endoftext|>"},
        {"prompt": PROMPT, "answer": "A pear."},
        {"prompt": [QUESTION], "response": "A pear.", "chosen": None},
        {"prompt": [QUESTION], "completion": [ANSWER]},
        {"messages": [QUESTION, ANSWER]},
        {"prompt": "Name a fruit.", "chosen": "A pear.", "rejected": "A dog."},
        {"prompt": "Name a fruit.", "chosen": [ANSWER], "rejected": []},
        {"prompt": "Name a fruit.", "chosen": [QUESTION, ANSWER], "rejected": []},
        {"prompt": "Name a fruit.", "chosen": PROMPT + " A pear."},
        {"chosen": PROMPT + " A pear.", "rejected": PROMPT + " A dog."},
        {"chosen": [QUESTION, ANSWER]},
    ],
)
def test_every_shape_of_row(jsonl, row):
    """Of texts and transcripts the prompt is a transcript, of messages the messages."""
    ((prompt, answer, user),) = read_demonstrations(jsonl(row))
    of_texts = isinstance(row.get("prompt", row.get("chosen")), str) and not isinstance(row.get("chosen"), list)
    assert prompt in ([PROMPT] if of_texts else [PROMPT, Messages([QUESTION])])
    assert isinstance(prompt, str) == (of_texts or row.get("chosen") == [ANSWER])
    assert (answer, user) == ("A pear.", "")


def test_only_the_last_turn_is_the_answer(jsonl):
    rows = read_demonstrations(jsonl({"messages": [QUESTION, ANSWER, QUESTION, {**ANSWER, "content": "A fig."}]}))
    assert rows == [Demonstration(Messages([QUESTION, ANSWER, QUESTION]), "A fig.")]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"prompt": "a", "completion": " <|endoftext|>"}, "the answer is empty: write one"),
        ({"messages": [QUESTION]}, "and not in a turn of the assistant: add the answer"),
        ({"prompt": "a"}, r"no answer \(found: prompt\): give prompt and completion"),
        ({"prompt": "a", "completion": None}, r"no answer \(found: prompt\)"),
        ({"prompt": None, "completion": "a"}, "'prompt' is null"),
        ({"prompt": "a", "answer": "b", "response": "c"}, "two answers, 'answer' and 'response'"),
        ({"answer": "b"}, "there is 'answer' but no 'prompt'"),
        ({"prompt": "", "answer": "b"}, "the prompt is empty"),
        ({"prompt": "a", "answer": 3}, "an answer is 3, neither a string nor messages"),
        ({"messages": "plain"}, "'messages' holds 'plain', which is no conversation"),
        ({"messages": 3}, "neither a transcript nor a list of messages"),
        ({"messages": [3]}, "message 1 is no object"),
    ],
)
def test_a_bad_row_is_named(jsonl, row, sentence):
    with pytest.raises(InputError, match=f"rows.jsonl, line 2: .*{sentence}"):
        read_demonstrations(jsonl({"prompt": "a", "answer": "b"}, row))


def test_unusable_rows_are_dropped_only_on_request_and_counted_by_reason(jsonl, caplog):
    bad = [{"prompt": "a", "answer": " "}, {"prompt": " ", "answer": "b"}, {"prompt": "c", "answer": ""}]
    source = jsonl({"prompt": "a", "answer": "b"}, *bad)
    assert read_demonstrations(source, unusable="drop") == [Demonstration("\n\nHuman: a\n\nAssistant:", "b")]
    reasons = "2 whose answer is empty (the first is {0}, line 2), 1 whose prompt is empty (the first is {0}, line 3)"
    assert f"{source}: dropped 3 of 4 rows: {reasons.format(source)}" in caplog.text
    with pytest.raises(InputError, match=r"dropped 1 of 1 rows: 1 whose answer is empty .*; none is left: .*write one"):
        read_demonstrations(jsonl(bad[0]), unusable="drop")
    with pytest.raises(InputError, match="line 2: there are two answers"):  # what is unclear is not dropped
        read_demonstrations(jsonl(bad[0], {"prompt": "a", "answer": "b", "response": "c"}), unusable="drop")


def test_only_the_answer_and_its_eos_are_predicted(tokenizer):
    prompt, answer = tokenizer.encode(PROMPT), tokenizer.encode("A pear.")
    p, a = len(prompt), len(answer)
    batch = encode_demonstrations([EXPECTED, EXPECTED._replace(answer="A")], tokenizer, p + a + 3)
    assert batch.tokens[0].tolist() == prompt + answer + [tokenizer.eos] + 2 * [tokenizer.pad]
    assert batch.predict[0].tolist() == p * [False] + (a + 1) * [True] + 2 * [False]
    assert tokenizer.decode(batch.tokens[0]) == PROMPT + " A pear."
    assert batch.predict[1].sum() == len(tokenizer.encode("A")) + 1


def test_a_context_that_is_one_too_short(tokenizer):
    p, a = len(tokenizer.encode(PROMPT)), len(tokenizer.encode("A pear.")) + 1
    assert fits(EXPECTED, tokenizer, p + a)
    assert encode_demonstrations([EXPECTED], tokenizer, p + a).tokens.shape == (1, p + a)
    assert not fits(EXPECTED, tokenizer, p + a - 1)
    sentence = (
        f"demonstration 2: a prompt of {p} tokens and an answer of {a} with EOS "
        f"exceed the context of {p + a - 1}: raise the context"
    )
    with pytest.raises(InputError, match=sentence):
        encode_demonstrations([EXPECTED._replace(answer="A"), EXPECTED], tokenizer, p + a - 1)


def test_hh_rlhf(real_data, caplog):
    source = str(real_data / "hh-rlhf/harmless-base.jsonl.gz")
    with pytest.raises(InputError, match="line 69: the answer is empty"):
        read_demonstrations(source)
    assert len(read_demonstrations(source, unusable="drop")) == 1878 - 4
    assert "dropped 4 of 1878 rows" in caplog.text


def test_answers_exchanged_between_prompts():
    rows = TextBatch(
        np.array([[1, 2, 7, 7, 0], [3, 8, 9, 8, 0], [4, 5, 6, 9, 9]]),
        np.array([[0, 0, 1, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 1, 1]], bool),
    )
    exchanged = exchange_answers(rows, pad=0)
    np.testing.assert_array_equal(exchanged.tokens, [[1, 2, 8, 9, 8], [3, 9, 9, 0, 0], [4, 5, 6, 7, 7]])
    np.testing.assert_array_equal(exchanged.predict, [[0, 0, 1, 1, 1], [0, 1, 1, 0, 0], [0, 0, 0, 1, 1]])
    longer = exchange_answers(TextBatch(rows.tokens[1:], rows.predict[1:]), pad=0)
    np.testing.assert_array_equal(longer.tokens, [[3, 9, 9, 0, 0], [4, 5, 6, 8, 9]])  # the third token is cut off
