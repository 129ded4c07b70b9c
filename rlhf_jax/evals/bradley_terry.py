"""How strong many models are, from who beat whom: Bradley and Terry's model (1952), and Davidson's (1970) of ties.

With strengths θ, in natural logarithms of odds, the model i beats j with probability σ(θᵢ − θⱼ).
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import special
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from rlhf_jax.errors import InputError
from rlhf_jax.evals.intervals import CONFIDENCE, Estimate
from rlhf_jax.evals.newton import maximum

ELO = 400 / math.log(10)  # Elo points of one unit of θ


class Duel(NamedTuple):
    """Two models' answers to one prompt, and which is better."""

    ours: str
    theirs: str
    win: float  # 1: ours is better, 0: theirs, ½: neither; between them where a judge gives probabilities
    cluster: str  # of the prompt: its text, or who typed it


def bradley_terry(
    duels: Sequence[Duel],
    baseline: str,
    *,
    ties: Literal["half", "davidson"] = "half",
    confidence: float = CONFIDENCE,
) -> dict[str, Estimate]:
    """Model → θ − θ of the baseline, strongest first; n is the number of clusters. The baseline's is 0, without bounds.

    ties "half": the likelihood Σ w log σ(δ) + (1 − w) log σ(−δ) with δ = θᵢ − θⱼ and w the win, so that a tie is half a win
    of either. "davidson": with πᵢ = exp θᵢ, P(i wins) ∝ πᵢ, P(j wins) ∝ πⱼ, P(tie) ∝ ν√(πᵢπⱼ), ν being estimated too.

    The interval is θ ± t √v, t of one less degrees of freedom than there are clusters, from the sandwich
    v = G/(G − 1) · H⁻¹ (Σ s sᵀ) H⁻¹ with H the likelihood's curvature and s its gradient over one cluster (Huber 1967, Liang
    & Zeger 1986): what several models answer to one prompt is one draw.

    A finite maximum exists only among models of which each has won, drawn, or lost through others against each (Ford 1957).
    Who is above the baseline and never lost to it, nor through others, is +∞ (below: −∞) without bounds; of whom neither, or
    both, can be said, nan.

    InputError: no duels; no duel of the baseline's; a model with no way to it; one that meets itself; a win outside of
    [0, 1]; for Davidson's a win that is none of 0, ½, 1.
    """
    names, pairs, win = _games(duels, baseline, ties)
    base = names.index(baseline)
    above, below = _reach(names, pairs, win, base)
    here = [i for i in range(len(names)) if above[i] and below[i]]  # of one class with the baseline
    clusters = list(dict.fromkeys(one.cluster for one in duels))
    found = {name: _unbounded(bool(above[i]), bool(below[i]), len(clusters)) for i, name in enumerate(names)}
    found |= _finite(duels, names, pairs, win, here, base, ties, confidence)
    found[baseline] = Estimate(0.0, None, None, len(clusters))
    order = sorted(found, key=lambda name: -found[name].mean if found[name].mean == found[name].mean else math.inf)
    return {name: found[name] for name in order}


def elo(strength: Estimate, at: float = 1000.0) -> Estimate:
    """A strength on Elo's scale (1978), on which 400 points are odds of 10 to 1; at: the baseline's points."""
    mean, low, high = (None if x is None else at + ELO * x for x in strength[:3])
    assert mean is not None
    return Estimate(mean, low, high, strength.n)


def expected_win(strength: Estimate) -> Estimate:
    """σ(θ): how often a model of that strength beats the baseline, ties counting ½ (which is so of ties "half" alone)."""
    mean, low, high = (None if x is None else float(special.expit(x)) for x in strength[:3])
    assert mean is not None
    return Estimate(mean, low, high, strength.n)


def _games(
    duels: Sequence[Duel], baseline: str, ties: str
) -> tuple[list[str], Int[ndarray, "N 2"], Float[ndarray, " N"]]:
    """The models' names, who met whom by their numbers, and the wins."""
    if not duels:
        raise InputError("there are no comparisons of models; give at least one")
    for number, one in enumerate(duels, 1):
        if one.ours == one.theirs:
            raise InputError(f"comparison {number} is of {one.ours} with itself: leave it out")
        if not 0 <= one.win <= 1 or (ties == "davidson" and one.win not in (0, 0.5, 1)):
            range_ = "0, 0.5 or 1" if ties == "davidson" else "a number from 0 to 1"
            raise InputError(f"comparison {number} has the win {one.win}: give {range_}")
    names = list(dict.fromkeys(name for one in duels for name in (one.ours, one.theirs)))
    if baseline not in names:
        raise InputError(f"no comparison is with {baseline}: name a baseline that was compared ({', '.join(names)})")
    pairs = np.array([[names.index(one.ours), names.index(one.theirs)] for one in duels])
    return names, pairs, np.array([one.win for one in duels], np.float64)


