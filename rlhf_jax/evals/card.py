"""The page of a run, or of several side by side: settings, curves, figures with their differences, samples, and what was made
from what."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes

from rlhf_jax.evals.figures import (
    MODELS,
    PALETTE,
    STAGES,
    WIDTH,
    Curves,
    Drawing,
    Evaluation,
    metric_pairs,
    panel,
    smooth,
)
from rlhf_jax.evals.intervals import Estimate, Scale, independent_difference, paired_interval
from rlhf_jax.evals.lineage import Origins, edges, lineage_svg
from rlhf_jax.evals.measured import Row, differences
from rlhf_jax.evals.report import (
    NO_VALUE,
    Metric,
    cell_text,
    escaped,
    figure_html,
    ordered,
    said,
    scored,
    scroll_html,
    section_html,
    table_rows,
    write_page,
)

# Of a stage's figures those that are drawn: names, or what stands before their "/" and it.
DRAWN = ("loss/", "accuracy/", "objective/", "gold/", "pretrain/", "reward/", "rewards/", "answer/", "policy/ema_lag")
MOST = 500  # points of a line


class Made(NamedTuple):
    """A folder of a run. about: date, duration and versions, as text."""

    origins: Origins
    about: tuple[str, str, str]


class Measurement(NamedTuple):
    """A folder of a task's figures, and the rows behind them."""

    name: str
    task: str
    figures: Mapping[str, Estimate]
    rows: Sequence[Row]
    scales: Mapping[str, Scale | None]  # of each value; those that are missing have none


class Carded(NamedTuple):
    """What the page shows of a run. settings: of each program and stage, nested. unreadable: sentences."""

    name: str
    settings: Mapping[str, Mapping[str, Any]]
    folders: Sequence[Made]
    curves: Curves
    evaluation: Evaluation
    samples: Sequence[Mapping[str, Any]]
    measured: Sequence[Measurement]
    unreadable: Sequence[str] = ()


class Setting(NamedTuple):
    """A key, where programs or stages of one run have several values of it with the name of one, and its value in each run;
    None where a run has no such key."""

    label: str
    values: tuple[str | None, ...]

    @property
    def differs(self) -> bool:
        return len(set(self.values)) > 1


def settings_of(runs: Sequence[Carded]) -> list[Setting]:
    """Every setting of the runs, by its key."""
    flat = [{source: dict(flattened(each)) for source, each in run.settings.items()} for run in runs]
    found = []
    for key in dict.fromkeys(key for run in flat for each in run.values() for key in each):
        sources = dict.fromkeys(source for run in flat for source, each in run.items() if key in each)
        of = [{source: each[key] for source, each in run.items() if key in each} for run in flat]
        if all(len(set(each.values())) <= 1 for each in of):
            found.append(Setting(key, tuple(next(iter(each.values()), None) for each in of)))
        else:
            found += [Setting(f"{source}: {key}", tuple(each.get(source) for each in of)) for source in sources]
    return found


def flattened(settings: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, str]]:
    """Dotted keys and their values as JSON."""
    for name, value in settings.items():
        key = f"{above}.{name}" if above else str(name)
        if isinstance(value, Mapping) and value:
            yield from flattened(value, key)
        else:
            yield key, json.dumps(value, ensure_ascii=False, default=str)


def write_card(path: Path, title: str, runs: Sequence[Carded]) -> None:
    """Write the page. The same input gives the same bytes. ValueError: more runs than there are colours, or two of a name."""
    if len(runs) > len(PALETTE) or len({run.name for run in runs}) < len(runs):
        raise ValueError(f"A card is of up to {len(PALETTE)} runs, each with a name of its own.")
    chips = "".join(f"<span>{_chip(i, run.name)}</span>" for i, run in enumerate(runs))
    unreadable = "".join(
        f'<p class="missing">{escaped(run.name)}: {escaped(sentence)}</p>'
        for run in runs
        for sentence in run.unreadable
    )
    parts = {
        "settings": ("Settings", _settings(runs)),
        "results": ("Results", _evaluations(runs)),
        "measured": ("Measured", _measured(runs)),
        "figures": ("Curves", _curves(runs)),
        "samples": ("Samples", _samples(runs)),
        "lineage": ("What was made from what", _lineage(runs)),
    }
    links = "".join(f'<a href="#{name}">{heading}</a>' for name, (heading, _) in parts.items())
    sections = [
        f'<style>{CSS}</style><header>\n<h1>{escaped(title)}</h1>\n<p class="key">{chips}</p>\n{unreadable}'
        f"<nav>{links}</nav>\n</header>",
        *(section_html(name, heading, body) for name, (heading, body) in parts.items()),
    ]
    write_page(path, title, sections)


