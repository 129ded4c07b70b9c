"""The page of one run and of several: what differs between them, and by how much."""

import math
import re

import numpy as np
import pytest

from rlhf_jax.evals import (
    Carded,
    Edge,
    Estimate,
    Made,
    Measurement,
    Origins,
    Row,
    difference_of,
    differences,
    edges,
    figures_of,
    independent_difference,
    settings_of,
    write_card,
)
from tests.evals.contrast import LEAST, contrast, schemes
from tests.evals.page import Page

HOSTILE = "</td></script><img src=x onerror=alert(1)>&\"'"
SHARE = {"right": (0.0, 1.0)}


def rows(seed, n=40, first=0):
    """Answers to questions, of which two share a cluster."""
    right = np.random.default_rng(seed).integers(0, 2, n).tolist()
    return [Row(f"q{first + i}", f"c{(first + i) // 2}", {"right": float(x)}) for i, x in enumerate(right)]


def measurement(name, found, task="quiz", more=None):
    return Measurement(name, task, figures_of(found, SHARE) | (more or {}), found, SHARE)


def run(name="one", beta=0.1, **more):
    settings = {
        "tiny.toml": {"seed": 0, "ppo": {"beta": beta, "gamma": 1.0}},
        "ppo": {"seed": 0, "ppo": {"beta": beta, "gamma": 0.0}},
        "ppo_ptx": {"seed": 0, "ppo": {"beta": beta, "gamma": 1.0}},
    }
    curves = {"ppo": [{"step": s, "objective/kl": 0.1 * s, "val/ratio": 1.0} for s in range(60)]}
    evaluation = {"ppo": {"rating": {"mean": 4.0 + beta, "low": 3.5 + beta, "high": 5.0 + beta, "n": 30}}}
    found = Carded(name, settings, [], curves, evaluation, [], [])
    return found._replace(**more)


def page(tmp_path, *runs):
    write_card(tmp_path / "card.html", "A card", runs)
    return (tmp_path / "card.html").read_text(encoding="utf-8")


def test_runs_that_differ_in_one_setting_show_this_one(tmp_path):
    """γ is another in two of their stages, and in both runs alike."""
    found = Page(page(tmp_path, run(), run("two", 0.3)))
    differ, same = found.sections["settings"]
    assert differ == [["", "one", "two"], ["ppo.beta", "0.1", "0.3"]]
    assert ["seed", "0"] in same and ["ppo: ppo.gamma", "0.0"] in same and ["ppo_ptx: ppo.gamma", "1.0"] in same
    assert not any("beta" in row[0] for row in same)


def test_a_setting_that_one_stage_alone_has_otherwise_is_that_stage_s():
    other = run("two")
    other.settings["ppo_ptx"]["ppo"]["gamma"] = 2.0
    differ = [setting for setting in settings_of([run(), other]) if setting.differs]
    assert [(s.label, s.values) for s in differ] == [("ppo_ptx: ppo.gamma", ("1.0", "2.0"))]
    less = run("three")
    del less.settings["tiny.toml"]["ppo"]["gamma"], less.settings["ppo_ptx"]["ppo"]["gamma"]
    labels = {s.label: s.values for s in settings_of([run(), less]) if s.differs}
    assert labels == {"tiny.toml: ppo.gamma": ("1.0", None), "ppo_ptx: ppo.gamma": ("1.0", None)}


def test_one_run_shows_its_settings_folded(tmp_path):
    found = Page(page(tmp_path, run()))
    assert len(found.sections["settings"]) == 1 and "do not differ" not in found.text
    assert "do not differ" in Page(page(tmp_path, run(), run("two"))).text


def test_an_independent_difference_is_by_hand():
    """Zou & Donner: √(0.3² + 0.4²) below and √(1.2² + 0.5²) above."""
    a, b = Estimate(2.0, 1.7, 3.2, 30), Estimate(1.0, 0.5, 1.4, 20)
    found = independent_difference(a, b)
    assert found.mean == 1.0 and found.n == 20
    assert found.low == pytest.approx(1 - 0.5) and found.high == pytest.approx(1 + 1.3)
    assert independent_difference(a, Estimate(1.0, None, None, 1)) == Estimate(1.0, None, None, 1)


