"""The report of a run: one HTML page that needs nothing outside itself, and its table as text."""

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.evals.figures import (
    CATEGORIES,
    DARK,
    MODELS,
    PAGE_COLOURS,
    PALETTE,
    Curves,
    Drawing,
    Evaluation,
    all_figures,
    number,
    rl_stages,
)
from rlhf_jax.evals.intervals import FEWEST, RATING, SHARE, Scale, says_little

HEADINGS = ("Helpful", "Truthful", "Harmless", "Alignment tax", "Distance", "Reward model", "Other")
NO_VALUE = "–"
TOO_FEW = "n too small"
ARROWS = {1: "↑", -1: "↓", 0: ""}
SUBORDINATE = ("rating/minus_*", "reward/minus_*", "rating/*", "truth/multiple_choice_*")
OPEN_SAMPLES = 5


class Metric(NamedTuple):
    """How one metric is shown. A name that ends in * is a family, whose members fill the {} of the label."""

    name: str
    heading: str
    label: str
    unit: str
    better: int  # 1: higher is better, -1: lower is better, 0: neither
    digits: int
    scale: float = 1.0
    meaning: str = ""


METRICS = (
    Metric(
        "win_rate/vs_sft", "Helpful", "Win rate against SFT", "%", 1, 1, 100,
        "share of prompts on which the model's answer is preferred, a tie counting half",
    ),
    Metric("win_rate/vs_base", "Helpful", "Win rate against base", "%", 1, 1, 100),
    Metric("win_rate/vs_*", "Helpful", "Win rate against {}", "%", 1, 1, 100),
    Metric(
        "win_rate_trained/vs_*", "Helpful", "Win rate against {}, trained", "%", 1, 1, 100,
        "on prompts about people, places and occupations that prompts for training are about as well",
    ),
    Metric(
        "win_rate_held_out/vs_*", "Helpful", "Win rate against {}, held out", "%", 1, 1, 100,
        "on prompts about people, places and occupations that no prompt for training is about",
    ),
    Metric("rating", "Helpful", "Rating", "1–7", 1, 2, 1, "overall quality, 7 is best"),
    Metric(
        "rating/minus_*", "Helpful", "Rating less that of {}", "points", 1, 2, 1,
        "paired: both models answer the same prompts with the same random numbers, and the interval is of the differences",
    ),
    Metric("reward/minus_*", "Helpful", "Reward-model score less that of {}", "", 1, 2, 1, "paired in the same way"),
    Metric("rating/*", "Helpful", "Rating, {}", "1–7", 1, 2),
    Metric("gold", "Helpful", "Gold reward", "", 1, 2, 1, "the reward that the simulated labelers rank by"),
    Metric("reward", "Helpful", "Reward-model score", "", 1, 2, 1, "what PPO maximises"),
    Metric(
        "truth/multiple_choice", "Truthful", "Multiple choice", "%", 1, 1, 100,
        "share where the truth is likeliest, of questions on facts that no prompt for training asks for",
    ),
    Metric("truth/multiple_choice_*", "Truthful", "Multiple choice, {}", "%", 1, 1, 100),
    Metric(
        "truth/generated", "Truthful", "Generated answers", "%", 1, 1, 100,
        "share with nothing false where there is a myth; informative: and right",
    ),
    Metric("truth/*", "Truthful", "{}", "%", 1, 1, 100),
    Metric(
        "truth_trained/*", "Truthful", "{}, trained", "%", 1, 1, 100,
        "on facts that prompts for training ask for, in other words",
    ),
    Metric(
        "rudeness/none", "Harmless", "Rudeness, plain prompt", "%", -1, 1, 100,
        "share of answers with a rude word; below, the same prompts with an instruction to be respectful, or rude, which "
        "a model that does as it is told is",
    ),
    Metric("rudeness/respectful", "Harmless", "Rudeness, told to be respectful", "%", -1, 1, 100),
    Metric("rudeness/rude", "Harmless", "Rudeness, told to be rude", "%", 0, 1, 100),
    Metric("rudeness/*", "Harmless", "Rudeness, {}", "%", -1, 1, 100),
    Metric(
        "bias/entropy_bits", "Harmless", "Bias, entropy of the choice", "bits", 1, 3, 1,
        "1 bit where the model finds both sentences of a pair equally likely, 0 where it is sure of one",
    ),
    Metric("pretrain/loss", "Alignment tax", "Pretraining loss", "nats/token", -1, 3, 1, "on held-out text"),
    Metric("closed/*", "Alignment tax", "{}", "%", 1, 1, 100, "accuracy on the ends of held-out documents, and of sentences"),
    Metric(
        "kl/from_rl_init", "Distance", "KL from where RL started", "nats/answer", 0, 2, 1,
        "of the distributions that answers are drawn from, at the evaluation's temperature and truncation",
    ),
    Metric("kl/from_*", "Distance", "KL from {}", "nats/answer", 0, 2),
    Metric("length", "Distance", "Length of an answer", "tokens", 0, 1),
    Metric("ended", "Distance", "Answers that end", "%", 1, 1, 100, "share that reach EOS within the limit"),
    Metric("accuracy/*", "Reward model", "Accuracy, {}", "%", 1, 1, 100, "share of the pairs that it orders as they do"),
    Metric("agreement/*", "Reward model", "Agreement among {}", "%", 1, 1, 100),
)  # fmt: skip
SCALES = {"%": SHARE, "1–7": RATING, "points": (RATING[0] - RATING[1], RATING[1] - RATING[0]), "bits": (0.0, 1.0)}


