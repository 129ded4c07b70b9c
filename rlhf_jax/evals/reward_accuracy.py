"""How good a reward model is at what labels say: by margin, in its probabilities, among four answers, and under other words.

All of it is of scores, whichever model gave them; `rlhf_jax.stages` has what lets a reward model score texts.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int
from numpy import ndarray
from scipy import special

from rlhf_jax.errors import InputError
from rlhf_jax.evals.intervals import CONFIDENCE, SHARE, Estimate, mean_interval


class ScoredPair(NamedTuple):
    """Two answers of which a label prefers the first, and what a reward model gives them."""

    chosen: float
    rejected: float
    cluster: str  # the prompt, or who typed it
    labeler: str = ""
    margin: float | None = None  # by how much the label prefers it, where it says so

    @property
    def right(self) -> float:
        """1: the chosen one has the higher score; ½: both have the same."""
        return (1 + (self.chosen > self.rejected) - (self.chosen < self.rejected)) / 2


class Bin(NamedTuple):
    """Some of the pairs: those from `low` to `high`."""

    low: float
    high: float
    accuracy: Estimate


class Reliable(NamedTuple):
    """Some of the pairs, by what the reward model says of them."""

    confidence: float  # the mean of σ(|Δ|)
    accuracy: Estimate
    pairs: int


class Calibration(NamedTuple):
    curve: list[Reliable]  # from the least to the most confident
    error: Estimate  # ECE
    log_loss: Estimate  # −log σ(r_chosen − r_rejected), nats a pair


# By margin.


def accuracy_by_difference(pairs: Sequence[ScoredPair], bins: int = 4) -> list[Bin]:
    """Accuracy by how far apart the two scores are, |r_chosen − r_rejected|: as many pairs in each bin, or one more, equal
    differences being in one bin. The interval is over clusters. InputError: fewer pairs than bins."""
    return _by(pairs, np.array([abs(pair.chosen - pair.rejected) for pair in pairs]), bins)


def accuracy_by_margin(pairs: Sequence[ScoredPair], bins: int = 4) -> list[Bin]:
    """Accuracy by the labels' margins, the same way; with no more different ones than bins, each is a bin. InputError: a pair
    has none."""
    if lacking := sum(pair.margin is None for pair in pairs):
        raise InputError(f"{lacking} of {len(pairs)} pairs have no margin: give each one, or leave those out")
    return _by(pairs, np.array([pair.margin for pair in pairs], np.float64), bins)


def _by(pairs: Sequence[ScoredPair], x: Float[ndarray, " N"], bins: int) -> list[Bin]:
    _require(pairs, bins)
    found = []
    for here in equal_mass(x, bins):
        some = [pairs[i] for i in here]
        accuracy = mean_interval([pair.right for pair in some], [pair.cluster for pair in some], SHARE)
        found.append(Bin(float(x[here].min()), float(x[here].max()), accuracy))
    return found


def equal_mass(x: Float[ndarray, " N"], bins: int) -> list[Int[ndarray, " n"]]:
    """The places of x in so many parts of about one size, from the least on. Equal values are not parted: they go where
    their first one falls, and parts that are left empty are no parts. With no more different values than parts, each value
    is one."""
    values, at = np.unique(x, return_inverse=True)
    if len(values) <= bins:
        part = at
    else:
        first = np.searchsorted(np.sort(x), x, side="left")
        part = first * bins // len(x)
    return [np.flatnonzero(part == each) for each in np.unique(part)]


# Probabilities.


def calibration(
    pairs: Sequence[ScoredPair], bins: int = 10, draws: int = 1_000, confidence: float = CONFIDENCE
) -> Calibration:
    """How true the probabilities σ(r_a − r_b) are, by which a reward model is trained (InstructGPT, Eq. 1).

    Which of two answers is called a is arbitrary; here it is the one with the higher score, so that the probability is
    p = σ(|Δ|) ≥ ½, and what it should be is how often the label prefers that one (½ where the scores are equal). The expected
    calibration error is Σ_b n_b/N · |accuracy_b − mean p_b| over bins b of equal mass (see `equal_mass`; Naeini et al. 2015
    have bins of equal width, most of which a sharp model leaves empty).

    The curve's intervals are over clusters, see `mean_interval`. The error's is the percentile bootstrap's over clusters,
    `draws` of them with seed 0 and bins made anew in each. It is an upper-biased figure: bins of few pairs stray by chance,
    in the bootstrap once more, so that its interval may lie above it. InputError: fewer pairs than bins.
    """
    _require(pairs, bins)
    delta = np.array([pair.chosen - pair.rejected for pair in pairs])
    p, right = special.expit(np.abs(delta)), np.array([pair.right for pair in pairs])
    clusters = [pair.cluster for pair in pairs]
    curve = []
    for here in equal_mass(p, bins):
        accuracy = mean_interval(right[here], [clusters[i] for i in here], SHARE)
        curve.append(Reliable(float(p[here].mean()), accuracy, len(here)))
    error = clustered_bootstrap(lambda at: expected_error(p[at], right[at], bins), clusters, draws, confidence)
    return Calibration(curve, error, mean_interval(-special.log_expit(delta), clusters, None, confidence))


def expected_error(p: Float[ndarray, " N"], right: Float[ndarray, " N"], bins: int) -> float:
    """See `calibration`."""
    return float(sum(abs(right[here].sum() - p[here].sum()) for here in equal_mass(p, bins)) / len(p))


def clustered_bootstrap(
    figure: Callable[[Int[ndarray, " n"]], float],
    clusters: Sequence[str],
    draws: int = 1_000,
    confidence: float = CONFIDENCE,
) -> Estimate:
    """A figure of values by their places, with the percentile interval over draws of as many clusters with replacement (Efron
    1979), seed 0; n is the number of clusters. Without bounds where there is one."""
    index = {cluster: i for i, cluster in enumerate(dict.fromkeys(clusters))}
    at = np.array([index[cluster] for cluster in clusters])
    order = np.argsort(at, kind="stable")
    members = np.split(order, np.flatnonzero(np.diff(at[order])) + 1)
    whole, G = figure(np.arange(len(at))), len(members)
    if G < 2:
        return Estimate(whole, None, None, G)
    rng = np.random.default_rng(0)
    found = [figure(np.concatenate([members[i] for i in rng.integers(G, size=G)])) for _ in range(draws)]
    low, high = np.quantile(found, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(whole, float(low), float(high), G)


# Among several answers.


class ScoredChoice(NamedTuple):
    """One prompt's answers: what a reward model gives the right ones, and the wrong ones."""

    right: tuple[float, ...]
    wrong: tuple[float, ...]
    cluster: str
    id: str = ""  # of `ties_score`: a prompt's two forms have one
    tied: bool = False  # of `ties_score`: the form with several right answers


