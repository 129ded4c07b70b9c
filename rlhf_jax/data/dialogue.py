"""Chat messages and the transcript text of Anthropic's HH data (Bai et al. 2022), one into the other.

A transcript is an optional system text, then turns "\\n\\nHuman: ..." and "\\n\\nAssistant: ...".
"""

import itertools
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from rlhf_jax.errors import InputError, shortened

HUMAN = "\n\nHuman:"
ASSISTANT = "\n\nAssistant:"
MARKERS = {"user": HUMAN, "assistant": ASSISTANT}
ROLES = {marker: role for role, marker in MARKERS.items()}
TURN = re.compile(f"({HUMAN}|{ASSISTANT})")
REASONING = ("reasoning_content", "thinking", "reasoning")  # names of one and the same
TEXT_PARTS = ("text", "input_text", "output_text")  # types of a content's parts; the latter two are OpenAI's Responses'
ONLY_IN_TEMPLATES = (("tool_calls",), ("function_call",), REASONING)  # keys of a message that not every template reads


class UnusableRowError(InputError):
    """A row that is well formed and gives nothing to learn from. Readers can be told to leave such rows out; they count
    them by `reason`, which goes on from "12 rows"."""

    def __init__(self, sentence: str, reason: str):
        super().__init__(sentence)
        self.reason = reason


KWARGS = "chat_template_kwargs"  # a key of a conversation's first message
Message = dict[str, Any]  # {"role", "content"}, and whatever else the chat template reads


class Messages(tuple[Message, ...]):
    """The messages of a conversation as they were given. Equal ones have one hash; nothing writes into them.

    What else the chat template is given stands in the first message, under KWARGS: {"tools": [...], "documents": [...],
    "enable_thinking": False}, as in Transformers' apply_chat_template(messages, tools=..., documents=..., ...).
    """

    where, may_go = "", False  # see `placed`

    def __new__(cls, messages: Iterable[Message]) -> "Messages":
        return super().__new__(cls, messages)

    def __hash__(self) -> int:
        return hash(json.dumps(self, sort_keys=True, default=str))


class _Transcript(str):
    where, may_go = "", False


Conversation = str | Messages  # a transcript is messages of the user, the assistant and an opening system, written down
Answer = str | Messages  # one turn's stripped text; or several turns, the first and last the assistant's


def placed(conversation: Conversation, where: str, may_go: bool = False) -> Conversation:
    """The conversation, equal to what it was, that knows where it was read, "pairs.jsonl, line 12", and whether its row may
    be left out where it turns out to be unusable."""
    found = _Transcript(conversation) if isinstance(conversation, str) else Messages(conversation)
    found.where, found.may_go = where, may_go
    return found


def place_of(conversation: Any) -> str:
    """Where a conversation was read; "" of one that was made otherwise."""
    return getattr(conversation, "where", "")


def may_go(conversation: Any) -> bool:
    """Whether its row may be left out where it is unusable."""
    return getattr(conversation, "may_go", False)


def unwritable(sentence: str, reason: str = "that the chat format does not write") -> UnusableRowError:
    """The refusal of a row that the chat format cannot write."""
    return UnusableRowError(sentence, reason)


def no_place(sentence: str) -> UnusableRowError:
    """The refusal of a row of which the chat format would lose something."""
    return UnusableRowError(sentence, "with something for which the chat format has no place")


def text_of(conversation: Conversation) -> str:
    """A conversation as people read it, by which it is known in splits, pages and judges: a transcript as it is; messages
    turn by turn, other roles and tool calls with a name of their own. No template reads it."""
    if isinstance(conversation, str):
        return str(conversation)
    return "".join(_read_aloud(message, opens=number == 0) for number, message in enumerate(conversation))


def render(messages: Sequence[Any]) -> str:
    """The transcript of messages {"role": "user" | "assistant" | "system", "content": str}.

    Contents are stripped. A system message, which can only be the first, is the text before the first turn.
    InputError: no messages, an unknown role, content that is no string or that holds a marker of a turn.
    """
    if not messages:
        raise unwritable("the list of messages is empty: give one message at least")
    parts = []
    for number, message in enumerate(messages, 1):
        role, content = _fields(message, number)
        if role == "system":
            if number > 1:
                raise unwritable(f"message {number} has the role 'system': only the first message can")
            parts.append(content)
        else:
            parts.append(f"{MARKERS[role]} {content}" if content else MARKERS[role])
    return "".join(parts)


