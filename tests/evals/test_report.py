import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from rlhf_jax.evals.report import scale_of, table_text, write_report
from tests.evals.contrast import LEAST, contrast, schemes


def cell(mean, low=None, high=None, n=100):
    return {"mean": mean, "low": low, "high": high, "n": n}


EVALUATION = {
    "ppo_ptx": {
        "win_rate/vs_sft": cell(0.713, 0.682, 0.742, 1024),
        "rating": cell(4.71, 4.6, 4.82),
        "rating/chat": cell(4.25, 4.0, 4.5, 31),
        "rudeness/none": cell(0.228, 0.21, 0.247),
        "pretrain/loss": cell(3.187, 3.15, 3.22),
        "closed/word_order": cell(0.333, 0.3, 0.37),
        "kl/from_rl_init": cell(14.25, 13.5, 15.0),
        "my/own": cell(0.01234),
    },
    "base": {
        "rating": cell(2.31, 2.2, 2.42),
        "rating/chat": cell(1.75, 1.5, 2.0, 47),
        "rudeness/none": cell(0.197, 0.18, 0.215),
        "pretrain/loss": cell(3.114, 3.08, 3.15),
        "closed/word_order": cell(0.417, 0.38, 0.46),
        "kl/from_rl_init": cell(21.5, 20.0, 23.0),
        "gold": cell(-1.25, -1.5, -1.0),
    },
}
CURVES = {
    "sft": [{"step": s, "loss/train": 3.0 - 0.01 * s, "loss/valid": 3.1} for s in range(60)],
    "reward_model": [{"step": 1, "loss/train": 0.7, "accuracy/valid": 0.5}, {"step": 2, "loss/train": 0.6}],
    "ppo_ptx": [
        {
            "step": np.int64(s), "objective/kl": np.float32(0.1 * s), "objective/scores": 0.02 * s,
            "loss/pretrain": 3.2, "gold/mean": float("nan") if s % 2 else 0.5,
        }
        for s in range(50)
    ],
}  # fmt: skip
SAMPLES = [
    {
        "prompt": 'Is <script>alert(1)</script> & "this" safe?',
        "category": "open_qa",
        "answers": {
            "base": {"text": "<img src=x onerror=alert(2)>", "rating": 2.0, "reward": -1.5},
            "ppo_ptx": {"text": "", "rating": None, "reward": None},
        },
    }
]
NOTES = {"judge": "the gold <model>", "config": "beta = 0.02", "seed": "0", "findings": ["Ptx helps & how."]}


def page(tmp_path, evaluation=EVALUATION, curves=CURVES, samples=SAMPLES, notes=NOTES, title="A run"):
    path = tmp_path / "made" / "report.html"
    write_report(path, title, evaluation, curves, samples, notes)
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return page(tmp_path_factory.mktemp("report"))


def rows(text):
    """label → the cells' text, of the page's table."""
    found = {}
    for row in re.findall(r"<tr[^>]*>(<th scope=\"row\">.*?)</tr>", text):
        label = re.search(r"<th scope=\"row\">(.*?)<small>", row)[1]
        found[label] = re.findall(r"<td.*?</td>", row)
    return found


def test_the_reward_model_s_figures_stand_on_the_page_with_what_they_are_over(tmp_path):
    figures = {"accuracy/test": cell(0.917, 0.839, 0.959, 21), "accuracy/valid": {}}
    text = page(tmp_path, notes=NOTES | {"reward_model": figures})
    found = rows(text)
    assert "91.7" in found["Accuracy, test"][0] and "83.9–95.9" in found["Accuracy, test"][0]
    assert "21" in found["Accuracy, test"][1] and "–" in found["Accuracy, valid"][0]
    assert "share of the pairs that it orders as they do" in text
    assert "Accuracy, test" not in page(tmp_path) and "Nothing was evaluated" not in text


def best(text, label):
    """The columns that are marked as best; base comes first whatever the order of the input."""
    return [name for name, td in zip(("base", "ppo_ptx"), rows(text)[label], strict=False) if "class=best" in td]


def test_every_number_of_the_evaluation_is_on_the_page(whole):
    shown = {
        "Win rate against SFT": ("71.3", "68.2–74.2", "1,024"),
        "Rating": ("4.71", "4.60–4.82", "2.31", "2.20–2.42"),
        "Rating, chat": ("4.25", "4.00–4.50", "1.75", "1.50–2.00", "31–47"),
        "Rudeness, plain prompt": ("22.8", "21.0–24.7", "19.7", "18.0–21.5"),
        "Pretraining loss": ("3.187", "3.150–3.220", "3.114", "3.080–3.150"),
        "Word order": ("33.3", "30.0–37.0", "41.7", "38.0–46.0"),
        "KL from where RL started": ("14.25", "13.50–15.00", "21.50", "20.00–23.00"),
        "Gold reward": ("−1.25", "−1.50 to −1.00"),
        "my/own": ("0.0123",),
    }
    table = rows(whole)
    assert set(table) == set(shown)
    for label, texts in shown.items():
        for text in texts:
            assert f">{text}<" in "".join(table[label]), (label, text)


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("win_rate/vs_somebody", (0, 1)), ("truth/generated", (0, 1)), ("accuracy/gold", (0, 1)), ("ended", (0, 1)),
        ("rating", (1, 7)), ("rating/chat", (1, 7)), ("rating/minus_sft", (-6, 6)), ("bias/entropy_bits", (0, 1)),
        ("reward", None), ("reward/minus_sft", None), ("kl/from_rl_init", None), ("pretrain/loss", None), ("my/own", None),
    ],
)  # fmt: skip
def test_the_scale_of_a_figure(name, scale):
    assert scale_of(name) == scale


