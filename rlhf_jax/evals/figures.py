"""The report's figures: evaluation and curves → small SVG panels that take their colours from the page."""

import html
import io
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

Evaluation = Mapping[str, Mapping[str, Mapping[str, Any]]]
Curves = Mapping[str, Sequence[Mapping[str, Any]]]

MODELS = {"base": "base", "sft": "SFT", "rl_init": "RL start", "ppo": "PPO", "ppo_ptx": "PPO-ptx"}
CATEGORIES = {
    "generation": "generation",
    "open_qa": "open QA",
    "closed_qa": "closed QA",
    "brainstorming": "brainstorming",
    "chat": "chat",
    "rewrite": "rewrite",
    "summarization": "summarization",
    "classification": "classification",
    "extract": "extract",
    "other": "other",
}
STAGES = {
    "pretrain": "Pretraining",
    "sft": "SFT",
    "rl_init": "RL initialisation",
    "reward_model": "Reward model",
}
RL_PANELS = {
    "objective/scores": "Reward-model score",
    "gold/mean": "Gold reward",
    "objective/kl": "KL from where RL started, nats per answer",
    "objective/rlhf_reward": "Score less the KL penalty",
    "objective/entropy": "Entropy, nats",
    "loss/policy_avg": "Policy loss",
    "loss/value_avg": "Value loss",
    "policy/ema_lag": "How far the policy is ahead of its average",
}

# Okabe and Ito's colours, safe for the colour-blind; base is grey because the others are changes of it.
# Slots 5 on go to models with other names. The page shows DARK in their place on a dark screen.
PALETTE = ("#7d7d7d", "#d98e04", "#0072b2", "#009e73", "#b8578f", "#d55e00", "#56b4e9", "#8c6d31")
DARK = ("#a3a3a8", "#e8a62c", "#4a9fdc", "#2ebd92", "#d583b3", "#f0813a", "#86cdf5", "#bd9c5c")
MARKERS = "osDv^<>p"
MANY = 40  # points from which a line is drawn as its running mean
STEPS = (1, 2, 2.5, 5, 10)
WIDTH = 340  # CSS pixels: three panels beside each other on a desk, one on a phone
INK, MUTED, GRID = "#1b1b1d", "#66666b", "#e6e6e9"
PAGE_COLOURS = {"ink": INK, "muted": MUTED, "grid": GRID} | {f"m{i}": c for i, c in enumerate(PALETTE)}
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 11,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.labelcolor": MUTED,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "xtick.major.width": 0.7,
    "legend.frameon": False,
    "legend.fontsize": 10.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 5,
}


class Drawing(NamedTuple):
    """A figure of the page: panels beside each other, or what is missing where there are none."""

    title: str
    caption: str
    models: tuple[str, ...]  # the key, in the models' colours
    panels: tuple[str, ...]
    missing: tuple[str, ...] = ()


def all_figures(evaluation: Evaluation, curves: Curves, colours: Mapping[str, int]) -> list[Drawing]:
    """Every figure of the page, in its order; colours maps a model's name to its slot of the palette."""
    return [
        headline(evaluation, colours),
        ratings_by_category(evaluation, colours),
        frontier(curves, colours),
        pretraining_effect(evaluation, curves, colours),
        rl_curves(curves, colours),
        supervised_curves(curves),
    ]


def headline(evaluation: Evaluation, colours: Mapping[str, int]) -> Drawing:
    """Win rates and ratings of the models, with intervals."""
    wanted = {
        "win_rate/vs_sft": ("Win rate against SFT, %", 100.0, 50.0),
        "win_rate/vs_base": ("Win rate against base, %", 100.0, 50.0),
        "rating": ("Mean rating, 1–7", 1.0, None),
        "gold": ("Gold reward", 1.0, None),
        "truth/multiple_choice": ("Truthful, multiple choice, %", 100.0, None),
        "truth/generated": ("Truthful, generated, %", 100.0, None),
    }
    found = [(k, *v) for k, v in wanted.items() if any(k in metrics for metrics in evaluation.values())][:3]
    panels = [_points(evaluation, list(evaluation), k, label, scale, line, colours) for k, label, scale, line in found]
    caption = "Mean and 95 % interval." if panels else ""
    if any(line is not None for *_, line in found):
        caption += " The dashed line is parity."
    missing = () if panels else ("No win rate, rating, gold reward or truthfulness was evaluated.",)
    return Drawing("The models compared", caption, (), tuple(panels), missing)


