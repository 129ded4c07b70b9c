"""Labelling: people, or functions that stand for them, rank the answers to each prompt."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from rlhf_jax.data import Prompt, Ranking, content_sha256, read_rankings, whole_ranks, write_rankings
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.labelers import rank
from rlhf_jax.runtime import Made, Origin, info
from rlhf_jax.stages.answers import CandidateRows
from rlhf_jax.stages.datasets import Truth
from rlhf_jax.stages.functions import asked
from rlhf_jax.stages.run import RUN, Run


@dataclass(frozen=True)
class Ranker:
    """Somebody who ranks: a name, and a function from a prompt and its answers to their ranks, 1 being the best."""

    name: str
    rank: Callable[[Prompt, Sequence[str]], Sequence[int]]


def simulated(truth: Truth) -> list[Ranker]:
    """The labelers of the built-in world, who see its gold preference through their own eyes."""

    def ranks(labeler, prompt: Prompt, answers: Sequence[str]) -> tuple[int, ...]:
        return rank(labeler, truth.gold, truth.question(prompt), answers)

    return [Ranker(labeler.name, partial(ranks, labeler)) for labeler in truth.labelers]


def ask(folder: Path | str, answers: CandidateRows, labelers: Sequence[Ranker], run: Run = RUN) -> list[Ranking]:
    """Each prompt's answers ranked by a labeler drawn for it, in rankings.jsonl; prompts whose answers they find all alike
    are left out. InputError: the folder was made from something else, other labelers or another order of them included; there
    is no labeler, or two have one name; a labeler raises, or gives something else than a rank for each answer."""
    folder, names = Path(folder), [one.name for one in labelers]
    if not names:
        raise InputError("there is no labeler to rank the answers; give at least one")
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"two labelers are called {twice[0]}; give each a name of their own")
    code = {f"labeler {one.name}": one.rank for one in labelers}
    settings = {"seed": run.seed, "labelers": names}  # who ranks what goes by their order
    made = Made(folder, Origin(settings, {"answers": answers.sha256}, code, model={}))
    path = folder / "rankings.jsonl"
    if not made.complete:
        rng, rows = np.random.default_rng(run.numpy_seed("labelers")), []
        for prompt, texts in answers.rows:
            labeler = labelers[int(rng.integers(len(labelers)))]
            ranks = ranks_by(labeler, prompt, texts) if texts else ()
            if len(set(ranks)) > 1:
                rows.append(Ranking(prompt.conversation, texts, ranks, labeler.name, prompt.user))
        info(
            f"labelers ranked the answers to {len(rows)} of {len(answers.rows)} prompts; to the others there were too few"
        )
        folder.mkdir(parents=True, exist_ok=True)
        write_rankings(path, rows)
        made.finish(path.name, known_as=content_sha256(read_rankings(str(path))))
    return read_rankings(str(path))


def ranks_by(labeler: Ranker, prompt: Prompt, answers: Sequence[str]) -> tuple[int, ...]:
    """What a labeler says of answers. InputError: they raise, or give something else than a rank for each."""
    said = asked(f"labeler {labeler.name}", labeler.rank, prompt, answers)
    try:
        return whole_ranks(said, len(answers))
    except InputError as error:
        raise InputError(
            f"labeler {labeler.name} gave {shortened(said)} for {len(answers)} answers; let them give each a whole number "
            "from 1 on, 1 being the best"
        ) from error
