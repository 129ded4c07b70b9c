"""Which of the answers that were drawn labelers see."""

import sys

import pytest

from rlhf_jax import stages
from rlhf_jax.data import Prompt, prompt_text, train_tokenizer
from rlhf_jax.stages.answers import draw_answers

ANSWERS = sys.modules["rlhf_jax.stages.answers"]
WORDS = ("Happy.", "Sad.", "Both.", "None.", "Red.", "Blue.", "Green.", "Black.", "White.")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    tokenizer = train_tokenizer([" ".join(WORDS)] * 9, 290, tmp_path_factory.mktemp("tokenizer") / "small.model")
    of = stages.described(stages.Decoder(), tokenizer, stages.Format(40, 12))
    return stages.Trained(of.decoder, tokenizer, of.format)


@pytest.mark.parametrize("different", [1, 2, 3, 9])
def test_people_see_the_different_ones_of_the_answers_that_were_drawn(model, monkeypatch, different):
    """K + 2 are drawn, of which this model has so many to give; where there is but one there is nothing to rank."""
    drawn = []

    def write(model, params, prompts, *rest):
        drawn.append(len(prompts))
        return [WORDS[i % different] for i in range(len(prompts))]

    monkeypatch.setattr(ANSWERS, "texts_of", write)
    monkeypatch.setattr(stages.Trained, "params", lambda self: None)
    prompts = [Prompt(prompt_text(f"Happy or sad? {i}")) for i in range(40)]
    rows = draw_answers(model, prompts, stages.AnswersToRank(), stages.Run(seed=0), "role")
    counts = {len(row) for row in rows}
    assert counts == {1: {0}, 2: {2}, 3: {3}, 9: {4, 5, 6, 7, 8, 9}}[different]
    assert all(len(set(row)) == len(row) and set(row) <= set(WORDS) for row in rows)
    mean = drawn[0] / len(prompts)
    assert 7.5 < mean < 9.5  # K is 6.5 in the mean