def scale_of(name: str) -> Scale | None:
    """The least and the largest value that a figure of this name can have, before it is scaled to be shown; None: none."""
    return next((SCALES.get(metric.unit) for metric in METRICS if _is_of(name, metric)), None)


def _is_of(name: str, metric: Metric) -> bool:
    stem = metric.name.rstrip("*")
    return name.startswith(stem) and name != stem if metric.name.endswith("*") else name == metric.name


def write_report(
    path: Path,
    title: str,
    evaluation: Evaluation,
    curves: Curves,
    samples: Sequence[Mapping[str, Any]],
    notes: Mapping[str, Any],
) -> None:
    """Write the page. The same input gives the same bytes.

    evaluation: model → metric → {"mean", "low", "high", "n"}; the bounds may be None.
    curves: stage → rows with "step" and metrics.
    samples: {"prompt", "category", "answers": {model: {"text", "rating", "reward"}}}; an answer's "more" are further draws.
    notes: strings by name; "findings" (sentences) head the page, "judge" explains the win rate, "reward_model" has figures of
    its own as a model has, "session" is a dialogue {"model", "messages": [{"role", "content", and an answer's "rating"}]},
    "stages" are rows of a name, a date, a duration and versions.
    """
    spoken = [notes["session"]["model"]] if notes.get("session") else []
    models = ordered([*evaluation, *rl_stages(curves), *(m for sample in samples for m in sample["answers"]), *spoken])
    colours = _colours([*models, "reward_model"])
    results = {model: evaluation[model] for model in models if model in evaluation}
    ranked = {"reward_model": notes["reward_model"]} if notes.get("reward_model") else {}
    table = _table(results, colours) + (_table(ranked, colours) if ranked else "")
    sections = [
        _header(title, notes),
        section_html("results", "Results", table + _legend(results | ranked, notes)),
        section_html(
            "figures",
            "Figures",
            "".join(figure_html(drawing, colours) for drawing in all_figures(results, curves, colours)),
        ),
        section_html("samples", "Samples", _samples(samples, models, colours)),
        *([section_html("session", "Session", _session(notes["session"], colours))] if notes.get("session") else []),
        section_html("setup", "Set-up", _setup(notes)),
    ]
    write_page(path, title, sections)


def write_page(path: Path, title: str, sections: Sequence[str]) -> None:
    """Sections of HTML as one page that needs nothing outside itself."""
    head = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escaped(title)}</title>\n<style>{_colours_css()}{CSS}</style>\n</head>\n<body>\n<main>\n"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(head + "\n".join(sections) + "\n</main>\n</body>\n</html>\n", encoding="utf-8", newline="\n")


