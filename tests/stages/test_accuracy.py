"""How often a reward model orders answers as each labeler does, counted by hand."""

import sys

import numpy as np
import pytest

from rlhf_jax import stages
from rlhf_jax.data import Ranking, prompt_text
from rlhf_jax.evals import SHARE, ratio_interval
from rlhf_jax.stages import RUN
from tests.refusals import refusal

A, B = prompt_text("Name a fruit."), prompt_text("Where is the cat?")
LONG, MIDDLE, SHORT = "A pear is a fruit. An apple is a fruit.", "An apple is a fruit.", "A pear."
RANKINGS = [
    Ranking(B, (SHORT, LONG, MIDDLE), (1, 1, 2), "Bob"),  # one of two: Bob ties the first two
    Ranking(A, (MIDDLE, LONG, SHORT), (2, 1, 3), "Bob"),  # three of three
    Ranking(A, (LONG, MIDDLE), (2, 1), "Ann"),  # none of one
    Ranking(A, (MIDDLE, SHORT), (1, 2), "Ann"),  # one of one
    Ranking(A, (MIDDLE, SHORT), (1, 1), "Cay"),  # ties alone
]


@pytest.fixture
def reward(monkeypatch, tokenizer):
    """A reward model that likes what is long."""

    def scores_of(model, tokens, mask, *, batch, params):
        assert params == "its parameters" and batch == RUN.runtime.batch
        return np.asarray(mask.sum(1), np.float32)

    monkeypatch.setattr(sys.modules["rlhf_jax.stages.agreement"], "scores_of", scores_of)
    shape = stages.Decoder(width=8, layers=1, heads=1, kv_heads=1, hidden=8)
    of = stages.described(shape, tokenizer, stages.Format(48, 48, too_long="drop"))
    model = stages.Trained(of.decoder, tokenizer, of.format, sha256="r", step=1, scalar=True)
    return stages.Loaded(model, "its parameters")


@pytest.fixture(autouse=True)
def stand_ins(types_are_not_checked):
    """For parameters."""


def test_the_pairs_of_a_ranking_are_counted_without_ties(reward):
    assert stages.ordered(reward, RANKINGS) == [
        (B, "Bob", 1.0, 2),
        (A, "Bob", 3.0, 3),
        (A, "Ann", 0.0, 1),
        (A, "Ann", 1.0, 1),
    ]


def test_accuracy_by_labeler_is_over_the_prompts_of_each(reward, capsys):
    found = stages.accuracy_by_labeler(reward, RANKINGS)
    assert list(found.items()) == [
        ("Ann", ratio_interval([1], [2], SHARE)),  # one prompt, asked twice, is one draw
        ("Bob", ratio_interval([1, 3], [2, 3], SHARE)),
    ]
    assert (found["Ann"].n, found["Bob"].n) == (1, 2)
    assert "1 of 5 rankings have no answer above another" in capsys.readouterr().err


def test_of_several_labelers_and_models_a_prompt_is_one_draw(reward):
    twice = [*stages.ordered(reward, RANKINGS), *stages.ordered(reward, RANKINGS)]
    assert stages.accuracy_over_prompts(twice) == ratio_interval([2, 8], [4, 10], SHARE)


def test_what_does_not_fit_is_left_out_and_said(reward, capsys):
    long = Ranking(A, (LONG * 30, SHORT), (1, 2), "Dan")
    assert stages.ordered(reward, [long, RANKINGS[0]]) == [(B, "Bob", 1.0, 2)]
    assert "1 of 2 rankings to measure on are longer than" in capsys.readouterr().err


def test_a_ranking_of_nobody_is_refused(reward):
    words = ("ranking 2", "Name a fruit.", "names no labeler")
    refusal(lambda: stages.accuracy_by_labeler(reward, [RANKINGS[0], Ranking(A, (LONG, SHORT), (1, 2))]), *words)
    refusal(lambda: stages.accuracy_by_labeler(reward, []), "there are no rankings to measure on; give")
