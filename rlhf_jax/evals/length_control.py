"""What a win rate would be were the answers as long as the others': AlpacaEval 2's (Dubois et al. 2024, arXiv:2404.04475).

Judges like what is long. The preference for a model's answer to the prompt x over the baseline's is modelled as

    P = σ(θ + φ·tanh((lₘ − l_b)/s) + ψ·γₓ)

with the answers' lengths l in characters, s the standard deviation of lₘ − l_b over the prompts, and γₓ how hard x is,
the same for all models. The length-controlled win rate is the mean over the prompts of σ(θ + ψ·γₓ), without the lengths.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray
from scipy import optimize, special

from rlhf_jax.errors import InputError
from rlhf_jax.evals.intervals import CONFIDENCE, Estimate, mean_interval
from rlhf_jax.evals.newton import NoMaximumError, maximum
from rlhf_jax.types import AnyArray


class LengthControlled(NamedTuple):
    rate: Estimate
    model: float  # θ
    length: float  # φ; above 0: what is longer wins; 0 where all are as long as the others'
    difficulty: float | None  # ψ; None where no γ was given: there is no such term


def length_controlled(
    win: Sequence | AnyArray,
    ours: Sequence | AnyArray,
    theirs: Sequence | AnyArray,
    clusters: Sequence | AnyArray | None = None,
    difficulty: Sequence | AnyArray | None = None,
    confidence: float = CONFIDENCE,
) -> LengthControlled:
    """Of N prompts: what a judge said (1 ours, 0 theirs, ½ a tie, or a probability), and the answers' lengths in characters.

    difficulty: γₓ of each, see `instruction_difficulty`; None: without that term. clusters: as for `mean_interval`.

    The parameters are those of the largest likelihood. AlpacaEval's own have an L1 penalty whose strength is chosen by
    cross-validation, and a tenth of a weight each on its baseline's two answers of other lengths, which nobody else has.

    The interval is Student's over clusters of the linearised values zₓ = σ(θ + ψγₓ) + N·gᵀH⁻¹sₓ (sₓ the gradient of the
    log-likelihood, H its curvature, g the rate's gradient), whose mean is the rate, laid on the scale of log-odds so that its
    bounds are shares.

    InputError: fewer than ten prompts; preferences outside of [0, 1]; the model explains them wholly (all are 1, say), and
    the likelihood has no maximum.
    """
    w, a, b = (np.asarray(x, np.float64) for x in (win, ours, theirs))
    gamma = None if difficulty is None else np.asarray(difficulty, np.float64)
    lengths = {x.shape for x in (w, a, b, *([] if gamma is None else [gamma]))}
    if w.ndim != 1 or len(lengths) > 1:
        raise ValueError(
            f"Each prompt has a preference and two lengths, and a difficulty or none; these are {lengths}."
        )
    if w.size < 10:
        raise InputError(f"a length-controlled win rate takes ten prompts or more; there are {w.size}")
    if not ((w >= 0) & (w <= 1)).all():
        raise InputError("preferences go from 0 to 1; give 1 for a win, 0 for a loss and 0.5 for a tie")
    longer = _longer(a, b)
    columns = {"model": np.ones_like(w), "length": longer, "difficulty": gamma}
    columns = {name: column for name, column in columns.items() if column is not None and np.any(column)}
    x = np.stack(list(columns.values()), 1)

    def parts(at: ndarray) -> tuple[float, ndarray, ndarray]:
        z = x @ at
        p = special.expit(z)
        value = float(np.sum(w * special.log_expit(z) + (1 - w) * special.log_expit(-z)))
        return value, (w - p)[:, None] * x, (x * (p * (1 - p))[:, None]).T @ x

    try:
        at, scores, H = maximum(parts, np.zeros(x.shape[1]))
    except NoMaximumError:
        raise InputError(
            f"lengths and difficulty explain all of the {w.size} preferences, or one side has all wins, and there is no "
            "length-controlled win rate: give more prompts"
        ) from None
    alike = x * [name != "length" for name in columns]
    p = special.expit(alike @ at)
    linear = p + w.size * scores @ np.linalg.solve(H, (alike * (p * (1 - p))[:, None]).mean(0))
    rate = _on_log_odds(mean_interval(linear, clusters, None, confidence))
    found = dict(zip(columns, at.tolist(), strict=True))
    return LengthControlled(rate, found["model"], found.get("length", 0.0), found.get("difficulty"))


def instruction_difficulty(
    win: Float[ndarray, "M N"], ours: Float[ndarray, "M N"], theirs: Float[ndarray, " N"]
) -> Float[ndarray, " N"]:
    """γₓ of N prompts, from M models' preferences over one baseline (nan where there is none) and the answers' lengths.

    One regression over all models with θₘ and φₘ of each and γₓ shared, ψ being 1, as the paper's (§3.2); γ has a standard
    normal prior, without which a prompt that all models lose is infinitely hard. Its mean is 0. A high γ is in favour of the
    models, and so easy. InputError: fewer than two models; a prompt without a preference.
    """
    there = np.isfinite(win)
    if len(win) < 2 or not there.any(0).all():
        raise InputError(
            f"the difficulty of prompts is read off several models' preferences; there are {len(win)} models, and "
            f"{int((~there.any(0)).sum())} prompts without one: give each prompt one at least, and two models or more"
        )
    M, N = win.shape
    longer = np.stack([_longer(np.where(there[m], ours[m], theirs), theirs) for m in range(M)])
    w = np.where(there, win, 0.5)

    def loss(at: ndarray) -> tuple[float, ndarray]:
        theta, phi, gamma = at[:M], at[M : 2 * M], at[2 * M :]
        z = theta[:, None] + phi[:, None] * longer + gamma
        each = w * special.log_expit(z) + (1 - w) * special.log_expit(-z)
        off = np.where(there, special.expit(z) - w, 0.0)
        gradient = np.concatenate([off.sum(1), (off * longer).sum(1), off.sum(0) + gamma])
        return float(-each[there].sum() + gamma @ gamma / 2), gradient

    found = optimize.minimize(loss, np.zeros(2 * M + N), jac=True, method="L-BFGS-B", options={"maxiter": 5_000})
    gamma = found.x[2 * M :]
    return gamma - gamma.mean()


def _longer(ours: Float[ndarray, " N"], theirs: Float[ndarray, " N"]) -> Float[ndarray, " N"]:
    off = ours - theirs
    spread = off.std(ddof=1)
    return np.tanh(off / spread) if spread > 0 else np.zeros_like(off)


def _on_log_odds(found: Estimate) -> Estimate:
    if found.low is None or not 0 < found.mean < 1:
        return found
    half = (found.mean - found.low) / (found.mean * (1 - found.mean))
    middle = special.logit(found.mean)
    return Estimate(found.mean, float(special.expit(middle - half)), float(special.expit(middle + half)), found.n)
