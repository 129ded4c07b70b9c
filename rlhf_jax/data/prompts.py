"""Prompts without answers: what PPO starts from."""

import json
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from rlhf_jax.data.chat import encode_prompt
from rlhf_jax.data.dialogue import ASSISTANT, Conversation, place_of, text_of
from rlhf_jax.data.examples import read_examples
from rlhf_jax.data.layouts import Example, Layout
from rlhf_jax.data.sources import Row, located
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import InputError
from rlhf_jax.types import PromptBatch


class Columns(dict[str, Any]):
    """What else a row says: the right answer, tests, where it is from. Equal ones have one hash; nothing writes into them."""

    def __hash__(self) -> int:
        return hash(json.dumps(self, sort_keys=True, default=str))


class Prompt(NamedTuple):
    conversation: Conversation  # messages, or a transcript that ends in "\n\nAssistant:"
    category: str = ""
    user: str = ""
    columns: Columns = Columns()  # which functions of a row are given

    @property
    def text(self) -> str:
        """The conversation as people read it, up to where the answer begins."""
        text = text_of(self.conversation)
        return text if isinstance(self.conversation, str) else f"{text}{ASSISTANT}"


def read_prompts(
    source: str, unusable: Literal["error", "drop"] = "error", layout: Layout = Layout(), part: str = ""
) -> list[Prompt]:
    """The prompts of `source` (see `read_rows`), from rows of any layout that `rlhf_jax.data.layouts` knows.

    Of a row with answers it is what precedes them, as for `read_demonstrations` and `read_rankings`, so that all three know
    a row by one prompt; of a dialogue that ends in a user's turn it is the whole. A row may have a {category} and a {user},
    which is a string or a whole number. Its other columns, right answers among them, are the prompt's `columns`.

    layout, unusable and part are those of `read_demonstrations`. InputError, with the line: a layout that is not known,
    broken dialogue, an empty prompt.
    """

    def prompt(example: Example, row: Row) -> Prompt:
        return Prompt(example.prompt, example.category, example.user, Columns(example.columns))

    return read_examples(source, prompt, unusable, layout, part, says_unread=False)


def encode_prompts(prompts: Sequence[Prompt], tokenizer: Tokenizer, length: int) -> PromptBatch:
    """[N, length], padded on the left. InputError: a prompt of more than `length` tokens."""
    tokens = np.full((len(prompts), length), tokenizer.pad, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, prompt in enumerate(prompts):
        with located(place_of(prompt.conversation)):
            ids = encode_prompt(prompt.conversation, tokenizer)
        if len(ids) > length:
            raise InputError(
                f"prompt {row + 1} is {len(ids)} tokens long and the context leaves {length}: shorten it, "
                "raise the context, or keep only the prompts that fit"
            )
        tokens[row, length - len(ids) :] = ids
        mask[row, length - len(ids) :] = True
    return PromptBatch(tokens, mask)


def prompt_fits(prompt: Prompt, tokenizer: Tokenizer, length: int) -> bool:
    """True where the prompt takes `length` tokens at most. Who filters by it says how many went."""
    with located(place_of(prompt.conversation)):
        return len(encode_prompt(prompt.conversation, tokenizer)) <= length