def parse_transcript(text: str) -> list[Message]:
    """The messages of a transcript, contents stripped.

    parse_transcript(render(m)) == m where m's contents are stripped. InputError: no turn in it.
    """
    opening, *turns = TURN.split(text)
    if not turns:
        raise InputError(f"no turn {HUMAN!r} or {ASSISTANT!r} in the transcript {_short(text)}: add one")
    system = [{"role": "system", "content": opening.strip()}] if opening.strip() else []
    spoken = zip(turns[::2], turns[1::2], strict=True)
    return system + [{"role": ROLES[marker], "content": words.strip()} for marker, words in spoken]


def messages_of(prompt: Conversation) -> Messages:
    """The messages that a prompt is, less the assistant's turn that a transcript opens at its end."""
    if isinstance(prompt, Messages):
        return prompt
    messages = parse_transcript(prompt)
    return Messages(messages[:-1] if messages[-1] == {"role": "assistant", "content": ""} else messages)


def prompt_text(prompt: Any) -> str:
    """The text that an answer follows, up to and with its last "\\n\\nAssistant:".

    `prompt` is messages, a transcript, or a plain question q, which becomes "\\n\\nHuman: q\\n\\nAssistant:".
    InputError: no string or messages; an empty prompt; a last turn in which the assistant already answers.
    """
    text = transcript(prompt).rstrip()
    if not text:
        raise UnusableRowError("the prompt is empty: give it some text", "whose prompt is empty")
    if not is_transcript(text):
        return f"{HUMAN} {text.strip()}{ASSISTANT}"
    if text.endswith(ASSISTANT):
        return text
    if text.rfind(ASSISTANT) > text.rfind(HUMAN):
        raise UnusableRowError(
            f"the prompt {_short(text)} ends in an answer: end it with a turn of the user",
            "whose prompt ends in an answer",
        )
    return text + ASSISTANT


def split_last_answer(text: str) -> tuple[str, str]:
    """(prompt, answer) of a transcript: up to and with its last "\\n\\nAssistant:", and what follows it.

    The answer is stripped and may be empty. InputError: the last turn is not the assistant's.
    """
    cut = text.rfind(ASSISTANT) + len(ASSISTANT)
    if ASSISTANT not in text or HUMAN in text[cut:]:
        raise UnusableRowError(
            f"the transcript {_short(text)} does not end in a turn of the assistant: add the answer",
            "that do not end in a turn of the assistant",
        )
    return text[:cut], text[cut:].strip()


def split_shared_prompt(first: str, second: str) -> tuple[str, str, str]:
    """(prompt, answer, answer) of two transcripts, split at the last "\\n\\nAssistant:" that they share.

    Where the two part before their last turn, as 3 of 1,878 pairs of HH's harmless-base do, the answers run
    on over several turns: what was compared is kept whole. InputError: a last turn that is not the
    assistant's; nothing shared.
    """
    split_last_answer(first)
    split_last_answer(second)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    shared = "".join(character for character, _ in same)
    cut = shared.rfind(ASSISTANT) + len(ASSISTANT)
    if ASSISTANT not in shared:
        raise UnusableRowError(
            "the two conversations share no turn that could be their prompt: give both the same prompt",
            "whose two conversations share no prompt",
        )
    return first[:cut], first[cut:].strip(), second[cut:].strip()


def transcript(value: Any) -> str:
    """The text of a whole conversation, be it that text or messages. InputError: neither."""
    if isinstance(value, str):
        return value
    if isinstance(value, (list, Messages)):
        return render(value)
    raise InputError("a conversation is neither a transcript nor a list of messages: make it one of them")


def is_transcript(text: str) -> bool:
    """True where `text` holds the marker of a turn."""
    return TURN.search(text) is not None