def _chip(run: int, name: str) -> str:
    return f'<span class="chip" style="--c:var(--m{run})">{escaped(name)}</span>'


def _missing(sentence: str) -> str:
    return f'<p class="missing">{escaped(sentence)}</p>'


def _heads(runs: Sequence[Carded]) -> str:
    return "".join(f'<th scope="col">{_chip(i, run.name)}</th>' for i, run in enumerate(runs))


def _settings(runs: Sequence[Carded]) -> str:
    found = settings_of(runs)
    if not found:
        return _missing("No settings were found.")
    differ, same = ([s for s in found if s.differs == wanted] for wanted in (True, False))

    def table(settings: Sequence[Setting], name: str, heads: str, count: int) -> str:
        rows = "".join(
            f'<tr><th scope="row">{escaped(s.label)}</th>'
            + "".join(f"<td>{escaped(NO_VALUE if v is None else v)}</td>" for v in s.values[:count])
            + "</tr>"
            for s in settings
        )
        head = f"<thead><tr><th></th>{heads}</tr></thead>" if heads else ""
        return scroll_html(f'<table class="settings">{head}<tbody>{rows}</tbody></table>', name)

    top = "" if len(runs) == 1 else _missing("The runs do not differ in any setting.")
    if differ:
        top = table(differ, "settings that differ", _heads(runs), len(runs))
    rest = f"{len(same)} settings" + (" that all have alike" if len(runs) > 1 else "")
    folded = table(same, "settings", "", 1)
    return top + (f"<details><summary>{rest}</summary>{folded}</details>" if same else "")


def _evaluations(runs: Sequence[Carded]) -> str:
    models = ordered(model for run in runs for model in run.evaluation)
    if not models:
        return _missing("No run was evaluated.")
    tables = []
    for model in models:
        of = {str(i): run.evaluation.get(model, {}) for i, run in enumerate(runs)}
        rows = []
        for metric, name, label in table_rows(of):
            cells = "".join(
                _figure(metric, [of[str(i)].get(name) for i in range(len(runs))], i) for i in range(len(runs))
            )
            rows.append(f'<tr><th scope="row">{escaped(label)}<small>{escaped(metric.unit)}</small></th>{cells}</tr>')
        head = f"<thead><tr><th></th>{_heads(runs)}</tr></thead>"
        table = scroll_html(f"<table>{head}<tbody>{''.join(rows)}</tbody></table>", f"figures of {model}")
        tables.append(f"<h3>{escaped(MODELS.get(model, model).replace('_', ' '))}</h3>{table}")
    note = '<p class="legend">Means, with 95 % intervals below them.'
    if len(runs) > 1:
        note += (
            f" Below these, by how much each run is above {escaped(runs[0].name)}; independent: as if what was asked had "
            "been drawn anew for each run, so that where it was the same the interval is wider than it need be."
        )
    return note + "</p>" + "".join(tables)


def _figure(metric: Metric, cells: Sequence[Mapping[str, Any] | None], at: int) -> str:
    """A run's figure, and its difference from the first one's."""
    mean, interval = cell_text(cells[at], metric)
    first, this = cells[0], cells[at]
    less = ""
    if at > 0 and first and this:
        less = _less(independent_difference(_estimate(this), _estimate(first)), metric, "independent")
    return f"<td><span>{mean}</span><small>{interval}</small>{less}</td>"


def _estimate(cell: Mapping[str, Any]) -> Estimate:
    return Estimate(cell["mean"], cell.get("low"), cell.get("high"), cell.get("n") or 0)


def _less(difference: Estimate, metric: Metric, how: str) -> str:
    mean, interval = cell_text(difference._asdict(), metric)
    sign = "+" if difference.mean > 0 else ""
    shown = f" ({interval})" if interval else ""
    return f'<small class="less">{sign}{mean}{shown}, {how}</small>'


def _measured(runs: Sequence[Carded]) -> str:
    """A table a task, with a column a folder. A folder's differences are from that of the same name in the first run, and
    within a run from the task's first."""
    columns: dict[str, list[tuple[int, Measurement]]] = {}
    for i, run in enumerate(runs):
        for one in run.measured:
            columns.setdefault(one.task, []).append((i, one))
    if not columns:
        return _missing("No task was asked of a model in these folders.")
    note = (
        '<p class="legend">Means, with 95 % intervals below them. Below these, the difference from the folder that the '
        "column names; paired: item by item, where both were asked the same; independent: as if drawn apart.</p>"
    )
    return note + "".join(_task(task, each) for task, each in columns.items())


