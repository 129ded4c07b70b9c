"""Prompts with the answer that a labeler wrote: what supervised fine-tuning learns from."""

import logging
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from rlhf_jax.data.chat import encode_answers, encode_turn
from rlhf_jax.data.dialogue import (
    Answer,
    Conversation,
    answer_text,
    is_conversation,
    prompt_text,
    split_last_answer,
    transcript,
)
from rlhf_jax.data.sources import Row, located, name_of, read_rows
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import InputError
from rlhf_jax.types import TextBatch

ANSWERS = ("completion", "answer", "response")
END_OF_TEXT = "<|endoftext|>"  # ends every completion in files made for GPT-3 fine-tuning; here the EOS token does
Turns = Literal["last", "all"]  # of the assistant's, that are learned from
T = TypeVar("T")


class Demonstration(NamedTuple):
    prompt: Conversation  # messages, or a transcript that ends in "\n\nAssistant:"
    answer: Answer
    user: str = ""  # who typed the prompt


class EmptyAnswerError(InputError):
    """An answer without text. Real files hold some, so that readers can be told to drop their rows."""


def read_demonstrations(source: str, empty: Literal["error", "drop"] = "error") -> list[Demonstration]:
    """The demonstrations of `source` (see `read_rows`), from rows of any of these shapes.

    {prompt, completion | answer | response}; {messages}, whose last turn is the answer; {chosen} or
    {prompt, chosen}, where chosen is an answer, messages or an HH transcript, and its last turn the answer.
    A trailing "<|endoftext|>" is no part of an answer. Any may have a {user}, who typed the prompt.

    InputError, with the line: another shape, broken dialogue, an empty answer. With empty="drop", rows with
    an empty answer are left out, and a warning is logged that counts them.
    """
    return keep_answered(source, _demonstration, empty)


def encode_demonstrations(
    demonstrations: Sequence[Demonstration], tokenizer: Tokenizer, length: int, turns: Turns = "last"
) -> TextBatch:
    """[N, length]: prompt, answer, the token that ends it, then padding. Only the answer and its end are predicted, or with
    turns="all" what the assistant wrote in any turn.

    InputError: a demonstration of more than `length` tokens (see `fits`).
    """
    tokens = np.full((len(demonstrations), length), tokenizer.pad, np.int32)
    predict = np.zeros(tokens.shape, bool)
    for row, demonstration in enumerate(demonstrations):
        ids, learned = _encoded(demonstration, tokenizer, turns)
        before = sum(not own for own in learned)
        end = turn_length(before, len(ids) - before, length, f"demonstration {row + 1}")
        tokens[row, :end] = ids
        predict[row, 1:end] = learned[1:]  # nothing precedes a row's first token
    return TextBatch(tokens, predict)


def exchange_answers(rows: TextBatch, pad: int) -> TextBatch:
    """[N, length]: each row's prompt with the next row's answer, the last row's with the first's, cut off at length."""
    tokens, predict = np.full_like(rows.tokens, pad), np.zeros_like(rows.predict)
    for i, row in enumerate(rows.tokens):
        other = (i + 1) % len(tokens)
        prompt, answer = row[: np.argmax(rows.predict[i])], rows.tokens[other][rows.predict[other]]
        end = min(len(prompt) + len(answer), tokens.shape[1])
        tokens[i, :end] = np.concatenate([prompt, answer])[:end]
        predict[i, len(prompt) : end] = True
    return TextBatch(tokens, predict)


def fits(demonstration: Demonstration, tokenizer: Tokenizer, length: int, turns: Turns = "last") -> bool:
    """True where prompt, answer and its end take at most `length` tokens. Who filters says how many went."""
    return len(_encoded(demonstration, tokenizer, turns)[0]) <= length


def turn_length(prompt: int, answer: int, length: int, name: str) -> int:
    """The tokens of both together. InputError, which begins with `name`: more than `length`."""
    if prompt + answer > length:
        raise InputError(
            f"{name}: a prompt of {prompt} tokens and an answer of {answer} with EOS exceed the "
            f"context of {length}: raise the context, or keep only the rows that fit"
        )
    return prompt + answer


def keep_answered(source: str, parse: Callable[[Row], T], empty: Literal["error", "drop"]) -> list[T]:
    """What `parse` makes of the rows of `source`, less those with an EmptyAnswerError where empty="drop"."""
    kept, dropped = [], []
    for row in read_rows(source):
        try:
            with located(row.where):
                kept.append(parse(row))
        except EmptyAnswerError:
            if empty == "error":
                raise
            dropped.append(row.where)
    if dropped:
        logging.getLogger(__name__).warning(
            "%s: dropped %d of %d rows, whose answer is empty; the first is %s",
            source,
            len(dropped),
            len(dropped) + len(kept),
            dropped[0],
        )
    return kept


def _demonstration(row: Row) -> Demonstration:
    fields = {key: value for key, value in row.fields.items() if value is not None}
    keys = [key for key in ANSWERS if key in fields]
    if len(keys) > 1:
        raise InputError(f"there are two answers, {keys[0]!r} and {keys[1]!r}: keep one")
    if keys and "prompt" not in fields:
        raise InputError(f"there is {keys[0]!r} but no 'prompt': add it")
    if keys:
        prompt, answer = prompt_text(fields["prompt"]), answer_text(fields[keys[0]])
    elif "messages" in fields:
        prompt, answer = split_last_answer(transcript(fields["messages"]))
    elif "chosen" in fields and ("prompt" not in fields or is_conversation(fields["chosen"])):
        prompt, answer = split_last_answer(transcript(fields["chosen"]))
    elif "chosen" in fields:
        prompt, answer = prompt_text(fields["prompt"]), answer_text(fields["chosen"])
    else:
        found = ", ".join(fields) or "nothing"
        raise InputError(f"no demonstration (found: {found}): give prompt and completion, messages, or chosen")
    answer = answer.removesuffix(END_OF_TEXT).rstrip()
    if not answer:
        raise EmptyAnswerError("the answer is empty: write one, remove the row, or read with empty='drop'")
    return Demonstration(prompt, answer, name_of(row, "user"))


def _encoded(demonstration: Demonstration, tokenizer: Tokenizer, turns: Turns) -> tuple[list[int], list[bool]]:
    """The tokens, and which of them are learned."""
    if turns == "all":
        return encode_answers(demonstration.prompt, demonstration.answer, tokenizer)
    prompt, answer = encode_turn(demonstration.prompt, demonstration.answer, tokenizer)
    return prompt + answer, [False] * len(prompt) + [True] * len(answer)
