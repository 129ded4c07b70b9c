"""Labelling: people, or functions that stand for them, rank the answers to each prompt."""

import shlex
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, PyTree
from numpy import ndarray

from rlhf_jax.data import Prompt, Ranking, content_sha256, read_rankings, whole_ranks, write_rankings
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.labelers import (
    Comparison,
    Judgement,
    Opinion,
    Ranker,
    Store,
    as_rankings,
    by_scores,
    comparison,
    rank,
    ranks_of,
    write_judgements,
)
from rlhf_jax.runtime import Made, Origin, first_process, info
from rlhf_jax.stages.answers import CandidateRows, scores_of
from rlhf_jax.stages.datasets import Truth
from rlhf_jax.stages.functions import asked
from rlhf_jax.stages.model import Trained
from rlhf_jax.stages.reward_model import encoded
from rlhf_jax.stages.run import RUN, Run

ABSTAINS = Opinion(skipped="abstains")
RANKINGS, JUDGEMENTS = "rankings.jsonl", "judgements.jsonl"  # a folder of them
PAUSE, QUIET = 2.0, 15.0  # seconds between two looks at a store, and at least between two sentences about it


def simulated(truth: Truth | None) -> list[Ranker]:
    """The labelers of the built-in world, who see its gold preference through their own eyes. InputError: there is no such
    world."""
    if truth is None:
        raise InputError("nobody ranks answers to prompts from files by themselves; name a store that people fill")

    def ranks(labeler, prompt: Prompt, answers: Sequence[str]) -> tuple[int, ...] | Opinion:
        return rank(labeler, truth.gold, truth.question(prompt), answers) or ABSTAINS

    return [Ranker(labeler.name, partial(ranks, labeler), labeler.group) for labeler in truth.labelers]


def by_reward_model(name: str, reward: Trained, run: Run = RUN, group: str = "") -> Ranker:
    """A reward model as a labeler, who prefers what it scores higher."""
    return by_scores(name, partial(_rewards, reward, reward.params(), run.runtime.batch), group)


def _rewards(
    reward: Trained, params: PyTree, batch: int, prompt: Prompt, answers: Sequence[str]
) -> Float[ndarray, " K"]:
    texts = tuple(answers)
    rows = encoded([Ranking(prompt.conversation, texts, (1,) * len(texts))], reward)
    return scores_of(reward, rows.tokens[0], rows.mask[0], batch=batch, params=params)


def comparisons(
    answers: CandidateRows, *, model: str = "", sampling: Mapping[str, Any] = {}, source: str = ""
) -> list[Comparison]:
    """What labelers are to judge: each prompt that has different answers, with them. model, sampling, source: who wrote them,
    how they were drawn, and what they belong to."""
    return [
        comparison(prompt.conversation, texts, model=model, sampling=sampling, user=prompt.user, source=source)
        for prompt, texts in answers.rows
        if texts
    ]


def ask(
    folder: Path | str,
    answers: CandidateRows,
    labelers: Sequence[Ranker],
    run: Run = RUN,
    *,
    before: Sequence[Ranking] = (),
) -> list[Ranking]:
    """Each prompt's answers ranked by a labeler drawn for it, in rankings.jsonl; prompts whose answers they find all alike
    are left out. judgements.jsonl has what each of them said, those who skipped it too. before: rankings of earlier rounds,
    which the new ones come behind, and by which labelers are drawn otherwise in each round. InputError: the folder was made
    from something else, other labelers or another order of them included; there is no labeler, or two have one name; a
    labeler raises, or gives something else than a rank for each answer."""
    folder, names = Path(folder), [one.name for one in labelers]
    require_names(names)
    code = {f"labeler {one.name}": one.rank for one in labelers}
    settings = {"seed": run.seed, "labelers": names}  # who ranks what goes by their order
    made = Made(folder, Origin(settings, asked_about(answers, before), code, model={}))
    if not made.complete:
        seed = run.numpy_seed("labelers")
        rng = np.random.default_rng([seed, int(content_sha256(before)[:8], 16)] if before else seed)
        rows, said = [], []
        for prompt, texts in answers.rows:
            labeler = labelers[int(rng.integers(len(labelers)))]
            if len(texts) < 2:
                continue
            opinion = opinion_of(labeler, prompt, texts)
            said.append(judged_by(labeler, comparison(prompt.conversation, texts, user=prompt.user), opinion))
            if len(set(opinion.ranks)) > 1:
                rows.append(Ranking(prompt.conversation, texts, opinion.ranks, labeler.name, prompt.user))
        skipped = sum(bool(each.skipped) for each in said)
        info(
            f"labelers ranked the answers to {len(rows)} of {len(answers.rows)} prompts; "
            f"{len(answers.rows) - len(said)} had fewer than two different ones, {skipped} they skipped, to "
            f"{len(said) - skipped - len(rows)} they found all alike"
        )
        keep(folder, rows, said)
    return kept(made, before)