def checked_message(message: Any, number: int) -> tuple[str, str]:
    """(role, content) of the message with this number, parts of a content joined. InputError: neither, an unknown role, no
    text."""
    if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
        raise InputError(f"message {number} is no object with 'role' and 'content': give it both")
    role, content = message["role"], message["content"]
    if role not in ("user", "assistant", "system"):
        raise unwritable(f"message {number} has the role {role!r}: use 'user', 'assistant' or 'system'")
    if isinstance(content, list):
        return role, "".join(part_text(part, number) for part in content)
    if not isinstance(content, str):
        raise unwritable(f"message {number} has a content that is no string: make it one")
    return role, content


def part_text(part: Any, number: int) -> str:
    """The text that a part of the content of the message with this number is. InputError: it is something else."""
    if isinstance(part, str):
        return part
    kind, text = (part.get("type", "text"), part.get("text")) if isinstance(part, dict) else (None, None)
    if kind not in TEXT_PARTS or not isinstance(text, str):
        raise unwritable(
            f"message {number} has the part {shortened(part)} in its content, which the chat format does not read: make it "
            '{"type": "text", "text": "..."}, or remove it'
        )
    return text


def _fields(message: Any, number: int) -> tuple[str, str]:
    if isinstance(message, dict) and message.get("role") in (*MARKERS, "system"):
        require_place(message, number, "")  # what a call says beside its null content is what is lost
    role, content = checked_message(message, number)
    content = content.strip()
    if marker := TURN.search(content):
        raise unwritable(f"message {number} holds {marker[0]!r}, which would begin a new turn: reword it")
    return role, content


def require_place(message: Message, number: int, source: str) -> None:
    """InputError: the message, or what is given with the first, has something that a format never reads: it is no name in
    the source of its template, which for transcripts is none."""

    def is_read(name: str) -> bool:
        return re.search(rf"\b{re.escape(name)}\b", source) is not None

    for names in ONLY_IN_TEMPLATES:
        given = [name for name in names if message.get(name)]
        if given and not any(map(is_read, names)):
            raise no_place(
                f"message {number} has {given[0]!r}, for which the chat format has no place: name a template that has, or "
                "take it out"
            )
    if message.get("name") and message["role"] in MARKERS | {"system": ""} and not is_read("name"):
        raise no_place(
            f"message {number} has the role {message['role']!r} and a name for which the chat format has no place: name a "
            "template that writes it, or take it out"
        )
    if number > 1 and message.get(KWARGS):
        raise InputError(f"message {number} has {KWARGS!r}, which are the conversation's: give them with the first")
    more = message.get(KWARGS, {}) if number == 1 else {}
    if not isinstance(more, dict):
        raise InputError(f"message 1 has {KWARGS!r} that are no object: give names and values")
    for name, value in more.items():
        given = value is not None and value != [] and value != {} and value != ""
        if (given and not is_read(name)) or name in ("messages", "add_generation_prompt"):
            column = name if name in ("tools", "documents") else KWARGS
            raise no_place(
                f"there is {name!r} beside the messages, for which the chat format has no place: name a template that has, "
                f"do without, or ignore = {column!r} in [files.layout]"
            )


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:30]} ... {text[-25:]}")


def spoken(conversation: Conversation) -> str:
    """What the user and the assistant say, as a transcript: without systems, what tools return, and calls of them."""
    if isinstance(conversation, str):
        return conversation
    return "".join(f"{MARKERS[m['role']]} {words_of(m)}" for m in conversation if m["role"] in MARKERS)


def words_of(message: Message) -> str:
    """The text of a message, less white space around it; of one in parts that of all of them."""
    content = message.get("content")
    if isinstance(content, list):  # in parts, as the vision models' formats have it
        content = "".join(str(part.get("text", "")) if isinstance(part, dict) else str(part) for part in content)
    return f"{content or ''}".strip()


def _read_aloud(message: Message, opens: bool) -> str:
    role = str(message.get("role"))
    calls = [json.dumps(call, ensure_ascii=False) for call in message.get("tool_calls") or ()]
    said = " ".join([words_of(message), *calls]).strip()
    if role == "system" and opens:
        return said
    return f"{MARKERS.get(role, f'{chr(10)}{chr(10)}{role.capitalize()}:')} {said}".rstrip()
