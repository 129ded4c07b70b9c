"""Length-controlled win rates, against alpaca-eval and by hand; win rates of published answers."""

import json
import lzma
import math
import os
from pathlib import Path

import numpy as np
import pytest

from rlhf_jax.evals import SHARE, instruction_difficulty, length_controlled, mean_interval
from tests.refusals import refusal

BASELINE = "gpt4_1106_preview"


@pytest.fixture(scope="module")
def prefs():
    path = Path(os.environ.get("RLHF_JAX_DATA", "none")) / "alpaca-eval-prefs" / "prefs.jsonl.xz"
    if not path.is_file():
        pytest.skip("RLHF_JAX_DATA names no folder with alpaca-eval-prefs")
    return [json.loads(line) for line in lzma.open(path)]


@pytest.fixture(scope="module")
def v2(prefs):
    """Models' names, what GPT-4 Turbo says of each model's answers beside the baseline's, and all lengths, [M, N]."""
    rows = prefs
    names = sorted({x["model"] for row in rows for x in row["responses"]} - {BASELINE})
    win, ours, theirs = np.full((len(names), len(rows)), np.nan), np.zeros((len(names), len(rows))), np.zeros(len(rows))
    for n, row in enumerate(rows):
        for x in row["responses"]:
            if x["model"] == BASELINE:
                theirs[n] = len(x["output"])
            else:
                ours[names.index(x["model"]), n] = len(x["output"])
                win[names.index(x["model"]), n] = x.get("gpt4turbo_vs_gpt4_1106", np.nan)
    return names, win, ours, theirs


def of_model(v2, model, difficulty=None):
    names, win, ours, theirs = v2
    i = names.index(model)
    there = np.isfinite(win[i])
    gamma = None if difficulty is None else difficulty[there]
    return length_controlled(win[i][there], ours[i][there], theirs[there], difficulty=gamma)


# alpaca-eval 0.6.6's own features and fit on these rows: `_get_featurized_data` without its rows of the baseline's other
# answers, then `fit_LogisticRegressionCV` (scikit-learn 1.9), n_splits=0 and C=1e6 first, n_splits=5 (L1) second.
WITHOUT_DIFFICULTY = {
    "FuseChat-Llama-3.1-8B-Instruct": (0.6442424, 0.6441),
    "claude-2.1": (0.3109847, 0.3110),
    "gpt4_0613_concise": (0.4140645, 0.4135),
    "gpt-3.5-turbo-1106_concise": (0.3826250, 0.3797),
    "alpaca-farm-ppo-human": (0.1046985, 0.1047),
    "text_davinci_001": (0.1760733, 0.1739),
    "wizardlm-13b": (0.1368199, 0.1369),
}
# The same with γ as `instruction_difficulty` has it, since theirs is on the hub; last its leaderboard's, of 805 prompts.
WITH_DIFFICULTY = {
    "FuseChat-Llama-3.1-8B-Instruct": (0.64408, 0.6432, 0.6539),
    "claude-2.1": (0.25639, 0.2568, 0.2525),
    "gpt4_0613_concise": (0.22875, 0.2290, 0.2158),
    "gpt-3.5-turbo-1106_concise": (0.14659, 0.1481, 0.1577),
    "alpaca-farm-ppo-human": (0.06569, 0.0669, 0.0642),
    "text_davinci_001": (0.06312, 0.0649, 0.0903),
    "wizardlm-13b": (0.08600, 0.0861, 0.0983),
}


@pytest.mark.parametrize("model", WITHOUT_DIFFICULTY)
def test_the_rate_without_difficulties_is_alpaca_eval_s(v2, model):
    free, penalised = WITHOUT_DIFFICULTY[model]
    found = of_model(v2, model)
    assert found.rate.mean == pytest.approx(free, abs=1e-6) and found.difficulty is None
    assert found.rate.mean == pytest.approx(penalised, abs=0.003)  # all 53 models: 0.0029 at most


def test_the_rate_with_difficulties_is_alpaca_eval_s_and_near_the_published(v2):
    gamma = instruction_difficulty(*v2[1:])
    assert abs(gamma.mean()) < 1e-9
    for model, (free, penalised, published) in WITH_DIFFICULTY.items():
        found = of_model(v2, model, gamma)
        assert found.rate.mean == pytest.approx(free, abs=5e-5)  # γ is an optimiser's, to about five digits
        assert found.rate.mean == pytest.approx(penalised, abs=0.003)
        assert found.rate.mean == pytest.approx(published, abs=0.04)  # all 52: 0.038 at most, 0.011 in the mean


