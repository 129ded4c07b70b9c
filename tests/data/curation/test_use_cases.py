"""The ten use-cases of InstructGPT's Table 1, by examples of each."""

import pytest

from rlhf_jax.data import Prompt, prompt_text
from rlhf_jax.data.curation import TABLE_1, use_case, with_use_case

STORY = "Mia planted a row of beans behind the shed. " * 8
EXAMPLES = {
    "generation": [
        "Write a short story about a lighthouse.",
        "Compose an email to my landlord",
        "Create a menu for a café",
    ],
    "open_qa": ["Who built the Eiffel tower?", "How do magnets work", "Explain the moon landing to a child"],
    "closed_qa": [f"{STORY} What did Mia plant?", "Answer by the text only. Based on the passage: why did she leave?"],
    "brainstorming": [
        "List five ideas for a birthday party",
        "Give me 10 names for a bakery",
        "What are some ways to save water?",
    ],
    "chat": [
        "The following is a conversation with an AI assistant.\n\nAI: Hi!",
        "Hello!",
        "Hi\n\nAssistant: Hi!\n\nHuman: Who are you?",
    ],
    "rewrite": ["Rewrite this to be polite: go away", "Translate to French: the cat", "Fix the grammar: he go home"],
    "summarization": [f"Summarize this for a child: {STORY}", f"{STORY}\n\nTL;DR:"],
    "classification": [
        "Is the sentiment positive or negative: I loved it",
        "Classify these as fruit or tree: fig, oak",
    ],
    "extract": ["Extract all place names: Paris, Rome", "List all people mentioned in the article: …"],
    "other": ["start where you left off", "42"],
}


def test_the_table_is_whole():
    assert set(EXAMPLES) == set(TABLE_1) and sum(TABLE_1.values()) == pytest.approx(100, abs=0.2)


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples(name):
    assert {
        text: use_case(Prompt(prompt_text(text) if "\n\nHuman" not in text else f"\n\nHuman: {text}\n\nAssistant:"))
        for text in EXAMPLES[name]
    } == dict.fromkeys(EXAMPLES[name], name)


def test_a_category_that_is_there_stays():
    assert with_use_case(Prompt("Who?", "quiz")).category == "quiz"
    assert with_use_case(Prompt("Who?")) == Prompt("Who?", "open_qa")