def ask_people(
    folder: Path | str,
    store: Path | str,
    answers: CandidateRows,
    *,
    wanted: int = 1,
    model: str = "",
    sampling: Mapping[str, Any] = {},
    before: Sequence[Ranking] = (),
) -> list[Ranking]:
    """The same by people, each prompt by `wanted` of them, who fill the store through its page.

    It puts the comparisons into the store, says how many judgements are missing and what opens the page, waits, and returns
    when they are there. A call that was stopped goes on with what the store has by then, and asks nothing again. model,
    sampling: who wrote the answers and how they were drawn, which labelers do not see.

    InputError: the folder was made from something else; of a folder that was begun, the store is not there; the store's disk,
    or see `Store.add_tasks`.
    """
    folder = Path(folder)
    settings = {"wanted": wanted, "model": model, "sampling": dict(sampling)}
    made = Made(folder, Origin(settings, asked_about(answers, before), code={}, model={}))
    if not made.complete and first_process():
        source = f"{folder.name} {answers.sha256[:12]}"  # what else is in the store is not waited for
        tasks = {one.id: one for one in comparisons(answers, model=model, sampling=sampling, source=source)}
        with Store(store, create=not made.begun) as opened:
            opened.add_tasks(list(tasks.values()), wanted)
            made.start()
            wait_for_people(opened, source, folder.name)
            said = opened.judgements(source)
        keep(folder, as_rankings(said), said)
    while not (folder / RANKINGS).is_file():  # of several processes the others may be on machines without the store
        time.sleep(PAUSE)
    return kept(made, before)


def wait_for_people(store: Store, source: str, name: str) -> None:
    """Returns when no judgement of the source's comparisons is missing. Says how many are, at first with what opens the page,
    then when that has changed; and to how many comparisons there is nobody left who could be asked."""
    path, told, at = shlex.quote(str(store.path)), None, 0.0
    while (now := store.progress(source)).missing:
        if told is None or ((now.missing, now.stuck) != told and time.monotonic() - at >= QUIET):
            sentence = f"{name}: {now.missing} of {now.wanted} judgements are missing"
            if now.stuck:
                sentence += f"; for {now.stuck} comparisons there is nobody left to ask: rlhf-label labeler {path} NAME"
            if told is None:
                sentence += f"; this waits for them. The page: rlhf-label serve {path}"
            info(sentence)
            told, at = (now.missing, now.stuck), time.monotonic()
        time.sleep(PAUSE)
    info(f"{name}: all {now.wanted} judgements are there")


def asked_about(answers: CandidateRows, before: Sequence[Ranking]) -> dict[str, str]:
    """What rankings record of what they are made from."""
    return {"answers": answers.sha256} | ({"rankings": content_sha256(before)} if before else {})


def keep(folder: Path, rankings: Sequence[Ranking], said: Sequence[Judgement]) -> None:
    """Writes a folder's two files; rankings.jsonl last."""
    folder.mkdir(parents=True, exist_ok=True)
    write_judgements(folder / JUDGEMENTS, said)
    write_rankings(folder / RANKINGS, rankings)


def kept(made: Made, before: Sequence[Ranking]) -> list[Ranking]:
    """Those before, and those of the folder, which is finished; what is made from them knows it by all of them. InputError:
    there are none."""
    file = made.folder / RANKINGS
    found = [*before, *(read_rankings(str(file)) if file.stat().st_size else ())]
    if not found:
        raise InputError(
            f"{made.folder}: no labeler put an answer above another, and there is nothing to learn from: ask more people, or "
            "let other answers be drawn"
        )
    if not made.complete:
        made.finish(RANKINGS, JUDGEMENTS, known_as=content_sha256(found))
    return found


def label(store: Store, labelers: Sequence[Ranker], prompts: Mapping[str, Prompt] = {}) -> int:
    """Lets labelers do what a store asks for, in turn, until there is nothing left for any of them; how many submissions they
    made. Who is not known there is added. prompts: comparison's id → the prompt, for those who look at its category and
    columns. InputError: as for `ask`."""
    require_names([one.name for one in labelers])
    known = {person.name for person in store.labelers()}
    for one in labelers:
        if one.name not in known:
            store.add_labeler(one.name, one.group)
    waiting, count = list(labelers), 0
    while waiting:
        for one in list(waiting):
            lease = store.lease(one.name, ["comparison"])
            if lease is None:
                waiting.remove(one)
                continue
            task = lease.task
            assert isinstance(task, Comparison)
            prompt = prompts.get(task.id, Prompt(task.prompt, user=task.user))
            opinion = opinion_of(one, prompt, tuple(each.text for each in task.completions))
            if store.submit(judged_by(one, task, opinion, id=f"{task.id}/{one.name}")):
                count += 1
            else:
                waiting.remove(one)  # it was taken back: they would say the same again
    return count


def require_names(names: Sequence[str]) -> None:
    """InputError: there is no labeler, or two have one name."""
    if not names:
        raise InputError("there is no labeler to rank the answers; give at least one")
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"two labelers are called {twice[0]}; give each a name of their own")


def judged_by(labeler: Ranker, about: Comparison, opinion: Opinion, **more: Any) -> Judgement:
    """A labeler's opinion as a judgement, of which the ranks are dense. InputError, with their name: it is none, see
    `checked_judgement`."""
    opinion = opinion._replace(ranks=ranks_of([-float(rank) for rank in opinion.ranks]))
    try:
        return about.judged(labeler.name, **opinion._asdict(), group=labeler.group, **more)
    except InputError as error:
        raise InputError(f"labeler {labeler.name}: {error}") from error


def opinion_of(labeler: Ranker, prompt: Prompt, answers: Sequence[str]) -> Opinion:
    """What a labeler says of answers. InputError: they raise, or give neither a rank for each nor a reason to skip."""
    said = asked(f"labeler {labeler.name}", labeler.rank, prompt, answers)
    opinion = said if isinstance(said, Opinion) else Opinion(said)
    if opinion.skipped:
        return opinion
    try:
        return opinion._replace(ranks=whole_ranks(opinion.ranks, len(answers)))
    except InputError as error:
        raise InputError(
            f"labeler {labeler.name} gave {shortened(said)} for {len(answers)} answers; let them give each a whole number "
            "from 1 on, 1 being the best"
        ) from error