# Win rates over text-davinci-003 by GPT-4 on all 805 prompts (AlpacaEval 1's table).
V1 = {"alpaca-farm-ppo-human": 0.412, "alpaca-7b": 0.265, "text_davinci_001": 0.152, "gpt35_turbo_instruct": 0.817}


@pytest.mark.parametrize("model", V1)
def test_published_win_rates_lie_in_the_interval_of_the_prompts_that_are_here(prefs, model):
    said = [x.get("gpt4_vs_davinci003") for row in prefs for x in row["responses"] if x["model"] == model]
    found = mean_interval([win for win in said if win is not None], scale=SHARE)
    assert found.low <= V1[model] <= found.high and found.high - found.low < 0.09


# By hand, and in simulation.


def test_answers_of_two_lengths_have_the_closed_form():
    # Δ = ±d in halves: s = d√(N/(N − 1)); each half's log-odds are θ ± φ·tanh(d/s), so that θ is their mean.
    win = [*[1] * 8, *[0] * 2, *[1] * 5, *[0] * 5]
    ours, theirs = [30] * 10 + [10] * 10, [20] * 20
    found = length_controlled(win, ours, theirs)
    z = math.log(8 / 2), math.log(5 / 5)
    theta, slope = (z[0] + z[1]) / 2, (z[0] - z[1]) / 2 / math.tanh(math.sqrt(19 / 20))
    np.testing.assert_allclose([found.model, found.length], [theta, slope], rtol=1e-6)
    assert found.rate.mean == pytest.approx(1 / (1 + math.exp(-theta)))


def test_answers_of_one_length_have_their_plain_win_rate():
    found = length_controlled([1] * 9 + [0.5] * 2 + [0] * 4, [7] * 15, [7] * 15, [str(i) for i in range(15)])
    assert found.rate.mean == pytest.approx(10 / 15) and found.length == 0.0


def drawn(seed, prompts, theta, phi, psi, each=1):
    """Prompts of users, who ask for `each` alike ones; what the rate would be were all as long."""
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(prompts // each), each)
    gamma, off = rng.normal(size=prompts // each)[users], rng.normal(size=prompts)
    z = theta + phi * np.tanh(off / off.std(ddof=1)) + psi * gamma
    win = rng.random(prompts) < 1 / (1 + np.exp(-z))
    return win, 1000 + off * 100, np.full(prompts, 1000.0), users, gamma


@pytest.mark.slow
def test_the_interval_covers_the_truth_95_times_in_100():
    # Over prompts and users: the truth is the mean of σ(θ + ψγ) over γ ~ N(0, 1), by quadrature.
    at, weight = np.polynomial.hermite_e.hermegauss(60)
    truth = float((weight / weight.sum()) @ (1 / (1 + np.exp(-(-0.8 + 1.2 * at)))))
    inside = []
    for seed in range(300):
        win, ours, theirs, users, gamma = drawn(seed, 240, -0.8, 1.0, 1.2, each=2)
        rate = length_controlled(win, ours, theirs, users, gamma).rate
        inside.append(rate.low <= truth <= rate.high)
        assert rate.n == 120
    assert 0.93 <= np.mean(inside) <= 0.97


def test_difficulties_are_recovered():
    rng = np.random.default_rng(0)
    gamma, ours = rng.normal(size=80), rng.normal(1000, 100, (60, 80))
    theirs = np.full(80, 1000.0)
    theta, phi = rng.normal(size=(60, 1)), rng.normal(size=(60, 1))
    win = 1 / (1 + np.exp(-(theta + phi * np.tanh((ours - theirs) / (ours - theirs).std(1, ddof=1)[:, None]) + gamma)))
    win[0, :40] = np.nan
    found = instruction_difficulty(win, ours, theirs)
    assert np.corrcoef(found, gamma)[0, 1] > 0.99


def test_what_has_no_rate_is_refused():
    lengths = list(range(12)), [5] * 12
    refusal(lambda: length_controlled([1] * 12, *lengths), "explain all of the 12 preferences", "give more prompts")
    refusal(lambda: length_controlled([1] * 9, [1] * 9, [2] * 9), "ten prompts or more; there are 9")
    refusal(lambda: length_controlled([1.5] * 12, *lengths), "preferences go from 0 to 1")
    refusal(lambda: instruction_difficulty(np.ones((1, 3)), np.ones((1, 3)), np.ones(3)), "there are 1 models")
