"""A flagged prompt does not reach the model, a flagged answer not the user, and the log says why."""

import json
from itertools import product

import pytest

from rlhf_jax.moderation import Policy, Rule, Rules, moderated
from tests.refusals import refusal

RULES = Rules((Rule("rude words", "rude", ("zonk",)),))
PROMPTS = ["Hello", "You zonk", "Say it", "Bye"]
SAID = {"Hello": "Hi", "You zonk": "No", "Say it": "Z0NK!", "Bye": "Bye"}


@pytest.mark.parametrize(("on_input", "on_output"), list(product(("pass", "filler", "refuse"), repeat=2)))
def test_each_side_does_what_the_policy_says(on_input, on_output, tmp_path):
    asked = []

    def respond(prompts):
        asked.extend(prompts)
        return [SAID[prompt] for prompt in prompts]

    log = tmp_path / "log.jsonl"
    found = moderated(respond, RULES, Policy(on_input, on_output, "…"), log)(PROMPTS)
    instead = {"filler": "…", "refuse": None}
    assert [one.answer for one in found] == ["Hi", instead.get(on_input, "No"), instead.get(on_output, "Z0NK!"), "Bye"]
    assert asked == [p for p in PROMPTS if on_input == "pass" or p != "You zonk"]
    assert [one.on_input.flagged for one in found] == [False, True, False, False]
    assert [one.on_output and one.on_output.flagged for one in found] == [
        False,
        False if on_input == "pass" else None,
        True,
        False,
    ]
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(row["side"], row["text"]) for row in rows] == [
        *(("input", prompt) for prompt in PROMPTS),
        *(("output", SAID[prompt]) for prompt in asked),
    ]
    flagged = {(row["side"], row["action"]): row["reasons"] for row in rows if row["flagged"]}
    assert {key: [(r["name"], r["text"]) for r in reasons] for key, reasons in flagged.items()} == {
        ("input", on_input): [("rude words", "zonk")],
        ("output", on_output): [("rude words", "Z0NK")],
    }
    assert {row["action"] for row in rows if not row["flagged"]} == {"pass"}


def test_a_log_is_added_to(tmp_path):
    ask = moderated(lambda prompts: prompts, RULES, log=tmp_path / "log.jsonl")
    for _ in range(2):
        ask(["Hello"])
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 4


def test_what_cannot_be_is_refused(tmp_path):
    refusal(
        lambda: moderated(lambda prompts: prompts, RULES, log=tmp_path / "none" / "log.jsonl")(["Hello"]),
        "log.jsonl cannot be written (No such file or directory)",
    )
    policy = Policy()
    object.__setattr__(policy, "on_input", "drop")  # past the tests' own check of types
    refusal(policy.__post_init__, "on_input is 'drop': make it 'pass', 'filler' or 'refuse'")
    refusal(lambda: Policy(filler=" "), "the filler is empty")
    refusal(lambda: moderated(lambda prompts: [], RULES)(["Hello"]), "1 prompts got 0 answers")
    refusal(lambda: moderated(lambda prompts: prompts, lambda text: True)(["Hello"]), "the moderator gave True")
