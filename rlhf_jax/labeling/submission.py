"""What a labeler's browser is sent of a task, and what it sends back, into what the store keeps.

A browser sees completions in the order in which the labeler was given them, and knows nothing of their models, of the
task's id, of where it comes from, or of whether it screens.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rlhf_jax.data import Conversation, Messages, messages_of
from rlhf_jax.data.dialogue import words_of
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.labelers import COMPARISON, FLAGS, WRITINGS, Comparison, Judgement, Lease, Store, Written

ID = re.compile(r"[A-Za-z0-9_-]{16,64}")
DAY = 86400.0
ABOUT = {"id", "task", "session", "seconds"}
OF_A_COMPARISON, OF_A_WRITING = ABOUT | {"ranks", "ratings", "flags"}, ABOUT | {"text", "examples"}


def given_task(lease: Lease) -> dict[str, Any]:
    """What the browser draws: key, kind, the conversation as [{role, text}], the answers' texts or what is to be written."""
    task = lease.task
    if isinstance(task, Comparison):
        answers = [task.completions[i].text for i in lease.order]
        return {"key": lease.key, "kind": COMPARISON, "conversation": turns(task.prompt), "answers": answers}
    demonstrates = task.kind == "demonstration"
    about = {"conversation": turns(task.about)} if demonstrates else {"conversation": [], "about": task.about}
    return {"key": lease.key, "kind": task.kind, "ask": WRITINGS[task.kind], **about}


def turns(prompt: Conversation) -> list[dict[str, str]]:
    """The messages of a prompt, as people read them: calls of tools as their JSON."""
    found = []
    for message in messages_of(prompt if isinstance(prompt, str) else Messages(prompt)):
        calls = [json.dumps(call, ensure_ascii=False) for call in message.get("tool_calls") or ()]
        found.append(
            {"role": str(message["role"]), "text": "\n".join(part for part in (words_of(message), *calls) if part)}
        )
    return found


def submission(store: Store, labeler: str, given: Mapping[str, Any]) -> Judgement | Written:
    """What a browser says of a task that the labeler was given, as `Store.submit` takes it.

    given: {id, task, session, seconds} with {ranks, ratings, flags}, one of each answer as it was shown; or with {text} and,
    of a few-shot prompt, {examples}; or with {skipped}. Whose it is, the order and the time are not the browser's to say.

    InputError: a key that is missing or unknown, an answer that is not rated, flagged and ranked, or see
    `checked_judgement` and `checked_written`. RefusedError: they were given no such task.
    """
    ids = {name: _id(given, name) for name in ("id", "session")}
    lease = store.given(labeler, _of(given, "task", str))
    keys = OF_A_COMPARISON if isinstance(lease.task, Comparison) else OF_A_WRITING
    keys = ABOUT | {"skipped"} if "skipped" in given else keys
    if lease.task[1] != "few_shot":
        keys = keys - {"examples"}
    for key in keys - given.keys():
        raise InputError(f"the key {key!r} is missing: send it")
    for key in given.keys() - keys:
        raise InputError(f"the key {shortened(key)} is unknown: leave it out")
    seconds = given["seconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds <= DAY:
        raise InputError(f"seconds is {shortened(seconds)}: send a number from 0 to {DAY:.0f}")
    said = {key: given[key] for key in keys - ABOUT} | ids | {"seconds": seconds}
    if not isinstance(lease.task, Comparison):
        return lease.task.written(labeler, **said)
    if "skipped" in said:
        return lease.task.judged(labeler, order=lease.order, **said)
    return _judged(lease.task, lease.order, labeler, said)


def _judged(task: Comparison, order: Sequence[int], labeler: str, said: Mapping[str, Any]) -> Judgement:
    as_shown = task._replace(completions=tuple(task.completions[i] for i in order))
    try:
        judged = as_shown.judged(labeler, **said)
    except InputError as error:  # it speaks of answers as the page does
        raise InputError(re.sub(r"\bcompletion (\d+)", lambda m: f"answer {letter(int(m[1]))}", str(error))) from error
    for name in ("ranks", "ratings", "flags"):
        if len(getattr(judged, name)) < len(order):
            raise InputError(f"there are no {name}: give each answer its own")
    for number, flags in enumerate(judged.flags, 1):
        if flags.keys() != FLAGS.keys():
            raise InputError(
                f"answer {letter(number)} has {len(flags)} of the {len(FLAGS)} flags: give each, true or false"
            )
    places = {name: _by_task(getattr(judged, name), order) for name in ("ranks", "ratings", "flags")}
    return judged._replace(completions=task.completions, order=tuple(order), **places)


def letter(number: int) -> str:
    """What the page calls an answer, from 1: A to Z, AA, AB, …"""
    rest, last = divmod(number - 1, 26)
    return (letter(rest) if rest else "") + chr(ord("A") + last)


def _by_task(shown: Sequence[Any], order: Sequence[int]) -> tuple:
    """What was said of the answers as they were shown, in the task's order."""
    found = dict(zip(order, shown, strict=True))
    return tuple(found[i] for i in range(len(order)))


def _id(given: Mapping[str, Any], name: str) -> str:
    value = _of(given, name, str)
    if not ID.fullmatch(value):
        raise InputError(f"the {name} is {shortened(value)}: send 16 to 64 letters and digits")
    return value


def _of(given: Mapping[str, Any], name: str, kind: type) -> Any:
    if not isinstance(given.get(name), kind):
        raise InputError(f"{name} is {shortened(given.get(name))}: send a text")
    return given[name]
