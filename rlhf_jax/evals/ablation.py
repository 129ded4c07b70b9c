"""The page of a grid over two coefficients: its claims, its table, and how figures move along each of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jaxtyping import Float
from matplotlib.axes import Axes
from numpy import ndarray

from rlhf_jax.evals.figures import MARKERS, MUTED, PALETTE, WIDTH, Drawing, panel
from rlhf_jax.evals.intervals import Estimate
from rlhf_jax.evals.report import NO_VALUE, escaped, figure_html, scroll_html, section_html, write_page

SYMBOLS = {"beta": "β", "gamma": "γ"}
COLUMNS = {
    "rating": ("Rating, 1–7", 1.0, 2),
    "win_rate/vs_sft": ("Win rate against SFT, %", 100.0, 1),
    "reward": ("Reward-model score", 1.0, 2),
    "kl/from_rl_init": ("KL from where RL started, nats per answer", 1.0, 2),
    "pretrain/loss": ("Pretraining loss, nats per token", 1.0, 3),
    "closed/last_word": ("Last word of a text, %", 100.0, 1),
    "closed/facts": ("Facts, %", 100.0, 1),
}


class Cell(NamedTuple):
    """One setting of the grid."""

    coefficients: Mapping[str, float]
    figures: Mapping[str, Estimate]  # over the seeds that ended; empty where all diverged
    diverged: int = 0  # seeds
    by_seed: Sequence[Mapping[str, float]] = ()  # the figures of each seed that ended


class Claim(NamedTuple):
    claim: str
    verdict: str  # holds, does not hold, undecided, nothing to repair
    evidence: str


class Line(NamedTuple):
    """A curve of training over the seeds, and its 95 % interval."""

    steps: Float[ndarray, " N"]
    mean: Float[ndarray, " N"]
    half: Float[ndarray, " N"]
    each: Sequence[Float[ndarray, " N"]] = ()  # of the single seeds


def write_ablation(
    path: Path,
    title: str,
    cells: Sequence[Cell],
    claims: Sequence[Claim],
    best: str,
    levels: Mapping[str, float],
    curves: Mapping[float, Line],
    config: str,
) -> None:
    """Write the page. cells: of a grid over beta and gamma. best: a sentence. levels: metric → where RL started from.
    curves: γ → pretraining loss during training."""
    gammas, betas = (sorted({cell.coefficients[name] for cell in cells}) for name in ("gamma", "beta"))
    slots = len(PALETTE)
    colours = {f"γ = {g:g}": i % slots for i, g in enumerate(gammas)}
    colours |= {f"β = {b:g}": i % slots for i, b in enumerate(betas)}
    of_gamma, of_beta = tuple(f"γ = {g:g}" for g in gammas), tuple(f"β = {b:g}" for b in betas)
    taxes = [name for name in ("pretrain/loss", "closed/last_word", "closed/facts") if _measured(cells, name)]
    drawings = [
        Drawing(
            "The pretraining mix: the alignment tax against γ",
            "Means over the seeds with 95 % intervals, and single seeds as dots beside them. Dashed: where RL started from. "
            "InstructGPT, Figure 33 in shape.",
            of_beta,
            tuple(_along(cells, "gamma", "beta", name, levels) for name in taxes),
        ),
        Drawing(
            "The KL penalty alone: the alignment tax and the reward against β at γ = 0",
            "InstructGPT, Figure 34 in shape.",
            of_gamma[:1] if gammas[0] == 0 else (),
            tuple(
                _along([c for c in cells if c.coefficients["gamma"] == 0], "beta", "gamma", name, levels)
                for name in (*taxes, "reward")
                if _measured(cells, name)
            )
            if gammas[0] == 0
            else (),
            () if gammas[0] == 0 else ("The table has no γ = 0.",),
        ),
        Drawing(
            "Longer training: pretraining loss on the mix's own rows",
            "Running mean over the seeds that did not diverge, with its 95 % interval, at the config's β; thin lines are "
            "single seeds. InstructGPT, Figure 35 in shape.",
            of_gamma,
            (_over_training(curves, colours),) if curves else (),
            () if curves else ("No curve was logged at the config's β.",),
        ),
        Drawing(
            "Quality against β",
            "InstructGPT, Figure 36 in shape.",
            of_gamma,
            tuple(
                _along(cells, "beta", "gamma", name, levels)
                for name in ("rating", "win_rate/vs_sft")
                if _measured(cells, name)
            ),
        ),
        Drawing(
            "Reward against distance from where RL started",
            "A mark a setting, with 95 % intervals both ways, and a dot a seed; the number beside it is β.",
            of_gamma,
            tuple(_frontier(cells, name, colours) for name in ("reward", "rating") if _measured(cells, name)),
        ),
    ]
    rows = "".join(
        f'<tr><th scope="row">{escaped(c.claim)}</th><td>{escaped(c.verdict)}</td><td class="text">'
        f"{escaped(c.evidence)}</td></tr>"
        for c in claims
    )
    sections = [
        f"<header>\n<h1>{escaped(title)}</h1>\n<ul class='findings'><li>{escaped(best)}</li></ul>\n</header>",
        section_html(
            "claims",
            "What the paper says, and what is seen here",
            scroll_html(f'<table class="claims"><tbody>{rows}</tbody></table>', "claims"),
        ),
        section_html("settings", "Every setting", _table(cells) + _seeds(cells)),
        section_html("figures", "Figures", "".join(figure_html(drawing, colours) for drawing in drawings)),
        section_html(
            "setup", "Set-up", f"<details><summary>Configuration</summary><pre>{escaped(config)}</pre></details>"
        ),
    ]
    write_page(path, title, sections)


def _measured(cells: Sequence[Cell], name: str) -> bool:
    return any(name in cell.figures for cell in cells)


def _bounds(estimate: Estimate, scale: float) -> tuple[float, float]:
    if estimate.low is None or estimate.high is None:
        return scale * estimate.mean, scale * estimate.mean
    return scale * estimate.low, scale * estimate.high


def _along(cells: Sequence[Cell], x: str, lines: str, name: str, levels: Mapping[str, float]) -> str:
    """A figure against one coefficient, a line for each value of the other. Values stand at equal distances."""
    label, scale, _ = COLUMNS[name]
    at = sorted({cell.coefficients[x] for cell in cells})

    def draw(ax: Axes) -> None:
        each = sorted({cell.coefficients[lines] for cell in cells})
        for i, value in enumerate(each):
            mine = [c for c in cells if c.coefficients[lines] == value and name in c.figures]
            mine.sort(key=lambda c: c.coefficients[x])
            places = [at.index(c.coefficients[x]) + 0.06 * (i - (len(each) - 1) / 2) for c in mine]
            for place, cell in zip(places, mine, strict=True):
                ax.plot(
                    [place, place], _bounds(cell.figures[name], scale), color=PALETTE[i % len(PALETTE)], linewidth=1.4
                )
                seeds = [scale * x for x in _of_seeds(cell, name)]
                ax.plot(
                    [place + 0.05] * len(seeds), seeds, ".", color=PALETTE[i % len(PALETTE)], alpha=0.55, markersize=5
                )
            means = [scale * c.figures[name].mean for c in mine]
            ax.plot(places, means, color=PALETTE[i % len(PALETTE)], marker=MARKERS[i % len(MARKERS)])
        if name in levels:
            ax.axhline(scale * levels[name], color=MUTED, linewidth=1.0, linestyle=(0, (4, 3)), zorder=0)
        ax.set_xticks(range(len(at)), [f"{value:g}" for value in at])
        ax.set_xlabel(SYMBOLS[x])
        ax.margins(x=0.1)

    return panel(draw, label, (WIDTH, 230), f"{x} {name}")


def _over_training(curves: Mapping[float, Line], colours: Mapping[str, int]) -> str:
    def draw(ax: Axes) -> None:
        for gamma, line in curves.items():
            colour = PALETTE[colours[f"γ = {gamma:g}"]]
            ax.fill_between(
                line.steps, line.mean - line.half, line.mean + line.half, color=colour, alpha=0.2, linewidth=0
            )
            for seed in line.each:
                ax.plot(line.steps, seed, color=colour, alpha=0.4, linewidth=0.6)
            ax.plot(line.steps, line.mean, color=colour)
        ax.set_xlabel("PPO iteration")

    return panel(draw, "Pretraining loss, nats per token", (WIDTH, 260), "over training")


def _frontier(cells: Sequence[Cell], name: str, colours: Mapping[str, int]) -> str:
    label, scale, _ = COLUMNS[name]

    def draw(ax: Axes) -> None:
        for cell in cells:
            if name not in cell.figures:
                continue
            slot = colours[f"γ = {cell.coefficients['gamma']:g}"]
            kl, y = cell.figures["kl/from_rl_init"], cell.figures[name]
            ax.plot(_bounds(kl, 1.0), [scale * y.mean] * 2, color=PALETTE[slot], linewidth=1.0, alpha=0.6)
            ax.plot([kl.mean] * 2, _bounds(y, scale), color=PALETTE[slot], linewidth=1.0, alpha=0.6)
            seeds = [
                (s["kl/from_rl_init"], scale * s[name]) for s in cell.by_seed if {"kl/from_rl_init", name} <= s.keys()
            ]
            ax.plot(*zip(*seeds, strict=True), ".", color=PALETTE[slot], alpha=0.45, markersize=4) if seeds else None
            ax.plot(kl.mean, scale * y.mean, MARKERS[slot], color=PALETTE[slot])
            ax.annotate(
                f"{cell.coefficients['beta']:g}",
                (kl.mean, scale * y.mean),
                textcoords="offset points",
                xytext=(5, 4),
                fontsize=9,
                color=MUTED,
            )
        ax.set_xlabel("KL from where RL started, nats per answer")

    return panel(draw, label, (WIDTH, 260), f"frontier {name}")


def _table(cells: Sequence[Cell]) -> str:
    names = [name for name in COLUMNS if _measured(cells, name)]
    head = "".join(f'<th scope="col">{escaped(COLUMNS[name][0])}</th>' for name in names)
    rows = []
    for cell in cells:
        setting = ", ".join(f"{SYMBOLS[k]} = {v:g}" for k, v in cell.coefficients.items())
        setting += f"<small>{cell.diverged} diverged</small>" if cell.diverged and cell.figures else ""
        rows.append(f'<tr><th scope="row">{setting}</th>{"".join(_entry(cell, name) for name in names)}</tr>')
    table = f'<table class="wrapped"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return (
        f"{scroll_html(table, 'every setting')}"
        '<p class="legend">Means over the seeds that did not diverge, with 95 % intervals below them.</p>'
    )


def _seeds(cells: Sequence[Cell]) -> str:
    """The figures of the single seeds, folded away; nothing where none is given."""
    names, rows = [name for name in COLUMNS if _measured(cells, name)], []
    for cell in cells:
        setting = ", ".join(f"{SYMBOLS[k]} = {v:g}" for k, v in cell.coefficients.items())
        for seed in cell.by_seed:
            each = "".join(f"<td>{_shown(seed[name], name) if name in seed else NO_VALUE}</td>" for name in names)
            rows.append(f'<tr><th scope="row">{setting}</th>{each}</tr>')
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escaped(COLUMNS[name][0])}</th>' for name in names)
    table = f'<table class="wrapped"><thead><tr><th></th>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    return f"<details><summary>Single seeds</summary>{scroll_html(table, 'single seeds')}</details>"


def _of_seeds(cell: Cell, name: str) -> list[float]:
    return [seed[name] for seed in cell.by_seed if name in seed]


def _shown(value: float, name: str) -> str:
    _, scale, digits = COLUMNS[name]
    return f"{scale * value:.{digits}f}".replace("-", "−")


def _entry(cell: Cell, name: str) -> str:
    if name not in cell.figures:
        return "<td>diverged</td>"
    estimate, (_, scale, digits) = cell.figures[name], COLUMNS[name]
    low, high = _bounds(estimate, scale)
    interval = "" if estimate.low is None else f"{low:.{digits}f} to {high:.{digits}f}"
    text = f"{scale * estimate.mean:.{digits}f}</span><small>{interval}".replace("-", "−")
    return f"<td><span>{text}</small></td>"