def best_of(choices: Sequence[ScoredChoice]) -> Estimate:
    """How often the right answer has the highest score, RewardBench 2's accuracy of one right answer among four (Malik et al.
    2025, arXiv:2506.01937; `reroll_and_score_dataset` of allenai/reward-bench, rewardbench/utils.py): where it shares the
    highest score with others, 1 / how many have it; chance is ¼. InputError: another number of right answers, or no wrong
    one."""
    for number, choice in enumerate(choices, 1):
        if len(choice.right) != 1 or not choice.wrong:
            raise InputError(
                f"choice {number} has {len(choice.right)} right answers and {len(choice.wrong)} wrong ones: give one right "
                "one, and wrong ones (`ties_score` is for several right ones)"
            )
    if not choices:
        raise InputError("there are no choices to score; give at least one")
    won = []
    for choice in choices:
        best = choice.right[0]
        won.append(0.0 if max(choice.wrong) > best else 1 / (1 + sum(score == best for score in choice.wrong)))
    return mean_interval(won, [choice.cluster for choice in choices], SHARE)


class TiesScore(NamedTuple):
    """RewardBench 2's figures of its Ties subset; shares."""

    score: float
    one_right: float  # of prompts with one right answer: it is above all wrong ones
    several_right: float  # of prompts with several: each is above all wrong ones
    apart: float  # of these: the right are nearer to each other than the worst right to the best wrong
    apart_in_both: float  # the same with the smaller of that gap and the gap of the prompt's form with one right answer
    margin: float  # mean of tanh(that smaller gap / spread of the right − 1), 0 where it is 0/0


