"""Two models' answers to the same prompts, and a judge: how often the first is better (InstructGPT, §4.1)."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.data import Prompt, content_sha256
from rlhf_jax.errors import InputError
from rlhf_jax.evals import (
    RATING,
    SHARE,
    Duel,
    Estimate,
    Row,
    Scale,
    answered,
    figures_of,
    length_controlled,
)
from rlhf_jax.labelers import Comparison, Completion, Judgement, Opinion, Ranker, comparison, write_judgements
from rlhf_jax.runtime import Made, Origin, ancestors, first_process, info, progress, write_atomically
from rlhf_jax.stages.measuring import FIGURES, ROWS, Measured, line_of, rows_in
from rlhf_jax.stages.model import Trained
from rlhf_jax.stages.rankings import JUDGEMENTS, judged_by, opinion_of
from rlhf_jax.stages.run import RUN, Run

# "rating/minus" is ours − theirs, of one prompt.
SCALES: Mapping[str, Scale | None] = {
    "win": SHARE,
    "position/first": SHARE,
    "consistent": SHARE,
    "longer": SHARE,
    "rating": RATING,
    "rating/minus": (RATING[0] - RATING[1], RATING[1] - RATING[0]),
    "length": None,
}
AT_ONCE = 20  # rows that are written at once


class Pair(NamedTuple):
    """A prompt and two models' answers to it, stripped."""

    id: str
    cluster: str
    prompt: Prompt
    ours: str
    theirs: str


class Verdict(NamedTuple):
    """What somebody says of a pair that was shown in one order."""

    win: float  # 1: ours is better, ½: neither
    swapped: bool  # theirs was shown first
    ratings: tuple[float, float] | None  # 1 to 7, of ours and theirs


def win_rate(
    folder: Path | str,
    ours: Sequence[Row],
    theirs: Sequence[Row],
    judge: Ranker,
    *,
    models: Sequence[Trained] = (),
    both_orders: bool = True,
    run: Run = RUN,
) -> Measured:
    """How often a judge prefers our answers; rows.jsonl has a row a prompt, judgements.jsonl all that the judge said.

    ours, theirs: the rows of two models by one `answering`. models: those that wrote them, so that the judge can be refused
    who trained them. both_orders: the judge is asked twice, once with theirs first, and the mean of both counts; a function
    that does not look at the order, such as a reward model, needs to be asked once only, and `chat_completions` does both by
    itself unless it is told `both_orders=False`, with which the figures of position are of the model behind it.

    Figures: "win" (1, ½ for a tie, 0; also win/CATEGORY), "win_length_controlled" where there is one (see
    `length_controlled`; without difficulties), "rating", "rating/theirs" and "rating/minus" where the judge rates from 1 to
    7, "length" and "length/theirs" in characters, "longer" (ours is the longer one), and of two orders "position/first", the
    share of verdicts that are for what was shown first (½ is no bias), and "consistent", how often both are the same.

    Answers that are equal but for blanks at their ends tie, and an empty one loses, without the judge; rows that the judge
    skips have no win; how many of each is said. A call that was stopped goes on behind the last rows that it wrote.

    InputError: the folder was made from something else; the two are not of the same prompts, or no rows of `answering`; the
    judge is a reward model that one of the models was trained on, see `require_impartial`, raises or says nothing usable.
    """
    folder, pairs = Path(folder), pairs_of(ours, theirs)
    require_impartial(judge, models)
    settings = {"judge": judge.name, "both_orders": both_orders}
    inputs = {name: content_sha256(map(_hashable, rows)) for name, rows in (("ours", ours), ("theirs", theirs))}
    made = Made(folder, Origin(settings, inputs, {"judge": judge.rank}, model={}))
    if made.complete:
        rows = rows_in(folder / ROWS)
        return Measured(rows, _figures(rows), SCALES)
    rows = rows_in(folder / ROWS) if made.begun else []
    rows = rows[: len(rows) - len(rows) % AT_ONCE]
    if first_process():
        made.start()
        write_atomically(folder / ROWS, "".join(map(line_of, rows)))
    with progress(f"judging by {judge.name}", len(pairs), len(rows)) as advance:
        for start in range(len(rows), len(pairs), AT_ONCE):
            new = []
            for pair in pairs[start : start + AT_ONCE]:
                new.append(judged(pair, judge, both_orders))
                advance()
            rows += new
            if first_process():
                with (folder / ROWS).open("a", encoding="utf-8") as file:
                    file.write("".join(map(line_of, new)))
    _say(rows)
    found = _figures(rows)
    if first_process():
        said = [one for pair, row in zip(pairs, rows, strict=True) for one in _judgements(pair, row, judge)]
        write_judgements(folder / JUDGEMENTS, said)
        write_atomically(folder / FIGURES, json.dumps({key: e._asdict() for key, e in found.items()}, indent=1))
    made.finish(ROWS, FIGURES, JUDGEMENTS)
    return Measured(rows, found, SCALES)


