"""Conversations and answers as rows have them, in messages of several spellings, transcripts or JSON in a cell."""

import json
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

from rlhf_jax.data.dialogue import (
    ASSISTANT,
    HUMAN,
    Answer,
    Conversation,
    Message,
    Messages,
    UnusableRowError,
    is_transcript,
    parse_transcript,
    prompt_text,
    render,
    split_last_answer,
    split_shared_prompt,
)
from rlhf_jax.data.paths import truth_of
from rlhf_jax.errors import InputError, shortened

ROLES = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    **dict.fromkeys(("observation", "tool_response", "function_response"), "tool"),
    **dict.fromkeys(("function_call", "tool_call"), "assistant"),  # see `_called`
    **{role: role for role in ("user", "assistant", "system", "developer", "tool", "function", "ipython")},
}
LEARNED = ("train", "training", "loss")  # keys of a turn that is learned: axolotl's two, ms-swift's
# Python's repr of messages, as pandas writes a list into a cell; NumPy's has no commas, or "array(" before it.
UNSEEN = (
    "image",
    "image_url",
    "video",
    "video_url",
    "audio",
    "audio_url",
    "input_audio",
)  # types of parts of a content
REPR = re.compile(r"""(?:array\()?\[\s*\{\s*['"](?:role|content|from|value)['"]\s*:.*\].*""", re.DOTALL)


def plain(value: Any) -> Any:
    """The value as JSON has it: dates, decimals and the like are their texts."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)


def without_nulls(value: Any) -> Any:
    """The value less the null entries of the objects in it."""
    if isinstance(value, dict):
        return {key: without_nulls(inner) for key, inner in value.items() if inner is not None}
    return [without_nulls(inner) for inner in value] if isinstance(value, list) else value


def json_of(value: Any) -> Any:
    """What a text says in JSON; what is no text, or none of JSON, as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value


def messages_or_text(value: Any) -> Any:
    """A text, a list of messages, or such a list written as JSON into a cell. InputError: Python's repr of one."""
    if isinstance(value, dict) and ({"role", "content"} <= value.keys() or {"from", "value"} <= value.keys()):
        return [value]
    if not isinstance(value, str) or not REPR.fullmatch(value.strip()):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        raise InputError(
            f"a text is Python's repr of messages, {shortened(value)}: write the file with "
            "to_json(orient='records', lines=True), or the cell with json.dumps"
        ) from None
    return found if isinstance(found, list) else [found]


def conversation_of(value: Any) -> Conversation:
    """A text as it is, or messages. InputError: neither."""
    value = messages_or_text(value)
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return messages_in(value)
    raise InputError(
        f"a conversation is {shortened(value)}, neither a transcript nor a list of messages: make it one of them, or name "
        "its place in [files.layout], as in prompt = 'prompt.text'"
    )


def messages_in(values: list[Any]) -> Messages:
    """Messages as they were given, or made of ShareGPT's turns, pairs of input and output, or texts, the user's first."""
    if not values:
        raise InputError("the list of messages is empty: give one message at least")
    found: list[Message] = []
    for number, value in enumerate(values, 1):
        if isinstance(value, str):
            found.append({"role": "assistant" if len(found) % 2 else "user", "content": value})
        elif isinstance(value, dict) and {"input", "output"} <= value.keys():
            found += [{"role": "user", "content": value["input"]}, {"role": "assistant", "content": value["output"]}]
        else:
            found.append(_message(value, number))
    for number, message in enumerate(found, 1):
        _check_content(message, number)
    return Messages(found)