def test_a_difference_from_a_model_is_no_use_case(tmp_path):
    evaluation = {"ppo_ptx": EVALUATION["ppo_ptx"] | {"rating/minus_sft": cell(0.5, 0.3, 0.7)}}
    text = page(tmp_path, evaluation)
    assert "0.30–0.70" in "".join(rows(text)["Rating less that of SFT"])
    assert "same random numbers" in text and "minus" not in text


def test_rows_come_in_the_papers_order_and_unknown_metrics_last(whole):
    headings = re.findall(r'class="group"><th[^>]*><span>(.*?)</span>', whole)
    assert headings == ["Helpful", "Harmless", "Alignment tax", "Distance", "Other"]
    assert list(rows(whole))[-1] == "my/own"
    assert whole.index(">base</span></th>") < whole.index(">PPO-ptx</span></th>")


def test_the_best_mark_follows_the_direction(whole):
    assert best(whole, "Rating") == ["ppo_ptx"]  # 4.71 > 2.31, higher is better
    assert best(whole, "Pretraining loss") == ["base"]  # 3.114 < 3.187, lower is better
    assert best(whole, "Rudeness, plain prompt") == ["base"]
    assert best(whole, "KL from where RL started") == []  # neither is better
    assert best(whole, "Win rate against SFT") == []  # nothing to compare with
    assert best(whole, "my/own") == []


def test_equal_means_share_the_mark(tmp_path):
    text = page(tmp_path, {"base": {"rating": cell(3.0)}, "ppo_ptx": {"rating": cell(3.0)}})
    assert best(text, "Rating") == ["base", "ppo_ptx"]


def test_text_is_escaped(whole):
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;this&quot;" in whole
    assert "the gold &lt;model&gt;" in whole
    assert "Ptx helps &amp; how." in whole
    assert not re.search(r"<(script|img)\b", whole)


def test_names_of_models_and_stages_are_escaped(tmp_path):
    name = "<i>$x$ & co</i>"
    curves = {name: CURVES["ppo_ptx"], "<u>": CURVES["sft"]}
    text = page(tmp_path, {name: EVALUATION["base"], "base": EVALUATION["base"]}, curves, [], title="<i>t</i>")
    assert "<i>" not in text
    assert "<u>" not in text
    assert "&lt;i&gt;$x$ &amp; co&lt;/i&gt;" in text


def test_the_page_needs_nothing_outside_itself(whole):
    assert not re.search(r"https?://|//[a-z]+\.|@import|<link|<script", whole)
    assert not re.search(r"url\((?!#)", whole)
    assert set(re.findall(r'href="(.)', whole)) == {"#"}


