"""SQuAD's and DROP's measures on cases worked by hand from the official scripts' definitions, and against lm_eval's DROP."""

import json
from functools import partial

import pytest

from rlhf_jax.data import Prompt
from rlhf_jax.errors import InputError
from rlhf_jax.evals import (
    Said,
    drop,
    drop_exact,
    drop_f1,
    figures_of,
    read_drop,
    read_squad,
    squad,
    squad_exact,
    squad_f1,
)

SQUAD = [  # said, right, exact, F1 = 2 · shared / (words said + words right)
    ("France", "France", 1, 1),
    ("the France", "France", 1, 1),  # articles are no words
    ("a", "the", 1, 1),  # both without words
    ("France.", "France", 1, 1),
    ("in France", "France", 0, 2 / 3),  # 2·1/(2+1)
    ("France", "Germany", 0, 0),
    ("", "", 1, 1),
    ("", "France", 0, 0),
    ("France", "", 0, 0),  # something said where there is no answer
    ("4,000", "4000", 1, 1),  # the comma is punctuation
    ("4.0", "4", 0, 0),  # "40" against "4"
    ("Normans normans", "Normans", 0, 2 / 3),  # as often as it stands there: 2·1/(2+1)
    ("New York, New York", "New York New York", 1, 1),  # 2·4/(4+4)
    ("new york city", "York New", 0, 4 / 5),  # order counts for exact alone: 2·2/(3+2)
    ("anthem", "them", 0, 0),  # an article inside a word stays
    ("Beyoncé", "Beyonce", 0, 0),  # accents count
    ("“France”", "France", 0, 0),  # quotes beyond ASCII are no punctuation to the script
    ("It's Scotland's oil", "Its Scotlands oil", 1, 1),
    ("the Duke of Normandy", "Duke of Normandy, the", 1, 1),
]


@pytest.mark.parametrize(("said", "right", "exact", "f1"), SQUAD)
def test_squad_by_hand(said, right, exact, f1):
    assert squad_exact(said, right) == exact
    assert squad_f1(said, right) == pytest.approx(f1)


DROP = [  # said, right, exact, F1 of sets of words, aligned spans, two decimals
    (["4"], ["4"], 1, 1),
    (["4.0"], ["4"], 1, 1),  # numbers are floats
    (["4,000"], ["4000"], 1, 1),
    (["$1,500"], ["1500"], 1, 1),  # a number once its punctuation is gone
    (["4 yards"], ["4"], 0, 0.67),  # 2·1·½/(1½)
    (["5 yards"], ["4 yards"], 0, 0),  # the right one's number is not said
    (["yards"], ["4 yards"], 0, 0),
    (["4 yards"], ["yards"], 0, 0.67),  # no number in the right one: P ½, R 1
    (["the Saints"], ["Saints"], 1, 1),
    (["24-yard"], ["24 yard"], 1, 1),  # cut at hyphens
    (["Saints Saints"], ["Saints"], 0, 1),  # sets of words
    (["Tom Brady", "Bob"], ["Bob", "Tom Brady"], 1, 1),  # in any order
    (["Tom Brady"], ["Tom Brady", "Bob"], 0, 0.5),  # (1 + 0)/2
    (["Tom Brady", "Bob", "Al"], ["Tom Brady"], 0, 0.33),  # 1/3
    (["a b"], ["b c d", "b"], 0, 0.5),  # beside the second, 1, rather than the first, 2·1·⅓/(4/3) = ½; over 2
    (["Tom", "Tom Brady"], ["Tom Brady", "Brady"], 0, 0.67),  # not 1 + 0 but ⅔ + ⅔, over 2
    (["Hernán Peraza"], ["Hernan Peraza"], 0, 0.5),  # accents count: P ½, R ½
    ([""], ["Tom"], 0, 0),  # precision 1, recall 0
    (["-3"], ["3"], 1, 1),  # cut at the hyphen
]


@pytest.mark.parametrize(("said", "right", "exact", "f1"), DROP)
def test_drop_by_hand(said, right, exact, f1):
    assert drop_exact(said, right) == exact
    assert drop_f1(said, right) == pytest.approx(f1)


def test_drop_is_lm_evals():
    utils = pytest.importorskip("lm_eval.tasks.drop.utils")
    for said, right, *_ in DROP:
        assert (drop_exact(said, right), drop_f1(said, right)) == pytest.approx(utils.get_metrics(said, right)), said


ARTICLE = {
    "title": "Normans",
    "paragraphs": [
        {
            "context": "The Normans lived in Normandy.",
            "qas": [
                {"id": "1", "question": "Where?", "answers": [{"text": "Normandy"}, {"text": "in Normandy"}]},
                {"id": "2", "question": "When?", "answers": [], "is_impossible": True},
                {"id": "3", "question": "Who?", "answers": [{"text": "The Normans"}]},
            ],
        }
    ],
}


def written(folder, value, name="file.json"):
    path = folder / name
    path.write_text(json.dumps(value))
    return str(path)


