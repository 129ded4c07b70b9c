"""What choosing the best of n answers is worth, against an answer that was not chosen from."""

import numpy as np
import pytest

from experiments.best_of_n import chosen

PROMPTS = [f"prompt {i}" for i in range(4000)]


@pytest.mark.parametrize("ties", [False, True])
def test_in_pure_noise_every_n_wins_half_of_the_time(ties):
    """Scores and verdicts that have nothing to do with each other; with ties, 6 verdicts are all that there is."""
    rng = np.random.default_rng(0)
    score, verdict = rng.normal(size=(2, 17, len(PROMPTS)))
    verdict = np.clip(np.round(verdict), -2, 3) if ties else verdict
    for n in (1, 2, 4, 8, 16):
        found = chosen(n, score, verdict, PROMPTS, None)
        # Each win is 0, ½ or 1: a standard deviation of at most ½.
        assert found["win_rate/vs_another"].mean == pytest.approx(0.5, abs=3 * 0.5 / len(PROMPTS) ** 0.5)
        assert found["verdict/minus_another"].mean == pytest.approx(0, abs=3 * 2**0.5 / len(PROMPTS) ** 0.5)


def test_where_the_judge_is_the_score_the_best_of_n_beats_another_n_times_in_n_plus_1():
    """Of n + 1 alike, the largest is among the first n so often: n / (n + 1)."""
    score = np.random.default_rng(0).normal(size=(9, len(PROMPTS)))
    for n in (1, 2, 8):
        found = chosen(n, score, score, PROMPTS, None)["win_rate/vs_another"].mean
        assert found == pytest.approx(n / (n + 1), abs=3 * 0.5 / len(PROMPTS) ** 0.5)


def test_by_hand():
    """Three answers to two prompts, of which the last is the other one. Of two, the second is chosen and then the first."""
    score, verdict = np.array([[1.0, 5.0], [2.0, 3.0], [9.0, 9.0]]), np.array([[0.0, 4.0], [3.0, 0.0], [3.0, 2.0]])
    found = chosen(2, score, verdict, ["a", "b"], (-8.0, 4.0))
    means = {name: figure.mean for name, figure in found.items()}
    # Of the first a tie, of the second a win by 2.
    assert means == {
        "reward": 3.5, "verdict": 3.5, "verdict/minus_another": 1.0, "win_rate/vs_another": 0.75
    }  # fmt: skip
    assert found["verdict"].high <= 4
