"""What a reward model that likes what is long gives texts."""

import sys

import numpy as np
import pytest

from rlhf_jax import stages
from rlhf_jax.data import Ranking, prompt_text
from tests.refusals import refusal

A, B = prompt_text("Name a fruit."), prompt_text("Where is the cat?")
LONG, MIDDLE, SHORT = "A pear is a fruit. An apple is a fruit.", "An apple is a fruit.", "A pear."


@pytest.fixture
def reward(monkeypatch, tokenizer, types_are_not_checked):
    def scores_of(model, tokens, mask, *, batch, params):
        return np.asarray(mask.sum(1), np.float32)

    monkeypatch.setattr(sys.modules["rlhf_jax.stages.agreement"], "scores_of", scores_of)
    shape = stages.Decoder(width=8, layers=1, heads=1, kv_heads=1, hidden=8)
    of = stages.described(shape, tokenizer, stages.Format(48, 48, too_long="drop"))
    model = stages.Trained(of.decoder, tokenizer, of.format, sha256="r", step=1, scalar=True)
    return stages.Loaded(model, "its parameters")


def length(reward, prompt, text):
    t = reward.model.tokenizer
    return float(len(t.encode(prompt + " " + text)) + 1)


def test_each_pair_of_a_ranking_has_its_scores_margin_and_cluster(reward, capsys):
    rankings = [
        Ranking(A, (MIDDLE, LONG), (2, 1), "Ann", "user 1"),
        Ranking(B, (SHORT, LONG, MIDDLE), (1, 1, 2), "Bob"),
        Ranking(B, (LONG * 30, SHORT), (1, 2), "Bob"),
    ]
    found = stages.scored_pairs(reward, rankings, margins=[2.5, None, 1.0])
    assert [pair[2:] for pair in found] == [("user 1", "Ann", 2.5), (B, "Bob", None), (B, "Bob", None)]
    assert [pair.right for pair in found] == [1.0, 0.0, 1.0]
    assert found[1].chosen - found[1].rejected == length(reward, B, SHORT) - length(reward, B, MIDDLE)
    assert "1 of 3 rankings to score are longer than" in capsys.readouterr().err
    refusal(lambda: stages.scored_pairs(reward, rankings, margins=[1.0]), "there are 3 rankings and 1 margins")
    refusal(lambda: stages.scored_pairs(reward, rankings, margins=[1.0] * 3), "ranking 2 has 3 answers and a margin")


def test_choices_and_paraphrases_keep_their_order(reward, capsys):
    choices = [
        stages.Choice(A, (LONG,), (SHORT, MIDDLE, "A fig."), "1"),
        stages.Choice(A, (MIDDLE, LONG), (SHORT,), "1", True),
        stages.Choice(B, (LONG * 30,), (SHORT,)),
    ]
    one, two = stages.scored_choices(reward, choices)
    assert "1 of 3 choices do not fit the reward model's 96 tokens" in capsys.readouterr().err
    assert one.right[0] > one.wrong[1] > one.wrong[0] and len(one.wrong) == 3 and (one.id, one.tied) == ("1", False)
    assert (
        two.right == (one.wrong[1], one.right[0]) and two.wrong == one.wrong[:1] and (two.id, two.tied) == ("1", True)
    )
    item = stages.Reworded(A, (LONG, SHORT), ((B, LONG, SHORT), (A, SHORT, MIDDLE)))
    (found,) = stages.scored_paraphrases(reward, [item])
    assert found.scores == (one.right[0], one.wrong[0]) and found.cluster == A
    assert [a > b for a, b in found.others] == [True, False]
    refusal(lambda: stages.scored_choices(reward, choices[2:]), "none of 1 choices fits")
    refusal(lambda: stages.scored_choices(reward, [stages.Choice(A, (), (SHORT,))]), "choice 1", "has 0 right answers")
    refusal(lambda: stages.scored_paraphrases(reward, [item._replace(others=())]), "item 1", "has no paraphrase")
