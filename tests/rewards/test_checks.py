"""Rewards that can be computed, by hand; those that TRL or math-verify have too, against them."""

import sys
from functools import partial

import pytest

from rlhf_jax import rewards
from rlhf_jax.data import Columns, Prompt, prompt_text
from rlhf_jax.rewards import AnswerText
from tests.refusals import refusal

P = Prompt(prompt_text("How many?"))


def asked(reward, answers, wanted=None, column="answer"):
    """What it gives answers to one prompt whose rows have these in a column; ... leaves the column out."""
    rows = [Columns() if each is ... else Columns({column: each}) for each in wanted or [...] * len(answers)]
    return reward([P] * len(answers), answers, rows)


def tokens(count, ended=True):
    return AnswerText("words " * count, range(count), ended)


def test_exact_is_the_column_s_text_and_has_no_opinion_without_it():
    assert asked(rewards.exact, ["four ", "Four", "4", "x", "x"], [" four", "four", 4, None, ...]) == [
        1,
        0,
        1,
        None,
        None,
    ]
    assert asked(partial(rewards.exact, column="solution"), ["a"], ["a"], "solution") == [1]


SAME = [
    ("It is 1,234.", "1234"),
    ("so 1234.0 apples", "#### 1,234"),
    ("1/2", "0.5"),
    (".5", "1/2"),
    ("$5 each, 10 in all.", 10),
    ("−3", "-3"),
    ("2e3", "2000"),
    ("first 7, then 8", "8"),
    ("1, 2, 3", "3"),
    ("333333/1000000", "0.333333"),
    ("x=-2", "-2"),
]
OTHER = [("1,234", "234"), ("12", "1"), ("none", "1"), ("-3", "3"), ("3.1", "3"), ("1/0", "1"), ("H2O", "2"), ("", "0")]


def test_numeric_is_the_last_number_however_it_is_written():
    for pairs, value in ((SAME, 1.0), (OTHER, 0.0)):
        for answer, wanted in pairs:
            assert asked(rewards.numeric, [answer], [wanted]) == [value], (answer, wanted)
    assert asked(rewards.numeric, ["1", "1", "1"], ["one", None, ...]) == [None] * 3
    assert asked(rewards.numeric, ["9" * 5000, "1e999999999"], ["1", "2"]) == [0, 0]


def test_a_pattern_is_found_anywhere_unless_it_says_where():
    assert asked(partial(rewards.pattern, regex=r"^<a>.*</a>$"), ["<a>x</a>", "<a>\n</a>", "b <a></a>"]) == [1, 0, 0]
    assert asked(partial(rewards.pattern, regex="(?s)<a>.*</a>"), ["<a>x</a>", "<a>\n</a>", "b <a></a>"]) == [1, 1, 1]


def test_lengths_are_counted_in_tokens():
    assert asked(rewards.length, [tokens(0), tokens(3)]) == [0, 3]
    # DAPO, Eq. 13, with a limit of 10 and a buffer of 4: 0 up to 6, then −1/4 a token.
    soft = partial(rewards.overlong, limit=10, buffer=4)
    assert asked(soft, [tokens(n) for n in (1, 6, 7, 9, 10, 11)]) == [0, 0, -0.25, -0.75, -1, -1]
    refusal(lambda: asked(rewards.length, ["plain"]), "counts tokens, and was given plain text")
    for buffer in (0, 11):
        wrong = partial(rewards.overlong, limit=10, buffer=buffer)
        refusal(partial(asked, wrong, [tokens(1)]), f"a buffer of {buffer}")


def test_the_soft_punishment_is_trl_s():
    trl = pytest.importorskip("trl.rewards", reason="TRL is not installed")
    answers = [tokens(n) for n in range(25)]
    theirs = trl.get_soft_overlong_punishment(max_completion_len=20, soft_punish_cache=8)
    ids = [list(answer.ids) for answer in answers]
    assert asked(partial(rewards.overlong, limit=20, buffer=8), answers) == theirs(completion_ids=ids)


EQUAL = [(r"\boxed{\frac{2}{4}}", "1/2"), ("It is $x+1$.", "1+x"), ("72", "#### 72"), (r"$\sqrt{8}$", r"2\sqrt{2}")]
UNEQUAL = [(r"\boxed{\frac{1}{3}}", "1/2"), ("$x^2$", "x^3"), ("nothing", "1"), (r"$\sqrt{8}$", "2")]


def test_mathematical_equality_is_of_what_formulas_mean():
    pytest.importorskip("math_verify", reason="math-verify is not installed")
    for pairs, value in ((EQUAL, 1.0), (UNEQUAL, 0.0)):
        answers, wanted = zip(*pairs, strict=True)
        assert asked(rewards.math_equal, list(answers), list(wanted)) == [value] * len(pairs)
    assert asked(rewards.math_equal, ["1", "1", "1"], ["nothing to read", None, ...]) == [None] * 3


def test_without_math_verify_a_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    refusal(lambda: asked(rewards.math_equal, ["1"], ["1"]), "pip install 'rlhf_jax[math]'")