def table_text(evaluation: Evaluation, reward: str = "") -> str:
    """The table of results for the terminal; * marks the best mean of a row. reward: what answers are scored by, where that
    is not a reward model alone."""
    models = ordered(evaluation)
    rows = [["", *(MODELS.get(m, m) for m in models), "n"]]
    heading = None
    for metric, name, label in table_rows(evaluation):
        if metric.heading != heading:
            heading = metric.heading
            rows.append([heading.upper()])
        best = _best(evaluation, metric, name)
        cells = []
        for model in models:
            mean, interval = cell_text(evaluation[model].get(name), metric)
            mark = "*" if model in best else " "
            cells.append(f"{mean}{mark}{f' ({interval})' if interval else ''}")
        unit = f" [{metric.unit}]" if metric.unit else ""
        label = label.replace("Reward-model score", f"Reward: {reward}") if reward else label
        rows.append([f"  {label}{unit}", *cells, _count(evaluation, name)])
    widths = [max((len(row[i]) for row in rows if i < len(row)), default=0) for i in range(len(rows[0]))]
    return "\n".join("  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=False)).rstrip() for row in rows)


def ordered(models: Iterable[str]) -> list[str]:
    """Each model once, those of the recipe first."""
    seen = list(dict.fromkeys(models))
    return [*(m for m in MODELS if m in seen), *(m for m in seen if m not in MODELS)]


def _colours(models: Sequence[str]) -> dict[str, int]:
    """A model's slot of the palette: one and the same for the four known, whichever of them are here."""
    others = [m for m in models if m not in MODELS]
    spare = len(PALETTE) - len(MODELS)
    return {m: i for i, m in enumerate(MODELS)} | {m: len(MODELS) + i % spare for i, m in enumerate(others)}


def table_rows(evaluation: Evaluation) -> list[tuple[Metric, str, str]]:
    """(metric, its full name, its label) of every row of the table, in order."""
    names = list(dict.fromkeys(name for metrics in evaluation.values() for name in metrics))
    categories = [f"rating/{category}" for category in CATEGORIES]
    names.sort(key=lambda name: categories.index(name) if name in categories else len(categories))
    rows = []
    for metric in METRICS:
        for name in [n for n in names if _is_of(n, metric)]:
            names.remove(name)
            rest = name.removeprefix(metric.name.rstrip("*"))
            words = MODELS.get(rest, CATEGORIES.get(rest, rest.replace("_", " ")))
            label = metric.label.format(words)
            rows.append((metric, name, label[:1].upper() + label[1:]))
    rows.sort(key=lambda row: HEADINGS.index(row[0].heading))
    return rows + [(Metric(name, "Other", name, "", 0, 4), name, name) for name in names]


def _best(evaluation: Evaluation, metric: Metric, name: str) -> set[str]:
    means = {model: number(metrics.get(name, {}), "mean") for model, metrics in evaluation.items()}
    known = {model: metric.better * mean for model, mean in means.items() if mean is not None}
    if metric.better == 0 or len(known) < 2:
        return set()
    return {model for model, mean in known.items() if mean == max(known.values())}


def cell_text(cell: Mapping[str, Any] | None, metric: Metric) -> tuple[str, str]:
    """The mean and the interval as text."""
    mean, low, high = (number(cell or {}, key) for key in ("mean", "low", "high"))
    if mean is None:
        return NO_VALUE, ""

    def show(value: float) -> str:
        text = f"{value * metric.scale:.{metric.digits}f}"
        # A number that rounds to zero has no sign.
        return text.removeprefix("-") if not float(text) else text.replace("-", "−")

    if low is None or high is None:
        return show(mean), ""
    return show(mean), f"{show(low)}{' to ' if low < 0 else '–'}{show(high)}"


def _is_little(cell: Mapping[str, Any] | None, name: str) -> bool:
    """Of a figure that there is."""
    if number(cell or {}, "mean") is None or cell is None:
        return False
    return says_little(number(cell, "low"), number(cell, "high"), cell.get("n"), scale_of(name))


def _count(evaluation: Evaluation, name: str) -> str:
    counts = [metrics[name]["n"] for metrics in evaluation.values() if metrics.get(name, {}).get("n") is not None]
    return "–".join(f"{n:,}" for n in sorted({min(counts), max(counts)})) if counts else ""


def escaped(value: object) -> str:
    """Text as HTML."""
    return html.escape(str(value), quote=True)


def _chip(model: str, colours: Mapping[str, int]) -> str:
    return f'<span class="chip" style="--c:var(--m{colours[model]})">{escaped(MODELS.get(model, model))}</span>'


def _colours_css() -> str:
    light, dark = ("; ".join(f"--{k}: {v}" for k, v in page.items()) for page in (LIGHT_PAGE, DARK_PAGE))
    dark_only = f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}"
    return f"\n:root {{ color-scheme: light dark; {light} }}\n{dark_only}"


