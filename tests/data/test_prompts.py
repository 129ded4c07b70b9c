"""Prompts of every shape, padded on the left."""

import pytest

from rlhf_jax.data import (
    Layout,
    Messages,
    Prompt,
    encode_prompts,
    prompt_fits,
    read_demonstrations,
    read_prompts,
    read_rankings,
)
from rlhf_jax.errors import InputError
from tests.refusals import refusal

PROMPT = "\n\nHuman: Name a fruit.\n\nAssistant:"
QUESTION = {"role": "user", "content": "Name a fruit."}
ANSWER = {"role": "assistant", "content": "A pear."}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Name a fruit."},
        {"prompt": [QUESTION], "completion": "A pear."},
        {"messages": [QUESTION]},
        {"messages": [QUESTION, ANSWER]},
        {"chosen": PROMPT + " A pear.", "rejected": PROMPT + " A dog."},
        {"chosen": [QUESTION, ANSWER]},
        {"prompt": PROMPT, "completions": []},
    ],
)
def test_every_shape_of_row(jsonl, row):
    (prompt,) = read_prompts(jsonl(row))
    of_messages = any(isinstance(row.get(key), list) for key in ("prompt", "messages", "chosen"))
    assert prompt.conversation == (Messages([QUESTION]) if of_messages else PROMPT)
    assert prompt.text == PROMPT
    assert prompt.columns == {key: row[key] for key in ("completion", "completions") if key in row}


def test_what_the_prompt_was_not_made_of_are_its_columns(jsonl):
    row = {"question": "2 + 2?", "answer": "#### 4", "user": "u", "category": "sums", "tests": [{"f": None}], "n": 3}
    (prompt,) = read_prompts(jsonl(row))
    assert prompt.columns == {"answer": "#### 4", "tests": [{"f": None}], "n": 3}
    assert (prompt.text, prompt.category, prompt.user) == ("\n\nHuman: 2 + 2?\n\nAssistant:", "sums", "u")


LATER = PROMPT + " A pear.\n\nHuman: Another.\n\nAssistant:"


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"chosen": LATER + " A plum.", "rejected": LATER + " A dog."}, LATER),
        ({"chosen": LATER + " A plum."}, LATER),
        ({"messages": [QUESTION, ANSWER]}, PROMPT),
        ({"chosen": "A pear.", "rejected": "A dog."}, "\n\nHuman: a title\n\nAssistant:"),
    ],
)
def test_whole_conversations_hold_their_own_prompt_in_all_readers(jsonl, row, prompt):
    """Beside a `prompt` column that says something else, which is ignored; else one file would have two texts for a row."""
    path = jsonl({"prompt": "a title", **row})
    if "a title" not in prompt:
        refusal(lambda: read_prompts(path), "line 1: there is 'prompt' beside a whole conversation")
    layout = Layout(ignore="" if "a title" in prompt else "prompt")
    prompts = read_prompts(path, layout=layout)
    assert [p.text for p in prompts] == [prompt]
    assert [p.conversation for p in prompts] == [d.prompt for d in read_demonstrations(path, layout=layout)]
    if "rejected" in row:
        assert [r.prompt for r in read_rankings(path, layout=layout)] == [prompt]


def test_category_and_user(jsonl):
    row = {"prompt": "Name a fruit.", "category": "brainstorming", "user": 7}
    assert read_prompts(jsonl(row)) == [Prompt(PROMPT, "brainstorming", "7")]
    row = {"prompt": "Name a fruit.", "chosen": "A pear.", "rejected": "A dog.", "user": 7}
    assert [read_demonstrations(jsonl(row))[0].user, read_rankings(jsonl(row))[0].user] == ["7", "7"]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"text": "a"}, r"no prompt \(found: text\): give prompt"),
        ({"messages": []}, "the list of messages is empty"),
        ({"prompt": "a", "user": 1.5}, "'user' holds a number: make it a string"),
        ({"prompt": "a", "category": ["b"]}, r"'category' holds \['b'\]: make it a string"),
    ],
)
def test_a_bad_row_is_named(jsonl, row, sentence):
    with pytest.raises(InputError, match=f"rows.jsonl, line 2: {sentence}"):
        read_prompts(jsonl({"prompt": "a"}, row))


def test_prompts_end_at_one_column(tokenizer):
    prompts = [Prompt(PROMPT), Prompt("\n\nHuman: Why?\n\nAssistant:")]
    long, short = (tokenizer.encode(prompt.text) for prompt in prompts)
    batch = encode_prompts(prompts, tokenizer, len(long))
    pads = len(long) - len(short)
    assert pads > 0
    assert batch.tokens.tolist() == [long, pads * [tokenizer.pad] + short]
    assert batch.mask.tolist() == [[True] * len(long), pads * [False] + len(short) * [True]]


def test_a_prompt_that_is_too_long_is_named(tokenizer):
    n = len(tokenizer.encode(PROMPT))
    assert prompt_fits(Prompt(PROMPT), tokenizer, n)
    assert not prompt_fits(Prompt(PROMPT), tokenizer, n - 1)
    sentence = f"prompt 2 is {n} tokens long and the context leaves {n - 1}: shorten it, raise the context"
    with pytest.raises(InputError, match=sentence):
        encode_prompts([Prompt("a"), Prompt(PROMPT)], tokenizer, n - 1)
