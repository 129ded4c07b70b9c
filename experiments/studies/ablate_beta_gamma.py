"""β × γ: what the KL penalty and the pretraining mix each do to quality and to the alignment tax.

    python experiments/studies/ablate_beta_gamma.py configs/ablation.toml

InstructGPT, App. E.6 to E.9: Figures 33 to 36 in shape, on the sweep of experiments/sweep.py. Writes ablation.html beside
sweep.csv and sweep.json. The page says of each of the paper's four claims whether it holds here: it holds where the t
interval over the seeds of every difference that it rests on lies on its side of 0, it does not where its opposite is seen in
that way, and it is undecided otherwise. A claim that looks at several settings to find one has wider intervals (Bonferroni),
so that in a grid of pure noise each claim holds in at most 5 % of cases, and fails in at most 5 %. A difference of which one
seed has diverged is unknown: the seeds that are left are no fair sample.

A claim about a regression has nothing to repair where PPO without the mix is seen to end below where it started, and is
undecided where it is not seen to end above.

Differences from the paper: 1. the grid is small and on the built-in world; 2. the seeds differ in PPO only; 3. closed tasks
are the last word of held-out texts and facts of the world, for the paper's DROP and SQuAD.
"""

import json
from collections.abc import Sequence

import numpy as np
from scipy import special

from experiments.sweep import Config, Setting, members_of, sweep, table_of
from rlhf_jax.errors import InputError
from rlhf_jax.evals import CONFIDENCE, SYMBOLS, Cell, Claim, Estimate, Line, mean_interval, write_ablation
from rlhf_jax.runtime import read_metrics, run
from rlhf_jax.stages import alignment_tax, begin, loaded

LOSS = "pretrain/loss"


def one_of(m: int) -> float:
    """The confidence of each of m intervals of which one is looked for (Bonferroni): together they miss as often as one."""
    return 1 - (1 - CONFIDENCE) / m


def over_all_seeds(rows: Sequence[float | None], confidence: float) -> Estimate | None:
    """None where there is but one seed, or one of them has diverged."""
    known = [row for row in rows if row is not None]
    return mean_interval(known, confidence=confidence) if 1 < len(known) == len(rows) else None


def difference(a: Setting, b: Setting, name: str, confidence: float = CONFIDENCE) -> Estimate | None:
    """a − b, paired by seed."""
    pairs = zip(a.by_seed, b.by_seed, strict=True)
    return over_all_seeds([x[name] - y[name] if name in x and name in y else None for x, y in pairs], confidence)


def above(a: Setting, level: float, name: str, confidence: float = CONFIDENCE) -> Estimate | None:
    return over_all_seeds([x[name] - level if name in x else None for x in a.by_seed], confidence)


def mean_of(setting: Setting, name: str, diverged: float) -> float:
    return setting.figures[name].mean if name in setting.figures else diverged


def verdict(*differences: Estimate | None) -> str:
    """Of a claim that says that all of them are positive."""
    known = [(d.low, d.high) for d in differences if d is not None and d.low is not None and d.high is not None]
    if any(high < 0 for _, high in known):
        return "does not hold"
    return "holds" if len(known) == len(differences) and all(low > 0 for low, _ in known) else "undecided"


def positive(estimate: Estimate | None) -> bool:
    return verdict(estimate) == "holds"


def negative(estimate: Estimate | None) -> bool:
    return verdict(estimate) == "does not hold"


def signed(estimate: Estimate | None, digits: int) -> str:
    if estimate is None or estimate.low is None or estimate.high is None:
        return "unknown, for want of seeds that ended and differ"
    return f"{estimate.mean:+.{digits}f} ({estimate.low:+.{digits}f} to {estimate.high:+.{digits}f})".replace("-", "−")


def of_regression(cost: Estimate | None, found: str) -> str:
    """What is found of a claim that is about a regression: it counts where there is one."""
    if negative(cost):
        return "nothing to repair"
    return found if positive(cost) else "undecided"


