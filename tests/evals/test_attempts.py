"""pass@k against counting subsets, and what a check says of answers."""

from functools import partial
from itertools import combinations

import numpy as np
import pytest

from rlhf_jax.data import Columns, Prompt, prompt_text
from rlhf_jax.evals import Said, attempts, figures_of, pass_at
from rlhf_jax.rewards import exact
from tests.refusals import refusal

PROMPTS = [
    Prompt(prompt_text("1 + 1?"), "sums", "Ann", Columns({"answer": "2"})),
    Prompt(prompt_text("2 + 2?"), "sums", "Ann", Columns({"answer": "4"})),
    Prompt(prompt_text("Capital of France?"), "facts", "", Columns({"answer": "Paris"})),
    Prompt(prompt_text("Who are you?"), "chat"),
]
SAID = [["2", "3", "2", "1"], ["5"] * 4, ["Paris", "Rome", "Oslo", " Paris "], ["Me"] * 4]


@pytest.mark.parametrize(("n", "c"), [(4, 0), (4, 1), (5, 3), (6, 6)])
def test_pass_at_k_is_the_share_of_subsets_in_which_one_passes(n, c):
    for k in range(1, n + 1):
        subsets = list(combinations([True] * c + [False] * (n - c), k))
        assert pass_at(k, c, n) == pytest.approx(np.mean([any(subset) for subset in subsets]))


def measured(check=exact, ks=(1, 2)):
    task = attempts(PROMPTS, check, draws=4, ks=ks)
    assert [len(task.asks(item)) for item in task.items] == [4] * 4
    rows = task.rows(task.items, [[Said(text, True) for text in said] for said in SAID])
    return rows, figures_of(rows, task.scales)


def test_figures_by_hand():
    rows, found = measured()
    assert [row.values.get("reward") for row in rows] == [0.5, 0, 0.5, None]  # of the last there is no opinion
    # Two of four pass: a pair without them is one of six.
    assert [row.values.get("pass@2") for row in rows] == pytest.approx([5 / 6, 0, 5 / 6, None])
    assert found["pass@1"].mean == found["reward"].mean == pytest.approx(1 / 3)
    assert found["pass@1"].n == 2  # Ann's two prompts are one draw
    assert (found["reward/sums"].mean, found["reward/facts"].mean) == (0.25, 0.5)
    assert "reward/chat" not in found


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (partial(attempts, PROMPTS, exact, 4, (8,)), "k from 1 to the 4 draws, not 8"),
        (partial(attempts, PROMPTS, exact, 4, ()), "not none"),
        (partial(measured, lambda p, a, r: [1.0]), "for 16 answers"),
        (partial(measured, lambda p, a, r: ["good"] * 16), "a finite number, or None"),
        (partial(measured, lambda p, a, r: [float("nan")] * 16), "a finite number, or None"),
    ],
)
def test_what_is_refused(call, sentence):
    refusal(call, sentence)