def section_html(name: str, title: str, body: str) -> str:
    """A section of the page under its heading."""
    return f'<section id="{name}">\n<h2>{title}</h2>\n{body}\n</section>'


def scroll_html(body: str, name: str) -> str:
    """What may be wider than the window and scrolls inside the page, by keys as well; its name is for who cannot see it."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escaped(name)}">{body}</div>'


def _header(title: str, notes: Mapping[str, Any]) -> str:
    findings = notes.get("findings") or ()
    findings = [findings] if isinstance(findings, str) else findings
    line = " · ".join(f"{name} {escaped(notes[name])}" for name in ("created", "seed") if notes.get(name))
    parts = ("Results", "Figures", "Samples", *(["Session"] if notes.get("session") else []))
    links = "".join(f'<a href="#{name.lower()}">{name}</a>' for name in parts)
    items = "".join(f"<li>{escaped(sentence)}</li>" for sentence in findings)
    return (
        f'<header>\n<h1>{escaped(title)}</h1>\n<p class="by">{line}</p>\n'
        + (f'<ul class="findings">{items}</ul>\n' if items else "")
        + f'<nav>{links}<a href="#setup">Set-up</a></nav>\n</header>'
    )


def _table(evaluation: Evaluation, colours: Mapping[str, int]) -> str:
    if not any(evaluation.values()):
        return '<p class="missing">Nothing was evaluated.</p>'
    top = "".join(f'<th scope="col">{_chip(model, colours)}</th>' for model in evaluation)
    lines, heading = [], None
    for metric, name, label in table_rows(evaluation):
        if metric.heading != heading:
            heading = metric.heading
            lines.append(f'<tr class="group"><th colspan="{len(evaluation) + 2}"><span>{heading}</span></th></tr>')
        best = _best(evaluation, metric, name)
        cells = ""
        for model, metrics in evaluation.items():
            mean, interval = cell_text(metrics.get(name), metric)
            mark = " class=best" if model in best else ""
            few = f"<small>{TOO_FEW}</small>" if _is_little(metrics.get(name), name) else ""
            cells += f"<td{mark}><span>{mean}</span><small>{interval}</small>{few}</td>"
        unit = f"{metric.unit} {ARROWS[metric.better]}".strip()
        sub = ' class="sub"' if metric.name in SUBORDINATE else ""
        lines.append(
            f'<tr{sub}><th scope="row">{escaped(label)}<small>{escaped(unit)}</small></th>'
            f'{cells}<td class="n">{_count(evaluation, name)}</td></tr>'
        )
    head = f'<tr><th></th>{top}<th scope="col" class="n">n</th></tr>'
    body = "\n".join(lines)
    return scroll_html(f"<table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody></table>", "figures") + "\n"


def _legend(evaluation: Evaluation, notes: Mapping[str, Any]) -> str:
    if not any(evaluation.values()):
        return ""
    meanings = {}
    for metric, _, label in table_rows(evaluation):
        if metric.meaning:
            meanings.setdefault(metric.meaning, []).append(label)
    judge = f" Win rates and ratings are given by {escaped(notes['judge'])}." if notes.get("judge") else ""
    items = "".join(f"<dt>{escaped(', '.join(k))}</dt><dd>{escaped(v)}</dd>" for v, k in meanings.items())
    return (
        '<p class="legend">Means, with 95 % intervals below them. ↑ higher is better, ↓ lower is better; '
        "the best mean of a row is <b>bold</b>, which is no test of significance. "
        f"n&nbsp;counts what was drawn: prompts, facts, people, occupations. “{TOO_FEW}” stands where they are fewer than "
        f"{FEWEST}, or the interval covers half of the figure's scale.{judge}</p>\n"
        f'<dl class="legend">{items}</dl>'
    )


def figure_html(drawing: Drawing, colours: Mapping[str, int]) -> str:
    """A drawing with its key and caption."""
    chips = "".join(_chip(model, colours) for model in drawing.models)
    key = f'<p class="key">{chips}</p>\n' if chips else ""
    missing = "".join(f'<p class="missing">{escaped(sentence)}</p>' for sentence in drawing.missing)
    panels = "".join(f'<div class="panel">{panel}</div>\n' for panel in drawing.panels)
    return (
        f"<figure>\n<h3>{escaped(drawing.title)}</h3>\n{key}"
        f'<div class="panels">\n{panels}</div>\n'
        f"<figcaption>{escaped(drawing.caption)}{missing}</figcaption>\n</figure>\n"
    )


def _samples(samples: Sequence[Mapping[str, Any]], models: Sequence[str], colours: Mapping[str, int]) -> str:
    if not samples:
        return '<p class="missing">No samples were kept.</p>'
    shown = [_sample(sample, models, colours) for sample in samples]
    rest = shown[OPEN_SAMPLES:]
    if not rest:
        return "".join(shown)
    return "".join(shown[:OPEN_SAMPLES]) + f"<details><summary>{len(rest)} more</summary>{''.join(rest)}</details>"


def _sample(sample: Mapping[str, Any], models: Sequence[str], colours: Mapping[str, int]) -> str:
    answers = []
    for model in [m for m in models if m in sample["answers"]]:
        answer = sample["answers"][model]
        drawn = "".join(
            f'<p class="who">drawn again<small>{scored(more)}</small></p><div>{said(more["text"])}</div>'
            for more in answer.get("more", ())
        )
        answers.append(
            f'<div class="answer" style="--c:var(--m{colours[model]})"><p class="who">'
            f"{escaped(MODELS.get(model, model))}<small>{scored(answer)}</small></p><div>{said(answer['text'])}</div>"
            f"{drawn}</div>"
        )
    category = CATEGORIES.get(sample["category"], sample["category"])
    return (
        f'<article><p class="category">{escaped(category)}</p>\n'
        f'<div class="prompt">{escaped(sample["prompt"])}</div>\n'
        f'<div class="answers">{"".join(answers)}</div></article>\n'
    )


def scored(answer: Mapping[str, Any]) -> str:
    """What an answer was given, as text."""
    scores = [(name, number(answer, name), digits) for name, digits in (("rating", 1), ("reward", 2))]
    return " · ".join(f"{n} {v:.{d}f}".replace("-", "−") for n, v, d in scores if v is not None)


def said(text: str) -> str:
    """An answer as HTML."""
    return escaped(text) if text.strip() else "<i>empty</i>"


def _session(session: Mapping[str, Any], colours: Mapping[str, int]) -> str:
    """A dialogue with one model, turn by turn."""
    model, turns = session["model"], ""
    for message in session["messages"]:
        words = said(message["content"])
        if message["role"] == "assistant":
            rated = f"rating {message['rating']:.1f}"
            turns += (
                f'<div class="answers"><div class="answer" style="--c:var(--m{colours[model]})"><p class="who">'
                f"{escaped(MODELS.get(model, model))}<small>{rated}</small></p><div>{words}</div></div></div>\n"
            )
        else:
            turns += f'<div class="prompt">{words}</div>\n'
    return f"<article>{turns}</article>\n"


def _setup(notes: Mapping[str, Any]) -> str:
    small = {
        name: text
        for name, text in notes.items()
        if name not in ("findings", "config", "reward_model", "session", "stages") and text
    }
    items = "".join(f"<dt>{escaped(name)}</dt><dd>{escaped(text)}</dd>" for name, text in small.items())
    config = notes.get("config")
    folded = f"<details><summary>Configuration</summary><pre>{escaped(config)}</pre></details>" if config else ""
    return f'<dl class="setup">{items}</dl>{_stages(notes.get("stages") or ())}{folded}'


def _stages(stages: Sequence[Sequence[str]]) -> str:
    """When each stage was made, how long it took and with what; nothing without stages."""
    if not stages:
        return ""
    head = "".join(f'<th scope="col">{name}</th>' for name in ("date, UTC", "duration", "made with"))
    rows = "".join(
        f'<tr><th scope="row">{escaped(name)}</th>{"".join(f"<td>{escaped(cell)}</td>" for cell in cells)}</tr>'
        for name, *cells in stages
    )
    return scroll_html(f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>", "stages")


LIGHT_PAGE = {"page": "#ffffff", "rule": "#d2d2d7", "tint": "#f6f6f7", "link": "#0b5a96", **PAGE_COLOURS}
DARK_PAGE = {"page": "#141416", "rule": "#3a3a40", "tint": "#1c1c1f", "link": "#7cbcf0"}
DARK_PAGE |= {"ink": "#e8e8ea", "muted": "#9b9ba2", "grid": "#2b2b30"} | {f"m{i}": c for i, c in enumerate(DARK)}
CSS = """
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth }
body { margin: 0; background: var(--page); color: var(--ink); font: 17px/1.55 Charter, "Bitstream Charter",
  "Iowan Old Style", "Source Serif 4", "Palatino Linotype", "Liberation Serif", Georgia, serif }
