"""Prompts without answers, and how InstructGPT curates them: what PPO starts from."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.data.chat import encode_prompt
from rlhf_jax.data.demonstrations import ANSWERS
from rlhf_jax.data.dialogue import (
    ASSISTANT,
    Conversation,
    is_conversation,
    prompt_text,
    split_last_answer,
    split_shared_prompt,
    text_of,
    transcript,
)
from rlhf_jax.data.sources import Row, located, name_of, read_rows
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import InputError
from rlhf_jax.types import PromptBatch

KNOWN = ("prompt", "messages", "completion", "completions", "chosen", "rejected", "category", "user")  # no columns


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


def read_prompts(source: str) -> list[Prompt]:
    """The prompts of `source` (see `read_rows`).

    Rows are {prompt}, or {messages}, {chosen} or {chosen, rejected}, of which the prompt is what precedes the
    answer. Whole conversations hold their own prompt whether or not one is given besides, as they do for
    `read_demonstrations` and `read_rankings`, so that all three know a row by one text. Any may have a
    {category} and a {user}, which is a string or a whole number. What else a row says are the prompt's columns.

    InputError, with the line: another shape, broken dialogue, an empty prompt.
    """
    prompts = []
    for row in read_rows(source):
        with located(row.where):
            prompts.append(_prompt(row))
    return prompts


def encode_prompts(prompts: Sequence[Prompt], tokenizer: Tokenizer, length: int) -> PromptBatch:
    """[N, length], padded on the left. InputError: a prompt of more than `length` tokens."""
    tokens = np.full((len(prompts), length), tokenizer.pad, np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, prompt in enumerate(prompts):
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
    return len(encode_prompt(prompt.conversation, tokenizer)) <= length


def limit_per_user(prompts: Sequence[Prompt], most: int = 200) -> list[Prompt]:
    """The first `most` prompts of every user (InstructGPT §3.2: 200). Prompts without a user all stay."""
    seen: Counter[str] = Counter()
    kept = []
    for prompt in prompts:
        seen[prompt.user] += 1
        if not prompt.user or seen[prompt.user] <= most:
            kept.append(prompt)
    return kept


def drop_shared_prefixes(prompts: Sequence[Prompt], longest: int) -> list[Prompt]:
    """The prompts less those equal to an earlier one, or like it in more than `longest` first characters.

    InstructGPT §3.2 removes "prompts that share a long common prefix" and does not say how long. The
    characters of `text` count, "\\n\\nHuman: " being the first nine of them.
    """
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        first.setdefault(prompt.text[: longest + 1], prompt)
    return list(first.values())


def _prompt(row: Row) -> Prompt:
    fields = {key: value for key, value in row.fields.items() if value is not None}
    category = Row({"category": fields.get("category", "")}, row.where).text("category")
    if "prompt" in fields and not _has_conversation(fields):
        text = prompt_text(fields["prompt"])
    elif "messages" in fields:
        text = _before_answer(transcript(fields["messages"]))
    elif "chosen" in fields and "rejected" in fields:
        text = split_shared_prompt(transcript(fields["chosen"]), transcript(fields["rejected"]))[0]
    elif "chosen" in fields:
        text = split_last_answer(transcript(fields["chosen"]))[0]
    else:
        found = ", ".join(fields) or "nothing"
        raise InputError(f"no prompt (found: {found}): give prompt, messages, or chosen")
    columns = Columns((key, value) for key, value in fields.items() if key not in KNOWN)
    return Prompt(text, category, name_of(row, "user"), columns)


def _has_conversation(fields: dict[str, Any]) -> bool:
    """True where the row's answers are whole conversations."""
    if any(key in fields for key in (*ANSWERS, "completions")):
        return False
    pair = [fields[key] for key in ("chosen", "rejected") if key in fields]
    return all(map(is_conversation, pair)) if "chosen" in fields else "messages" in fields


def _before_answer(text: str) -> str:
    try:
        return prompt_text(text)
    except InputError:
        return split_last_answer(text)[0]
