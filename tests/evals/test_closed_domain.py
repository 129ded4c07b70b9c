"""What an answer says that nobody gave it."""

import json

import pytest

from rlhf_jax.data import Prompt
from rlhf_jax.evals import Said, closed_domain, figures_of, read_closed_domain, unsupported

GIVEN = "Ada Lovelace wrote 4,000 lines in 1843, four of them for Babbage's Engine. She said “it weaves patterns”."


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        ("Ada Lovelace wrote 4000 lines.", []),
        ("She wrote 4,000.0 lines for Babbage.", []),
        ("She wrote 5,000 lines.", ["5,000"]),
        ("In 1844 she wrote four, and 4, lines.", ["1844"]),
        ("She wrote seven lines.", ["seven"]),
        ("It was one of them.", []),  # counts nothing
        ("She met Turing and LOVELACE.", ["Turing"]),
        ("Turing met her.", []),  # opens a sentence, as any word does
        ("She wrote. Then Turing's aunt", ["Turing's"]),
        ("She said “it weaves  Patterns.”", []),
        ("She said “it plays music”.", ["it plays music"]),
        ("The engine's lines", []),
        ("", []),
        ("I think that I'm right", []),
    ],
)
def test_unsupported(answer, found):
    assert unsupported(answer, GIVEN) == found


def test_the_task_counts_answers_and_things(tmp_path):
    rows = [
        {"prompt": "Summarise:", "context": GIVEN, "reference": "Ada wrote for Charles.", "category": "summarization"},
        {"prompt": "Who?", "context": GIVEN, "reference": "Ada", "category": "closed_qa"},
        {"prompt": "Who wrote it, Bob or Eve?", "reference": "Eve", "category": "closed_qa", "id": "last"},
    ]
    path = tmp_path / "closed.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    items = read_closed_domain(str(path))
    assert items[0].cluster == items[1].cluster != items[2].cluster == "last"
    task = closed_domain(items)
    assert task.asks(items[0])[0].context == f"Summarise:\n\n{GIVEN}\n\n"
    assert isinstance(closed_domain(items, chat=True).asks(items[0])[0].context, Prompt)
    said = [[Said(text, True)] for text in ("It was for Charles.", "It was Mary in 1900.", "")]
    found = {name: e.mean for name, e in figures_of(task.rows(items, said), task.scales).items()}
    assert found == {
        "hallucination/any": pytest.approx(1 / 3), "hallucination/found": pytest.approx(2 / 3),
        "hallucination/empty": pytest.approx(1 / 3), "hallucination_in/summarization": 0, "hallucination_in/closed_qa": 0.5,
    }  # fmt: skip


def test_a_checker_of_ones_own(tmp_path):
    path = tmp_path / "closed.jsonl"
    path.write_text(json.dumps({"prompt": "P", "reference": "R"}))
    items = read_closed_domain(str(path))
    task = closed_domain(items, lambda answer, given: [given])
    (row,) = task.rows(items, [[Said("x", True)]])
    assert row.shown["found"] == ["P\n\nR"]