main { max-width: 1128px; margin: 0 auto; padding: 56px 24px 96px }
h1, h2, h3, nav, table, small, .by, .chip, .who, .category, .legend, .missing, .setup, summary, figcaption,
  svg text { font-family: -apple-system, "Segoe UI", Inter, Roboto, "Helvetica Neue", "Liberation Sans",
  Arial, sans-serif }
svg text { font-family: -apple-system, "Segoe UI", Inter, Roboto, "Helvetica Neue", "Liberation Sans",
  Arial, sans-serif !important }
h1 { font-size: clamp(28px, 4.4vw, 42px); line-height: 1.12; letter-spacing: -.018em; font-weight: 700;
  margin: 0; max-width: 22em; text-wrap: balance }
h2 { font-size: 24px; letter-spacing: -.01em; margin: 72px 0 20px; padding-top: 14px; border-top: 1px solid
  var(--rule) }
h3 { font-size: 17px; margin: 0; letter-spacing: -.003em }
.by { color: var(--muted); font-size: 14px; margin: 10px 0 0 }
.findings { max-width: 42em; margin: 26px 0 0; padding: 0 0 0 1.1em; font-size: 19px; line-height: 1.5 }
.findings li { margin: 0 0 .45em } .findings li::marker { color: var(--muted) }
nav { display: flex; gap: 22px; margin-top: 26px; font-size: 14px }
a { color: var(--link); text-decoration: none } a:hover { text-decoration: underline }
.scroll { overflow-x: auto }
.scroll + .scroll { margin-top: 2.5rem }
table { border-collapse: collapse; width: 100%; font-size: 14.5px; line-height: 1.3; font-variant-numeric:
  tabular-nums }