def test_an_evaluation_has_independent_differences_and_says_so(tmp_path):
    found = Page(page(tmp_path, run(), run("two", 0.3)))
    ((head, row),) = found.sections["results"]
    half = math.hypot(0.5, 1.0)  # below r − a of the one, b − r of the other; above as well
    assert head == ["", "one", "two"]
    assert (
        row[1] == "4.103.60–5.10"
        and row[2] == f"4.303.80–5.30+0.20 (−{half - 0.2:.2f} to {half + 0.2:.2f}), independent"
    )


def test_tasks_have_paired_differences_where_both_were_asked_the_same(tmp_path):
    ours, theirs = measurement("m/ppo", rows(1)), measurement("m/ppo", rows(2))
    paired = differences(ours.rows, theirs.rows, SHARE)["right"]
    assert difference_of(ours, theirs) == {"right": (paired, "paired")}
    found = Page(page(tmp_path, run(measured=[theirs]), run("two", measured=[ours])))
    ((head, row),) = found.sections["measured"]
    assert head == ["", "m/ppo", "m/ppoless m/ppo"]
    assert f"{paired.mean:+.3f} (" in row[2].replace("−", "-") and row[2].endswith("paired")
    elsewhere = measurement("m/ppo", rows(2, first=7))
    apart = independent_difference(ours.figures["right"], elsewhere.figures["right"])
    assert difference_of(ours, elsewhere) == {"right": (apart, "independent")}


def test_figures_that_are_no_means_of_rows_are_compared_apart_and_other_wholes_not_at_all():
    more = {"area": Estimate(0.5, 0.4, 0.6, 40)}
    ours, theirs = (measurement("x", rows(seed), more=more) for seed in (1, 2))
    assert difference_of(ours, theirs)["area"][1] == "independent"
    texts = [[Row(f"t{i}", "", {"loss": (2.0 * n, float(n))}) for i in (0, 1)] for n in (3, 4)]
    bits = [Measurement("x", "bits", {"loss": Estimate(2.0, None, None, 2)}, found, {}) for found in texts]
    assert difference_of(*bits) == {}  # a text has other tokens in the one and in the other


def test_within_a_run_the_first_folder_of_a_task_is_what_the_others_are_compared_with(tmp_path):
    measured = [
        measurement("a/quiz", rows(1)),
        measurement("b/quiz", rows(2)),
        measurement("other", rows(3), "another"),
    ]
    quiz, another = Page(page(tmp_path, run(measured=measured))).sections["measured"]
    assert quiz[0] == ["", "a/quiz", "b/quizless a/quiz"] and another[0] == ["", "other"]


FOLDERS = [
    Origins("pretrain", ("b", "b0"), {"text": "x" * 64}),
    Origins("sft", ("s",), {"start": "b0", "demonstrations": "d" * 64}),
    Origins("rankings", ("r", "rows"), {"answers": "s"}),
    Origins("ppo", ("p",), {"start": "s", "text": "x" * 64}),
]
EDGES = [
    Edge("x" * 64, "pretrain", "text", True),
    Edge("pretrain", "sft", "start", False),  # from an earlier checkpoint
    Edge("d" * 64, "sft", "demonstrations", True),
    Edge("sft", "rankings", "answers", False),
    Edge("sft", "ppo", "start", False),
    Edge("x" * 64, "ppo", "text", True),
]


def test_the_lineage_has_an_arrow_for_each_input_and_none_leads_up(tmp_path):
    assert edges(FOLDERS) == EDGES
    made = [Made(each, ("2026-01-02 03:04", "5 s", "jax 0.10")) for each in FOLDERS]
    found = Page(page(tmp_path, run(folders=made)))
    arrows = [each for tag, each in found.elements if tag == "path" and "data-from" in each]
    assert [(a["data-from"], a["data-to"], a["data-role"]) for a in arrows] == [tuple(edge[:3]) for edge in EDGES]
    for arrow in arrows:
        numbers = list(map(float, re.findall(r"[\d.]+", arrow["d"] or "")))
        assert numbers[-1] > numbers[1]
    (table,) = found.sections["lineage"]
    assert table[2] == [
        "sft",
        "2026-01-02 03:04",
        "5 s",
        "jax 0.10",
        "s",
        "start: pretrain, demonstrations: dddddddddddd",
    ]


