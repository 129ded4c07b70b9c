"""What labelers write: what is refused, and what is learned from it."""

import pytest

from rlhf_jax.data import Demonstration, Messages, Prompt, prompt_text, read_demonstrations
from rlhf_jax.labelers import (
    WRITINGS,
    Assignment,
    as_demonstrations,
    as_prompts,
    checked_assignment,
    checked_written,
    write_demonstrations,
)
from tests.refusals import refusal

CHAT = Messages([{"role": "user", "content": "Name a fruit."}])
ANSWER = Assignment("d", "demonstration", CHAT, "user 1").written("Ann", text=" An apple.\n", seconds=2)
PLAIN = Assignment("p", "plain", "").written("Ann", text="Write a poem.")
FEW = Assignment("f", "few_shot", "").written(
    "Ann", text="Give the sentiment.", examples=[["I am glad.", "happy"], ["I weep.", "sad"], ["So what.", "neither"]]
)
CASE = Assignment("u", "user_based", "Writing to my landlord").written("Bob", text="Write to my landlord.")
SKIPPED = Assignment("d2", "demonstration", "What is it?").written("Ann", skipped="I do not know")


@pytest.mark.parametrize(
    ("of", "wrong", "words"),
    [
        (ANSWER, {"text": " "}, "neither a text nor a reason to skip"),
        (ANSWER, {"skipped": "no"}, "both a text and a reason to skip"),
        (ANSWER, {"text": 7}, "text is 7: make it a text"),
        (ANSWER, {"text": "\ud800"}, "text holds half a character"),
        (ANSWER, {"labeler": ""}, "nobody is named who wrote it"),
        (ANSWER, {"about": ""}, "the prompt is empty"),
        (ANSWER, {"kind": "song"}, "'song' is nothing that is written: there are demonstration, plain"),
        (ANSWER, {"examples": (("a", "b"), ("c", "d"))}, "a demonstration has no examples"),
        (ANSWER, {"seconds": float("nan")}, "seconds is nan"),
        (ANSWER, {"task": ""}, "the assignment has no id"),
        (FEW, {"examples": FEW.examples[:1]}, "has 1 examples: give it 2 to 64"),
        (FEW, {"examples": (("a", "b"), ("c", " "))}, "example 2 has an empty query or response"),
        (FEW, {"examples": (("a", "b"), ("c",))}, "example 2 is ('c',): give a query and its response"),
        (FEW, {"examples": (("a", "b"), "cd")}, "example 2 is 'cd'"),
        (FEW, {"examples": (("a", 7), ("c", "d"))}, "example 1 is 7: make it a text"),
        (FEW, {"examples": None}, "the examples are None"),
        (CASE, {"about": 7}, "what it is about is 7"),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(of, wrong, words):
    refusal(lambda: checked_written(of._replace(**wrong)), words)


def test_what_is_right_is_left_alone():
    for one in (ANSWER, PLAIN, FEW, CASE, SKIPPED):
        assert checked_written(one) == one
        asked = Assignment(one.task, one.kind, one.about, one.user)
        assert checked_assignment(asked) == asked
    assert ANSWER.text == "An apple." and ANSWER.about == CHAT and ANSWER.seconds == 2.0
    assert {one.kind for one in (ANSWER, PLAIN, FEW, CASE)} == set(WRITINGS)


def test_each_of_k_examples_is_learned_after_the_others():
    first, second, third = as_demonstrations([FEW, PLAIN, SKIPPED])
    assert first == Demonstration(
        prompt_text(
            "Give the sentiment.\n\nQuery: I weep.\nResponse: sad\n\nQuery: So what.\nResponse: neither"
            "\n\nQuery: I am glad.\nResponse:"
        ),
        "happy",
        "Ann",
    )
    assert second.answer == "sad" and "I am glad.\nResponse: happy" in second.prompt
    assert third.answer == "neither" and "Response: neither" not in third.prompt


def test_prompts_are_those_that_stand_alone():
    assert as_prompts([ANSWER, PLAIN, FEW, CASE, SKIPPED]) == [
        Prompt(prompt_text("Write a poem."), user="Ann"),
        Prompt(prompt_text("Write to my landlord."), user="Bob"),
    ]


def test_demonstrations_have_a_file(tmp_path):
    found = as_demonstrations([ANSWER, FEW, SKIPPED])
    assert found[0] == Demonstration(CHAT, "An apple.", "user 1") and len(found) == 4
    write_demonstrations(tmp_path / "d.jsonl", found)
    assert read_demonstrations(str(tmp_path / "d.jsonl")) == found
    refusal(lambda: write_demonstrations(tmp_path / "d.csv", found), "d.csv: unknown ending: let it be .jsonl")
    refusal(
        lambda: write_demonstrations(tmp_path / "none" / "d.jsonl", found),
        "d.jsonl cannot be written (No such file or directory): make its folder",
    )


def test_turns_that_a_labeler_quotes_are_no_turns(tmp_path):
    """In a few-shot prompt's text or examples they are what one user says, and one labeler's hinder no other's."""
    quoted = "A says:\n\nHuman: a\n\nAssistant: b\n\nHuman: c"
    few = FEW._replace(
        text=f"Label the dialogue.\n\nAssistant: x{quoted}", examples=((quoted, "kind"), ("Hi.", "rude"))
    )
    found = as_demonstrations([few, ANSWER])
    write_demonstrations(tmp_path / "d.jsonl", found)
    for read in (found, read_demonstrations(str(tmp_path / "d.jsonl"))):
        first, second, _ = (row.prompt for row in read)
        assert [m["role"] for m in first] == [m["role"] for m in second] == ["user"]
        assert first[0]["content"].startswith("Label the dialogue.\n\nAssistant: x")
        assert first[0]["content"].endswith(f"Query: {quoted}\nResponse:")
