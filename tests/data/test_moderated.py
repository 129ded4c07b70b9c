"""Labelled texts: what is missing is unknown, what is wrong is one sentence, and near copies stay together."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.data import (
    CATEGORIES,
    LabelledText,
    alike,
    dealt,
    encode_labelled,
    encode_text,
    read_labelled_texts,
    take,
    without_padding,
)
from tests.refusals import refusal


def written(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_a_category_that_is_missing_is_unknown(tmp_path):
    source = written(tmp_path / "a.jsonl", {"prompt": "x y", "S": 1, "V2": 0}, {"prompt": "z", "H": None})
    assert read_labelled_texts(source) == [LabelledText("x y", {"S": True, "V2": False}), LabelledText("z", {})]
    (tmp_path / "a.csv").write_text("text,rude\nhello,0\nfool,1\nwho,\n")
    assert read_labelled_texts(str(tmp_path / "a.csv"), ("rude",), "text") == [
        LabelledText("hello", {"rude": False}),
        LabelledText("fool", {"rude": True}),
        LabelledText("who", {}),
    ]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "x", "SS": 1}, ("'SS' is no category; these are S, H, V, HR, SH, S3, H2, V2",)),
        ({"prompt": "x", "S": 2}, ("'S' is 2: make it 0 or 1",)),
        ({"prompt": "x", "S": "yes"}, ("'S' is 'yes': make it 0 or 1",)),
        ({"prompt": "x", "S": [1]}, ("'S' is [1]: make it 0 or 1",)),
        ({"prompt": "x", "S": 0.5}, ("'S' is 0.5",)),
        ({"S": 1}, ("the key 'prompt' is missing",)),
        ({"prompt": " \n", "S": 1}, ("'prompt' is empty",)),
    ],
)
def test_what_is_wrong_is_one_sentence_with_its_line(tmp_path, row, words):
    source = written(tmp_path / "a.jsonl", {"prompt": "fine", "S": 0}, row)
    refusal(lambda: read_labelled_texts(source), f"{source}, line 2: ", *words)


def test_a_file_without_rows_is_refused(tmp_path):
    refusal(lambda: read_labelled_texts(written(tmp_path / "a.jsonl")), "holds no rows")


def test_the_labels_stand_in_the_order_of_the_categories_and_a_long_text_loses_its_end(tokenizer):
    rows = [
        LabelledText("The cat sat.", {"b": True}),
        LabelledText("An apple is a fruit. " * 9, {"a": False, "c": True}),
    ]
    batch = encode_labelled(rows, tokenizer, 16, ("a", "b", "c"))
    ids = encode_text("The cat sat.", tokenizer)
    assert ids == [*tokenizer.encode("The cat sat."), tokenizer.eos]
    assert batch.tokens[0][batch.mask[0]].tolist() == ids and batch.mask[0, : len(ids)].all()
    whole = tokenizer.encode("An apple is a fruit. " * 9)
    assert batch.tokens[1].tolist() == [*whole[:15], tokenizer.eos] and batch.mask[1].all()
    np.testing.assert_array_equal(batch.known, [[False, True, False], [True, False, True]])
    np.testing.assert_array_equal(batch.labels, [[False, True, False], [False, False, True]])


def test_a_batch_of_short_texts_loses_columns_and_no_category(tokenizer):
    """With as many categories as columns."""
    names = tuple(f"c{i}" for i in range(16))
    batch = encode_labelled([LabelledText("cat", {"c15": True})] * 3, tokenizer, 16, names)
    found = without_padding(take(batch, np.array([2, 0])))
    assert found.tokens.shape == found.mask.shape == (2, 8) and found.labels.shape == found.known.shape == (2, 16)
    assert found.labels[:, 15].all()


def test_near_copies_have_one_number():
    base = "the quick brown fox jumps over the lazy dog and then over the fence"
    texts = [base, "Something else entirely, about boats.", base.upper() + "!", "ab", "AB ", base[:20]]
    found = alike(texts, 0.5)
    assert found[0] == found[2] and found[3] == found[4]
    assert len(set(found.tolist())) == 4
    pieces = [{t[i : i + 5] for i in range(max(len(t) - 4, 1))} for t in ("abcdefgh", "abcdefgx")]
    assert len(pieces[0] & pieces[1]) / len(pieces[0] | pieces[1]) == 3 / 5
    assert len(set(alike(["abcdefgh", "abcdefgx"], 0.6).tolist())) == 1
    assert len(set(alike(["abcdefgh", "abcdefgx"], 0.61).tolist())) == 2


def test_folds_keep_groups_together_and_are_of_one_size():
    groups = np.repeat(np.arange(50), np.arange(50) % 3 + 1)
    found = dealt(groups, 5, 0)
    assert all(len(set(found[groups == g])) == 1 for g in range(50))
    sizes = np.bincount(found, minlength=5)
    assert sizes.max() - sizes.min() <= 3 and sizes.sum() == len(groups)
    np.testing.assert_array_equal(dealt(groups, 5, 0), found)
    assert (dealt(groups, 5, 1) != found).any()
    refusal(lambda: dealt([0, 0, 1], 3, 0), "2 texts that are unlike cannot be 3 folds")


def test_the_published_texts():
    """The 1,680 labelled prompts of Markov et al. 2022, less those that the data's README names."""
    path = Path(os.environ.get("RLHF_JAX_DATA", "")) / "moderation" / "samples.jsonl.gz"
    if not path.is_file():
        pytest.skip("RLHF_JAX_DATA is not set, or has no moderation/samples.jsonl.gz")
    rows = read_labelled_texts(str(path))
    assert len(rows) == 1207 and sum(any(row.labels.values()) for row in rows) == 328
    assert {name: sum(row.labels.get(name, False) for row in rows) for name in CATEGORIES}["SH"] == 43