def test_records_that_go_in_a_circle_end(tmp_path):
    circle = [Origins("a", ("1",), {"start": "2"}), Origins("b", ("2",), {"start": "1"})]
    assert "<svg" in page(tmp_path, run(folders=[Made(each, ("", "", "")) for each in circle]))


def test_samples_stand_side_by_side_with_their_paired_ratings(tmp_path):
    def sample(prompt, rating):
        return {"prompt": prompt, "answers": {"ppo": {"text": f"said {rating}", "rating": rating, "reward": 0.5}}}

    first = run(samples=[sample("A?", 2.0), sample("B?", 4.0), sample("C?", 1.0)])
    found = Page(page(tmp_path, first, run("two", samples=[sample("B?", 5.0), sample("A?", 5.0)])))
    ((row,),) = found.sections["samples"]
    assert row[0] == "PPO" and row[1] == "two" and row[2].startswith("+2.00 (") and "paired, 2 prompts" in row[2]
    assert found.text.count("said") == 5 and found.text.index("said 2.0") < found.text.index("said 5.0")


def test_every_text_is_escaped(tmp_path):
    odd, made = HOSTILE, Made(Origins(HOSTILE, (HOSTILE,), {HOSTILE: HOSTILE + "2"}), (HOSTILE,) * 3)
    hostile = Carded(
        odd,
        {odd: {odd: odd}},
        [made],
        {odd: [{"step": 1, f"loss/{odd}": 1.0}, {"step": 2, odd: 1.0}]},
        {odd: {odd: {"mean": 1.0, "low": None, "high": None, "n": 3}}},
        [{"prompt": odd, "answers": {odd: {"text": odd, "rating": None, "reward": None}}}],
        [measurement(odd, rows(1), odd), measurement(f"{odd}2", rows(2), odd)],
        [odd],
    )
    text = page(tmp_path, hostile, hostile._replace(name="two"))
    found = Page(text)
    assert not {"img", "script"} & {tag for tag, _ in found.elements} and found.text.count("onerror=alert(1)") > 20
    assert not any(name.startswith("on") for _, attributes in found.elements for name in attributes)


def test_the_page_needs_nothing_outside_itself_and_its_tables_and_drawings_scroll(tmp_path):
    text = page(tmp_path, run(folders=[Made(each, ("", "", "")) for each in FOLDERS]), run("two", 0.3))
    found = Page(text)
    assert not re.search(r"https?://|@import|<link|<script", text)
    assert found.inside and all("scroll" in classes for classes in found.inside)
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids)) and set(re.findall(r'(?:url\(#|href="#)([^")]+)', text)) <= set(ids)
    assert page(tmp_path, run(folders=[Made(each, ("", "", "")) for each in FOLDERS]), run("two", 0.3)) == text
    for colours in schemes(text):
        used = set(re.findall(r'(?:[; {]color: |<text[^>]*fill=")var\(--(\w+)\)', text)) | {"ink"}
        assert min(contrast(colours[name], colours[on]) for name in used for on in ("page", "tint")) >= LEAST


def test_curves_have_a_line_a_run_in_its_colour_and_the_rest_is_named(tmp_path):
    text = page(tmp_path, run(), run("two", 0.3))
    (drawn,) = re.findall(r'<svg viewBox[^>]*aria-label="objective/kl".*?</svg>', text, re.DOTALL)
    assert "var(--m0)" in drawn and "var(--m1)" in drawn and "not drawn: val/ratio." in text


def test_nothing_there_is_said(tmp_path):
    text = Page(page(tmp_path, Carded("none", {}, [], {}, {}, [], [], ["x is damaged."]))).text
    for sentence in (
        "No settings",
        "not evaluated",
        "No task",
        "No stage has",
        "No samples",
        "No folder",
        "x is damaged",
    ):
        assert sentence in text or sentence == "not evaluated", sentence
    with pytest.raises(ValueError, match="name of its own"):
        page(tmp_path, run(), run())