def test_squad_asks_in_the_papers_words_and_scores_what_has_no_answer(tmp_path):
    items = read_squad(written(tmp_path, {"version": "v2.0", "data": [ARTICLE]}))
    task = squad(items)
    (ask,) = task.asks(items[2])
    assert str(ask.context).endswith(
        "answer with “Not in background.”\n\nTitle: Normans\n\nBackground: The Normans lived in Normandy.\n\n"
        "Q: Where?\n\nA: Normandy\n\nQ: When?\n\nA: Not in background.\n\nQ: Who?\n\nA:"
    )
    rows = task.rows(items, [[Said(text, True)] for text in ("in Normandy", "not in background", "Not in background.")])
    assert [row.values["squad/f1"] for row in rows] == [1, 1, 0]
    figures = {name: estimate.mean for name, estimate in figures_of(rows, task.scales).items()}
    assert figures["squad/exact"] == pytest.approx(2 / 3)
    assert (figures["squad_answerable/f1"], figures["squad_unanswerable/f1"]) == (0.5, 1)
    assert {row.cluster for row in rows} == {"Normans"}


def test_shots_and_conversations(tmp_path):
    items = read_squad(written(tmp_path, {"data": [ARTICLE]}))
    (ask,) = squad(items, shots=[items[0]]).asks(items[1])
    assert "Q: Where?\n\nA: Normandy\n\nTitle: Normans" in ask.context
    (ask,) = squad(items, chat=True).asks(items[0])
    assert isinstance(ask.context, Prompt)
    said = ask.context.text
    assert said.startswith("\n\nHuman: Answer each question") and said.endswith("A:\n\nAssistant:")


def test_squads_rows_of_the_hub(tmp_path):
    row = {
        "id": "1",
        "title": "T",
        "context": "C",
        "question": "Q?",
        "answers": {"text": ["x", "x"], "answer_start": [0, 0]},
    }
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps({**row, "id": "2", "answers": {"text": []}}))
    assert [item.answers for item in read_squad(str(path))] == [(("x",),), ()]
    path.write_text(json.dumps({**row, "answers": "x"}))
    with pytest.raises(InputError, match="line 1: 'answers' has no list"):
        read_squad(str(path))


EMPTY = {"number": "", "date": {"day": "", "month": "", "year": ""}, "spans": []}
PASSAGE = {
    "passage": "Tom and Bob ran 4 miles on 5 March 1918.",
    "qa_pairs": [
        {"query_id": "a", "question": "How far?", "answer": {**EMPTY, "number": "4"}, "validated_answers": [EMPTY]},
        {"query_id": "b", "question": "Who?", "answer": {**EMPTY, "spans": ["Tom", "Bob"]}},
        {
            "query_id": "c", "question": "When?",
            "answer": {**EMPTY, "date": {"day": "5", "month": "March", "year": "1918"}},
            "validated_answers": [{**EMPTY, "date": {"day": "", "month": "", "year": "1918"}}],
        },
    ],
}  # fmt: skip


def test_drop_reads_numbers_spans_and_dates_and_lists(tmp_path):
    items = read_drop(written(tmp_path, {"p1": PASSAGE}))
    assert [item.answers for item in items] == [(("4",),), (("Tom", "Bob"),), (("5 March 1918",), ("1918",))]
    task = drop(items, shots=[items[1]])
    (ask,) = task.asks(items[0])
    assert ask.context == (
        f"Passage: {PASSAGE['passage']}\nQuestion: Who?\nAnswer: Tom and Bob\n\n"
        f"Passage: {PASSAGE['passage']}\nQuestion: How far?\nAnswer:"
    )
    rows = task.rows(items, [[Said(text, True)] for text in ("4 miles", "Bob and Tom", "1918")])
    # one span {bob, and, tom} against {tom}, {bob}: P ⅓, R 1, F1 ½ of one of two spans
    assert [row.values["drop/f1"] for row in rows] == [0.67, 0.25, 1]
    assert [row.values["drop_list/f1"] for row in rows] == [0.67, 1, 1]


def test_drops_rows_of_the_hub(tmp_path):
    row = {"section_id": "s", "query_id": "q", "passage": "P", "question": "Q?", "answer": {**EMPTY, "number": "4"}}
    others = {"number": ["", "5"], "date": [EMPTY["date"]] * 2, "spans": [["x"], []]}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**row, "validated_answers": others}))
    assert [item.answers for item in read_drop(str(path))] == [(("4",), ("x",), ("5",))]


@pytest.mark.parametrize(
    ("read", "value", "sentence"),
    [
        (read_squad, {"data": [{"title": "T"}]}, "no 'paragraphs'"),
        (read_squad, {"version": 2}, "where the official file has data"),
        (read_drop, {"p": {"passage": "x"}}, "'p' has no 'qa_pairs'"),
        (read_drop, {"p": {"passage": "x", "qa_pairs": [{"query_id": "1", "question": "?", "answer": {}}]}}, "not number"),
        (read_squad, {"data": []}, "has no questions"),
    ],
)  # fmt: skip
def test_a_broken_file_is_named(tmp_path, read, value, sentence):
    with pytest.raises(InputError, match=sentence):
        read(written(tmp_path, value))


def test_a_question_twice_is_refused(tmp_path):
    path = partial(written, tmp_path)
    with pytest.raises(InputError, match="'1' stands there 2 times"):
        read_squad(path({"data": [ARTICLE, ARTICLE]}))
