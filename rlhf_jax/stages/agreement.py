"""How often a reward model orders answers as labelers do, and labelers as each other do, on held-out prompts."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rlhf_jax.data import Prompt, Ranking, ranking_fits, text_of
from rlhf_jax.equations import pair_accuracy
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.evals import SHARE, Estimate, ratio_interval
from rlhf_jax.labelers import FLAGS, Judgement, agreed_by_task, agreements, alpha, kappa, rank
from rlhf_jax.runtime import info
from rlhf_jax.stages.answers import AnswersToRank, draw_answers, scores_of
from rlhf_jax.stages.datasets import DataSets, Truth
from rlhf_jax.stages.evaluation import Evaluate, Loaded
from rlhf_jax.stages.model import Trained
from rlhf_jax.stages.reward_model import encoded
from rlhf_jax.stages.run import RUN, Run
from rlhf_jax.stages.training import checked_rankings, prompts_that_fit, rankings_that_fit
from rlhf_jax.types import RankingBatch


class Ordered(NamedTuple):
    """Of a ranking's pairs of answers, ties left out: how many a reward model orders as the labeler did, equal scores
    counting one half, and how many there are."""

    prompt: str  # its text
    labeler: str
    right: float
    pairs: int


def agreement_on(
    data: DataSets, reward: Loaded, writer: Trained, answers: AnswersToRank, c: Evaluate, run: Run
) -> dict[str, Estimate]:
    """The reward model's accuracy: on rankings of held-out prompts where there are such, else on answers of `writer` that
    every labeler of the built-in world, and its gold formula, ranks. Figures for which there is no pair are left out, which
    is said."""
    if data.truth is not None:
        return in_world(data.truth, data, reward, writer, answers, c, run)
    figures = {}
    for part, rankings in (("valid", data.rankings.valid), ("test", data.rankings.test)):
        t, length = reward.model.tokenizer, reward.model.format.context
        if not any(ranking_fits(ranking, t, length) for ranking in rankings):
            info(f"evaluate: no ranking of a {part} prompt fits, and no accuracy/{part}")
            continue
        rows = encoded(rankings, reward.model)
        figures |= accuracy(f"accuracy/{part}", reward_of(reward, rows, run), [rows.ranks])
    return figures


def in_world(
    truth: Truth, data: DataSets, reward: Loaded, writer: Trained, answers: AnswersToRank, c: Evaluate, run: Run
) -> dict[str, Estimate]:
    """Each test answer is scored once and compared with what everybody says of it."""
    prompts = prompts_that_fit(data.prompts.test, writer, "test")[: c.prompts]
    texts = draw_answers(writer, prompts, answers, run, "test comparisons")
    kept = [(p, row) for p, row in zip(prompts, texts, strict=True) if row]
    if not kept:
        info("evaluate: too few different answers to every test prompt, and no figures of the reward model")
        return {}
    rows = encoded([Ranking(p.conversation, row, tuple(range(1, len(row) + 1))) for p, row in kept], reward.model)
    score, slots = reward_of(reward, rows, run), rows.ranks.shape[1]

    def ranks_by(judge: Callable[[Prompt, tuple[str, ...]], tuple[int, ...]]) -> np.ndarray:
        given = [judge(p, row) for p, row in kept]  # () of who abstains, which compares nothing
        return np.array([[*ranks, *[0] * (slots - len(ranks))] for ranks in given], np.int32)

    figures: dict[str, Estimate] = {}
    for pool, labelers in (("train", truth.labelers), ("heldout", truth.heldout_labelers)):
        by_labeler = [
            ranks_by(partial(lambda of, p, row: rank(of, truth.gold, truth.question(p), row), labeler))
            for labeler in labelers
        ]
        figures |= accuracy(f"accuracy/{pool}_labelers", score, by_labeler)
        figures |= agreement(f"agreement/{pool}_labelers", by_labeler)
    gold = ranks_by(lambda p, row: best_first([truth.gold(truth.question(p), a) for a in row]))
    return figures | accuracy("accuracy/gold", score, [gold])


def ordered(reward: Loaded, rankings: Sequence[Ranking], run: Run = RUN) -> list[Ordered]:
    """How a reward model orders the answers of each ranking. Rankings that are ties alone or do not fit are left out, which
    is said. InputError: none is left; a ranking is broken; `too_long` of the model's format is "error" and one is."""
    kept = rankings_that_fit(checked_rankings(rankings), reward.model, "rankings to measure on")
    rows = encoded(kept, reward.model)
    right = jax.vmap(pair_accuracy)(jnp.asarray(reward_of(reward, rows, run)), jnp.asarray(rows.ranks))
    each = zip(kept, np.asarray(right.total).tolist(), np.asarray(right.count).tolist(), strict=True)
    return [Ordered(text_of(row.prompt), row.labeler, right, int(pairs)) for row, right, pairs in each]


