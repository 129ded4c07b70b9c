"""β × γ: what the KL penalty and the pretraining mix each do to quality and to the alignment tax.

    python experiments/studies/ablate_beta_gamma.py configs/ablation.toml

InstructGPT, App. E.6 to E.9: Figures 33 to 36 in shape, on the sweep of experiments/sweep.py. Writes ablation.html beside
sweep.csv and sweep.json. The page says of each of the paper's four claims whether it holds here: it holds where the 95 % t
interval over the seeds of every difference it rests on lies on its side of 0, it does not where one lies on the other side,
and it is undecided otherwise.

Differences from the paper: 1. the grid is small and on the built-in world; 2. the seeds differ in PPO only; 3. closed tasks
are the last word of held-out texts and facts of the world, for the paper's DROP and SQuAD.
"""

import json
from collections.abc import Sequence

import numpy as np
from scipy import special

from experiments.sweep import Config, Setting, members_of, sweep, table_of
from rlhf_jax.errors import InputError
from rlhf_jax.evals import SYMBOLS, Cell, Claim, Estimate, Line, mean_interval, write_ablation
from rlhf_jax.runtime import read_metrics, run
from rlhf_jax.stages import alignment_tax, begin, loaded

LOSS = "pretrain/loss"


def difference(a: Setting, b: Setting, name: str) -> Estimate | None:
    """a − b, paired by seed; None where fewer than two seeds have both."""
    pairs = [x[name] - y[name] for x, y in zip(a.by_seed, b.by_seed, strict=True) if name in x and name in y]
    return mean_interval(pairs) if len(pairs) > 1 else None


def above(a: Setting, level: float, name: str) -> Estimate | None:
    rows = [x[name] - level for x in a.by_seed if name in x]
    return mean_interval(rows) if len(rows) > 1 else None


def verdict(*differences: Estimate | None) -> str:
    """Of a claim that says that all of them are positive."""
    known = [(d.low, d.high) for d in differences if d is not None and d.low is not None and d.high is not None]
    if any(high < 0 for _, high in known):
        return "does not hold"
    return "holds" if len(known) == len(differences) and all(low > 0 for low, _ in known) else "undecided"


def signed(estimate: Estimate | None, digits: int) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return "unknown, for want of seeds"
    return f"{estimate.mean:+.{digits}f} ({estimate.low:+.{digits}f} to {estimate.high:+.{digits}f})".replace("-", "−")


def gamma_repairs(without: Setting, with_most: Setting, start: float) -> Claim:
    cost, repaired = above(without, start, LOSS), difference(without, with_most, LOSS)
    c = with_most.coefficients
    return Claim(
        "γ repairs the regressions (Figure 33)",
        verdict(cost, repaired),
        f"At β = {c['beta']:g}, PPO without the mix ends {signed(cost, 3)} nats a token above where it started; γ = "
        f"{c['gamma']:g} ends {signed(repaired, 3)} below that.",
    )


def beta_alone_does_not(without: Sequence[Setting], best: Setting, start: float) -> Claim:
    """The β that leaves the least regression still regresses, or it gives up quality."""
    mildest = min(without, key=lambda s: s.figures[LOSS].mean)
    left, given_up = above(mildest, start, LOSS), difference(best, mildest, "rating")
    said = "holds" if "holds" in (verdict(left), verdict(given_up)) else "undecided"
    if verdict(left) == "does not hold" and verdict(given_up) == "does not hold":
        said = "does not hold"
    return Claim(
        "β alone does not (Figure 34)",
        said,
        f"At γ = 0 the least regression is at β = {mildest.coefficients['beta']:g}: {signed(left, 3)} nats a token above the "
        f"start, at a rating {signed(given_up, 2)} below that of the best setting.",
    )


def longer_training_regresses(without: Sequence[np.ndarray], beta: float) -> Claim:
    """Of each seed, the pretraining loss in the last quarter of training less that in the second."""
    quarter = len(without[0]) // 4
    rises = [float(curve[-quarter:].mean() - curve[quarter : 2 * quarter].mean()) for curve in without]
    rise = mean_interval(rises) if len(rises) > 1 else None
    return Claim(
        "Longer training without ptx regresses (Figure 35)",
        verdict(rise),
        f"At β = {beta:g} and γ = 0 the loss on pretraining rows in the last quarter of training is {signed(rise, 3)} nats a "
        "token from that in the second.",
    )


def interior_optimum(row: Sequence[Setting]) -> Claim:
    """Quality against β with the mix rises and falls."""
    best = max(row, key=lambda s: s.figures["rating"].mean)
    ends = [difference(best, end, "rating") for end in (row[0], row[-1]) if end is not best]
    inside = len(ends) == 2
    return Claim(
        "Quality has an interior optimum in β (Figure 36)",
        verdict(*ends) if inside else "does not hold",
        f"At γ = {best.coefficients['gamma']:g} the best mean rating is at β = {best.coefficients['beta']:g}"
        + (", ahead of the smallest β by {} and of the largest by {}.".format(*(signed(d, 2) for d in ends)) if inside else
           ", which is an end of the grid."),
    )  # fmt: skip


