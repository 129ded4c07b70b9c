"""Prompts of every shape, padded on the left, and InstructGPT's curation."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.data import (
    Prompt,
    drop_shared_prefixes,
    encode_prompts,
    limit_per_user,
    prompt_fits,
    read_prompts,
    split_by_user,
)
from rlhf_jax.errors import InputError

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
    assert read_prompts(jsonl(row)) == [Prompt(PROMPT)]


def test_category_and_user(jsonl):
    row = {"prompt": "Name a fruit.", "category": "brainstorming", "user": 7}
    assert read_prompts(jsonl(row)) == [Prompt(PROMPT, "brainstorming", "7")]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"prompt": " "}, "the prompt is empty"),
        ({"text": "a"}, r"no prompt \(found: text\): give prompt"),
        ({"messages": []}, "the list of messages is empty"),
        ({"prompt": "a", "user": 1.5}, "'user' holds a number: make it a string"),
        ({"prompt": "a", "category": ["b"]}, "'category' holds a list: make it a string"),
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


users = st.lists(st.builds(Prompt, st.text(max_size=3), st.just(""), st.sampled_from(["", "u", "v", "w"])))


@given(users, st.integers(0, 5))
def test_no_user_is_in_two_parts_and_no_prompt_is_lost(prompts, seed):
    parts = split_by_user(prompts, (0.5, 0.25, 0.25), seed)
    assert sorted(prompt for part in parts for prompt in part) == sorted(prompts)
    owners = [{prompt.user or prompt for prompt in part} for part in parts]
    assert sum(map(len, owners)) == len(set.union(*owners))


def test_parts_have_their_fractions_and_depend_on_the_seed():
    prompts = [Prompt(str(i), user=str(i)) for i in range(4000)]
    parts = split_by_user(prompts, (0.8, 0.15, 0.05), 0)
    for part, fraction in zip(parts, (0.8, 0.15, 0.05), strict=True):
        assert abs(len(part) / 4000 - fraction) < 5 * (fraction * (1 - fraction) / 4000) ** 0.5
    assert split_by_user(prompts[:100], (0.8, 0.15, 0.05), 0)[0] == [p for p in parts[0] if int(p.text) < 100]
    assert split_by_user(prompts, (0.8, 0.15, 0.05), 1) != parts
    assert split_by_user(prompts, (0.0, 1.0, 0.0), 0) == ([], prompts, [])
    with pytest.raises(InputError, match=r"the fractions \(0.5, 0.6\) of the split do not add up to 1"):
        split_by_user(prompts, (0.5, 0.6), 0)


def test_a_user_gives_no_more_than_the_limit():
    prompts = [Prompt(text, user=user) for text, user in ("1a", "2b", "3a", "4a", "5b")] + [Prompt("6")] * 3
    assert [prompt.text for prompt in limit_per_user(prompts, 2)] == ["1", "2", "3", "5", "6", "6", "6"]
    assert len(limit_per_user([Prompt("a", user="u")] * 201)) == 200


def test_long_shared_prefixes_are_dropped():
    prompts = [Prompt(text) for text in ("abcd1", "abcd2", "abce", "abc", "ab", "abc", "x")]
    assert [p.text for p in drop_shared_prefixes(prompts, 3)] == ["abcd1", "abce", "abc", "ab", "x"]
    assert [p.text for p in drop_shared_prefixes(prompts, 4)] == ["abcd1", "abcd2", "abce", "abc", "ab", "x"]


def test_real_prompts(real_data):
    prompts = read_prompts(str(real_data / "hh-rlhf/harmless-base.jsonl.gz"))
    assert len(prompts) == 1878
    kept = drop_shared_prefixes(prompts, 80)
    assert len(kept) == len({prompt.text[:81] for prompt in prompts}) < 1878