def ratings_by_category(evaluation: Evaluation, colours: Mapping[str, int]) -> Drawing:
    """Bars of the ratings by use-case, with intervals."""
    title = "Ratings by use case"
    names = {name for metrics in evaluation.values() for name in metrics if name.startswith("rating/")}
    seen = {name.removeprefix("rating/") for name in names if not name.startswith("rating/minus_")}
    categories = [c for c in CATEGORIES if c in seen] + sorted(seen - set(CATEGORIES))
    if not categories:
        return Drawing(title, "", (), (), ("No rating by category (rating/…) was evaluated.",))
    models = [m for m in evaluation if any(f"rating/{c}" in evaluation[m] for c in categories)]
    tops = [number(evaluation[m].get(f"rating/{c}", {}), "high") for m in models for c in categories]
    top = max(7.0, *(t for t in tops if t is not None), 7.0)

    def draw(ax: Axes, chunk: Sequence[str]) -> None:
        width = 0.82 / len(models)
        for i, model in enumerate(models):
            cells = [evaluation[model].get(f"rating/{c}", {}) for c in chunk]
            xs = np.arange(len(chunk)) + (i - (len(models) - 1) / 2) * width
            colour = PALETTE[colours[model]]
            means = [number(cell, "mean") for cell in cells]
            for x, mean, cell in zip(xs, means, cells, strict=True):
                if mean is None:
                    continue
                ax.bar(x, mean - 1, width * 0.9, bottom=1, color=colour, linewidth=0)
                low, high = number(cell, "low"), number(cell, "high")
                if low is not None and high is not None:
                    ax.plot([x, x], [low, high], color=INK, linewidth=1, solid_capstyle="butt")
        ax.set_xticks(np.arange(len(chunk)), [CATEGORIES.get(c, c) for c in chunk])
        ax.tick_params(axis="x", length=0, labelsize=9.5)
        ax.grid(False, axis="x")
        ax.set_xlim(-0.55, max(len(chunk), size) - 0.45)
        ax.set_ylim(1, top)
        ax.set_yticks(range(1, 8))

    parts = math.ceil(len(categories) / 4)
    chunks = [part.tolist() for part in np.array_split(categories, parts)]
    size = max(3, len(chunks[0]))
    panels = [
        panel(lambda ax, chunk=chunk: draw(ax, chunk), "Mean rating, 1–7", (WIDTH, 210), f"ratings {i}")
        for i, chunk in enumerate(chunks)
    ]
    return Drawing(title, "Bars start at 1, the lowest rating; lines are 95 % intervals.", tuple(models), tuple(panels))


def frontier(curves: Curves, colours: Mapping[str, int]) -> Drawing:
    """Reward, and gold where it was logged, against the KL from where RL started, over training."""
    title = "Reward against distance from where RL started"
    stages = rl_stages(curves)
    panels, missing = [], []
    for name, label in (("objective/scores", "Reward-model score"), ("gold/mean", "Gold reward")):
        drawn = {stage: metric_pairs(curves[stage], "objective/kl", name) for stage in stages}
        drawn = {stage: xy for stage, xy in drawn.items() if xy[0].size}
        if not drawn:
            missing.append(f"No PPO curve has both objective/kl and {name}.")
            continue

        def draw(ax: Axes, drawn: dict = drawn) -> None:
            for stage, (x, y) in drawn.items():
                colour, marker = PALETTE[colours[stage]], MARKERS[colours[stage]]
                alpha, size = (0.35, 3.5) if x.size >= MANY else (1.0, 4.5)
                ax.plot(x, y, marker, color=colour, alpha=alpha, markersize=size, markeredgewidth=0)
                ax.plot(*smooth(x, y), color=colour)
                ax.plot(x[-1], y[-1], marker, color=colour, markersize=7)
            ax.set_xlabel("KL from where RL started, nats per answer")

        panels.append(panel(draw, label, (WIDTH, 240), f"frontier {name}"))
    caption = (
        "Small marks are logged steps, the line their running mean, the large mark the end of training. "
        "Where the reward model's score goes on rising while the gold reward falls, the policy exploits the "
        "reward model."
    )
    return Drawing(title, caption if panels else "", tuple(stages) if panels else (), tuple(panels), tuple(missing))