def to_compare(
    ours: Sequence[Row], theirs: Sequence[Row], *, names: tuple[str, str] = ("", ""), source: str = "", run: Run = RUN
) -> list[Comparison]:
    """What people are to judge: the pairs of different answers, which of the two stands first being drawn. names: of the two
    models, which labelers do not see. InputError: as for `win_rate`."""
    pairs = [pair for pair in pairs_of(ours, theirs) if _decided(pair) is None]
    swapped = np.random.default_rng(run.numpy_seed("comparing")).random(len(pairs)) < 0.5
    return [_comparison(pair, bool(swap), names, source) for pair, swap in zip(pairs, swapped, strict=True)]


def win_rate_of_people(
    judgements: Sequence[Judgement], ours: Sequence[Row], theirs: Sequence[Row], *, source: str = ""
) -> Measured:
    """The same figures from what people said of `to_compare`'s comparisons, in whichever order they saw the answers; of one
    pair the mean over who judged it. What is about other comparisons is left out, which is said, as pairs without a judgement
    are. InputError: none of the judgements is about these answers."""
    pairs, about = pairs_of(ours, theirs), dict[str, tuple[str, bool]]()
    for pair in pairs:
        if _decided(pair) is None:
            about |= {_comparison(pair, swap, ("", ""), source).id: (pair.id, swap) for swap in (False, True)}
    verdicts, skipped, others = defaultdict[str, list[Verdict]](list), dict[str, str](), 0
    for one in judgements:
        if one.task not in about:
            others += 1
            continue
        id, swap = about[one.task]
        if one.skipped:
            skipped[id] = one.skipped
        else:
            verdicts[id].append(_verdict(one.ranks, one.ratings, swap, swap != (tuple(one.order) == (1, 0))))
    if judgements and others == len(judgements):
        raise InputError(
            f"none of the {others} judgements is about these answers: give those of `to_compare`'s comparisons, and the "
            "source that they were given"
        )
    if others:
        info(f"{others} of {len(judgements)} judgements are about other answers and left out")
    rows = []
    for pair in pairs:
        decided = _decided(pair)
        found = verdicts.get(pair.id, []) if decided is None else [decided]
        more = {} if found else {"skipped": skipped.get(pair.id, "nobody judged it")}
        rows.append(_row(pair, found, more, position=decided is None))
    _say(rows)
    return Measured(rows, _figures(rows), SCALES)


def duels_of(measured: Measured, ours: str, theirs: str) -> list[Duel]:
    """The rows with a win, as `bradley_terry` takes them, under the names of the two models."""
    return [Duel(ours, theirs, _win(row), row.cluster) for row in measured.rows if "win" in row.values]


def pairs_of(ours: Sequence[Row], theirs: Sequence[Row]) -> list[Pair]:
    """Both models' answers, prompt by prompt, in the order of ours. InputError: they are not of the same prompts."""
    if not ours:
        raise InputError("there are no answers to compare; give at least one of each model")
    found = {row.id: answered(row) for row in theirs}
    if apart := sorted({row.id for row in ours} ^ found.keys()):
        raise InputError(
            f"the models' answers are not to the same prompts ({len(apart)} are answered by one of them alone, such as "
            f"{apart[0]}): let both do one `answering`"
        )
    pairs = []
    for row in ours:
        (_, prompt, answer), other = answered(row), found[row.id]
        pairs.append(Pair(row.id, row.cluster, prompt, answer.strip(), other.answer.strip()))
    return pairs


def require_impartial(judge: Ranker, models: Sequence[Trained]) -> None:
    """InputError: the judge is a reward model that one of the models was trained on, itself or through what it was made from.
    Known is what the folders beside the model's say of what they were made from."""
    reward = reward_model_of(judge)
    for model in models if reward is not None and reward.sha256 else ():
        if reward is not None and reward.sha256 in ancestors(model.folder.parent, model.sha256):
            raise InputError(
                f"{judge.name} is the reward model that {model.folder.name} was trained on: judge by another"
            )


def reward_model_of(judge: Ranker) -> Trained | None:
    """The reward model that ranks, where it is `by_reward_model`'s."""
    parts: list[Any] = [judge.rank]
    while parts:
        part = parts.pop()
        if isinstance(part, Trained) and part.scalar:
            return part
        if isinstance(part, partial):
            parts += [part.func, *part.args, *part.keywords.values()]
    return None


def judged(pair: Pair, judge: Ranker, both_orders: bool = True) -> Row:
    """A pair's row. InputError: see `win_rate`."""
    decided = _decided(pair)
    if decided is not None:
        return _row(pair, [decided], {"without_judge": "alike" if decided.win == 0.5 else "empty"})
    said, verdicts = [], []
    for swap in (False, True) if both_orders else (False,):
        answers = (pair.theirs, pair.ours) if swap else (pair.ours, pair.theirs)
        opinion = opinion_of(judge, pair.prompt, answers)
        about = comparison(pair.prompt.conversation, answers, user=pair.prompt.user)
        one = judged_by(judge, about, opinion)  # refuses what is no opinion
        more = {"ratings": list(one.ratings), "flags": list(one.flags)}
        said.append({"swapped": swap, "ranks": list(one.ranks), "skipped": one.skipped, **more})
        if one.skipped:
            return _row(pair, [], {"skipped": one.skipped, "said": said})
        verdicts.append(_verdict(one.ranks, one.ratings, swap, swap))
    return _row(pair, verdicts, {"said": said}, position=both_orders)


