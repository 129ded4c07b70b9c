"""Messages and transcripts are two forms of one thing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_jax.data.dialogue import (
    TURN,
    parse_transcript,
    prompt_text,
    render,
    split_last_answer,
    split_shared_prompt,
)
from rlhf_jax.errors import InputError

MESSAGES = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello!\n\nHow are you?"},
    {"role": "user", "content": "Fine."},
]
TEXT = "\n\nHuman: Hi\n\nAssistant: Hello!\n\nHow are you?\n\nHuman: Fine."
contents = st.text().map(str.strip).filter(lambda text: not TURN.search(text))
turns = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": contents})


def test_render_and_parse_a_transcript():
    assert render(MESSAGES) == TEXT
    assert parse_transcript(TEXT) == MESSAGES
    assert render([{"role": "system", "content": "Be kind."}, *MESSAGES]) == "Be kind." + TEXT


@given(st.lists(turns, min_size=1, max_size=4), contents)
def test_parse_undoes_render(messages, system):
    if system:
        messages = [{"role": "system", "content": system}, *messages]
    assert parse_transcript(render(messages)) == messages


@pytest.mark.parametrize(
    ("prompt", "text"),
    [
        ("Why? ", "\n\nHuman: Why?\n\nAssistant:"),
        ("\n\nHuman: Why?\n\nAssistant:", "\n\nHuman: Why?\n\nAssistant:"),
        ("\n\nHuman: Why?\n\nAssistant: ", "\n\nHuman: Why?\n\nAssistant:"),
        ("\n\nHuman: Why?", "\n\nHuman: Why?\n\nAssistant:"),
        ("Be kind.\n\nHuman: Why?\n\nAssistant:", "Be kind.\n\nHuman: Why?\n\nAssistant:"),
        (MESSAGES, TEXT + "\n\nAssistant:"),
    ],
)
def test_a_prompt_ends_where_the_answer_begins(prompt, text):
    assert prompt_text(prompt) == text


def test_the_last_answer_is_split_off():
    assert split_last_answer(TEXT + "\n\nAssistant: Good. ") == (TEXT + "\n\nAssistant:", "Good.")
    assert split_last_answer(TEXT + "\n\nAssistant:") == (TEXT + "\n\nAssistant:", "")


def test_two_conversations_part_at_the_last_turn_that_they_share():
    start = "\n\nHuman: Hi\n\nAssistant:"
    assert split_shared_prompt(start + " Yes.", start + " Yet.") == (start, "Yes.", "Yet.")
    longer = start + " Yes.\n\nHuman: Why?\n\nAssistant: So."
    assert split_shared_prompt(longer, start + " No.") == (start, longer[len(start) + 1 :], "No.")


def user(content):
    return {"role": "user", "content": content}


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: render([]), "list of messages is empty"),
        (lambda: render([{"role": "bot", "content": ""}]), "message 1 has the role 'bot': use 'user'"),
        (lambda: render([{"role": "user"}]), "message 1 is no object with 'role' and 'content'"),
        (lambda: render([user(3)]), "message 1 has a content that is no string"),
        (
            lambda: render([user("a\n\nAssistant: b")]),
            r"message 1 holds .*Assistant:', which would begin a new",
        ),
        (lambda: render([user("a"), {"role": "system", "content": "b"}]), "message 2 has the role 'system'"),
        (lambda: parse_transcript("Human: a"), "no turn .* in the transcript 'Human: a'"),
        (lambda: prompt_text(" \n"), "the prompt is empty"),
        (lambda: prompt_text(4), "neither a transcript nor a list of messages"),
        (lambda: prompt_text("\n\nHuman: a\n\nAssistant: b"), "ends in an answer"),
        (lambda: split_last_answer(TEXT), "does not end in a turn of the assistant"),
        (lambda: split_last_answer("plain"), "does not end in a turn of the assistant"),
        (
            lambda: split_shared_prompt("\n\nHuman: a\n\nAssistant: b", "\n\nHuman: c\n\nAssistant: d"),
            "share no",
        ),
    ],
)
def test_broken_dialogue_is_said(call, sentence):
    with pytest.raises(InputError, match=sentence):
        call()
