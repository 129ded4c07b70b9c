"""Conversations through a chat template: messages to text, to tokens, to what supervised fine-tuning learns from."""

import bisect
import datetime
import itertools
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from rlhf_jax.data.chat_template import END, HH, START, ChatTemplate, fill, marks_answers
from rlhf_jax.data.dialogue import (
    ASSISTANT,
    HUMAN,
    Answer,
    Conversation,
    Message,
    Messages,
    checked_message,
    parse_transcript,
    prompt_text,
    render,
)
from rlhf_jax.data.sources import located
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import InputError
from rlhf_jax.types import TextBatch

ANSWERED = "\ufdd3"  # in the place of an answer whose tokens are there already; another noncharacter
SHIELD = "\ufdd2"  # before content that reads as a special token; a noncharacter, as START and END

ALWAYS = datetime.datetime(2024, 7, 26)  # the date that Llama 3.1's template has where it cannot ask


class TooLongError(InputError):
    """A conversation of which not even the last turn fits. Encoders can be told to drop its row."""


def render_chat(
    messages: Sequence[Any], tokenizer: Tokenizer, template: ChatTemplate, add_generation_prompt: bool = False
) -> str:
    """The text of messages {"role": "user" | "assistant" | "system", "content": str}.

    With `add_generation_prompt` it ends where the assistant's next answer begins. As in Transformers, the template
    sees messages, add_generation_prompt, bos_token, eos_token, pad_token and unk_token, raise_exception,
    strftime_now and tojson, and runs in a sandbox.

    InputError: broken messages; content that would begin a new turn; a tokenizer without the special tokens that
    the template needs; a template that refuses the messages.
    """
    checked = _checked(messages, tokenizer, template)
    return re.sub(f"[{START}{END}{SHIELD}]", "", _render(checked, tokenizer, template, add_generation_prompt))


def encode_chat(
    messages: Sequence[Any],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    length: int,
    add_generation_prompt: bool = False,
) -> tuple[Int[ndarray, " T"], Bool[ndarray, " T"]]:
    """(tokens, assistant_mask) of a conversation, at most `length` of each: int32, and True at the assistant's tokens.

    The mask marks what the assistant itself writes, with the EOS or end of turn by which it stops: the template's
    {% generation %} blocks, or where it has none, what an answer adds to the conversation before it and its
    generation prompt. White space behind the token that ends a turn is the template's.
    Tokens end where the assistant's text begins, so that the prompt has the tokens that it has in generation.

    A special token that the template writes becomes its id; content that looks like one stays text. What a
    template marks with plain text, content is refused for in the built-in ones (`markers`) and could imitate
    in others.

    A conversation that is longer loses its oldest turns, a user's with the answers to it; an opening system message
    and all from the last user's turn on stay. TooLongError: these alone exceed `length`. InputError: as
    `render_chat`; a template without {% generation %} in which an answer does not continue its prompt.
    """
    checked = _checked(messages, tokenizer, template)
    system, turns = _turns(checked)

    @cache
    def encoded(first: int) -> tuple[list[int], list[bool]]:
        kept = [*system, *(message for turn in turns[first:] for message in turn)]
        return _encode(kept, tokenizer, template, add_generation_prompt)

    last = max(len(turns) - 1, 0)
    first = bisect.bisect_left(range(last), True, key=lambda first: len(encoded(first)[0]) <= length)
    tokens, mask = encoded(first)
    if len(tokens) > length:
        raise TooLongError(
            f"the last turn takes {len(tokens)} tokens with its template and the context is {length}: shorten it, "
            "raise the context, or drop the rows that do not fit"
        )
    return np.array(tokens, np.int32), np.array(mask, bool)


