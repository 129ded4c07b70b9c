"""What the owner of a store sees of it: how far it is, who agrees with whom, and where they do not."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import permutations
from statistics import median
from typing import Any

from rlhf_jax.labelers import (
    CUT_OFF,
    FLAGS,
    Judgement,
    Screened,
    Store,
    Written,
    agreed_by_task,
    agreements,
    alpha,
    kappa,
    screened,
)
from rlhf_jax.labeling.submission import turns

MOST_SHOWN = 20  # disagreements


def overview(store: Store) -> dict[str, Any]:
    """Progress; agreement (by pairs of answers, α, κ); each labeler's throughput, agreement with the others and with what
    is known; and the comparisons that labelers agree on least. As JSON has it, None where there is no figure."""
    judgements, written = store.judgements(), store.written()
    by_task = agreed_by_task(judgements)
    figures = {"ranks": "Ranks", "ratings": "Ratings", **FLAGS}
    return {
        "progress": store.progress()._asdict(),
        "pairs": {"agreed": sum(one.agreed for one in by_task), "pairs": sum(one.pairs for one in by_task)},
        "figures": [
            {"name": label, "alpha": alpha(judgements, of), "kappa": kappa(judgements, of) if of in FLAGS else None}
            for of, label in figures.items()
        ],
        "cut_off": CUT_OFF,
        "labelers": _labelers(store, judgements, written),
        "disagreements": [
            _disagreement([one for one in judgements if one.task == least.task], least.agreed, least.pairs)
            for least in by_task[:MOST_SHOWN]
            if least.agreed < least.pairs
        ],
    }


def _labelers(store: Store, judgements: Sequence[Judgement], written: Sequence[Written]) -> list[dict[str, Any]]:
    pairs = store.screening()
    known = {one.labeler: one for one in screened(pairs)}
    work: dict[str, list[Judgement | Written]] = defaultdict(list)
    for one in (*judgements, *written, *(said for _, said in pairs)):
        work[one.labeler].append(one)
    shared = _shared(judgements)
    return [
        {
            "name": person.name,
            "group": person.group,
            **_throughput(work[person.name]),
            "agreed": shared[person.name][0],
            "pairs": shared[person.name][1],
            "screened": _screening(known.get(person.name)),
        }
        for person in store.labelers()
    ]


def _throughput(work: Sequence[Judgement | Written]) -> dict[str, Any]:
    done = [one for one in work if not one.skipped]
    seconds = [one.seconds for one in done if one.seconds]
    return {
        "done": len(done),
        "skipped": len(work) - len(done),
        "median": median(seconds) if seconds else None,
        "hourly": 3600 * len(seconds) / sum(seconds) if seconds else None,
        "last": max((one.time for one in work if one.time is not None), default=None),
    }


def _screening(found: Screened | None) -> dict[str, Any] | None:
    return None if found is None else {**found._asdict(), "passes": found.passes}


def _shared(judgements: Sequence[Judgement]) -> dict[str, list[int]]:
    """Of each labeler: on how many pairs of answers they agree with another, of how many."""
    tasks: dict[str, list[Judgement]] = defaultdict(list)
    for one in judgements:
        tasks[one.task].append(one)
    found: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for several in tasks.values():
        for mine, theirs in permutations(several, 2):
            agreed, pairs = agreements([mine.ranks, theirs.ranks])
            found[mine.labeler][0] += agreed
            found[mine.labeler][1] += pairs
    return found


def _disagreement(judgements: Sequence[Judgement], agreed: int, pairs: int) -> dict[str, Any]:
    first, ranked = judgements[0], [one for one in judgements if one.ranks]
    return {
        "task": first.task,
        "conversation": turns(first.prompt),
        "answers": [{"text": each.text, "model": each.model} for each in first.completions],
        "labelers": [{"name": one.labeler, "ranks": one.ranks, "ratings": one.ratings} for one in ranked],
        "agreed": agreed,
        "pairs": pairs,
    }