def _task(task: str, columns: Sequence[tuple[int, Measurement]]) -> str:
    def other_of(number: int) -> int | None:
        run, one = columns[number]
        same = [n for n, (other, m) in enumerate(columns[:number]) if other < run and m.name == one.name]
        return same[0] if same else 0 if number else None

    others = [other_of(number) for number in range(len(columns))]
    apart = [
        None if n is None else difference_of(one, columns[n][1]) for (_, one), n in zip(columns, others, strict=True)
    ]
    heads = ""
    for (run, one), n in zip(columns, others, strict=True):
        against = "" if n is None else f"<small>less {_chip(columns[n][0], columns[n][1].name)}</small>"
        heads += f'<th scope="col">{_chip(run, one.name)}{against}</th>'
    rows = ""
    for name in dict.fromkeys(name for _, one in columns for name in one.figures):
        metric, cells = Metric(name, "Other", name, "", 0, 3), ""
        for (_, one), found in zip(columns, apart, strict=True):
            mean, interval = cell_text(one.figures[name]._asdict() if name in one.figures else None, metric)
            less = _less(*found[name][:1], metric, found[name][1]) if found and name in found else ""
            cells += f"<td><span>{mean}</span><small>{interval}</small>{less}</td>"
        rows += f'<tr><th scope="row">{escaped(name)}</th>{cells}</tr>'
    table = f"<table><thead><tr><th></th>{heads}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<h3>{escaped(task)}</h3>{scroll_html(table, task)}"


def difference_of(ours: Measurement, theirs: Measurement) -> dict[str, tuple[Estimate, str]]:
    """Ours − theirs of the figures that both have, and how: "paired" by `differences` where both are of the same items, else
    "independent". Of the same items a value that has no paired difference has none."""
    both = [name for name in ours.figures if name in theirs.figures]
    valued = {name for row in (*ours.rows, *theirs.rows) for name in row.values}
    scales = {**dict.fromkeys(valued), **{n: s for n in valued for s in _scale(n, ours.scales)}}
    apart = {name: (independent_difference(ours.figures[name], theirs.figures[name]), "independent") for name in both}
    try:
        paired = differences(ours.rows, theirs.rows, scales)
    except ValueError:  # other items
        return apart
    return {
        name: (paired[name], "paired") if name in paired else apart[name]
        for name in both
        if name in paired or name not in valued
    }


def _scale(name: str, scales: Mapping[str, Scale | None]) -> list[Scale | None]:
    return [scales[known] for known in (name, name.partition("/")[0]) if known in scales][:1]


def _curves(runs: Sequence[Carded]) -> str:
    colours = {run.name: i for i, run in enumerate(runs)}
    known = [*STAGES, *MODELS]
    stages = dict.fromkeys(stage for run in runs for stage in run.curves)
    shown = []
    for stage in sorted(stages, key=lambda stage: known.index(stage) if stage in known else len(known)):
        rows = {run.name: run.curves.get(stage, ()) for run in runs}
        names = dict.fromkeys(name for each in rows.values() for row in each for name in row if name != "step")
        drawn = [name for name in names if name.startswith(DRAWN)]
        lines = {name: {run: metric_pairs(each, "step", name) for run, each in rows.items()} for name in drawn}
        lines = {name: each for name, each in lines.items() if any(x.size for x, _ in each.values())}
        panels = tuple(_panel(stage, name, each, colours) for name, each in lines.items())
        rest = [name for name in names if name not in lines]
        missing = (f"In metrics.jsonl, and not drawn: {', '.join(rest)}.",) if rest else ()
        title = STAGES.get(stage, MODELS.get(stage, stage))
        shown.append(figure_html(Drawing(title, "", (), panels, missing), colours))
    if not shown:
        return _missing("No stage has logged anything.")
    key = "".join(f"<span>{_chip(i, run.name)}</span>" for i, run in enumerate(runs))
    note = '<p class="legend">Against the step. Faint: as logged. Strong: running mean over a twentieth of the run.</p>'
    return f'<p class="key">{key}</p>{note}' + "".join(shown)