def encode_chats(
    conversations: Sequence[Sequence[Any]],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    length: int,
    too_long: Literal["error", "drop"] = "error",
) -> TextBatch:
    """[N, length]: conversations (see `encode_chat`), then padding. Only the assistant's tokens are predicted.

    InputError, with the conversation's number: as `encode_chat`; nothing of the assistant's. With too_long="drop",
    rows whose last turn alone does not fit are left out, and a warning is logged that counts them.
    """
    rows, dropped = [], 0
    for number, messages in enumerate(conversations, 1):
        try:
            with located(f"conversation {number}"):
                tokens, mask = encode_chat(messages, tokenizer, template, length)
                if not mask[1:].any():
                    raise InputError("nothing in it is the assistant's: add an answer, or remove it")
        except TooLongError:
            if too_long == "error":
                raise
            dropped += 1
            continue
        rows.append((tokens, mask))
    if dropped:
        logging.getLogger(__name__).warning(
            "dropped %d of %d conversations, whose last turn exceeds %d tokens", dropped, len(conversations), length
        )
    batch = np.full((len(rows), length), tokenizer.pad, np.int32)
    predict = np.zeros(batch.shape, bool)
    for row, (tokens, mask) in enumerate(rows):
        batch[row, : len(tokens)] = tokens
        predict[row, 1 : len(mask)] = mask[1:]  # nothing precedes a row's first token
    return TextBatch(batch, predict)


def with_chat(tokenizer: Tokenizer, template: ChatTemplate | None) -> Tokenizer:
    """The tokenizer by which conversations are written in a template; without one, as transcripts.

    An answer ends with the special token that ends the assistant's turn, and with EOS where the template writes none behind
    it. A template that asks what day it is hears ALWAYS, so that a conversation has the same tokens tomorrow. InputError: as
    `render_chat`.
    """
    if template is None or template == HH:
        return replace(tokenizer, chat=None, turn_end=None)
    talking = replace(tokenizer, chat=template._replace(now=template.now or ALWAYS), turn_end=None)
    _, answer = encode_turn(Messages([{"role": "user", "content": "?"}]), "!", talking)
    return replace(talking, turn_end=answer[-1])


def encode_prompt(prompt: Conversation, tokenizer: Tokenizer) -> list[int]:
    """The tokens that an answer follows. InputError: as `render_chat`."""
    if tokenizer.chat is None:
        return tokenizer.encode(prompt if isinstance(prompt, str) else prompt_text(prompt))
    return _encode(_checked(messages_of(prompt), tokenizer, tokenizer.chat), tokenizer, tokenizer.chat, prompt=True)[0]


