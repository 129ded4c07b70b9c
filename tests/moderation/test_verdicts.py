"""A classifier's verdicts: their form, their reasons, alone, beside rules and in a policy; and a bag of words."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.special import expit

from rlhf_jax.moderation import (
    Both,
    Calibrated,
    Classifier,
    Policy,
    Rule,
    Rules,
    both,
    fit_bag_of_words,
    moderated,
    verdicts_of,
)
from tests.refusals import refusal

ASKED = []


def logits(texts):
    """Of "bad" 2 for each time that it is said, of "long" the length − 10."""
    ASKED.append(list(texts))
    return np.array([[2.0 * text.count("bad") - 1, len(text) - 10.0] for text in texts], np.float32)


CALIBRATION = {"bad": Calibrated(temperature=2.0, threshold=0.6)}
CLASSIFIER = Classifier("judge", ("bad", "long"), logits, CALIBRATION)


class Short(Classifier):
    def verdicts(self, texts):
        return super().verdicts(texts[:1])


RULES = Rules((Rule("rude words", "bad", ("zonk",)), Rule("bombs", "violence", ("bomb",))))


def test_a_verdict_has_every_category_and_a_reason_for_each_that_is_flagged():
    verdict = CLASSIFIER("bad bad")
    assert verdict.as_result() == {
        "flagged": True,
        "categories": {"bad": True, "long": False},
        "category_scores": {"bad": pytest.approx(expit(3 / 2)), "long": pytest.approx(expit(-3))},
    }
    ((name, category, score, *place),) = verdict.reasons
    assert (name, category, place) == ("judge", "bad", ["", 0, 0]) and score == pytest.approx(expit(1.5))
    once = CLASSIFIER("bad")  # σ(½) = 0.62
    assert once.categories["bad"] and not CLASSIFIER("fine").flagged
    never = Classifier("judge", ("bad", "long"), logits, {"bad": Calibrated(threshold=None)})
    assert not never("bad bad bad").categories["bad"]


def test_several_texts_are_read_at_once_and_like_each_alone():
    texts = ["bad bad", "fine", "a text of some length"]
    ASKED.clear()
    several = verdicts_of(CLASSIFIER, texts)
    assert len(ASKED) == 1 and ASKED[0] == texts
    assert several == [CLASSIFIER(text) for text in texts] and CLASSIFIER.verdicts([]) == []


def test_beside_rules_and_in_a_policy():
    joined = both(RULES, CLASSIFIER)
    verdict = joined("zonk bad bad")
    assert verdict.categories == {"bad": True, "violence": False, "long": True}
    assert verdict.category_scores["bad"] == 1.0
    assert [reason.name for reason in verdict.reasons] == ["rude words", "judge", "judge"]
    ASKED.clear()
    answers = moderated(lambda prompts: ["bad bad" if p == "b" else "ok" for p in prompts], joined, Policy(filler="…"))
    refusal(
        lambda: verdicts_of(Both((Short("judge", ("bad", "long"), logits),)), ["a", "b"]),
        "the moderator gave 1 verdicts for 2 texts",
    )
    ASKED.clear()
    found = answers(["a", "b", "zonk", "bad bad"])
    assert [one.answer for one in found] == ["ok", "…", "…", "…"]
    assert ASKED == [["a", "b", "zonk", "bad bad"], ["ok", "bad bad"]]  # one call on each side


def test_the_bag_of_words_is_at_the_optimum_of_its_loss():
    """Whose gradient, X'(σ(z) − y) + penalty·w over the known labels, is 0."""
    texts = ["you fool you", "a fool says so", "a good day to you", "good day", "what a day", "a fool and a day"]
    labels = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 0], [1, 1]], bool)
    known = np.ones((6, 2), bool)
    known[1:3, 1] = False
    bag = fit_bag_of_words(texts, labels, known, penalty=0.3)
    assert {"fool", "a fool", "good day"} <= set(bag.columns) and "what" not in bag.columns
    seen = [{*(words := text.split()), *map(" ".join, pairwise(words))} for text in texts]
    x = np.array([[word in row for word in bag.columns] for row in seen], float)
    x /= np.sqrt(np.maximum(x.sum(axis=1, keepdims=True), 1))
    z = bag(texts)
    np.testing.assert_allclose(z, x @ bag.weights + bag.bias, atol=1e-9)
    for c in range(2):
        off = np.where(known[:, c], expit(z[:, c]) - labels[:, c], 0.0)
        np.testing.assert_allclose(x.T @ off + 0.3 * bag.weights[:, c], 0, atol=1e-4)
        assert off.sum() == pytest.approx(0, abs=1e-4)
    assert (z[labels[:, 0], 0] > z[~labels[:, 0], 0].max()).all()
    assert np.isfinite(bag(["", "unseen words"])).all()
