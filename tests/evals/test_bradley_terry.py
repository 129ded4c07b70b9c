"""Strengths of models: closed forms, known strengths, and the cases without a finite answer."""

import math

import numpy as np
import pytest

from rlhf_jax.evals import Duel, bradley_terry, elo, expected_win
from tests.refusals import refusal


def duels(*rows):
    """(ours, theirs, win, how often), each of its own prompt."""
    return [Duel(a, b, win, f"{n} {i}") for n, (a, b, win, count) in enumerate(rows) for i in range(count)]


def test_two_models_have_the_odds_of_their_wins_and_its_textbook_interval():
    # 30 wins, 10 ties, 20 losses: half wins make p̂ = 35/60, θ = log(35/25), v = Σ (w − p̂)² / (N p̂ (1 − p̂))² · N/(N − 1).
    found = bradley_terry(duels(("b", "a", 1.0, 30), ("b", "a", 0.5, 10), ("a", "b", 1.0, 20)), "a")
    p = 35 / 60
    squares = 30 * (1 - p) ** 2 + 10 * (0.5 - p) ** 2 + 20 * p**2
    v = squares / (60 * p * (1 - p)) ** 2 * 60 / 59
    half = 2.0010 * math.sqrt(v)  # t₀.₉₇₅(59) in print
    np.testing.assert_allclose(found["b"][:3], (math.log(35 / 25) + half * np.array([0, -1, 1])), atol=1e-4)
    assert (found["b"].n, found["a"]) == (60, (0.0, None, None, 60)) and list(found) == ["b", "a"]
    assert elo(found["b"]).mean == pytest.approx(1000 + 400 * math.log10(35 / 25))
    assert expected_win(found["b"]).mean == pytest.approx(p)


def test_davidson_s_two_models_have_their_closed_form():
    # w wins, l losses, t ties: θ = log(w/l), ν = t/√(wl), so that the shares are matched.
    found = bradley_terry(duels(("b", "a", 1.0, 30), ("b", "a", 0.5, 10), ("b", "a", 0.0, 20)), "a", ties="davidson")
    assert found["b"].mean == pytest.approx(math.log(30 / 20))
    without = duels(("b", "a", 1.0, 30), ("b", "a", 0.0, 20))
    assert bradley_terry(without, "a", ties="davidson") == bradley_terry(without, "a")


def test_a_chain_of_models_adds_up():
    # Without a circle each pair is fitted on its own: log 3 and log 2.
    rows = duels(("b", "a", 1.0, 30), ("b", "a", 0.0, 10), ("c", "b", 1.0, 20), ("c", "b", 0.0, 10))
    found = bradley_terry(rows, "a")
    assert found["c"].mean == pytest.approx(math.log(3) + math.log(2))
    assert bradley_terry(rows, "b")["a"].mean == pytest.approx(-math.log(3))


def test_prompts_answered_by_many_models_are_one_draw():
    once = duels(("b", "a", 1.0, 30), ("b", "a", 0.0, 20))
    found, thrice = bradley_terry(once, "a")["b"], bradley_terry(once * 3, "a")["b"]
    np.testing.assert_allclose(found, thrice, rtol=1e-9)


def simulated(seed, strengths, prompts, spread):
    """Every pair on every prompt, whose models' strengths are moved together by what the prompt is like."""
    rng = np.random.default_rng(seed)
    names, rows = [*"abcdef"][: len(strengths)], []
    for prompt in range(prompts):
        here = np.asarray(strengths) + spread * rng.normal(size=len(strengths))
        for i in range(len(names)):
            for j in range(i):
                win = float(rng.random() < 1 / (1 + math.exp(here[j] - here[i])))
                rows.append(Duel(names[i], names[j], win, str(prompt)))
    return rows


def test_known_strengths_are_found():
    strengths = [0.0, 0.5, -1.0, 2.0]
    found = bradley_terry(simulated(0, strengths, 4000, 0.0), "a")
    for name, strength in zip("bcd", strengths[1:], strict=True):
        half = found[name].high - found[name].mean
        assert half < 0.08 and abs(found[name].mean - strength) < 1.5 * half
    assert list(found) == ["d", "b", "a", "c"]


@pytest.mark.slow
def test_the_interval_covers_the_truth_95_times_in_100_where_prompts_are_draws():
    # Alike models, so that the strengths that one prompt has do not move the mean: θ = 0.
    inside = [
        e.low <= 0 <= e.high for i in range(300) for e in [bradley_terry(simulated(i, [0, 0, 0], 40, 1.5), "a")["b"]]
    ]
    assert 0.93 <= np.mean(inside) <= 0.97


def test_who_always_wins_has_no_finite_strength_and_leaves_the_others_alone():
    rows = duels(("b", "a", 1.0, 30), ("b", "a", 0.0, 10))
    found = bradley_terry([*rows, *duels(("c", "a", 1.0, 5), ("d", "b", 0.0, 5))], "a")
    assert found["c"][:3] == (math.inf, None, None) and found["d"][:3] == (-math.inf, None, None)
    assert found["b"].mean == pytest.approx(math.log(3)) and list(found) == ["c", "b", "a", "d"]
    # Who beats a model that beats the baseline is above it; who beats one that it beats may be anywhere.
    found = bradley_terry(
        [*rows, *duels(("c", "a", 1.0, 5), ("e", "c", 1.0, 1), ("d", "b", 0.0, 5), ("f", "d", 1.0, 1))], "a"
    )
    assert found["e"].mean == math.inf and math.isnan(found["f"].mean)
    assert elo(found["e"])[:3] == (math.inf, None, None)


def test_what_cannot_be_estimated_is_refused():
    rows = duels(("b", "a", 1.0, 1), ("c", "d", 0.5, 1))
    refusal(lambda: bradley_terry(rows, "a"), "no chain of comparisons leads from c to a", "compare c")
    refusal(lambda: bradley_terry(rows, "z"), "no comparison is with z", "b, a, c, d")
    refusal(lambda: bradley_terry([], "a"), "there are no comparisons")
    refusal(lambda: bradley_terry([Duel("a", "a", 1.0, "")], "a"), "comparison 1 is of a with itself")
    refusal(lambda: bradley_terry([Duel("a", "b", 1.5, "")], "a"), "comparison 1 has the win 1.5")
    refusal(lambda: bradley_terry([Duel("a", "b", 0.7, "")], "a", ties="davidson"), "the win 0.7: give 0, 0.5 or 1")
    refusal(lambda: bradley_terry([Duel("a", "b", 0.5, "")], "a", ties="davidson"), "every comparison is a tie")