def gamma_repairs(without: Setting, with_most: Setting, start: float) -> Claim:
    cost, repaired = above(without, start, LOSS), difference(without, with_most, LOSS)
    c = with_most.coefficients
    return Claim(
        "γ repairs the regressions (Figure 33)",
        of_regression(cost, verdict(cost, repaired)),
        f"At β = {c['beta']:g}, PPO without the mix ends {signed(cost, 3)} nats a token above where it started; γ = "
        f"{c['gamma']:g} ends {signed(repaired, 3)} below that.",
    )


def beta_alone_does_not(without: Sequence[Setting], own: Setting, start: float) -> Claim:
    """At every β, PPO without the mix regresses, or it gives up quality against the config's own setting.

    without: by β, from the smallest, at which there has to be a regression for a larger one to repair. own: chosen before
    the grid was run. It holds if that is seen of every β, so that no β is looked for: of each there are
    two ways. It does not hold if there is a β, of so many, that neither regresses nor gives up quality.
    """

    def of(each: Setting, confidence: float) -> tuple[Estimate | None, Estimate | None]:
        return above(each, start, LOSS, confidence), difference(own, each, "rating", confidence)

    fails = [any(map(positive, of(each, one_of(2)))) for each in without]
    suffices = [all(map(negative, of(each, one_of(len(without))))) for each in without]
    mildest = min(without, key=lambda s: mean_of(s, LOSS, np.inf))
    left, given_up = of(mildest, one_of(2))
    c, cost = own.coefficients, above(without[0], start, LOSS)
    return Claim(
        "β alone does not (Figure 34)",
        of_regression(cost, "holds" if all(fails) else "does not hold" if any(suffices) else "undecided"),
        f"At γ = 0 and β = {without[0].coefficients['beta']:g}, PPO ends {signed(cost, 3)} nats a token above where it "
        f"started. {sum(fails)} of {len(fails)} values of β are seen to end above the start or with a lower rating than β = "
        f"{c['beta']:g}, γ = {c['gamma']:g}. The least regression is at β = {mildest.coefficients['beta']:g}: "
        f"{signed(left, 3)} nats a token above the start, at a rating {signed(given_up, 2)} below (97.5 % intervals).",
    )


def longer_training_regresses(without: Sequence[np.ndarray], beta: float) -> Claim:
    """Of each seed, the pretraining loss in the last quarter of training less that in the second; NaN if it diverged."""
    quarter = len(without[0]) // 4
    rises = [float(curve[-quarter:].mean() - curve[quarter : 2 * quarter].mean()) for curve in without]
    rise = over_all_seeds([x if np.isfinite(x) else None for x in rises], CONFIDENCE)
    return Claim(
        "Longer training without ptx regresses (Figure 35)",
        verdict(rise),
        f"At β = {beta:g} and γ = 0 the loss on pretraining rows in the last quarter of training is {signed(rise, 3)} nats a "
        "token from that in the second.",
    )


def interior_optimum(row: Sequence[Setting]) -> Claim:
    """Quality against β with the mix rises and falls: one of the β inside is better than both ends. It does not if one of the
    two ends is better than all inside."""
    ends, inside, gamma = [row[0], row[-1]], row[1:-1], row[0].coefficients["gamma"]
    claim = "Quality has an interior optimum in β (Figure 36)"
    if not inside:
        return Claim(claim, "undecided", f"At γ = {gamma:g} there are {len(row)} values of β, and none inside.")

    def leads(of: Sequence[Setting], over: Sequence[Setting]) -> list[list[Estimate | None]]:
        """Of each setting, of which one is looked for, its leads over all the others."""
        return [[difference(each, other, "rating", one_of(len(of))) for other in over] for each in of]

    found = "undecided"
    if any(verdict(*each) == "holds" for each in leads(inside, ends)):
        found = "holds"
    elif any(verdict(*each) == "holds" for each in leads(ends, inside)):
        found = "does not hold"
    best = max(inside, key=lambda s: mean_of(s, "rating", -np.inf))
    of_smallest, of_largest = (signed(lead, 2) for lead in leads(inside, ends)[inside.index(best)])
    level = f"{100 * one_of(len(inside)):.3g}"
    return Claim(
        claim,
        found,
        f"At γ = {gamma:g} the best mean rating inside the grid is at β = {best.coefficients['beta']:g}, ahead of the "
        f"smallest β by {of_smallest} and of the largest by {of_largest} ({level} % intervals, as it is one of "
        f"{len(inside)}).",
    )