def pretraining_effect(evaluation: Evaluation, curves: Curves, colours: Mapping[str, int]) -> Drawing:
    """Held-out pretraining loss of the models, and over PPO's iterations."""
    title = "What PPO does to the pretraining loss"
    held_out = "pretrain/loss"
    panels, missing = [], []
    if measured := [m for m, figures in evaluation.items() if number(figures.get(held_out, {}), "mean") is not None]:
        label = "Held-out, after training, nats per token"
        panels.append(_points(evaluation, measured, held_out, label, 1.0, None, colours))
    else:
        missing.append(f"No held-out pretraining loss ({held_out}) was evaluated.")
    # Of the base model alone: SFT stands so far above that the curves would be flat.
    level = number(evaluation.get("base", {}).get(held_out, {}), "mean")
    stages = [s for s in rl_stages(curves) if any(_series(curves[s], k)[0].size for k in (held_out, "loss/pretrain"))]
    for name, label in (
        (held_out, "Held-out, during PPO, nats per token"),
        ("loss/pretrain", "On the pretraining mix, nats per token"),
    ):
        if not any(_series(curves[stage], name)[0].size for stage in stages):
            continue

        def draw(ax: Axes, name: str = name) -> None:
            _curves(ax, {stage: _series(curves[stage], name) for stage in stages}, colours)
            if level is not None:
                ax.axhline(level, color=PALETTE[colours["base"]], linewidth=1.2, linestyle=(0, (4, 2)))
                side = ax.get_yaxis_transform()
                ax.text(1, level, MODELS["base"], ha="right", va="bottom", color=MUTED, transform=side)
            ax.set_xlabel("PPO step")

        panels.append(panel(draw, label, (WIDTH, 230), f"pretraining {name}"))
    if not stages:
        missing.append(f"No PPO curve logs loss/pretrain or {held_out}.")
    caption = (
        "The alignment tax on language modelling, and what the pretraining mix (ptx) gives back. "
        "Dashed: where the base model stands on held-out text."
    )
    key = tuple(stages) if len(panels) > 0 and stages else ()
    return Drawing(title, caption if panels else "", key, tuple(panels), tuple(missing))


def rl_curves(curves: Curves, colours: Mapping[str, int]) -> Drawing:
    """What PPO logged, a panel a metric."""
    title = "Learning curves of PPO"
    stages = rl_stages(curves)
    panels, missing = [], []
    for name, label in RL_PANELS.items():
        series = {stage: _series(curves[stage], name) for stage in stages}
        if not any(x.size for x, _ in series.values()):
            missing.append(name)
            continue

        def draw(ax: Axes, series: dict = series) -> None:
            _curves(ax, series, colours)
            ax.set_xlabel("step")

        panels.append(panel(draw, label, (WIDTH, 210), f"rl {name}"))
    sentence = f"Not logged: {', '.join(missing)}." if panels else "No PPO curve was logged."
    caption = "Faint: as logged. Strong: running mean over a twentieth of the run."
    if "policy/ema_lag" not in missing:
        caption += (
            " Ahead of its moving average, which is the result: as a share of the policy's way from where RL started; near 1 "
            "the run is too short for ppo.ema."
        )
    return Drawing(
        title,
        caption if panels else "",
        tuple(stages) if panels else (),
        tuple(panels),
        (sentence,) if missing else (),
    )


def supervised_curves(curves: Curves) -> Drawing:
    """What the supervised stages logged, a panel a stage."""
    title = "Learning curves of the supervised stages"
    rest = [stage for stage in curves if stage not in STAGES and stage not in rl_stages(curves)]
    panels, missing = [], []
    for stage in [*STAGES, *rest]:
        rows = curves.get(stage, ())
        names = dict.fromkeys(k for row in rows for k in row if k.startswith(("loss/", "accuracy/")))
        drawn = [name for name in names if _series(rows, name)[0].size]
        if not drawn:
            missing.append(STAGES.get(stage, stage))
        for prefix in dict.fromkeys(name.partition("/")[0] for name in drawn):
            lines = {n.partition("/")[2]: _series(rows, n) for n in drawn if n.startswith(prefix + "/")}
            label = f"{STAGES.get(stage, stage)}: {prefix}"

            def draw(ax: Axes, lines: dict = lines) -> None:
                looks = [(MUTED, "-"), (PALETTE[2], "-"), (PALETTE[5], "--"), (PALETTE[3], ":"), (INK, "-.")]
                for i, (name, xy) in enumerate(lines.items()):
                    colour, dash = looks[i % len(looks)]
                    _line(ax, xy, colour, name.replace("_", " "), dash)
                if ax.get_legend_handles_labels()[0]:
                    ax.legend(loc="best", handlelength=1.4, borderaxespad=0.2)
                ax.set_xlabel("step")

            panels.append(panel(draw, label, (WIDTH, 210), f"supervised {stage} {prefix}"))
    sentence = f"No loss or accuracy was logged for: {', '.join(missing)}."
    return Drawing(
        title,
        "Losses in nats; accuracies as shares." if panels else "",
        (),
        tuple(panels),
        (sentence,) if missing else (),
    )


