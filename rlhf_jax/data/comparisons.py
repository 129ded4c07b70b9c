"""Answers to one prompt, ranked by a labeler: what the reward model learns from."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from rlhf_jax.data.chat import encode_turn
from rlhf_jax.data.demonstrations import EmptyAnswerError, keep_answered, turn_length
from rlhf_jax.data.dialogue import (
    Answer,
    Conversation,
    Messages,
    answer_text,
    is_conversation,
    prompt_text,
    split_shared_prompt,
    text_of,
    transcript,
)
from rlhf_jax.data.sources import Row, name_of
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import InputError
from rlhf_jax.types import RankingBatch


class Ranking(NamedTuple):
    prompt: Conversation  # messages, or a transcript that ends in "\n\nAssistant:"
    answers: tuple[Answer, ...]
    ranks: tuple[int, ...]  # 1 is best, equal ranks are ties
    labeler: str = ""
    user: str = ""  # who typed the prompt


class NoPairError(InputError):
    """A ranking in which no answer is above another. It says nothing, and does no harm where it is left out."""


def read_rankings(source: str, empty: Literal["error", "drop"] = "error") -> list[Ranking]:
    """The rankings of `source` (see `read_rows`), from rows of any of these shapes.

    {prompt, completions: [{text, rank}, ...]}; {prompt, chosen, rejected} with two answers; two
    conversations {chosen, rejected}, messages or HH transcripts, which hold their own prompt whether or not
    one is given besides (`split_shared_prompt`). Any may have a {labeler}, and a {user}, who typed the prompt.

    InputError, with the line: another shape, broken dialogue, fewer than two answers, a rank that is missing
    or no whole number from 1 on, nothing but ties, one text under two ranks (so a pair of the same), an empty
    answer. With empty="drop", rows with an empty answer are left out, and a warning is logged that counts
    them.
    """
    return keep_answered(source, _ranking, empty)


def write_rankings(path: Path | str, rankings: Sequence[Ranking]) -> None:
    """Writes rows {prompt, completions: [{text, rank}, ...], labeler, user} to a .jsonl file, in one move."""
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
    """The ranking, with a tuple of texts and one of Python's ints.

    InputError: no Ranking, answers that are no texts or empty, another number of ranks, a rank that is no whole number from 1
    on, one text under two ranks. NoPairError: fewer than two answers, nothing but ties.
    """
    if not isinstance(ranking, Ranking):
        raise InputError(f"a {type(ranking).__name__} is no ranking: give Ranking(prompt, answers, ranks)")
    if not isinstance(ranking.prompt, str | Messages):
        raise InputError("the prompt is no text: give it as a string, or as Messages")
    if not isinstance(ranking.answers, (tuple, list)):
        raise InputError(f"the answers are a {type(ranking.answers).__name__}: give a tuple of strings")
    answers = tuple(ranking.answers)
    for number, answer in enumerate(answers, 1):
        if not isinstance(answer, str | Messages):
            raise InputError(f"answer {number} is no text: give it as a string, or as Messages")
        if not text_of(answer).strip():
            raise EmptyAnswerError(f"answer {number} is empty: write one, remove the row, or read with empty='drop'")
    ranks = whole_ranks(ranking.ranks, len(answers))
    if len(answers) < 2:
        raise NoPairError(f"a ranking needs two answers and has {len(answers)}: add answers or remove the row")
    if len(set(zip(answers, ranks, strict=True))) > len(set(answers)):
        raise InputError("one and the same answer has two ranks: keep one of them")
    if len(set(ranks)) == 1:
        raise NoPairError("all answers tie, which ranks none above another: remove the row")
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
    return tuple(_whole_rank(rank, f"answer {number}") for number, rank in enumerate(ranks, 1))


def ranking_fits(ranking: Ranking, tokenizer: Tokenizer, length: int) -> bool:
    """True where every answer, with its prompt and EOS, takes `length` tokens at most."""
    turns = (encode_turn(ranking.prompt, answer, tokenizer) for answer in ranking.answers)
    return all(len(prompt) + len(answer) <= length for prompt, answer in turns)


def _ranking(row: Row) -> Ranking:
    fields = {key: value for key, value in row.fields.items() if value is not None}
    labeler = Row({"labeler": fields.get("labeler", "")}, row.where).text("labeler")
    user = name_of(row, "user")
    if "completions" in fields:
        if "prompt" not in fields:
            raise InputError("there are 'completions' but no 'prompt': add it")
        answers, ranks = _completions(fields["completions"])
        ranking = Ranking(prompt_text(fields["prompt"]), answers, ranks, labeler, user)
    elif "chosen" in fields and "rejected" in fields:
        prompt, chosen, rejected = _pair(fields)
        ranking = Ranking(prompt, (chosen, rejected), (1, 2), labeler, user)
    else:
        found = ", ".join(fields) or "nothing"
        raise InputError(f"no ranking (found: {found}): give chosen and rejected, or prompt and completions")
    return checked_ranking(ranking)


def _pair(fields: dict[str, Any]) -> tuple[str, str, str]:
    chosen, rejected = fields["chosen"], fields["rejected"]
    whole = is_conversation(chosen), is_conversation(rejected)
    if "prompt" not in fields or all(whole):
        return split_shared_prompt(transcript(chosen), transcript(rejected))
    if any(whole):
        raise InputError("one of 'chosen' and 'rejected' is a conversation, the other an answer: make them alike")
    return prompt_text(fields["prompt"]), answer_text(chosen), answer_text(rejected)


def _completions(values: Any) -> tuple[tuple[str, ...], tuple[int, ...]]:
    if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
        raise InputError("'completions' is no list of objects: give each completion a text and a rank")
    for number, value in enumerate(values, 1):
        if not isinstance(value.get("text"), str):
            raise InputError(f"completion {number} has no 'text': add it, as a string")
        if value.get("rank") is None:
            raise InputError(f"completion {number} has no 'rank': add it, 1 being the best")
        _whole_rank(value["rank"], f"completion {number}")
    return tuple(value["text"].strip() for value in values), tuple(value["rank"] for value in values)


def _whole_rank(rank: Any, what: str) -> int:
    if isinstance(rank, bool) or not isinstance(rank, (int, np.integer)) or rank < 1:
        raise InputError(f"{what} has the rank {rank!r}: use whole numbers from 1 on")
    if rank >= 2**31:
        raise InputError(f"{what} has the rank {rank}: use numbers below 2,147,483,648, of 32 bits")
    return int(rank)