def accuracy_over_prompts(counts: Sequence[Ordered]) -> Estimate:
    """The share of all pairs that are ordered right. The interval is over prompts: what several labelers said of one, and
    several models, is one draw."""
    by_prompt: dict[str, tuple[float, int]] = {}
    for prompt, _, right, pairs in counts:
        before = by_prompt.get(prompt, (0.0, 0))
        by_prompt[prompt] = before[0] + right, before[1] + pairs
    rights, totals = zip(*by_prompt.values(), strict=True)
    return ratio_interval(rights, totals, SHARE)


def accuracy_by_labeler(reward: Loaded, rankings: Sequence[Ranking], run: Run = RUN) -> dict[str, Estimate]:
    """Labeler → how often the reward model orders a pair as they did, see `accuracy_over_prompts`, in the order of names.
    Whose rankings are all left out has no figure. InputError: as for `ordered`; a ranking names no labeler."""
    require_labelers(rankings)
    by_labeler: dict[str, list[Ordered]] = {}
    for one in ordered(reward, rankings, run):
        by_labeler.setdefault(one.labeler, []).append(one)
    return {labeler: accuracy_over_prompts(by_labeler[labeler]) for labeler in sorted(by_labeler)}


def require_labelers(rankings: Sequence[Ranking]) -> None:
    """InputError: a ranking does not say who made it."""
    for number, row in enumerate(rankings, 1):
        if not row.labeler:
            about = shortened(text_of(row.prompt))
            raise InputError(f"ranking {number}, of {about}, names no labeler: name one, or leave it out")


def best_first(gold: list[float]) -> tuple[int, ...]:
    """Ranks from 1, the largest number's."""
    order = sorted(set(gold), reverse=True)
    return tuple(order.index(g) + 1 for g in gold)


def reward_of(reward: Loaded, rows: RankingBatch, run: Run) -> np.ndarray:
    """[N, K] scores; those of empty slots mean nothing."""
    N, K, T = rows.tokens.shape
    flat = rows.tokens.reshape(-1, T), rows.mask.reshape(-1, T)
    return scores_of(reward.model, *flat, batch=run.runtime.batch, params=reward.params).reshape(N, K)


def accuracy(name: str, score: np.ndarray, rankings: list[np.ndarray]) -> dict[str, Estimate]:
    """Share of the pairs that the model orders as a labeler did, over all labelers; the interval is over prompts."""
    each = [jax.vmap(pair_accuracy)(jnp.asarray(score), jnp.asarray(ranks)) for ranks in rankings]
    return share(name, sum(np.asarray(m.total) for m in each), sum(np.asarray(m.count) for m in each))


def agreement(name: str, rankings: list[np.ndarray]) -> dict[str, Estimate]:
    """Share of the pairs that two labelers order alike, where both see a difference, over all pairs of labelers; the interval
    is over prompts."""
    counts = np.array([agreements([r[r > 0].tolist() for r in rows]) for rows in zip(*rankings, strict=True)], float)
    return share(name, *counts.reshape(-1, 2).T)


def labelers_agree(judgements: Sequence[Judgement]) -> dict[str, Estimate]:
    """How far labelers agree with each other who judged the same: "agreement", the share of pairs of answers that two order
    alike where both see a difference, with an interval over prompts; Krippendorff's α of ranks, of ratings and of each flag,
    and Fleiss' κ of each flag, without one. A figure for which there is nothing to compare is left out."""
    counts = agreed_by_task(judgements)
    figures: dict[str, Estimate] = {}
    if counts:
        figures["agreement"] = ratio_interval([c.agreed for c in counts], [c.pairs for c in counts], SHARE)
    tasks = len({one.task for one in judgements})
    for name, figure in (("alpha", alpha), ("kappa", kappa)):
        for of in ("ranks", "ratings", *FLAGS) if figure is alpha else FLAGS:
            found = figure(judgements, of)
            if found is not None:
                figures[f"{name}/{of}"] = Estimate(found, None, None, tasks)
    return figures


def share(name: str, part: Any, pairs: Any) -> dict[str, Estimate]:
    """The figure under its name; none where there is no pair, such as of one labeler with another."""
    if not np.any(pairs):
        info(f"evaluate: no pair of answers to compare, and no {name}")
        return {}
    return {name: ratio_interval(part, pairs, SHARE)}