def encode_turn(prompt: Conversation, answer: Answer, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The tokens of a prompt, as `encode_prompt` has them, and of the answer with the token that ends it.

    In a chat template an answer is what it adds to the conversation, up to the end of its turn. In a transcript it is set
    off by a space and ended by EOS. InputError: as `render_chat`; an answer that does not continue its prompt.
    """
    begun = encode_prompt(prompt, tokenizer)
    if tokenizer.chat is None:
        text = answer if isinstance(answer, str) else render(answer).removeprefix(ASSISTANT).strip()
        return begun, [*tokenizer.encode_continued(f" {text}"), tokenizer.eos]
    tokens, mask = _whole(prompt, answer, tokenizer, tokenizer.chat)
    if tokens[: len(begun)] != begun or not any(mask[len(begun) :]):
        raise InputError(
            "in the chat template the answer does not continue its prompt: give it {% generation %} blocks"
        )
    return begun, tokens[len(begun) :]


def encode_whole(messages: Messages, tokenizer: Tokenizer) -> list[int]:
    """The tokens of a conversation with all that the tokenizer's template writes, behind the last turn too. InputError: as
    `render_chat`; a tokenizer without a template."""
    if tokenizer.chat is None:
        raise InputError(f"{tokenizer.path} has no chat template: name one")
    return _encode(_checked(messages, tokenizer, tokenizer.chat), tokenizer, tokenizer.chat, prompt=False)[0]


def encode_answers(prompt: Conversation, answer: Answer, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """The tokens of a whole conversation, and True at what the assistant wrote in any of its turns.

    Where a transcript goes on after an answer, nothing marks its end, and only its text is the assistant's. InputError: as
    `encode_turn`.
    """
    if tokenizer.chat is not None:
        return _whole(prompt, answer, tokenizer, tokenizer.chat)
    said = answer if isinstance(answer, str) else render(answer).removeprefix(ASSISTANT).strip()
    asked = prompt if isinstance(prompt, str) else prompt_text(prompt)
    tokens, mask = [], []
    for piece in re.split(f"((?<={ASSISTANT}).*?(?={HUMAN}|\\Z))", f"{asked} {said}", flags=re.DOTALL):
        ids = tokenizer.encode_continued(piece) if tokens else tokenizer.encode(piece)
        mask += [bool(tokens) and not piece.startswith(HUMAN)] * len(ids)
        tokens += ids
    return [*tokens, tokenizer.eos], [*mask, True]


def less_oldest_turns(prompt: Conversation, fits: Callable[[Conversation], bool]) -> Conversation | None:
    """The conversation less as many of its oldest turns, a user's with the answers to it, as it takes to fit; None where not
    even the last fits. An opening system message stays."""
    if fits(prompt):
        return prompt
    try:
        system, turns = _turns(list(messages_of(prompt)))
    except InputError:  # no turn in it
        return None
    for first in range(1, len(turns)):
        kept = [*system, *(message for turn in turns[first:] for message in turn)]
        shorter = prompt_text(kept) if isinstance(prompt, str) else Messages(kept)
        if fits(shorter):
            return shorter
    return None


def encode_reply(conversation: Sequence[Message], reply: Sequence[Any], tokenizer: Tokenizer) -> list[int]:
    """The tokens that others add to a conversation whose last message is the assistant's: what stands between the text of
    that answer and the one that is to follow the reply. They begin with the token by which the format ends an answer, where
    it has one between turns; a transcript has none there.

    What the assistant said is not read: its tokens were sampled and stay as they are. InputError: as `render_chat`; a reply
    without a message, or with one of the assistant's; a template that does not write an answer exactly once.
    """
    if not reply:
        raise InputError("the reply has no message: give one at least")
    for number, message in enumerate(reply, 1):
        role, _ = checked_message(message, number)
        if role == "assistant":
            raise InputError(f"message {number} of the reply is the assistant's, which the policy writes: leave it out")
        if role == "system" and tokenizer.chat is None:
            raise InputError(
                f"message {number} has the role 'system', which a transcript has at its start alone: use 'user'"
            )
    if tokenizer.chat is None:
        return tokenizer.encode_continued(f"{render(reply)}{ASSISTANT}")
    *before, last = conversation
    said = [{**m, "content": "."} if m["role"] == "assistant" else m for m in before]
    messages = _checked([*said, {**last, "content": ANSWERED}, *reply], tokenizer, tokenizer.chat)
    _, *after = _render(messages, tokenizer, tokenizer.chat, prompt=True).split(ANSWERED)
    if len(after) != 1:
        raise InputError(f"in the chat template an answer stands {len(after)} times: give it one that writes it once")
    return _tokens(re.sub(f"[{START}{END}]", "", after[0]), [], tokenizer, behind=True)[0]


def messages_of(prompt: Conversation) -> Messages:
    """The messages that a prompt is, less the assistant's turn that a transcript opens at its end."""
    if isinstance(prompt, Messages):
        return prompt
    messages = parse_transcript(prompt)
    return Messages(messages[:-1] if messages[-1] == {"role": "assistant", "content": ""} else messages)


def _whole(
    prompt: Conversation, answer: Answer, tokenizer: Tokenizer, template: ChatTemplate
) -> tuple[list[int], list[bool]]:
    """A conversation with its answer, up to the token that ends it, and what is the assistant's."""
    said = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else list(answer)
    checked = _checked([*messages_of(prompt), *said], tokenizer, template)
    tokens, mask = _encode(checked, tokenizer, template, prompt=False)
    end = len(mask) - mask[::-1].index(True) if True in mask else 0
    special = {special.id for special in tokenizer.special.values()}
    if end and tokens[end - 1] not in special:
        return [*tokens[:end], tokenizer.eos], [*mask[:end], True]
    return tokens[:end], mask[:end]


def _checked(messages: Sequence[Any], tokenizer: Tokenizer, template: ChatTemplate) -> list[Message]:
    """The messages, with a SHIELD before every place of their content that reads as a special token."""
    for token in template.needs:
        if token not in tokenizer.special:
            raise InputError(
                f"the chat template needs the special token {token!r}, which {tokenizer.path} does not have: "
                "choose zephyr or hh, which do with EOS"
            )
    if not messages:
        raise InputError("the list of messages is empty: give one message at least")
    special = re.compile(f"(?={_special_texts(tokenizer)})")
    markers = [marker for marker in template.markers if marker not in tokenizer.special]
    checked = []
    for number, message in enumerate(messages, 1):
        role, content = checked_message(message, number)
        for mark in (START, END, SHIELD):
            if mark in content:
                raise InputError(f"message {number} holds U+{ord(mark):04X}, which is no character: remove it")
        for marker in markers:
            if marker in content:
                raise InputError(f"message {number} holds {marker!r}, which would begin a new turn: reword it")
        checked.append({"role": role, "content": special.sub(SHIELD, content)})
    return checked


def _turns(messages: list[Message]) -> tuple[list[Message], list[list[Message]]]:
    """The opening system messages, and the rest in parts, each a user's message with what follows it."""
    opening = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    turns: list[list[Message]] = []
    for message in messages[opening:]:
        if message["role"] == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return messages[:opening], turns


def _render(messages: list[Message], tokenizer: Tokenizer, template: ChatTemplate, prompt: bool) -> str:
    """The text, with its marks."""
    if "eos_token" in template.source:
        _ = tokenizer.eos  # an InputError where there is none, of which Jinja would make no text
    tokens = {f"{role}_token": tokenizer.vocabulary.name(id) for role, id in tokenizer.named.items()}
    return fill(template, messages, tokens, prompt)


def _encode(
    messages: list[Message], tokenizer: Tokenizer, template: ChatTemplate, prompt: bool
) -> tuple[list[int], list[bool]]:
    text = _render(messages, tokenizer, template, prompt)
    if marks_answers(template):
        text, spans = _marked_spans(text)
    else:
        spans = _prefix_spans(messages, tokenizer, template, text)
    return _tokens(text, spans, tokenizer)


def _tokens(
    text: str, spans: list[tuple[int, int]], tokenizer: Tokenizer, behind: bool = False
) -> tuple[list[int], list[bool]]:
    """The tokens of a rendered text, and which of them stand in the spans. behind: whether it stands behind other text."""
    tokens: list[int] = []
    mask: list[bool] = []

    def add_text(begin: int, end: int) -> None:
        borders = {border for span in spans for border in span if begin < border < end}
        cuts = sorted({begin, end} | borders)
        for start, stop in itertools.pairwise(cuts):
            fresh = start == begin and (tokenizer.vocabulary.prefix_after_special if start else not behind)
            encode = tokenizer.encode if fresh else tokenizer.encode_continued
            ids = encode(text[start:stop].replace(SHIELD, ""))
            tokens.extend(ids)
            mask.extend([inside(start)] * len(ids))

    def inside(place: int) -> bool:
        return any(begin <= place < end for begin, end in spans)

    place = 0
    for found in _written_by_template(tokenizer).finditer(text):
        special, (start, end) = tokenizer.special[found[0]], found.span()
        add_text(place, place + len(text[place:start].rstrip()) if special.lstrip else start)
        tokens.append(special.id)
        mask.append(inside(start))
        place = len(text) - len(text[end:].lstrip()) if special.rstrip else end
    add_text(place, len(text))
    return tokens, mask


def _marked_spans(text: str) -> tuple[str, list[tuple[int, int]]]:
    """The text without the marks of the generation blocks, and where these are in it."""
    spans: list[tuple[int, int]] = []
    plain, begin = "", 0
    for piece in re.split(f"([{START}{END}])", text):
        if piece == START:
            begin = len(plain)
        elif piece == END:
            spans.append((begin, len(plain)))
        else:
            plain += piece
    return plain, spans


def _prefix_spans(
    messages: list[Message], tokenizer: Tokenizer, template: ChatTemplate, text: str
) -> list[tuple[int, int]]:
    """Where `text` has the assistant's answers, by what each adds to the conversation before it."""
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before = _render(messages[:i], tokenizer, template, prompt=True)
        whole = _render(messages[: i + 1], tokenizer, template, prompt=False)
        if not (whole.startswith(before) and text.startswith(whole)):
            raise InputError(
                f"in the chat template the assistant's message {i + 1} does not continue the conversation before it: "
                "give it {% generation %} blocks around what the assistant writes"
            )
        ends = [found.end() for found in _written_by_template(tokenizer).finditer(whole, len(before))]
        stops = ends and not whole[ends[-1] :].strip()
        spans.append((len(before), ends[-1] if stops else len(whole)))
    return spans


def _special_texts(tokenizer: Tokenizer) -> str:
    """A regular expression that matches the special tokens, where one begins as another the longer."""
    return "|".join(map(re.escape, sorted(tokenizer.special, key=len, reverse=True))) or "(?!)"


def _written_by_template(tokenizer: Tokenizer) -> re.Pattern[str]:
    return re.compile(f"(?<!{SHIELD})(?:{_special_texts(tokenizer)})")
