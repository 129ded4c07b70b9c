"""Conversations through a chat template: messages to text, to tokens, to what supervised fine-tuning learns from."""

import bisect
import datetime
import itertools
import json
import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, lru_cache, partial
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from rlhf_jax.data.chat_template import BUILT_IN, END, HH, START, ChatTemplate, fill, marks_answers
from rlhf_jax.data.dialogue import (
    ASSISTANT,
    KWARGS,
    REASONING,
    TEXT_PARTS,
    TURN,
    Answer,
    Conversation,
    Message,
    Messages,
    checked_message,
    is_transcript,
    messages_of,
    no_place,
    part_text,
    prompt_text,
    render,
    require_place,
    unwritable,
    words_of,
)
from rlhf_jax.data.sources import located
from rlhf_jax.data.tokenizer import Tokenizer
from rlhf_jax.errors import InputError
from rlhf_jax.types import TextBatch

ANSWERED = "\ufdd3"  # in the place of an answer whose tokens are there already; another noncharacter
SHIELD = "\ufdd2"  # before content that reads as a special token; a noncharacter, as START and END
STAND_IN = "\ufdd4"  # in the place of an answer, to see where a template puts it
SPEAKERS = ("user", "assistant", "system", "developer")  # whose names tell something that no call does
OPENING = ("system", "developer")  # messages that stand before the first turn
ROLES = ("user", "assistant", "system")  # that the built-in templates know

Turns = Literal["last", "all"]  # of the assistant's, that are learned from
ALWAYS = datetime.datetime(2024, 7, 26)  # the date that Llama 3.1's template has where it cannot ask


class TooLongError(InputError):
    """A conversation of which not even the last turn fits. Encoders can be told to drop its row."""


def render_chat(
    messages: Sequence[Any],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    add_generation_prompt: bool = False,
    *,
    tools: Sequence[Any] | None = None,
    documents: Sequence[Any] | None = None,
) -> str:
    """The text of messages {"role": str, "content": str, …}, with all their keys as a model's own template reads them; the
    built-in ones know of users, assistants and systems, and of contents that are texts. A content may be parts {"type":
    "text", "text": …}, which the template gets as one string where it does not read parts.

    With `add_generation_prompt` it ends where the assistant's next answer begins. As in Transformers, the template
    sees messages, tools, documents, what else the first message has under KWARGS, add_generation_prompt, bos_token,
    eos_token, pad_token and unk_token, raise_exception, strftime_now and tojson, and runs in a sandbox.

    InputError: broken messages; content that would begin a new turn; a tokenizer without the special tokens that
    the template needs; a template that refuses the messages, or never reads their tools, calls, reasoning or the like; a
    content or a name that it does not write.
    """
    checked = _checked(messages, tokenizer, template, {"tools": tools, "documents": documents})
    return re.sub(f"[{START}{END}{SHIELD}]", "", _render(checked, tokenizer, template, add_generation_prompt))