th, td { text-align: right; vertical-align: top; padding: 7px 0 7px 22px; white-space: nowrap }
thead th { border-bottom: 1px solid var(--ink); font-weight: 600; vertical-align: bottom }
tbody tr + tr th, tbody tr + tr td { border-top: 1px solid var(--grid) }
th:first-child { text-align: left; padding-left: 0; font-weight: 400; position: sticky; left: 0; background:
  var(--page) }
tbody th small { color: var(--muted); margin-left: 8px; font-size: 12px }
tbody .group th { padding-top: 24px; font-weight: 600; border-bottom: 1px solid var(--rule) }
tbody tr.group + tr th, tbody tr.group + tr td { border-top: 0 }
tbody .group span { position: sticky; left: 0 }
.sub th:first-child { padding-left: 18px }
td small { display: block; color: var(--muted); font-size: 11.5px; min-height: 1.3em } td.best span {
  font-weight: 700 }
.n, td.n { color: var(--muted); font-weight: 400; font-size: 13px }
.claims td.text { white-space: normal; text-align: left; min-width: 24em } .claims th { white-space: normal;
  min-width: 11em; position: static }
.wrapped thead th { white-space: normal; min-width: 6.5em } .wrapped tbody th { min-width: 7em; white-space: nowrap }
.chip { white-space: nowrap } .chip::before { content: ""; display: inline-block; width: 10px; height: 10px;
  border-radius: 2px; background: var(--c); margin-right: 7px }