def _holds_bytes(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return isinstance(value, (bytes, bytearray)) or any(map(_holds_bytes, inner))


def _message(value: Any, number: int) -> Message:
    if _holds_bytes(value):
        raise InputError(f"message {number} holds bytes, {shortened(value)}: write its texts as strings (UTF-8)")
    names = ("from", "value") if isinstance(value, dict) and "from" in value else ("role", "content")
    if not isinstance(value, dict) or names[0] not in value or (names[1] not in value and not value.get("tool_calls")):
        raise InputError(f"message {number} is no object with 'role' and 'content': give it both")
    role = value[names[0]]
    if not isinstance(role, str) or role not in ROLES:
        raise InputError(
            f"message {number} has the role {role!r}: use 'user', 'assistant', 'system' or 'tool' (or ShareGPT's)"
        )
    # Tables fill up the keys that other messages have with null.
    rest = {key: plain(inner) for key, inner in value.items() if key not in names and inner is not None}
    rest = _weighed(ROLES[role], rest)
    if role in ("function_call", "tool_call"):
        return {"role": "assistant", "content": "", "tool_calls": _called(value.get(names[1]), number), **rest}
    return {"role": ROLES[role], "content": plain(value.get(names[1])), **rest}


def _weighed(role: str, rest: Message) -> Message:
    """What else a message says, with OpenAI's weight of 0 for what axolotl's and ms-swift's keys say: that a turn is not to
    be learned. Of others' turns, which are never learned, and where they say that it is, they say nothing."""
    said = {key: truth_of(rest[key]) for key in (*LEARNED, "weight") if key in rest}
    said = {key: truth for key, truth in said.items() if truth is not None}
    if role != "assistant":
        return {key: value for key, value in rest.items() if key not in LEARNED or said.get(key) is not False}
    rest = {key: value for key, value in rest.items() if key not in LEARNED or key not in said}
    return {**rest, "weight": 0} if False in said.values() else rest


def _called(value: Any, number: int) -> list[Message]:
    """The calls that a turn of LLaMA-Factory's or ms-swift's is, the JSON of one or several, as chat templates read them."""
    found = json_of(value)
    calls = found if isinstance(found, list) else [found]
    if not calls or not all(isinstance(call, dict) and {"name", "arguments"} <= call.keys() for call in calls):
        raise InputError(
            f"message {number} calls a function and is {shortened(value)}: make it JSON with 'name' and 'arguments'"
        )
    functions = [{"name": call["name"], "arguments": json_of(call["arguments"])} for call in calls]
    return [{"type": "function", "function": function} for function in functions]


def _check_content(message: Message, number: int) -> None:
    content = message["content"]
    if content is None and not any(message.get(key) for key in ("tool_calls", "reasoning_content", "function_call")):
        raise UnusableRowError(f"message {number} has no content: give it some", "with a message without content")
    if content is not None and not isinstance(content, (str, list)):
        raise InputError(f"message {number} has a content that is no string: make it one")
    kinds = [part.get("type") for part in content if isinstance(part, dict)] if isinstance(content, list) else []
    if unseen := [kind for kind in kinds if kind in UNSEEN]:
        raise InputError(
            f"message {number} has a part of type {unseen[0]!r}, which models of text do not see: remove it"
        )


def answer_of(value: Any) -> Answer:
    """One turn's text, or messages of which the first and the last are the assistant's. InputError: neither."""
    value = messages_or_text(value)
    if isinstance(value, str):
        return value.strip()
    if value is None:
        raise UnusableRowError("an answer is null: write one, or remove the row", "with an answer that is null")
    if not isinstance(value, list):
        raise InputError(f"an answer is {shortened(value)}, neither a string nor messages: make it one of them")
    return as_answer(messages_in(value))


def as_answer(answer: Sequence[Message]) -> Answer:
    """An answer's messages, or of one that is nothing but its text, that."""
    if answer[0]["role"] != "assistant" or answer[-1]["role"] != "assistant":
        raise UnusableRowError(
            "an answer does not begin and end with a turn of the assistant: let it",
            "whose answer is not the assistant's",
        )
    if any(message.get("weight") == 0 for message in answer if message["role"] == "assistant"):
        raise UnusableRowError(
            "the last answer has the weight 0 (train, training or loss: false), by which it is not to be learned: end the "
            "conversation before it, or drop unusable rows",
            "whose last answer has the weight 0",
        )
    text = answer[0]["content"]
    bare = len(answer) == 1 and answer[0].keys() == {"role", "content"} and isinstance(text, str)
    return text if bare and text == text.strip() else Messages(answer)


def has_words(answer: Answer) -> bool:
    """True where an answer, or the last turn of one, says or calls anything."""
    if isinstance(answer, str):
        return is_seen(answer)
    return _says(answer[-1])


def is_seen(text: str) -> bool:
    """Whether a text holds more than white space and characters that nobody sees, such as U+200B."""
    return any(not c.isspace() and unicodedata.category(c) not in ("Cf", "Cc") for c in text)


def _says(message: Message) -> bool:
    content = message["content"]
    if isinstance(content, list):
        return any(part if isinstance(part, str) else part.get("text", True) for part in content)
    return bool(is_seen(content or "") or message.get("tool_calls") or message.get("function_call"))


def begun(system: str, history: list[Message], prompt: Conversation) -> Conversation:
    """The prompt after a system message and earlier turns, as the text that it is or as messages. InputError: two systems."""
    if isinstance(prompt, str):
        text = prompt_text(prompt)
        if not (system or history):
            return text
        if not text.startswith(HUMAN):
            if text.startswith(system) and not history:
                return text
            raise InputError("there are two system messages, in the prompt and beside it: keep one")
        return render([*([{"role": "system", "content": system}] if system else []), *history]) + text
    opens = prompt[0]["role"] in ("system", "developer")
    if opens and history:
        raise InputError("there is a 'history' beside a prompt that opens with a system message: keep one of them")
    if opens and system and str(prompt[0]["content"]).strip() != system:
        raise InputError("there are two system messages, in the conversation and beside it: keep one")
    first = [{"role": "system", "content": system}] if system and not opens else []
    return Messages([*first, *history, *prompt])


def with_words(prompt: Conversation) -> Conversation:
    """The prompt. UnusableRowError: messages in which nobody says anything, or the assistant has the last word."""
    if isinstance(prompt, Messages) and ends_in_answer(prompt):
        raise UnusableRowError(
            "the prompt ends in an answer: end it with a turn of the user", "whose prompt ends in an answer"
        )
    if isinstance(prompt, Messages) and not any(_says(message) for message in prompt if message["role"] != "system"):
        raise UnusableRowError("the prompt is empty: give it some text", "whose prompt is empty")
    return prompt


def is_whole(value: Any) -> bool:
    """True for a conversation with its prompt, False for an answer alone."""
    if isinstance(value, str):
        return value.startswith(HUMAN)
    return isinstance(value, list) and messages_in(value)[0]["role"] != "assistant"


def quotes_turns(text: str) -> bool:
    """Whether a text has the markers of turns without being a transcript, which begins with the user's or ends where the
    assistant's begins: a question about a log, say, which is one turn."""
    return is_transcript(text) and not text.startswith(HUMAN) and not text.rstrip().endswith(ASSISTANT)


def ends_in_answer(conversation: Conversation) -> bool:
    """True where the last turn is the assistant's, be it empty."""
    if isinstance(conversation, str):
        return conversation.rfind(ASSISTANT) > conversation.rfind(HUMAN)
    return conversation[-1]["role"] == "assistant"


def split_last(conversation: Conversation) -> tuple[Conversation, Answer]:
    """A whole conversation before its last turn, and that."""
    if isinstance(conversation, str):
        return split_last_answer(conversation)
    if conversation[-1]["role"] != "assistant":
        raise UnusableRowError(
            "the conversation does not end in a turn of the assistant: add the answer",
            "that do not end in a turn of the assistant",
        )
    if len(conversation) == 1:
        raise UnusableRowError("the conversation has no turn before the answer: add the prompt", "without a prompt")
    return Messages(conversation[:-1]), as_answer(conversation[-1:])


def split_shared(first: Conversation, second: Conversation) -> tuple[Conversation, Answer, Answer]:
    """What two conversations share up to the last turn of the assistant's that both begin there, and how each goes on."""
    if isinstance(first, str) and isinstance(second, str):
        prompt, *answers = split_shared_prompt(first, second)
        chosen, rejected = (Messages(parse_transcript(ASSISTANT + a)) if is_transcript(a) else a for a in answers)
        return prompt, chosen, rejected
    if isinstance(first, str) or isinstance(second, str):
        raise InputError("one of 'chosen' and 'rejected' is a transcript, the other messages: make them alike")
    split_last(first)
    split_last(second)
    cut = next((i for i, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]), None)
    cut = min(len(first), len(second)) - 1 if cut is None else cut
    while cut and not (first[cut]["role"] == second[cut]["role"] == "assistant"):
        cut -= 1
    if not cut:
        raise UnusableRowError(
            "the two conversations share no turn that could be their prompt: give both the same prompt",
            "whose two conversations share no prompt",
        )
    return Messages(first[:cut]), as_answer(first[cut:]), as_answer(second[cut:])