def encode_chat(
    messages: Sequence[Any],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    length: int,
    add_generation_prompt: bool = False,
    *,
    tools: Sequence[Any] | None = None,
    documents: Sequence[Any] | None = None,
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
    checked = _checked(messages, tokenizer, template, {"tools": tools, "documents": documents})
    system, turns = _turns(checked)

    @cache
    def encoded(first: int) -> tuple[list[int], list[bool]]:
        return _encode(_newest(system, turns, first), tokenizer, template, add_generation_prompt)

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
    now = template.now or (ALWAYS if "strftime_now" in template.source else None)
    talking = replace(tokenizer, chat=template._replace(now=now), turn_end=None)
    said = [{"role": "user", "content": "Anyone there?"}, {"role": "assistant", "content": "Nobody, no."}]
    text = render_chat(said, talking, template)
    if lost := [message["role"] for message in said if message["content"] not in text]:
        raise InputError(f"the chat template does not write what the {lost[0]} says: name another one")
    _, answer = encode_turn(Messages(said[:1]), said[1]["content"], talking)
    return replace(talking, turn_end=answer[-1])


def encode_prompt(prompt: Conversation, tokenizer: Tokenizer) -> list[int]:
    """The tokens that an answer follows. InputError: as `render_chat`."""
    if tokenizer.chat is None:
        text = prompt if isinstance(prompt, str) else prompt_text(prompt)
        return [*tokenizer.opening, *tokenizer.encode(text)]
    return _encode(_checked(messages_of(prompt), tokenizer, tokenizer.chat), tokenizer, tokenizer.chat, prompt=True)[0]


def encode_turn(prompt: Conversation, answer: Answer, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The tokens of a prompt, as `encode_prompt` has them, and of the answer with the token that ends it.

    In a chat template an answer is what it adds to the conversation, up to the end of its turn. Where the generation prompt
    writes more than the answer then has (DeepSeek-R1's "<think>\\n", of answers without their reasoning), the prompt is
    what both share, so that both together are what the template makes of the conversation. In a transcript an answer is set
    off by a space and ended by EOS. InputError: as `render_chat`; an answer that does not continue its prompt.
    """
    if tokenizer.chat is None:
        text = _spoken_text(answer)
        return encode_prompt(prompt, tokenizer), [*tokenizer.encode_continued(f" {text}"), tokenizer.eos]
    tokens, _, cut = _turn(prompt, answer, tokenizer, tokenizer.chat)
    return tokens[:cut], tokens[cut:]


def _turn(
    prompt: Conversation, answer: Answer, tokenizer: Tokenizer, template: ChatTemplate
) -> tuple[list[int], list[bool], int]:
    """The tokens of a conversation with its answer, what is the assistant's, and where the answer begins."""
    begun = encode_prompt(prompt, tokenizer)
    tokens, mask = _whole(prompt, answer, tokenizer, template)
    same = _shared(begun, tokens)
    if same < len(begun):  # an answer may begin as the rest of the generation prompt does
        own = next((i for i in range(_asked(prompt, tokenizer, begun), len(mask)) if mask[i]), len(mask))
        same = own if own <= same else len(mask)
    if not any(mask[same:]):
        raise InputError(
            "in the chat template the answer does not continue its prompt: give it {% generation %} blocks"
        )
    return tokens, mask, same


def _asked(prompt: Conversation, tokenizer: Tokenizer, begun: list[int]) -> int:
    """How many tokens of the prompt are what was said, before the template asks for an answer."""
    assert tokenizer.chat is not None
    said = _checked(messages_of(prompt), tokenizer, tokenizer.chat)
    return _shared(begun, _encode(said, tokenizer, tokenizer.chat, prompt=False)[0])


def _spoken_text(answer: Answer) -> str:
    """An answer as it stands in a transcript, behind the marker of its first turn."""
    if isinstance(answer, str):
        return answer
    with located("the answer"):  # its messages are counted from its first
        return render(answer).removeprefix(ASSISTANT).strip()


def encode_whole(messages: Messages, tokenizer: Tokenizer) -> list[int]:
    """The tokens of a conversation with all that the tokenizer's template writes, behind the last turn too. InputError: as
    `render_chat`; a tokenizer without a template."""
    if tokenizer.chat is None:
        raise InputError(f"{tokenizer.path} has no chat template: name one")
    return _encode(_checked(messages, tokenizer, tokenizer.chat), tokenizer, tokenizer.chat, prompt=False)[0]


def encode_rendered(text: str, tokenizer: Tokenizer) -> list[int]:
    """The tokens of a text as `render_chat` writes it: the text of a special token becomes its id, wherever it stands. The
    tokens with which the tokenizer opens a text are those alone that are written. InputError: as `Tokenizer.encode`."""
    return _tokens(text, [], tokenizer)[0]


def encode_learned(
    prompt: Conversation, answer: Answer, tokenizer: Tokenizer, turns: Turns = "last"
) -> tuple[list[int], list[bool]]:
    """The tokens of a whole conversation, and True at what the assistant wrote in the turns that are learned from: those of
    the answer, or with turns="all" those of the prompt too. What others say between them is in the tokens alone.

    Where a transcript goes on after an answer, nothing marks its end, and only its text is the assistant's. InputError: as
    `encode_turn`; with turns="all", an answer that OpenAI's "weight" of 0 takes out of what is learned.
    """
    earlier = prompt if turns == "all" and isinstance(prompt, Messages) else ()
    if unlearned := [i for i, m in enumerate(earlier, 1) if m["role"] == "assistant" and m.get("weight") == 0]:
        raise unwritable(
            f"message {unlearned[0]} has the weight 0, by which it is not to be learned: learn the last turns alone, "
            'turns = "last"'
        )
    if tokenizer.chat is not None:
        tokens, mask, cut = _turn(prompt, answer, tokenizer, tokenizer.chat)
        return tokens, mask if turns == "all" else [False] * cut + mask[cut:]
    said = _spoken_text(answer)
    asked = prompt if isinstance(prompt, str) else prompt_text(prompt)
    if turns == "all":
        tokens, pieces = list(tokenizer.opening), _spoken(f"{asked} {said}", own=False)
    else:
        tokens, pieces = encode_prompt(asked, tokenizer), _spoken(f" {said}", own=True)
    mask, behind = [False] * len(tokens), turns == "last"
    for piece, own in pieces:
        ids = tokenizer.encode_continued(piece) if behind else tokenizer.encode(piece)
        tokens, mask, behind = tokens + ids, mask + [own] * len(ids), True
    return [*tokens, tokenizer.eos], [*mask, True]


def _spoken(text: str, own: bool) -> list[tuple[str, bool]]:
    """A transcript in pieces, and which of them are the assistant's words; markers are nobody's. own: how it begins."""
    lead, *turns = TURN.split(text)
    pieces = [(lead, own)] if lead else []
    for marker, words in zip(turns[::2], turns[1::2], strict=True):
        assistant = marker == ASSISTANT
        before = marker if assistant else marker + words
        if pieces and not pieces[-1][1]:
            before = pieces.pop()[0] + before
        pieces.append((before, False))
        if assistant and words:
            pieces.append((words, True))
    return pieces


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
        kept = _newest(system, turns, first)
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
    own = tokenizer.chat is not None and tokenizer.chat not in BUILT_IN.values()  # whose roles only the template knows
    for number, message in enumerate(reply, 1):
        free = own and isinstance(message, dict) and isinstance(message.get("role"), str)
        role = message["role"] if free else checked_message(message, number)[0]
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


def by_role(conversation: Conversation) -> str:
    """A conversation for people to look at, whatever the format: each message on lines of its own, behind who says it; a text
    without turns as it is."""
    if isinstance(conversation, str) and not is_transcript(conversation):
        return conversation.strip()
    lines = []
    for message in messages_of(conversation):
        calls = [json.dumps(call, ensure_ascii=False) for call in message.get("tool_calls") or ()]
        lines.append(" ".join([f"{message['role']}: {words_of(message)}".rstrip(), *calls]))
    return "\n".join(lines)


def _newest(system: list[Message], turns: list[list[Message]], first: int) -> list[Message]:
    """The opening and the turns from `first` on, with what the template is given beside all of them."""
    kept = [*system, *(message for turn in turns[first:] for message in turn)]
    opening = [*system, *(turns[0] if turns else [])][0]
    return [{**kept[0], KWARGS: opening[KWARGS]}, *kept[1:]] if KWARGS in opening else kept


def _whole(
    prompt: Conversation, answer: Answer, tokenizer: Tokenizer, template: ChatTemplate
) -> tuple[list[int], list[bool]]:
    """A conversation with its answer, up to the token that ends it, and what is the assistant's."""
    said = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else list(answer)
    checked = _checked([*messages_of(prompt), *said], tokenizer, template)
    tokens, mask = _encode(checked, tokenizer, template, prompt=False)
    end = len(mask) - mask[::-1].index(True) if True in mask else 0
    special = {special.id for special in tokenizer.special.values()}
    stop = next((i for i in range(end, 0, -1) if tokens[i - 1] in special and mask[i - 1]), 0)
    if (
        0 < stop < end and not tokenizer.decode(tokens[stop:end]).strip()
    ):  # in a generation block of many training templates
        end = stop
    if end and tokens[end - 1] not in special:
        return [*tokens[:end], tokenizer.eos], [*mask[:end], True]
    return tokens[:end], mask[:end]


def _checked(
    messages: Sequence[Any], tokenizer: Tokenizer, template: ChatTemplate, more: dict[str, Any] | None = None
) -> list[Message]:
    """The messages, with a SHIELD before every place of their content that reads as a special token. more: what the template
    is given beside them, where it is not None."""
    for token in template.needs:
        if token not in tokenizer.special:
            raise InputError(
                f"the chat template needs the special token {token!r}, which {tokenizer.path} does not have: "
                "choose zephyr or hh, which do with EOS"
            )
    if not messages:
        raise unwritable("the list of messages is empty: give one message at least")
    built_in, checked = template in BUILT_IN.values(), []
    for number, message in enumerate(messages, 1):
        what = f"message {number}"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise unwritable(f"{what} is no object with a 'role': give it one")
        given = {name: value for name, value in (more or {}).items() if value is not None}
        if given and number == 1 and isinstance(message.get(KWARGS, {}), dict):
            message = {**message, KWARGS: {**message.get(KWARGS, {}), **given}}
        require_place(message, number, template.source)
        if built_in:
            _, content = checked_message(message, number)
            message = {"role": message["role"], "content": content}
        else:
            message = _as_templates_have_it(message, number, template)
        checked.append(_shielded(message, tokenizer, template, what))
    return checked if built_in else _as_written(checked, tokenizer, template)


def _as_templates_have_it(message: Message, number: int, template: ChatTemplate) -> Message:
    """The message less what is None, with its reasoning under both names by which templates read it, as in Transformers
    5.24, and texts among the parts of its content as {"type": "text", "text": …}. InputError: a part that is no text, of a
    type that the template does not name."""
    given = {key: value for key, value in message.items() if value is not None}
    if isinstance(given.get("content"), list):
        given["content"] = [_part(part, number, template) for part in given["content"]]
    thought = next((given[name] for name in REASONING if name in given), None)
    return given if thought is None else {"thinking": thought, **given, "reasoning_content": thought}


def _part(part: Any, number: int, template: ChatTemplate) -> Any:
    kind = part.get("type") if isinstance(part, dict) else None
    if (
        isinstance(kind, str)
        and kind not in TEXT_PARTS
        and re.search(rf"""['"]{re.escape(kind)}['"]""", template.source)
    ):
        return part
    return {**(part if isinstance(part, dict) else {}), "type": "text", "text": part_text(part, number)}


def _probed(messages: list[Message], tokenizer: Tokenizer, template: ChatTemplate) -> str | None:
    """The text of the messages with marks behind all that they say; None where the template refuses them."""
    try:
        return _render([_probe(m, i) for i, m in enumerate(messages)], tokenizer, template, prompt=False)
    except InputError:
        return None


def _lost(messages: list[Message], text: str) -> list[tuple[int, str]]:
    """What of the messages is not in the text that was probed: their places from 0, and "content" or "name"."""
    said = [(i, key, _says(m, key)) for i, m in enumerate(messages) for key in ("content", "name")]
    return [(i, key) for i, key, places in said if places and text.count(_mark(i, key)) < places]


@lru_cache(maxsize=1024)
def _writes_all(turns: tuple[tuple[str, bool], ...], tokenizer: Tokenizer, template: ChatTemplate) -> bool:
    """Whether the template writes each text of a conversation of such roles, True where one says something."""
    messages: list[Message] = [{"role": role, "content": "." if says else ""} for role, says in turns]
    text = _probed(messages, tokenizer, template)
    return text is not None and not _lost(messages, text)


def _as_written(messages: list[Message], tokenizer: Tokenizer, template: ChatTemplate) -> list[Message]:
    """The messages in the form in which the template writes all that they say, which is found out by rendering.

    Contents stay as they are given where it writes them so. A list of texts of which it would write Python's repr, or
    nothing, becomes one text; a text that it would not write, a list of one part. Arguments of calls that are JSON in a
    string become the object where the template would write JSON of that string, or cannot read it.
    InputError: a content, or a name that is no tool's, which the template does not write in either form.
    """

    plain = all(message.keys() == {"role", "content"} and isinstance(message["content"], str) for message in messages)
    turns = tuple((message["role"], bool(_says(message, "content"))) for message in messages)
    if plain and _writes_all(turns, tokenizer, template):
        return messages
    text, found = _probed(messages, tokenizer, template), messages
    if _TWICE in (text or _TWICE) and (read := [_with_objects(m) for m in messages]) != messages:
        text, found = _probed(read, tokenizer, template), read
    if text is None:
        turn = {i for i, message in enumerate(found) if isinstance(message.get("content"), list)}
    else:
        turn = {i for i, key in _lost(found, text) if key == "content"}
    if turn:
        found = [_other_form(message) if i in turn else message for i, message in enumerate(found)]
        text = _probed(found, tokenizer, template)
    if text is None:
        return messages  # the template refuses them, and is to say why
    for i, key in _lost(found, text):
        beside = " beside its tool calls" if key == "content" and messages[i].get("tool_calls") else ""
        raise no_place(
            f"message {i + 1} has the role {messages[i]['role']!r} and a {key}{beside} for which the chat format has no "
            "place: name a template that writes it, or take it out"
        )
    return found


_TWICE = f'\\"{STAND_IN}'  # in what a template writes of arguments that are JSON in a string: JSON of that


def _mark(number: int, key: str) -> str:
    return f"{STAND_IN}{number}{key[0]}{STAND_IN}"


def _says(message: Message, key: str) -> int:
    """In how many places a message says something under "content", or under "name" where it is none of a tool."""
    value = message.get(key)
    if key == "name" and message["role"] not in SPEAKERS:
        return 0
    texts = [part.get("text") for part in value] if isinstance(value, list) else [value]
    return sum(isinstance(text, str) and bool(text.strip(f"{SHIELD} \n\r\t")) for text in texts)


def _probe(message: Message, number: int) -> Message:
    """The message with marks behind all that it says, which shows where a template writes it."""
    probe = dict(message)
    for key in ("content", "name"):
        value, mark = message.get(key), _mark(number, key)
        if isinstance(value, list):
            probe[key] = [{**part, "text": part["text"] + mark} if part.get("text") else part for part in value]
        elif _says(message, key):
            probe[key] = f"{value}{mark}"
    return _with_arguments(probe, lambda _: f'{{"{STAND_IN}": 0}}')


def _with_objects(message: Message) -> Message:
    def parsed(text: str) -> Any:
        try:
            value = json.loads(text.replace(SHIELD, ""))
        except (ValueError, RecursionError):
            return text
        return value if isinstance(value, dict) else text

    return _with_arguments(message, parsed)


def _with_arguments(message: Message, of: Callable[[str], Any]) -> Message:
    """The message with `of` the arguments of its calls that are strings."""
    calls = message.get("tool_calls")
    if not isinstance(calls, list):
        return message

    def changed(call: Any) -> Any:
        if not isinstance(call, dict):
            return call
        if isinstance(call.get("function"), dict):
            return {**call, "function": changed(call["function"])}
        return {**call, "arguments": of(call["arguments"])} if isinstance(call.get("arguments"), str) else call

    return {**message, "tool_calls": [changed(call) for call in calls]}


def _other_form(message: Message) -> Message:
    """One text for a list of texts, a list of one for a text."""
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": [{"type": "text", "text": content}]}
    if not all(part["type"] == "text" for part in content):
        return message
    return {**message, "content": "".join(part["text"] for part in content)}


def _shielded(value: Any, tokenizer: Tokenizer, template: ChatTemplate, what: str) -> Any:
    """A message, or what else a template is given, with a SHIELD before every place of a string in it, but a role's and a
    key's, that reads as a special token."""
    special = re.compile(f"(?={_special_texts(tokenizer)})")
    markers = [marker for marker in template.markers if marker not in tokenizer.special]

    def shielded(value: Any) -> Any:
        if isinstance(value, dict):
            return {plain(key): plain(v) if key == "role" else shielded(v) for key, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [shielded(v) for v in value]
        return special.sub(SHIELD, plain(value)) if isinstance(value, str) else value

    def plain(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        for mark in (START, END, SHIELD, STAND_IN):
            if mark in value:
                raise unwritable(f"{what} holds U+{ord(mark):04X}, which is no character: remove it")
        for marker in markers:
            if marker in value:
                raise unwritable(f"{what} holds {marker!r}, which would begin a new turn: reword it")
        return value

    return shielded(value)


def _turns(messages: list[Message]) -> tuple[list[Message], list[list[Message]]]:
    """The opening system messages, and the rest in parts, each a user's message with what follows it."""
    opening = next((i for i, message in enumerate(messages) if message["role"] not in OPENING), len(messages))
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
    more = messages[0].get(KWARGS, {}) if messages else {}
    bare = [{name: value for name, value in message.items() if name != KWARGS} for message in messages[:1]]
    return fill(template, [*bare, *messages[1:]], tokens, prompt, more)


def _encode(
    messages: list[Message], tokenizer: Tokenizer, template: ChatTemplate, prompt: bool
) -> tuple[list[int], list[bool]]:
    text = _render(messages, tokenizer, template, prompt)
    if marks_answers(template):
        text, spans = _marked_spans(text)
    else:
        written = partial(_render, tokenizer=tokenizer, template=template)
        spans = _answer_spans(messages, text, written, _written_by_template(tokenizer), prompt)
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


def _answer_spans(
    messages: list[Message], text: str, written: Callable[..., str], special: re.Pattern[str], prompt: bool
) -> list[tuple[int, int]]:
    """Where `text` has the assistant's answers, in a template without {% generation %}.

    An answer begins behind the generation prompt of the conversation before it. Where more turns follow, a template may
    write what came before otherwise (without its reasoning, with the system message in another turn), so it is looked for
    in the whole text, in which a STAND_IN in its place says where its content is. Of a generation prompt that writes more
    than answers have (DeepSeek-R1's "<think>\\n"), the part counts that the text has too. An answer ends with the special
    token right behind its content, or, where none is there, with all that it adds to the conversation.
    """
    spans = []
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        content = [{"type": "text", "text": STAND_IN}] if isinstance(message.get("content"), list) else STAND_IN
        other = [*messages[:i], {"role": "assistant", "content": content}, *messages[i + 1 :]]
        base, before = (written(messages[:i], prompt=p) for p in (False, True))
        whole = written(messages[: i + 1], prompt=False)
        try:
            changed = written(other, prompt=prompt)
        except InputError:  # it needs the tool calls that are not there, say
            changed = ""
        begin = _begin(text, changed, base, before, spans[-1][1] if spans else 0)
        if begin is None:
            raise InputError(
                f"in the chat template the assistant's message {i + 1} does not continue the conversation before it: "
                "give it {% generation %} blocks around what the assistant writes"
            )
        end = len(text) - _shared(text[::-1], changed[::-1]) if STAND_IN in changed else 0
        own = {stop[0] for stop in special.finditer(whole, _shared(whole, before))}  # not the next speaker's
        if end > begin and (stop := special.match(text, end)) and stop[0] in own:
            end = stop.end()
        elif text.startswith(whole) or end <= begin:
            ends = [found.end() for found in special.finditer(whole, begin)]
            end = ends[-1] if ends and not whole[ends[-1] :].strip() else len(whole)
            end = _shared(whole[:end], text)
        spans.append((begin, end))
    return spans


def _begin(text: str, changed: str, base: str, before: str, least: int) -> int | None:
    """Where an answer begins in the text, at `least` there. None: its generation prompt is nothing that the text has."""
    if text.startswith(before):
        return len(before)
    shared = min(_shared(before, text), _shared(before, changed)) if changed else _shared(before, text)
    if text.startswith(base) and before.startswith(base) and shared > len(base):
        return shared
    place = changed.find(STAND_IN)
    if place < 0 or text[:place] != changed[:place] or not before.startswith(base):
        return None
    opening = before[len(base) :]
    if not opening:
        return len(text[:place].rstrip())
    found = text.rfind(opening, least, place)
    return None if found < 0 else found + len(opening)


def _shared(a: Sequence[Any], b: Sequence[Any]) -> int:
    """In how many characters two texts, or tokens two lists, begin alike."""
    least = min(len(a), len(b))
    return next((i for i in range(least) if a[i] != b[i]), least)


def _special_texts(tokenizer: Tokenizer) -> str:
    """A regular expression that matches the special tokens, where one begins as another the longer."""
    return "|".join(map(re.escape, sorted(tokenizer.special, key=len, reverse=True))) or "(?!)"


def _written_by_template(tokenizer: Tokenizer) -> re.Pattern[str]:
    return re.compile(f"(?<!{SHIELD})(?:{_special_texts(tokenizer)})")