.legend { font-size: 13.5px; line-height: 1.5; color: var(--muted); max-width: 62em } p.legend { margin:
  18px 0 10px }
dl.legend { display: grid; grid-template-columns: max-content 1fr; gap: 2px 16px; margin: 0 }
dl.legend dt { color: var(--ink) } dd { margin: 0 }
figure { margin: 0 0 56px } .key { display: flex; flex-wrap: wrap; gap: 2px 20px; margin: 4px 0 0;
  font-size: 14px }
.panels { display: grid; gap: 22px 28px; margin-top: 14px; grid-template-columns: repeat(auto-fill,
  minmax(min(100%, 330px), 1fr)) }
.panel svg { display: block; width: 100%; height: auto; overflow: visible }
figcaption { font-size: 13.5px; line-height: 1.5; color: var(--muted); max-width: 56em; margin-top: 10px }
.missing { color: var(--muted); font-size: 13.5px; margin: 2px 0 0; font-style: italic }
article { padding: 22px 0 26px; border-top: 1px solid var(--grid) } #samples h2 + article { border-top: 0;
  padding-top: 0 }
.category { font-size: 12.5px; color: var(--muted); margin: 0 0 4px }
.prompt, .answer div { white-space: pre-wrap; overflow-wrap: anywhere } .prompt { max-width: 46em;
  font-size: 18px }
.answers { display: grid; gap: 18px 24px; margin-top: 14px; grid-template-columns: repeat(auto-fit,
  minmax(min(100%, 220px), 1fr)) }
.answer { border-top: 3px solid var(--c); padding-top: 7px; font-size: 15.5px; line-height: 1.5 }
.answer i { color: var(--muted) }
.who { font-size: 13.5px; font-weight: 600; margin: 0 0 5px; display: flex; justify-content: space-between;
  gap: 10px }
.who small { font-weight: 400; color: var(--muted); font-size: 12.5px; font-variant-numeric: tabular-nums }
summary { cursor: pointer; color: var(--link); font-size: 14.5px; padding: 8px 0 }
.setup { display: grid; grid-template-columns: max-content 1fr; gap: 4px 20px; font-size: 13.5px; margin: 0
  0 14px }
.setup dt { color: var(--muted) } .setup dd { overflow-wrap: anywhere; white-space: pre-wrap }
pre { background: var(--tint); padding: 16px 18px; overflow-x: auto; font: 13px/1.5 ui-monospace, Menlo,
  Consolas, "Liberation Mono", monospace; border-radius: 3px }
@media (max-width: 600px) { main { padding: 32px 16px 64px } body { font-size: 16px } .findings { font-size:
  17px } h2 { margin-top: 52px } th, td { padding-left: 16px } tbody th { white-space: normal; min-width:
  128px } tbody th small { display: block; margin-left: 0 } dl.legend, .setup { grid-template-columns: 1fr;
  gap: 0 } dl.legend dd, .setup dd { margin-bottom: 6px } }
@media print { main { max-width: none; padding: 0 } figure, article { break-inside: avoid } nav { display:
  none } }
"""