def best_setting(settings: Sequence[Setting]) -> str:
    """By mean rating, and how sure that is. A winner that is ahead of the runner-up by a paired test is the best at that
    test's level, however many it was chosen from (Hung & Fithian 2019, Rank verification for exponential families)."""
    ended = sorted((s for s in settings if "rating" in s.figures), key=lambda s: -s.figures["rating"].mean)
    if len(ended) < 2:
        return "Fewer than two settings did not diverge, and none is the best."
    first, second = ended[:2]
    lead = difference(first, second, "rating")
    sure = "beyond chance" if positive(lead) else "which may be chance"
    one, other = (", ".join(f"{SYMBOLS[k]} = {v:g}" for k, v in s.coefficients.items()) for s in (first, second))
    return (
        f"The best setting by mean rating is {one}: {first.figures['rating'].mean:.2f}. It is ahead of the runner-up, "
        f"{other}, by {signed(lead, 2)}, {sure}."
    )


def curves_of(config: Config, beta: float) -> dict[float, list[np.ndarray]]:
    """γ → of each seed the pretraining loss of every iteration, at one β; NaN where it had diverged."""
    rows = read_metrics(config.folder / "sweep")
    found: dict[float, list[np.ndarray]] = {}
    for m in members_of(config):
        if m.coefficients["beta"] == beta:
            curve = [row.get(f"loss/pretrain/{m.label}", np.nan) for row in rows]
            found.setdefault(m.coefficients["gamma"], []).append(np.array(curve))
    return found


def band(curves: Sequence[np.ndarray]) -> Line:
    """Of running means over a tenth of training: the rows differ from iteration to iteration."""
    width = max(len(curves[0]) // 10, 1)
    stacked, n = np.stack([np.convolve(curve, np.ones(width) / width, "valid") for curve in curves]), len(curves)
    half = special.stdtrit(n - 1, 0.975) * stacked.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else 0.0 * stacked[0]
    return Line(np.arange(stacked.shape[1]) + (width + 1) / 2, stacked.mean(axis=0), half, list(stacked))


def claims_of(
    settings: Sequence[Setting], start: float, curves: dict[float, list[np.ndarray]], beta: float, gamma: float
) -> list[Claim]:
    """beta and gamma: the config's own, at which the other one is varied."""
    by = {(s.coefficients["beta"], s.coefficients["gamma"]): s for s in settings}
    betas, gammas = (sorted({key[i] for key in by}) for i in (0, 1))
    with_mix = [by[b, gamma] for b in betas]
    return [
        gamma_repairs(by[beta, 0.0], by[beta, gammas[-1]], start),
        beta_alone_does_not([by[b, 0.0] for b in betas], by[beta, gamma], start),
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
    start = {k: e.mean for k, e in alignment_tax(loaded(before.rl_init), before.data, config.run).items()}
    if LOSS not in start:
        raise InputError("no pretraining text is held out, so that there is no regression to speak of; give more text")
    curves = curves_of(config, beta)
    claims, best = claims_of(settings, start[LOSS], curves, beta, config.ppo.gamma), best_setting(settings)
    ended = {gamma: [curve for curve in each if np.isfinite(curve).all()] for gamma, each in sorted(curves.items())}
    write_ablation(
        out / "ablation.html",
        "β and γ: the KL penalty and the pretraining mix",
        [
            Cell(s.coefficients, s.figures, sum(not row for row in s.by_seed), [row for row in s.by_seed if row])
            for s in settings
        ],
        claims,
        best,
        start,
        {gamma: band(each) for gamma, each in ended.items() if each},
        json.dumps({name: config.about()[name] for name in ("ppo", "evaluate", "sweep")}, indent=1),
    )
    for claim in claims:
        print(f"{claim.claim}: {claim.verdict}. {claim.evidence}")
    print(best)
    print(f"The page is at {out / 'ablation.html'}")


if __name__ == "__main__":
    run(lambda: main(begin(Config, __file__, __doc__)))
