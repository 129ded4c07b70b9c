"""What a reward model gives texts, as the figures of `rlhf_jax.evals.reward_accuracy` take it."""

from collections import defaultdict
from collections.abc import Sequence
from itertools import permutations
from typing import NamedTuple

from rlhf_jax.data import Answer, Conversation, Ranking, ranking_fits, text_of
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.evals import Paraphrased, ScoredChoice, ScoredPair
from rlhf_jax.runtime import info
from rlhf_jax.stages.agreement import reward_of
from rlhf_jax.stages.evaluation import Loaded
from rlhf_jax.stages.reward_model import encoded
from rlhf_jax.stages.run import RUN, Run
from rlhf_jax.stages.training import checked_rankings, rankings_that_fit


class Choice(NamedTuple):
    """A prompt, the answers that are right, and those that are wrong."""

    prompt: Conversation
    right: tuple[str, ...]
    wrong: tuple[str, ...]
    id: str = ""  # as of `ScoredChoice`
    tied: bool = False


class Reworded(NamedTuple):
    """A prompt with two answers, and the same in other words: (prompt, answer, answer), some of which may be as they were."""

    prompt: Conversation
    answers: tuple[str, str]
    others: tuple[tuple[Conversation, str, str], ...]


def scored_pairs(
    reward: Loaded, rankings: Sequence[Ranking], run: Run = RUN, *, margins: Sequence[float | None] = ()
) -> list[ScoredPair]:
    """All pairs of answers of which one is ranked above the other, without ties; a user's, or else a prompt's, are a cluster.

    margins: of each ranking, by how much its label prefers the chosen one of two answers; None where it does not say.
    Rankings that are ties alone or do not fit are left out, which is said. InputError: as for `ordered`; there are margins,
    and not one for each ranking; one of a ranking of more than two answers.
    """
    rows = checked_rankings(rankings)
    if margins and len(margins) != len(rows):
        raise InputError(f"there are {len(rows)} rankings and {len(margins)} margins: give each its own, or None")
    labels = defaultdict[Ranking, list[float | None]](list)  # equal rankings one behind the other
    for number, (row, margin) in enumerate(zip(rows, margins, strict=False), 1):
        if margin is not None and len(row.answers) != 2:
            raise InputError(
                f"ranking {number} has {len(row.answers)} answers and a margin, which is of two: leave it out"
            )
        labels[row].append(margin)
    kept = rankings_that_fit(rows, reward.model, "rankings to score")
    found = []
    for row, given in zip(kept, _scores([(row.prompt, row.answers) for row in kept], reward, run), strict=True):
        margin = labels[row].pop(0) if labels[row] else None
        for i, j in permutations(range(len(row.ranks)), 2):
            if row.ranks[i] < row.ranks[j]:
                found.append(ScoredPair(given[i], given[j], row.user or text_of(row.prompt), row.labeler, margin))
    return found


def scored_choices(reward: Loaded, choices: Sequence[Choice], run: Run = RUN) -> list[ScoredChoice]:
    """Each prompt's answers scored, for `best_of` and `ties_score`. Those that do not fit are left out, which is said.
    InputError: none fits; one has no right or no wrong answer."""
    for number, choice in enumerate(choices, 1):
        if not choice.right or not choice.wrong:
            raise InputError(
                f"choice {number}, {shortened(text_of(choice.prompt))}, has {len(choice.right)} right answers and "
                f"{len(choice.wrong)} wrong ones: give one of each at least"
            )
    rows = [(choice.prompt, (*choice.right, *choice.wrong)) for choice in choices]
    kept = _fitting([[row] for row in rows], reward, "choices")
    scores = _scores([rows[i] for i in kept], reward, run)
    return [
        ScoredChoice(
            tuple(given[: len(choices[i].right)]),
            tuple(given[len(choices[i].right) :]),
            text_of(choices[i].prompt),
            choices[i].id,
            choices[i].tied,
        )
        for i, given in zip(kept, scores, strict=True)
    ]


def scored_paraphrases(reward: Loaded, items: Sequence[Reworded], run: Run = RUN) -> list[Paraphrased]:
    """Each pair and its paraphrases scored, for `agreement_under_paraphrase`. Items of which something does not fit are left
    out, which is said. InputError: none fits; one has no paraphrase."""
    for number, item in enumerate(items, 1):
        if not item.others:
            raise InputError(f"item {number}, {shortened(text_of(item.prompt))}, has no paraphrase: give one at least")
    rows = [[(item.prompt, item.answers), *((prompt, (a, b)) for prompt, a, b in item.others)] for item in items]
    kept = _fitting(rows, reward, "paraphrased pairs")
    given = iter(_scores([pair for n in kept for pair in rows[n]], reward, run))
    found = []
    for n in kept:
        (a, b), *others = [next(given) for _ in rows[n]]
        found.append(Paraphrased((a, b), tuple((x, y) for x, y in others), text_of(items[n].prompt)))
    return found


Texts = tuple[Conversation, tuple[Answer, ...]]


def _ranking(texts: Texts) -> Ranking:
    """The answers in an order of no account."""
    return Ranking(*texts, tuple(range(1, len(texts[1]) + 1)))


def _scores(rows: Sequence[Texts], reward: Loaded, run: Run) -> list[list[float]]:
    """Of each prompt's answers, in their order."""
    scores = reward_of(reward, encoded([_ranking(row) for row in rows], reward.model), run).tolist()
    return [given[: len(texts)] for given, (_, texts) in zip(scores, rows, strict=True)]


def _fitting(items: Sequence[Sequence[Texts]], reward: Loaded, what: str) -> list[int]:
    """The numbers of the items of which all fits. InputError: of none it does."""
    t, room = reward.model.tokenizer, reward.model.format.context
    kept = [n for n, rows in enumerate(items) if all(ranking_fits(_ranking(row), t, room) for row in rows)]
    if not kept:
        raise InputError(f"none of {len(items)} {what} fits the reward model's {room} tokens: give shorter ones")
    if len(kept) < len(items):
        info(
            f"{len(items) - len(kept)} of {len(items)} {what} do not fit the reward model's {room} tokens and are left out"
        )
    return kept