def _reach(
    names: list[str], pairs: Int[ndarray, "N 2"], win: Float[ndarray, " N"], base: int
) -> tuple[ndarray, ndarray]:
    """Of each model whether there is a chain of wins, or draws, from it down to the baseline, and from the baseline to it.
    InputError: a model is not connected with it at all."""
    M = len(names)
    won = np.zeros((M, M), bool)
    won[pairs[win > 0, 0], pairs[win > 0, 1]] = True
    won[pairs[win < 1, 1], pairs[win < 1, 0]] = True
    parts, of = connected_components(coo_array(won), directed=True, connection="weak")
    if parts > 1:
        apart = int(np.flatnonzero(of != of[base])[0])
        raise InputError(
            f"no chain of comparisons leads from {names[apart]} to {names[base]}: compare {names[apart]} with a model that "
            "has one, or leave it out"
        )
    reaches = won | np.eye(M, dtype=bool)
    for _ in range(M.bit_length()):
        reaches = reaches @ reaches
    return reaches[:, base], reaches[base]


def _unbounded(above: bool, below: bool, n: int) -> Estimate:
    mean = math.inf if above and not below else -math.inf if below and not above else math.nan
    return Estimate(mean, None, None, n)


def _finite(
    duels: Sequence[Duel],
    names: list[str],
    pairs: Int[ndarray, "N 2"],
    win: Float[ndarray, " N"],
    here: list[int],
    base: int,
    ties: str,
    confidence: float,
) -> dict[str, Estimate]:
    """Those of one class with the baseline. At the maximum, comparisons with others are decided and say nothing."""
    if len(here) < 2:
        return {}
    at = {model: i for i, model in enumerate(model for model in here if model != base)}
    kept = [n for n, pair in enumerate(pairs) if set(pair.tolist()) <= {*here}]
    x = np.zeros((len(kept), len(at)))
    for row, n in zip(x, kept, strict=True):
        for model, side in zip(pairs[n].tolist(), (1.0, -1.0), strict=True):
            if model != base:
                row[at[model]] = side
    w = win[kept]
    fit = _davidson if ties == "davidson" and (w == 0.5).any() else _half
    theta, scores, H = fit(x, w)
    index = {cluster: i for i, cluster in enumerate(dict.fromkeys(duels[n].cluster for n in kept))}
    G = len(index)
    sums = np.zeros((G, scores.shape[1]))
    np.add.at(sums, [index[duels[n].cluster] for n in kept], scores)
    if G < 2:
        return {names[model]: Estimate(float(theta[i]), None, None, G) for model, i in at.items()}
    bread = np.linalg.inv(H)
    v = np.diag(bread @ (sums.T @ sums) @ bread) * G / (G - 1)
    half = special.stdtrit(G - 1, (1 + confidence) / 2) * np.sqrt(v)
    return {
        names[model]: Estimate(float(theta[i]), float(theta[i] - half[i]), float(theta[i] + half[i]), G)
        for model, i in at.items()
    }


Fit = tuple[Float[ndarray, " Q"], Float[ndarray, "N Q"], Float[ndarray, "Q Q"]]


def _half(x: Float[ndarray, "N P"], w: Float[ndarray, " N"]) -> Fit:
    """θ, each comparison's gradient and the curvature at the maximum."""

    def parts(theta: ndarray) -> tuple[float, ndarray, ndarray]:
        delta = x @ theta
        p = special.expit(delta)
        value = float(np.sum(w * special.log_expit(delta) + (1 - w) * special.log_expit(-delta)))
        return value, (w - p)[:, None] * x, (x * (p * (1 - p))[:, None]).T @ x

    return maximum(parts, np.zeros(x.shape[1]))


def _davidson(x: Float[ndarray, "N P"], w: Float[ndarray, " N"]) -> Fit:
    """The same, log ν being the last parameter. The three outcomes are a multinomial logit: δ/2, log ν, −δ/2."""
    if (w == 0.5).all():
        raise InputError("every comparison is a tie, which tells Davidson's model nothing of strengths; give others")
    N, P = x.shape
    z = np.zeros((N, 3, P + 1))
    z[:, 0, :P], z[:, 1, P], z[:, 2, :P] = x / 2, 1.0, -x / 2
    said = np.stack([w == 1, w == 0.5, w == 0], 1).astype(np.float64)

    def parts(theta: ndarray) -> tuple[float, ndarray, ndarray]:
        logp = special.log_softmax(z @ theta, axis=1)
        p = np.exp(logp)
        mean = np.einsum("nk,nkp->np", p, z)
        H = np.einsum("nk,nkp,nkq->pq", p, z, z) - mean.T @ mean
        return float((said * logp).sum()), np.einsum("nk,nkp->np", said, z) - mean, H

    return maximum(parts, np.zeros(P + 1))