def best_setting(settings: Sequence[Setting]) -> tuple[Setting, str]:
    """By mean rating, and how sure that is."""
    first, second = sorted(settings, key=lambda s: -s.figures["rating"].mean)[:2]
    lead = difference(first, second, "rating")
    sure = "beyond chance" if verdict(lead) == "holds" else "which may be chance"
    one, other = (", ".join(f"{SYMBOLS[k]} = {v:g}" for k, v in s.coefficients.items()) for s in (first, second))
    return first, (
        f"The best setting by mean rating is {one}: {first.figures['rating'].mean:.2f}. It is ahead of the runner-up, "
        f"{other}, by {signed(lead, 2)}, {sure}."
    )


def curves_of(config: Config, beta: float) -> dict[float, list[np.ndarray]]:
    """γ → of each seed the pretraining loss of every iteration, at one β."""
    rows = read_metrics(config.folder / "sweep")
    found: dict[float, list[np.ndarray]] = {}
    for m in members_of(config):
        curve = [row.get(f"loss/pretrain/{m.label}", np.nan) for row in rows]
        if m.coefficients["beta"] == beta and np.isfinite(curve).all():
            found.setdefault(m.coefficients["gamma"], []).append(np.array(curve))
    return found


def band(curves: Sequence[np.ndarray]) -> Line:
    """Of running means over a tenth of training: the rows differ from iteration to iteration."""
    width = max(len(curves[0]) // 10, 1)
    stacked, n = np.stack([np.convolve(curve, np.ones(width) / width, "valid") for curve in curves]), len(curves)
    half = special.stdtrit(n - 1, 0.975) * stacked.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else 0.0 * stacked[0]
    return Line(np.arange(stacked.shape[1]) + (width + 1) / 2, stacked.mean(axis=0), half)


def claims_of(
    settings: Sequence[Setting], start: float, curves: dict[float, list[np.ndarray]], beta: float, gamma: float
) -> list[Claim]:
    """beta and gamma: the config's own, at which the other one is varied."""
    by = {(s.coefficients["beta"], s.coefficients["gamma"]): s for s in settings}
    betas, gammas = (sorted({key[i] for key in by}) for i in (0, 1))
    best, _ = best_setting(settings)
    with_mix = [by[b, gamma] for b in betas]
    return [
        gamma_repairs(by[beta, 0.0], by[beta, gammas[-1]], start),
        beta_alone_does_not([by[b, 0.0] for b in betas], best, start),
        longer_training_regresses(curves[0.0], beta),
        interior_optimum(with_mix),
    ]


def require_grid(config: Config) -> None:
    table = table_of(config)
    grid = {name: sorted(set(column.tolist())) for name, column in table.items()}
    whole = set(grid) == {"beta", "gamma"} and len(table["beta"]) == len(grid["beta"]) * len(grid["gamma"])
    own = whole and config.ppo.beta in grid["beta"] and config.ppo.gamma in grid["gamma"] and config.ppo.gamma > 0
    if not own or 0.0 not in grid["gamma"]:
        raise InputError(
            'the ablation needs sweep.table = "prod beta=… gamma=0,…" with ppo.beta and ppo.gamma among them; '
            "experiments/sweep.py takes any table"
        )


def main(config: Config) -> None:
    require_grid(config)
    (settings, before), beta, out = sweep(config), config.ppo.beta, config.folder
    whole = [s for s in settings if s.figures]
    start = {k: e.mean for k, e in alignment_tax(loaded(before.rl_init), before.data, config.run).items()}
    if LOSS not in start:
        raise InputError("no pretraining text is held out, so that there is no regression to speak of; give more text")
    curves = curves_of(config, beta)
    claims, (_, best) = claims_of(whole, start[LOSS], curves, beta, config.ppo.gamma), best_setting(whole)
    write_ablation(
        out / "ablation.html",
        "β and γ: the KL penalty and the pretraining mix",
        [Cell(s.coefficients, s.figures) for s in settings],
        claims,
        best,
        start,
        {gamma: band(each) for gamma, each in sorted(curves.items())},
        json.dumps({name: config.about()[name] for name in ("ppo", "evaluate", "sweep")}, indent=1),
    )
    for claim in claims:
        print(f"{claim.claim}: {claim.verdict}. {claim.evidence}")
    print(best)
    print(f"The page is at {out / 'ablation.html'}")


if __name__ == "__main__":
    run(lambda: main(begin(Config, __file__, __doc__)))