def _panel(
    stage: str, name: str, lines: Mapping[str, tuple[np.ndarray, np.ndarray]], colours: Mapping[str, int]
) -> str:
    def draw(ax: Axes) -> None:
        for run, (x, y) in lines.items():
            if not x.size:
                continue
            colour, mean = PALETTE[colours[run]], smooth(x, y)
            every = -(-x.size // MOST)
            if mean[1] is not y:
                ax.plot(x[::every], y[::every], color=colour, alpha=0.3, linewidth=0.8)
            marker = "o" if x.size <= 15 else None
            dash = "-" if colours[run] == 0 else (0, (5, 1.5))  # through whose gaps a line that is the same is seen
            ax.plot(mean[0][::every], mean[1][::every], color=colour, marker=marker, markersize=3.5, linestyle=dash)

    return panel(draw, name, (WIDTH, 190), f"card {stage} {name}")


def _samples(runs: Sequence[Carded]) -> str:
    """Prompts with every run's answers, a model of all runs together."""
    prompts = list(dict.fromkeys(sample["prompt"] for run in runs for sample in run.samples))
    if not prompts:
        return _missing("No samples were kept.")
    by_prompt = [{sample["prompt"]: sample["answers"] for sample in run.samples} for run in runs]
    articles = []
    for prompt in prompts:
        models = ordered(model for each in by_prompt for model in each.get(prompt, {}))
        answers = "".join(
            f'<div class="answer" style="--c:var(--m{i})"><p class="who">{escaped(MODELS.get(model, model))}'
            f"<small>{escaped(runs[i].name)} · {scored(each[prompt][model])}</small></p>"
            f"<div>{said(each[prompt][model]['text'])}</div></div>"
            for model in models
            for i, each in enumerate(by_prompt)
            if model in each.get(prompt, {})
        )
        articles.append(
            f'<article><div class="prompt">{escaped(prompt)}</div><div class="answers">{answers}</div></article>'
        )
    rest = "".join(articles[5:])
    folded = f"<details><summary>{len(articles) - 5} more</summary>{rest}</details>" if rest else ""
    return _ratings(runs, by_prompt) + "".join(articles[:5]) + folded


def _ratings(runs: Sequence[Carded], by_prompt: Sequence[Mapping[str, Mapping[str, Any]]]) -> str:
    """Of the prompts that a run and the first one both show, the paired difference of their ratings."""
    metric, sentences = Metric("rating", "Helpful", "Rating", "", 1, 2), []
    for i, each in enumerate(by_prompt[1:], 1):
        for model in ordered(model for answers in each.values() for model in answers):
            pairs = [
                (answers[model]["rating"], by_prompt[0][prompt][model]["rating"])
                for prompt, answers in each.items()
                if model in answers and model in by_prompt[0].get(prompt, {})
            ]
            known = [pair for pair in pairs if None not in pair]
            if len(known) > 1:
                found = paired_interval([a for a, _ in known], [b for _, b in known], None, (1.0, 7.0))
                label, chip = escaped(MODELS.get(model, model)), _chip(i, runs[i].name)
                less = _less(found, metric, f"paired, {len(known)} prompts")
                sentences.append(f'<tr><th scope="row">{label}</th><td>{chip}</td><td>{less}</td></tr>')
    if not sentences:
        return ""
    head = f"Rating less that of {_chip(0, runs[0].name)} on the prompts that both show"
    return f'<p class="legend">{head}</p>' + scroll_html(
        f"<table><tbody>{''.join(sentences)}</tbody></table>", "ratings"
    )


def _lineage(runs: Sequence[Carded]) -> str:
    shown = []
    for i, run in enumerate(runs):
        if not run.folders:
            shown.append(f"<h3>{_chip(i, run.name)}</h3>{_missing('No folder says what it was made from.')}")
            continue
        drawing = scroll_html(lineage_svg([made.origins for made in run.folders], i, i), f"lineage of {run.name}")
        rows = "".join(
            f'<tr><th scope="row">{escaped(made.origins.name)}</th>'
            + "".join(f"<td>{escaped(text or NO_VALUE)}</td>" for text in made.about)
            + f"<td>{escaped((*made.origins.results, NO_VALUE)[0][:12])}</td>"
            f'<td class="text">{escaped(_parents(made, run.folders) or NO_VALUE)}</td></tr>'
            for made in run.folders
        )
        names = ("date, UTC", "duration", "made with", "sha256", "made from")
        head = "".join(f'<th scope="col">{name}</th>' for name in names)
        table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"
        shown.append(f"<h3>{_chip(i, run.name)}</h3>{drawing}{scroll_html(table, f'folders of {run.name}')}")
    note = (
        '<p class="legend">Boxes are folders, arrows lead from what they were made from; dashed is what lies outside the '
        "run, by the hash that is recorded of it.</p>"
    )
    return note + "".join(shown)


def _parents(made: Made, folders: Sequence[Made]) -> str:
    """What a folder was made from, as text."""
    found = [edge for edge in edges([each.origins for each in folders]) if edge.child == made.origins.name]
    return ", ".join(f"{e.role}: {e.parent[:12]}" if e.outside else f"{e.role}: {e.parent}" for e in found)


CSS = """
h3 { margin: 26px 0 8px } .less { color: var(--ink) } th small { display: block; font-weight: 400 }
.settings td { white-space: normal; overflow-wrap: anywhere; min-width: 6em } .lineage { display: block; max-width: none }
header .missing { margin-top: 10px } nav { flex-wrap: wrap } td.text { white-space: normal; min-width: 18em }
"""
