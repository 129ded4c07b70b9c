"""Prompts with the answer that a labeler wrote: what supervised fine-tuning learns from."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from rlhf_jax.data.chat import Turns, encode_learned
from rlhf_jax.data.dialogue import Answer, Conversation, UnusableRowError, place_of
from rlhf_jax.data.examples import LeftOutError, read_examples
from rlhf_jax.data.layouts import Example, Layout
from rlhf_jax.data.sources import Row, located
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.data.turns import has_words
from rlhf_jax.errors import InputError
from rlhf_jax.types import TextBatch

END_OF_TEXT = "<|endoftext|>"  # ends every completion in files made for GPT-3 fine-tuning; here the EOS token does


class Demonstration(NamedTuple):
    prompt: Conversation  # messages, or a transcript that ends in "\n\nAssistant:"
    answer: Answer
    user: str = ""  # who typed the prompt


def read_demonstrations(
    source: str, unusable: Literal["error", "drop"] = "error", layout: Layout = Layout(), part: str = ""
) -> list[Demonstration]:
    """The demonstrations of `source` (see `read_rows`), from rows of any layout that `rlhf_jax.data.layouts` knows.

    Of whole conversations, messages or transcripts, the last turn is the answer; of ranked or rated answers the best (of
    equals the first), of a pair the chosen one; of labelled answers those whose label is true, the others being left out and
    counted. A trailing "<|endoftext|>" is no part of an answer. Any row may have a {user}, who typed the prompt.

    layout: where rows of other layouts have what. With unusable="drop" rows without an answer, without a prompt, that end in
    a user's turn and the like are left out, and a warning counts them by reason. part: see `read_examples`.
    InputError, with the line: a layout that is not known, broken dialogue, such a row where it is not dropped.
    """

    labelled: dict[bool, str] = {}  # whether a row has a label → the first such row

    def demonstration(example: Example, row: Row) -> Demonstration:
        if example.problem:
            raise example.problem
        if not example.ranks:
            labelled.setdefault(example.liked is not None, row.where)
        if example.liked is False:
            raise LeftOutError("whose label is false")
        if example.score is not None and layout.scores not in layout.says_nothing():
            raise InputError(
                f"{layout.scores!r} rates the answers: say which are too bad to learn from, as in "
                f"drop = '{layout.scores} < 3' in [files.layout]"
            )
        best = example.ranks.index(min(example.ranks)) if example.ranks else 0
        answer = example.answers[best] if example.answers else ""
        if isinstance(answer, str):
            answer = answer.removesuffix(END_OF_TEXT).rstrip()
        if not has_words(answer):
            sentence = "the answer is empty: write one, remove the row, or leave such rows out with unusable = 'drop'"
            raise UnusableRowError(sentence, "whose answer is empty")
        return Demonstration(example.prompt, answer, example.user)

    found = read_examples(source, demonstration, unusable, layout, part)
    if len(labelled) > 1:
        raise InputError(
            f"{labelled[False]}: there is no label, which {labelled[True]} has: add it, or leave such rows out with "
            "label = 'label' and drop = 'label == null' in [files.layout]"
        )
    return found


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
        ids, learned = encode_learned(demonstration.prompt, demonstration.answer, tokenizer, turns)
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
    with located(place_of(demonstration.prompt)):
        return len(encode_learned(demonstration.prompt, demonstration.answer, tokenizer, turns)[0]) <= length


def turn_length(prompt: int, answer: int, length: int, name: str) -> int:
    """The tokens of both together. InputError, which begins with `name`: more than `length`."""
    if prompt + answer > length:
        raise InputError(
            f"{name}: a prompt of {prompt} tokens and an answer of {answer} with EOS exceed the "
            f"context of {length}: raise the context, or keep only the rows that fit"
        )
    return prompt + answer
