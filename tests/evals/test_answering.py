"""Answers of a model as rows, and back."""

import json

from rlhf_jax.data import Columns, Messages, Prompt, prompt_text
from rlhf_jax.evals import Row, Said, Write, answered, answering, figures_of, row_of
from tests.refusals import refusal

PROMPTS = [
    Prompt(prompt_text("Name a fruit."), "open_qa", "Ann", Columns({"answer": "pear"})),
    Prompt(Messages([{"role": "user", "content": "Name a fruit."}])),
    Prompt(prompt_text("Name a fruit."), user="Ann"),
    Prompt(prompt_text("Where?")),
]


def test_a_row_has_the_answer_its_length_and_its_user():
    task = answering(PROMPTS)
    assert [task.asks(item) for item in task.items] == [[Write(prompt)] for prompt in PROMPTS]
    rows = task.rows(task.items, [[Said("Pears.", True)], [Said("", True)], [Said("A fig", False)], [Said("é", True)]])
    assert [row.values["length"] for row in rows] == [6.0, 0.0, 5.0, 1.0]
    assert [row.values["ended"] for row in rows] == [1.0, 1.0, 0.0, 1.0]
    assert [row.cluster for row in rows] == ["Ann", PROMPTS[1].text, "Ann", PROMPTS[3].text]
    assert len({row.id for row in rows}) == 4
    # 11 of Ann's two characters and 1 of the two others' make a mean of 12/4 over three draws.
    assert figures_of(rows, task.scales)["length"][0] == 3.0 and figures_of(rows, task.scales)["length"].n == 3


def test_a_row_that_was_written_and_read_gives_the_same_prompt():
    task = answering(PROMPTS)
    rows = task.rows(task.items, [[Said("Pears.", True)]] * 4)
    for row, prompt in zip(rows, PROMPTS, strict=True):
        back = row_of(json.loads(json.dumps(row.as_json())))
        assert answered(back) == (row.id, prompt, "Pears.") == answered(row)
        assert type(answered(back).prompt.conversation) is type(prompt.conversation)
    refusal(lambda: answered(Row("x", "y", {})), "the row x shows no prompt and answer")


def test_two_models_rows_of_one_prompt_have_one_id_whatever_stands_before_it():
    ids = [item.id for item in answering(PROMPTS).items]
    assert [item.id for item in answering(PROMPTS[2:]).items] == [ids[0], ids[3]]
