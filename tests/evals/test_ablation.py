"""The page of a grid, and the claims that stand on it."""

from itertools import product

import numpy as np
import pytest

from experiments.studies.ablate_beta_gamma import best_setting, claims_of, verdict
from experiments.sweep import Setting
from rlhf_jax.evals import Cell, Claim, Estimate, Line, mean_interval, write_ablation

BETAS, GAMMAS, START = (0.0, 0.1, 3.0), (0.0, 1.0), 0.8
NOISE = (-0.001, 0.0, 0.001)  # of three seeds


def grid(loss, rating) -> list[Setting]:
    """loss and rating as functions of (β, γ)."""
    settings = []
    for b, g in product(BETAS, GAMMAS):
        rows = [{"pretrain/loss": loss(b, g) + e, "rating": rating(b, g) + e, "kl/from_sft": 1.0 - e} for e in NOISE]
        rows = [row | {"reward": row["rating"] / 2} for row in rows]
        figures = {name: mean_interval([row[name] for row in rows]) for name in rows[0]}
        settings.append(Setting({"beta": b, "gamma": g}, figures, rows))
    return settings


def verdicts(loss, rating, slope):
    curves = {0.0: [np.linspace(0.8, 0.8 + slope, 40) + e for e in NOISE]}
    return [c.verdict for c in claims_of(grid(loss, rating), START, curves, 0.1, 1.0)]


def test_the_paper_s_claims_hold_where_they_are_built_in():
    found = verdicts(lambda b, g: 0.9 - 0.08 * g - 0.01 * b, lambda b, g: 5 - abs(b - 0.1), 0.1)
    assert found == ["holds"] * 4


def test_they_do_not_hold_where_the_opposite_is_built_in():
    """γ makes the loss worse; the largest β leaves no regression and is the best; training on helps."""
    found = verdicts(lambda b, g: 0.79 + 0.1 * g - 0.001 * b, lambda b, g: 5 + b - g, -0.1)
    assert found == ["does not hold", "undecided", "does not hold", "does not hold"]


def test_a_lead_within_the_noise_is_undecided():
    assert verdict(Estimate(0.1, -0.1, 0.3, 3)) == "undecided"
    assert verdict(Estimate(0.1, None, None, 1)) == "undecided"
    assert verdict(Estimate(0.2, 0.1, 0.3, 3), None) == "undecided"
    assert verdict(Estimate(0.2, 0.1, 0.3, 3), Estimate(0.1, 0.05, 0.15, 3)) == "holds"
    assert verdict(Estimate(0.2, 0.1, 0.3, 3), Estimate(-0.1, -0.2, -0.05, 3)) == "does not hold"


def test_the_best_setting_is_named_with_its_lead():
    best, sentence = best_setting(grid(lambda b, g: 0.8, lambda b, g: 5 - abs(b - 0.1) + 0.01 * g))
    assert best.coefficients == {"beta": 0.1, "gamma": 1.0}
    assert "β = 0.1, γ = 1" in sentence and "β = 0.1, γ = 0" in sentence


@pytest.mark.parametrize("diverged", [False, True])
def test_the_page_names_every_setting_and_claim(tmp_path, diverged):
    settings = grid(lambda b, g: 0.9 - 0.08 * g, lambda b, g: 5 - b)
    cells = [Cell(s.coefficients, {} if diverged and s.coefficients["beta"] == 3 else s.figures) for s in settings]
    line = Line(np.arange(1, 5), np.full(4, 0.8), np.full(4, 0.01))
    path = tmp_path / "page.html"
    claims = [Claim("a claim <of> ours", "undecided", "evidence")]
    write_ablation(path, "title", cells, claims, "the best", {"pretrain/loss": START}, {0.0: line, 1.0: line}, "{}")
    page = path.read_text(encoding="utf-8")
    assert "a claim &lt;of&gt; ours" in page and "the best" in page
    for setting in ("β = 0, γ = 0", "β = 0.1, γ = 1", "β = 3, γ = 1"):
        assert setting in page
    assert page.count("<svg") == 1 + 2 + 1 + 1 + 2 and ("diverged" in page) == diverged
    assert "http" not in page.replace("http://www.w3.org", "")