def _row(pair: Pair, verdicts: Sequence[Verdict], more: Mapping[str, Any], position: bool = False) -> Row:
    a, b = len(pair.ours), len(pair.theirs)
    values: dict[str, Any] = {"length": float(a), "length/theirs": float(b), "longer": (1 + (a > b) - (a < b)) / 2}
    if verdicts:
        win = float(np.mean([one.win for one in verdicts]))
        values["win"] = win
        if pair.prompt.category:
            values[f"win/{pair.prompt.category}"] = win
    rated = [one.ratings for one in verdicts if one.ratings is not None]
    if rated:
        values["rating"], values["rating/theirs"] = map(float, np.mean(rated, axis=0))
        values["rating/minus"] = values["rating"] - values["rating/theirs"]
    if verdicts and position:
        values["position/first"] = float(np.mean([1 - one.win if one.swapped else one.win for one in verdicts]))
        if [one.swapped for one in verdicts] == [False, True]:
            values["consistent"] = float(verdicts[0].win == verdicts[1].win)
    prompt = pair.prompt.conversation
    shown = {
        "prompt": prompt if isinstance(prompt, str) else list(prompt),
        "ours": pair.ours,
        "theirs": pair.theirs,
        **more,
    }
    return Row(pair.id, pair.cluster, values, shown)


def _verdict(ranks: Sequence[int], ratings: Sequence[int], swap: bool, second: bool) -> Verdict:
    """swap: of the ranks, theirs is the first. second: ours was shown behind theirs."""
    ours, theirs = (1, 0) if swap else (0, 1)
    win = (1 + (ranks[ours] < ranks[theirs]) - (ranks[ours] > ranks[theirs])) / 2
    return Verdict(win, second, (float(ratings[ours]), float(ratings[theirs])) if ratings else None)


def _decided(pair: Pair) -> Verdict | None:
    """What needs no judge: equal answers tie, an empty one loses."""
    if pair.ours == pair.theirs:
        return Verdict(0.5, False, None)
    return None if pair.ours and pair.theirs else Verdict(float(bool(pair.ours)), False, None)


def _comparison(pair: Pair, swap: bool, names: tuple[str, str], source: str) -> Comparison:
    texts = [pair.ours, pair.theirs]
    order = (1, 0) if swap else (0, 1)
    about = comparison(pair.prompt.conversation, [texts[i] for i in order], user=pair.prompt.user, source=source)
    return about._replace(completions=tuple(Completion(texts[i], names[i]) for i in order))


def _judgements(pair: Pair, row: Row, judge: Ranker) -> list[Judgement]:
    """What the judge said of a row's pair, whichever process or call it was said to."""
    found = []
    for said in row.shown.get("said", ()):
        opinion = Opinion(tuple(said["ranks"]), said["skipped"], tuple(said["ratings"]), tuple(said["flags"]))
        answers = (pair.theirs, pair.ours) if said["swapped"] else (pair.ours, pair.theirs)
        about = comparison(pair.prompt.conversation, answers, user=pair.prompt.user)
        found.append(judged_by(judge, about, opinion))
    return found


def _figures(rows: Sequence[Row]) -> dict[str, Estimate]:
    found, won = figures_of(rows, SCALES), [row for row in rows if "win" in row.values]
    if not won:
        raise InputError("nobody judged any of the pairs of answers, and there is no win rate: ask another judge")
    win, a, b = ([float(np.asarray(row.values[name])) for row in won] for name in ("win", "length", "length/theirs"))
    try:
        found["win_length_controlled"] = length_controlled(win, a, b, [row.cluster for row in won]).rate
    except InputError as error:
        info(f"no win_length_controlled: {error}")
    return found


def _say(rows: Sequence[Row]) -> None:
    counts = {
        "tie without a judge, as they are alike": sum(_decided_as(row) == 0.5 for row in rows),
        "have an empty answer, which loses": sum(_decided_as(row) in (0.0, 1.0) for row in rows),
        "have no verdict and are left out of the win rate": sum("win" not in row.values for row in rows),
    }
    if said := [f"{count} {what}" for what, count in counts.items() if count]:
        info(f"of {len(rows)} pairs of answers {'; '.join(said)}")


def _decided_as(row: Row) -> float | None:
    pair = Pair(row.id, row.cluster, Prompt(""), row.shown["ours"], row.shown["theirs"])
    return None if (decided := _decided(pair)) is None else decided.win


def _win(row: Row) -> float:
    return float(np.asarray(row.values["win"]))


def _hashable(row: Row) -> tuple:
    return (row.id, row.cluster, row.shown)
