"""Answers to one prompt, ranked by a labeler: what the reward model learns from; and single ones that were liked or not."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from rlhf_jax.data.chat import encode_turn
from rlhf_jax.data.demonstrations import turn_length
from rlhf_jax.data.dialogue import Answer, Conversation, Messages, UnusableRowError, place_of
from rlhf_jax.data.examples import how_many, read_examples, say_dropped
from rlhf_jax.data.layouts import Example, Layout, ranked, whole_rank
from rlhf_jax.data.sources import Row, located
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.data.turns import has_words
from rlhf_jax.errors import InputError
from rlhf_jax.types import RankingBatch


class Ranking(NamedTuple):
    prompt: Conversation  # messages, or a transcript that ends in "\n\nAssistant:"
    answers: tuple[Answer, ...]
    ranks: tuple[int, ...]  # 1 is best, equal ranks are ties
    labeler: str = ""
    user: str = ""  # who typed the prompt


class Judged(NamedTuple):
    """An answer that was liked or not, by itself."""

    prompt: Conversation
    answer: Answer
    liked: bool
    labeler: str = ""
    user: str = ""


class _Row(NamedTuple):
    ranking: Ranking  # of one answer where there is a verdict
    verdict: float | None  # what a label or a score says of that
    liked: bool | None  # what a label says
    where: str


class NoPairError(UnusableRowError):
    """A ranking in which no answer is above another. It says nothing, and does no harm where it is left out."""

    def __init__(self, sentence: str):
        super().__init__(sentence, "in which no answer is above another")


def read_rankings(
    source: str, unusable: Literal["error", "drop"] = "error", layout: Layout = Layout(), part: str = ""
) -> list[Ranking]:
    """The rankings of `source` (see `read_rows`), from rows of any layout that `rlhf_jax.data.layouts` knows.

    Two conversations {chosen, rejected} hold their own prompt whether or not one is given besides; what follows it, be it
    several turns, are the answers. Scores make ranks, equal ones ties. Rows with one answer and a label, or a score that the
    layout names, are compared with the other rows of their prompt and user, and left out and counted where these say
    nothing else. Any row may have a {labeler}, and a {user}, who typed the prompt.

    layout, unusable and part are those of `read_demonstrations`. InputError, with the line: a layout that is not known,
    broken dialogue, fewer than two answers, a rank that is missing or no whole number from 1 on, nothing but ties, one text
    under two ranks (so a pair of the same), an empty answer; of these with unusable="drop" only what makes the whole file
    doubtful.
    """
    return _of_prompts(read_examples(source, _row, unusable, layout, part), source)


def read_feedback(
    source: str, unusable: Literal["error", "drop"] = "error", layout: Layout = Layout(), part: str = ""
) -> list[Judged] | list[Ranking]:
    """What KTO learns from: of rows with one answer and a label each by itself, whatever else is said of its prompt; of any
    others the rankings. Arguments and InputError as for `read_rankings`; also: rows of both kinds."""
    rows = read_examples(source, _row, unusable, layout, part)
    with_label = [row for row in rows if row.liked is not None]
    if not with_label:
        return _of_prompts(rows, source)
    if len(with_label) < len(rows):
        where = next(row.where for row in rows if row.liked is None)
        raise InputError(f"{where}: a ranking in a file of answers with labels; put the two into files of their own")
    of = ((row.ranking, bool(row.liked)) for row in rows)
    return [Judged(r.prompt, r.answers[0], liked, r.labeler, r.user) for r, liked in of]


def write_rankings(path: Path | str, rankings: Sequence[Ranking]) -> None:
    """Writes rows {prompt, completions: [{text, rank}, ...], labeler, user} to a .jsonl file, in one move; messages are lists
    in it."""
    path = Path(path)
    if path.suffix != ".jsonl":
        raise InputError(f"{path}: rankings are written as JSON lines: let the name end in .jsonl")
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("w") as file:
        for prompt, answers, ranks, labeler, user in rankings:
            completions = [{"text": text, "rank": rank} for text, rank in zip(answers, ranks, strict=True)]
            row = {"prompt": prompt, "completions": completions, "labeler": labeler, "user": user}
            file.write(json.dumps(row) + "\n")
    partial.replace(path)


def encode_rankings(
    rankings: Sequence[Ranking],
    tokenizer: Tokenizer,
    length: int,
    slots: int,
    cut_off: np.random.Generator | None = None,
    off_topic: np.random.Generator | None = None,
) -> RankingBatch:
    """[N, slots, length]: in each slot prompt, answer, EOS, then padding; the slots left over are empty.

    cut_off: with it there is one slot more, of rank −1, with the beginning of one of the answers, of at least one token and
    without EOS. Without such rows the score of an answer that does not come to its end is anything.
    off_topic: with it there is one slot more, of rank −1, with an answer of a ranking drawn from all of them (Liu et al.
    2024, arXiv:2409.13156, "non-contextual" responses); it is empty where that answers the same prompt, is one of this
    ranking's, or is too long. Without such rows an answer's score need not depend on what was asked.

    InputError: more answers than `slots`; an answer that with its prompt takes more than `length` tokens (see
    `ranking_fits`).
    """
    more = (cut_off is not None) + (off_topic is not None)
    tokens = np.full((len(rankings), slots + more, length), tokenizer.pad, np.int32)
    mask = np.zeros(tokens.shape, bool)
    ranks = np.zeros(tokens.shape[:2], np.int32)
    for row, ranking in enumerate(rankings):
        count = len(ranking.answers)
        if count > slots:
            raise InputError(f"ranking {row + 1} has {count} answers and there are {slots} slots: raise the slots")
        ranks[row, :count] = ranking.ranks
        for slot, text in enumerate(ranking.answers):
            prompt, answer = encode_turn(ranking.prompt, text, tokenizer)
            end = turn_length(len(prompt), len(answer), length, f"ranking {row + 1}, answer {slot + 1}")
            tokens[row, slot, :end] = prompt + answer
            mask[row, slot, :end] = True
        made_up = []
        if cut_off is not None:
            prompt, answer = encode_turn(ranking.prompt, ranking.answers[cut_off.integers(count)], tokenizer)
            made_up.append(prompt + answer[: cut_off.integers(1, len(answer))])
        if off_topic is not None:
            other = rankings[int(off_topic.integers(len(rankings)))]
            text = other.answers[off_topic.integers(len(other.answers))]
            prompt, answer = encode_turn(ranking.prompt, text, tokenizer)
            if other.prompt != ranking.prompt and text not in ranking.answers and len(prompt + answer) <= length:
                made_up.append(prompt + answer)
        for slot, line in enumerate(made_up, count):
            tokens[row, slot, : len(line)], mask[row, slot, : len(line)] = line, True
            ranks[row, slot] = -1
    return RankingBatch(tokens, mask, ranks)


def checked_ranking(ranking: Ranking) -> Ranking:
    """The ranking, with a tuple of answers and one of Python's ints.

    InputError: no Ranking, a prompt or answers that are neither texts nor Messages, another number of ranks, a rank that is
    no whole number from 1 on. UnusableRowError: an empty answer, one answer under two ranks. NoPairError: fewer than two
    answers, nothing but ties.
    """
    if not isinstance(ranking, Ranking):
        raise InputError(f"a {type(ranking).__name__} is no ranking: give Ranking(prompt, answers, ranks)")
    if not isinstance(ranking.prompt, (str, Messages)):
        raise InputError("the prompt is no text: give it as a string, or as Messages")
    if not isinstance(ranking.answers, (tuple, list)) or isinstance(ranking.answers, Messages):
        raise InputError(f"the answers are a {type(ranking.answers).__name__}: give a tuple of strings")
    answers = tuple(ranking.answers)
    for number, answer in enumerate(answers, 1):
        if not isinstance(answer, (str, Messages)):
            raise InputError(f"answer {number} is no text: give it as a string, or as Messages")
        if not has_words(answer):
            raise _empty(f"answer {number}")
    ranks = whole_ranks(ranking.ranks, len(answers))
    if len(answers) < 2:
        raise NoPairError(f"a ranking needs two answers and has {len(answers)}: add answers or remove the row")
    if len(set(zip(answers, ranks, strict=True))) > len(set(answers)):
        raise UnusableRowError("one and the same answer has two ranks: keep one of them", "whose answers are the same")
    if len(set(ranks)) == 1:
        raise NoPairError("all answers tie, which ranks none above another: remove the row, or drop unusable ones")
    return ranking._replace(answers=answers, ranks=ranks)


def whole_ranks(given: Any, count: int) -> tuple[int, ...]:
    """The ranks of so many answers as Python's ints, whichever integers they are. InputError: there are more or fewer, or one
    is no whole number from 1 on."""
    try:
        ranks = tuple(given)
    except TypeError:
        raise InputError(f"the ranks are {given!r}: give a tuple with one for each answer") from None
    if len(ranks) != count:
        raise InputError(f"there are {count} answers and {len(ranks)} ranks: give each answer one")
    return tuple(whole_rank(rank, f"answer {number}") for number, rank in enumerate(ranks, 1))


def ranking_fits(ranking: Ranking, tokenizer: Tokenizer, length: int) -> bool:
    """True where every answer, with its prompt and EOS, takes `length` tokens at most."""
    with located(place_of(ranking.prompt)):
        turns = (encode_turn(ranking.prompt, answer, tokenizer) for answer in ranking.answers)
        return all(len(prompt) + len(answer) <= length for prompt, answer in turns)


def _row(example: Example, row: Row) -> _Row:
    if example.problem:
        raise example.problem
    verdict = example.score if example.liked is None else float(example.liked)
    found = Ranking(example.prompt, example.answers, example.ranks, example.labeler, example.user)
    if verdict is None and example.answers and not example.ranks:
        raise InputError(
            f"no ranking (found: {', '.join(row.fields)}): give chosen and rejected, or prompt and completions, or "
            "name in [files.layout] answers with ranks, scores or best"
        )
    if verdict is None:
        return _Row(checked_ranking(found), None, None, row.where)
    if not has_words(example.answers[0]):
        raise _empty("the answer")
    return _Row(found, verdict, example.liked, row.where)


def _of_prompts(rows: Sequence[_Row], source: str) -> list[Ranking]:
    """The rankings of rows, of which those with one judged answer become one where their prompt, user and labeler are the
    same. What has no other to be compared with is left out and counted."""
    together: dict[Any, list[tuple[Ranking, float, str]]] = {}
    order: dict[Any, Ranking | None] = {}  # in the order of the file
    for number, (row, verdict, _, where) in enumerate(rows):
        key = number if verdict is None else (row.prompt, row.labeler, row.user)
        order.setdefault(key, row if verdict is None else None)
        if verdict is not None:
            together.setdefault(key, []).append((row, verdict, where))
    alone: list[str] = []
    for key, judged in together.items():
        verdicts = dict.fromkeys((row.answers[0], verdict) for row, verdict, _ in judged)
        answers, numbers = zip(*verdicts, strict=True)
        first, _, where = judged[0]
        try:
            with located(where):
                order[key] = checked_ranking(first._replace(answers=answers, ranks=ranked([-n for n in numbers])))
        except NoPairError:
            alone += [where for _, _, where in judged]
    found = [ranking for ranking in order.values() if ranking is not None]
    why = {"whose prompt has no answer that is judged otherwise": alone}
    if alone and not found:
        both = "give prompts with a liked and a disliked answer, or let KTO learn from each by itself"
        raise InputError(f"{how_many(source, why, 0)}; none is left: {both}")
    say_dropped(source, why if alone else {}, len(rows) - len(alone))
    return found


def _empty(answer: str) -> UnusableRowError:
    sentence = f"{answer} is empty: write one, remove the row, or leave such rows out with unusable = 'drop'"
    return UnusableRowError(sentence, "with an empty answer")
