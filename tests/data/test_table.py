import numpy as np
import pytest

from rlhf_jax.data import coefficient_table
from rlhf_jax.errors import InputError

KNOWN = ("beta", "gamma", "lr")


def rows(table):
    return list(zip(*(column.tolist() for column in table.values()), strict=True))


def test_prod_is_every_combination():
    table = coefficient_table("prod beta=0,0.5 gamma=1,2,3", KNOWN)
    assert list(table) == ["beta", "gamma"]
    assert rows(table) == [(0, 1), (0, 2), (0, 3), (0.5, 1), (0.5, 2), (0.5, 3)]


def test_zip_is_row_by_row():
    assert rows(coefficient_table("zip lr=1e-4,2e-4 beta=inf,0", KNOWN)) == [(1e-4, np.inf), (2e-4, 0)]


def test_a_csv_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("beta, gamma\n0.1,2\n\n0.2,3\n")
    assert rows(coefficient_table(str(path), KNOWN)) == [(0.1, 2), (0.2, 3)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("beta=1,2", "no table"),
        ("prod", "no table"),
        ("prod bta=1", "did you mean beta"),
        ("prod clip=1", "there are beta, gamma, lr"),
        ("prod beta=1,x", "'x' is no number"),
        ("prod beta=", "'' is no number"),
        ("zip beta=1,2 lr=1", r"\[1, 2\] numbers"),
        ("prod beta=1,1", "beta = 1 is there twice"),
        ("missing.csv", "missing.csv cannot be read"),
    ],
)
def test_what_is_no_table_is_one_sentence(text, words):
    with pytest.raises(InputError, match=words):
        coefficient_table(text, KNOWN)


@pytest.mark.parametrize(
    ("content", "words"),
    [("", "empty"), ("beta\n", "a line for each"), ("beta,beta\n1,2\n", "different names"), ("beta,lr\n1\n", "line 2")],
)
def test_a_broken_csv_is_one_sentence(content, words, tmp_path):
    path = tmp_path / "table.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=words):
        coefficient_table(str(path), KNOWN)