def _points(
    evaluation: Evaluation,
    models: Sequence[str],
    name: str,
    title: str,
    scale: float,
    line: float | None,
    colours: Mapping[str, int],
) -> str:
    """A point with its interval for every model; a model without the metric keeps its row, empty."""

    def draw(ax: Axes) -> None:
        for y, model in enumerate(models):
            cell, colour = evaluation[model].get(name, {}), PALETTE[colours[model]]
            mean, low, high = (number(cell, key) for key in ("mean", "low", "high"))
            if mean is None:
                continue
            if low is not None and high is not None:
                ax.plot([scale * low, scale * high], [y, y], color=colour, linewidth=2.2, solid_capstyle="round")
            ax.plot(scale * mean, y, MARKERS[colours[model]], color=colour, markersize=7.5)
        if line is not None:
            ax.axvline(line, color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)), zorder=0)
        ax.set_yticks(range(len(models)), [MODELS.get(m, m) for m in models])
        ax.set_ylim(len(models) - 0.4, -0.6)
        ax.tick_params(axis="y", labelcolor=INK)
        ax.grid(False, axis="y")
        ax.spines["left"].set_visible(False)
        ax.margins(x=0.08)

    return panel(draw, title, (WIDTH, 60 + 36 * len(models)), f"points {name}")


def _curves(ax: Axes, series: Mapping[str, tuple[np.ndarray, np.ndarray]], colours: Mapping[str, int]) -> None:
    for stage, xy in series.items():
        _line(ax, xy, PALETTE[colours[stage]], MODELS.get(stage, stage), "-")


def _line(ax: Axes, xy: tuple[np.ndarray, np.ndarray], colour: str, label: str, dash: str) -> None:
    x, y = xy
    if not x.size:
        return
    mean = smooth(x, y)
    if mean[1] is not y:
        ax.plot(x, y, color=colour, alpha=0.3, linewidth=0.8)
    marker = "o" if x.size <= 15 else None
    ax.plot(*mean, color=colour, label=label, linestyle=dash, marker=marker, markersize=3.5)


def smooth(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A centred running mean over a twentieth of the points, cut off at the ends; short series stay put."""
    if x.size < MANY:
        return x, y
    kernel = np.ones(2 * (x.size // 40) + 1)
    weight = np.convolve(np.ones_like(y), kernel, "same")
    return np.convolve(x, kernel, "same") / weight, np.convolve(y, kernel, "same") / weight


def rl_stages(curves: Curves) -> list[str]:
    """The stages that logged a KL, those of the recipe first."""
    found = [s for s, rows in curves.items() if s not in STAGES and any("objective/kl" in row for row in rows)]
    return [s for s in MODELS if s in found] + [s for s in found if s not in MODELS]


def _series(rows: Iterable[Mapping[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    return metric_pairs(rows, "step", name)


def metric_pairs(rows: Iterable[Mapping[str, Any]], x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """Two figures of the rows that have both, finite."""
    pairs = [(number(row, x), number(row, y)) for row in rows]
    kept = np.array([pair for pair in pairs if None not in pair], float).reshape(-1, 2)
    return kept[:, 0], kept[:, 1]


def number(cell: Mapping[str, Any], key: str) -> float | None:
    """The figure, or None where it is absent or not finite."""
    value = cell.get(key)
    return float(value) if value is not None and math.isfinite(float(value)) else None


def panel(draw: Callable[[Axes], None], title: str, size: tuple[int, int], salt: str) -> str:
    """One pair of axes as inline SVG; size in CSS pixels."""
    # The salt makes the ids of two panels differ: they share the page's one name space.
    with mpl.rc_context({**STYLE, "svg.hashsalt": salt}):
        figure = Figure(figsize=(size[0] / 72, size[1] / 72), layout="constrained")
        ax = figure.add_subplot()
        ax.yaxis.set_major_locator(MaxNLocator(5, steps=STEPS, min_n_ticks=4))
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=STEPS, min_n_ticks=4))
        draw(ax)
        # Over the whole panel and not over the axes, so that titles start at one edge.
        figure.suptitle(title, x=0.003, ha="left", fontsize=11.5, fontweight="bold")
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=nothing)
    label, body = html.escape(title, quote=True), _inlined(buffer.getvalue())
    return f'<svg viewBox="0 0 {size[0]} {size[1]}" role="img" aria-label="{label}">{body}'


def _inlined(svg: str) -> str:
    """What follows the opening tag of a Matplotlib file, made smaller, with the page's colours for ours."""
    body = svg.partition("<svg")[2].partition(">")[2]
    body = re.sub(r' id="[a-z0-9_.]+_\d+"', "", body)
    # A hundredth of a pixel is enough for coordinates. The text of labels lies outside these attributes.
    coordinates = r' (?:d|x|y|transform)="[^"]*"'
    body = re.sub(coordinates, lambda m: re.sub(r"(\.\d\d)\d+", r"\1", m[0]), body)
    for variable, colour in PAGE_COLOURS.items():
        body = body.replace(colour, f"var(--{variable})")
    return body