def ties_score(choices: Sequence[ScoredChoice]) -> TiesScore:
    """The Ties subset's score, where several answers are equally right (`process_single_model` of allenai/reward-bench,
    rewardbench/utils.py), from prompts in two forms, `tied` with several right answers and not with one:

        0.3·several_right + 0.3·one_right + 0.2·apart + 0.2·apart_in_both + 0.01·margin

    With g the gap min(right) − max(wrong) and s the spread max(right) − min(right): g > 0 is right; apart is g > s of the
    tied form; the last two are over the prompts with both forms. It has no interval: it is no mean over prompts.

    InputError: a choice without right or wrong answers, or a tied one with fewer than two right ones; no prompt has both
    forms; two are of one prompt and form.
    """
    forms: tuple[dict[str, tuple[float, float]], dict[str, tuple[float, float]]] = ({}, {})
    for number, choice in enumerate(choices, 1):
        if not choice.wrong or len(choice.right) < 1 + choice.tied:
            raise InputError(
                f"choice {number} has {len(choice.right)} right answers and {len(choice.wrong)} wrong ones: give a wrong "
                f"one and {'two right ones' if choice.tied else 'a right one'} at least"
            )
        if choice.id in forms[choice.tied]:
            form = "with several right answers" if choice.tied else "with one right answer"
            raise InputError(f"choice {number} is the second of the prompt {choice.id!r} {form}: give each once")
        least, most = min(choice.right), max(choice.right)
        forms[choice.tied][choice.id] = least - max(choice.wrong), most - least
    one, several = forms
    both = [id for id in several if id in one]
    if not both:
        raise InputError("no prompt has both forms, with one right answer and with several: give both under one id")
    gap = np.array([several[id][0] for id in both])
    less = np.minimum(gap, [one[id][0] for id in both])
    spread = np.array([several[id][1] for id in both])
    with np.errstate(divide="ignore", invalid="ignore"):
        margin = float(np.nan_to_num(np.tanh(less / spread - 1), nan=0.0).mean())
    one_right, several_right = (float(np.mean([g > 0 for g, _ in form.values()])) for form in (one, several))
    apart, in_both = float(np.mean(gap > spread)), float(np.mean(less > spread))
    score = 0.3 * several_right + 0.3 * one_right + 0.2 * apart + 0.2 * in_both + 0.01 * margin
    return TiesScore(score, one_right, several_right, apart, in_both, margin)


# Under other words.


class Paraphrased(NamedTuple):
    """A pair of answers, and the same pair in other words: of the prompt, of an answer, or of both."""

    scores: tuple[float, float]
    others: tuple[tuple[float, float], ...]
    cluster: str


def agreement_under_paraphrase(items: Sequence[Paraphrased]) -> Estimate:
    """Of all paraphrases, how many the reward model orders as it does the original pair: 1 the same answer above, ½ where
    one of the two is equal scores and the other is not, and 1 where both are. InputError: an item without paraphrases."""
    same, clusters = [], []
    for number, item in enumerate(items, 1):
        if not item.others:
            raise InputError(f"item {number} has no paraphrase: give one at least")
        before = np.sign(item.scores[0] - item.scores[1])
        for a, b in item.others:
            same.append(1 - abs(before - np.sign(a - b)) / 2)
            clusters.append(item.cluster)
    if not items:
        raise InputError("there are no paraphrases to compare; give at least one")
    return mean_interval(same, clusters, SHARE)


def _require(pairs: Sequence[ScoredPair], bins: int) -> None:
    if bins < 1 or len(pairs) < bins:
        raise InputError(f"there are {len(pairs)} pairs for {bins} bins: give more pairs, or take fewer bins")
    if bad := [number for number, pair in enumerate(pairs, 1) if not np.isfinite([pair.chosen, pair.rejected]).all()]:
        raise InputError(f"pair {bad[0]} has the scores {pairs[bad[0] - 1][:2]}: give finite numbers")