def test_figures_are_well_formed_and_their_ids_are_unique(whole):
    figures = re.findall(r"<svg.*?</svg>", whole, re.S)
    assert len(figures) >= 8
    for figure in figures:
        ET.fromstring(figure.replace("<svg", '<svg xmlns:xlink="x"', 1))
    ids = re.findall(r'\bid="([^"]+)"', whole)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(#|href="#)([^")]+)', whole)) <= set(ids)


def test_figures_take_their_colours_from_the_page(whole):
    drawn = "".join(re.findall(r"<svg.*?</svg>", whole, re.S))
    assert "var(--m4)" in drawn  # PPO-ptx, in its own slot though SFT and PPO are absent
    assert not set(re.findall(r"#[0-9a-f]{6}\b", re.sub(r"(#|id=\")[mp][0-9a-f]{10}", "", drawn)))


def test_the_same_input_gives_the_same_bytes(tmp_path, whole):
    assert page(tmp_path) == whole


def test_an_empty_run_still_makes_a_page(tmp_path):
    text = page(tmp_path, {}, {}, [], {})
    for sentence in (
        "Nothing was evaluated.",
        "No PPO curve was logged.",
        "No samples were kept.",
        "No rating by category",
    ):
        assert sentence in text
    assert "<svg" not in text


def test_what_is_missing_is_said_in_a_line(tmp_path):
    text = page(tmp_path, curves={"ppo": [{"step": 1, "objective/kl": 1.0}], "pretrain": []})
    assert "No PPO curve has both objective/kl and objective/scores." in text
    assert "No PPO curve has both objective/kl and gold/mean." in text
    assert "No PPO curve logs loss/pretrain or pretrain/loss." in text
    assert "No loss or accuracy was logged for: Pretraining, SFT, RL initialisation, Reward model." in text


def test_the_folder_is_made_and_the_config_is_folded_away(whole):
    assert re.search(r"<details><summary>Configuration</summary><pre>beta = 0.02</pre></details>", whole)
    assert "<i>empty</i>" in whole


def test_table_text_has_the_same_numbers_and_marks():
    lines = {line.split("  ")[1].strip(): line for line in table_text(EVALUATION).splitlines() if line[:2] == "  "}
    assert re.search(r"2\.31  \(2\.20–2\.42\) +4\.71\* \(4\.60–4\.82\) +100$", lines["Rating [1–7]"])
    assert "3.114* (3.080–3.150)" in lines["Pretraining loss [nats/token]"]
    assert "*" not in lines["KL from where RL started [nats/answer]"]
    assert lines["Rating, chat [1–7]"].endswith("31–47")
    assert table_text({}).split() == ["n"]


def test_table_text_calls_the_reward_by_its_name_where_it_is_no_reward_model():
    figures = {"ppo": {name: {"mean": 1.0} for name in ("reward", "reward/minus_sft")}}
    of_model, of_function = table_text(figures), table_text(figures, "0.5·exact")
    assert "  Reward-model score  " in of_model and "  Reward-model score less that of SFT " in of_model
    assert "  Reward: 0.5·exact  " in of_function and "  Reward: 0.5·exact less that of SFT " in of_function


def test_a_session_is_shown_turn_by_turn(tmp_path, whole):
    said = [
        {"role": "user", "content": "Where does <Ada> live?"},
        {"role": "assistant", "content": "In & out.", "rating": 2.5},
        {"role": "user", "content": "And what does she like?"},
        {"role": "assistant", "content": " ", "rating": 1.0},
    ]
    text = page(tmp_path, notes=NOTES | {"session": {"model": "ppo_ptx", "messages": said}})
    session = text[text.index('id="session"') : text.index('id="setup"')]
    shown = re.findall(r'class="prompt">(.*?)</div>|<small>(.*?)</small></p><div>(.*?)</div>', session)
    assert shown == [
        ("Where does &lt;Ada&gt; live?", "", ""),
        ("", "rating 2.5", "In &amp; out."),
        ("And what does she like?", "", ""),
        ("", "rating 1.0", "<i>empty</i>"),
    ]
    assert session.count("PPO-ptx") == 2 and "#session" in text and "session" not in whole


def test_a_figure_of_few_draws_or_of_half_its_scale_is_said_to_be_too_small(tmp_path):
    figures = {
        "rating": cell(4.0, 3.9, 4.1, 9),  # fewer than 10 draws
        "rating/chat": cell(4.0, 2.0, 5.0, 31),  # 3 of the 6 points from 1 to 7
        "rudeness/none": cell(0.4, 0.2, 0.6999, 31),
        "kl/from_rl_init": cell(14.0, 1.0, 99.0, 10),  # without a scale the interval says nothing of n
        "gold": {},
    }
    found = rows(page(tmp_path, {"base": figures}))
    little = {label for label, cells in found.items() if "n too small" in cells[0]}
    assert little == {"Rating", "Rating, chat"} and len(found) == 5


def test_further_draws_and_the_stages_history_stand_on_the_page(tmp_path):
    more = [{"text": "<b>again</b>", "rating": 3.0, "reward": -0.25}, {"text": " ", "rating": None, "reward": None}]
    sample = {**SAMPLES[0], "answers": {"base": {**SAMPLES[0]["answers"]["base"], "more": more}}}
    notes = NOTES | {"stages": [["sft <1>", "2026-01-02 03:04", "5 min 6 s", "jax 0.10"]]}
    text = page(tmp_path, samples=[sample], notes=notes)
    assert text.count("drawn again") == 2 and "&lt;b&gt;again&lt;/b&gt;" in text and "rating 3.0 · reward −0.25" in text
    (row,) = re.findall(r"<th scope=\"row\">(sft.*?)</tr>", text)
    assert re.findall(r">?([^<>]+)<", row) == ["sft &lt;1&gt;", "2026-01-02 03:04", "5 min 6 s", "jax 0.10"]


def test_text_can_be_read_on_the_page(whole):
    """Every colour of text on what it stands on: WCAG 2.2, 1.4.3."""
    texts = set(re.findall(r"[; {]color: var\(--(\w+)\)", whole)) | {"ink"}
    assert texts == {"ink", "muted", "link"}
    for colours in schemes(whole):
        assert min(contrast(colours[text], colours[on]) for text in texts for on in ("page", "tint")) >= LEAST
