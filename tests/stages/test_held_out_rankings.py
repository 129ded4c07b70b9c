"""What a reward model makes of rankings that it does not learn from, after each epoch."""

from dataclasses import replace

import numpy as np
import pytest

from rlhf_jax import stages
from rlhf_jax.data import Ranking, prompt_text, train_tokenizer
from rlhf_jax.runtime import read_metrics
from rlhf_jax.stages.agreement import reward_of
from rlhf_jax.stages.reward_model import encoded

SHAPE = stages.Decoder(width=16, layers=1, heads=2, kv_heads=2, hidden=32)
P, FRUITS = prompt_text("Name a fruit."), ("apple", "pear", "plum", "lemon")
A, B, C, D = (f"A {fruit} is a fruit." for fruit in FRUITS)
TRAIN = [Ranking(P, (A, B), (1, 2)), Ranking(P, (B, C, D), (2, 1, 3))]
VALID = [Ranking(P, (C, A, D), (1, 2, 2)), Ranking(P, (B, D), (2, 1)), Ranking(P, (A, B), (1, 1))]  # the last is a tie

pytestmark = pytest.mark.usefixtures("types_are_not_checked")


@pytest.mark.long
def test_they_are_judged_after_each_epoch_and_nothing_is_learned_from_them(tmp_path, capsys):
    text = [f"{P} A {fruit} is a fruit." for fruit in FRUITS] * 20
    tokenizer = train_tokenizer(text, 320, tmp_path / "small.model")
    of = stages.described(SHAPE, tokenizer, stages.Format(24, 16))
    start = stages.pretrain(tmp_path / "base", of, text, stages.Pretrain(steps=1, batch=4), stages.Run(seed=0))
    run = stages.Run(seed=0)
    run = replace(run, runtime=replace(run.runtime, batch=4))
    c = stages.Reward(epochs=2, batch=2, lr=1e-2, schedule="constant")
    without = stages.reward_model(tmp_path / "a" / "reward", start, TRAIN, c, run)
    found = stages.reward_model(tmp_path / "b" / "reward", start, TRAIN, c, run, valid=VALID)
    assert found.sha256 == without.sha256 and "1 of 3 rankings have no answer above another" in capsys.readouterr().err
    rows = read_metrics(tmp_path / "b" / "reward")
    assert len(rows) == 2 and all({"loss/valid", "accuracy/valid"} <= row.keys() for row in rows)  # a step an epoch
    assert not any(name.endswith("/valid") for row in read_metrics(tmp_path / "a" / "reward") for name in row)
    scores = [
        {answer: float(score) for answer, score in zip(row.answers, each, strict=False)}
        for row, each in zip(VALID, reward_of(stages.loaded(found), encoded(VALID, found), run), strict=True)
    ]
    # Eq. 1 by hand: C above A and D of three comparisons, of which A against D is a tie; D above B of one.
    loss = [np.log1p(np.exp(-m)) for m in (scores[0][C] - scores[0][A], scores[0][C] - scores[0][D])]
    other = np.log1p(np.exp(-(scores[1][D] - scores[1][B])))
    assert rows[-1]["loss/valid"] == pytest.approx((sum(loss) / 3 + other) / 2, rel=1e-4)
    right = [scores[0][C] > scores[0][A], scores[0][C] > scores[0][D], scores[1][D] > scores[1][B]]
    assert rows[-1]["accuracy/valid"] == pytest.approx(np.mean(right))
