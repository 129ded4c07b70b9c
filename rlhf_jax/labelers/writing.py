"""What labelers write: answers to prompts, and prompts themselves (Ouyang et al. 2022, §3.2 and App. A.1)."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.data import Conversation, Demonstration, Prompt, located, read_prompts, read_rows
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.labelers.judgement import checked_prompt, checked_seconds, checked_text, require_one, write_rows

# What is to be written, and what its labelers read above the field.
WRITINGS = {
    "demonstration": "The answer to a prompt, as you would like a model to give it",
    "plain": "An arbitrary task, while all tasks together are diverse",
    "few_shot": "An instruction, and several pairs of a query and its response to that instruction",
    "user_based": "A prompt for one of the use cases that users state",
}
MOST_EXAMPLES = 64


class Assignment(NamedTuple):
    """Something that somebody is to write."""

    id: str
    kind: str  # a name in WRITINGS
    about: Conversation = ""  # of a demonstration the prompt; else a text to go by, such as the use case
    user: str = ""  # who typed the prompt
    source: str = ""

    def written(self, labeler: str, **said: Any) -> "Written":
        """What a labeler wrote, with the fields that are said. InputError: see `checked_written`."""
        about = {"kind": self.kind, "about": self.about, "user": self.user, "source": self.source}
        return checked_written(Written(task=self.id, labeler=labeler, **about, **said))


class Written(NamedTuple):
    """What somebody wrote. "" and (): see `skipped`."""

    task: str
    kind: str
    about: Conversation
    labeler: str
    text: str = ""  # the answer, the prompt, or the instruction
    examples: tuple[tuple[str, str], ...] = ()  # of a few-shot prompt: queries and their responses
    skipped: str = ""  # why nothing was written
    group: str = ""
    user: str = ""
    source: str = ""
    seconds: float | None = None
    session: str = ""
    time: float | None = None
    id: str = ""


def checked_assignment(given: Assignment) -> Assignment:
    """The assignment, of a demonstration with its prompt as readers have it. InputError, one sentence: no id, an unknown
    kind, an empty prompt."""
    if not checked_text(given.id, "the assignment's id").strip():
        raise InputError("the assignment has no id: give it one")
    if given.kind not in WRITINGS:
        raise InputError(f"{shortened(given.kind)} is nothing that is written: there are {', '.join(WRITINGS)}")
    demonstrates = given.kind == "demonstration"
    about = checked_prompt(given.about) if demonstrates else checked_text(given.about, "what it is about")
    user, source = checked_text(given.user, "user"), checked_text(given.source, "source")
    return Assignment(given.id, given.kind, about, user, source)


def read_assignments(source: str, kind: str) -> list[Assignment]:
    """What is to be written about the rows of `source` (see `read_rows`): of demonstrations their prompts, as `read_prompts`
    has them; of other kinds a row {about, user}. Equal rows are as many assignments, and a file has the same ids each time.

    InputError, with the line: see `checked_assignment`; a row without 'about', or with another key."""
    found, seen = [], Counter()
    for about, user, where in _about(source, kind):
        with located(where):
            name = json.dumps([kind, about, user], default=str)
            seen[name] += 1
            id = hashlib.sha256(f"{name}{seen[name]}".encode()).hexdigest()[:24]
            found.append(checked_assignment(Assignment(id, kind, about, user, Path(source).name)))
    return found


def _about(source: str, kind: str) -> Iterator[tuple[Any, str, str]]:
    if kind == "demonstration":
        for prompt in read_prompts(source):
            yield prompt.conversation, prompt.user, source
        return
    for row in read_rows(source):
        unknown = [key for key in row.fields if key not in ("about", "user")]
        if unknown or "about" not in row.fields:
            wrong = f"the key {shortened(unknown[0])}" if unknown else "no 'about'"
            raise InputError(f"{row.where}: there is {wrong}: a row is about a text, and may have a user")
        yield row.fields["about"], row.fields.get("user") or "", row.where


def checked_written(given: Written) -> Written:
    """What was written, its texts without white space around them.

    InputError, one sentence: what `checked_assignment` refuses; nobody's name; a text and a reason to skip, or neither;
    of a few-shot prompt fewer than two examples, or an empty query or response; of anything else examples; times that are no
    finite numbers from 0 on; half a character.
    """
    about = checked_assignment(Assignment(given.task, given.kind, given.about, given.user, given.source))
    names = ("labeler", "text", "skipped", "group", "session", "id")
    texts = {name: checked_text(getattr(given, name), name).strip() for name in names}
    if not texts["labeler"]:
        raise InputError("nobody is named who wrote it: give the labeler's name")
    examples = _examples(given.examples)
    require_one(bool(texts["text"]), bool(texts["skipped"]), "the submission", "a text")
    if given.kind != "few_shot" and examples:
        raise InputError(f"a {given.kind} has no examples: leave them out")
    if given.kind == "few_shot" and texts["text"] and not 2 <= len(examples) <= MOST_EXAMPLES:
        raise InputError(f"a few-shot prompt has {len(examples)} examples: give it 2 to {MOST_EXAMPLES}")
    return Written(
        about.id,
        about.kind,
        about.about,
        examples=examples,
        user=about.user,
        source=about.source,
        seconds=checked_seconds(given.seconds, "seconds"),
        time=checked_seconds(given.time, "time"),
        **texts,
    )


def as_demonstrations(written: Sequence[Written]) -> list[Demonstration]:
    """What supervised fine-tuning learns from: answers, and of a few-shot prompt with K examples K demonstrations, each a
    query after the other K − 1 as context (App. A.1)."""
    found = []
    for one in written:
        if one.kind == "demonstration" and one.text:
            found.append(Demonstration(one.about, one.text, one.user))
        for number, (query, response) in enumerate(one.examples):
            others = [pair for other, pair in enumerate(one.examples) if other != number]
            shown = "".join(f"\n\nQuery: {q}\nResponse: {r}" for q, r in others)
            asked = f"{one.text}{shown}\n\nQuery: {query}\nResponse:"
            found.append(Demonstration(checked_prompt(asked), response, one.labeler))
    return found


def as_prompts(written: Sequence[Written]) -> list[Prompt]:
    """The plain and user-based prompts, of which the labeler is the user: splits keep all of theirs on one side."""
    alone = [one for one in written if one.kind in ("plain", "user_based") and one.text]
    return [Prompt(checked_prompt(one.text), user=one.labeler) for one in alone]


def write_demonstrations(path: Path | str, demonstrations: Sequence[Demonstration]) -> None:
    """Writes rows {prompt, completion, user} to a .jsonl file, in one move; `read_demonstrations` reads them."""
    write_rows(
        Path(path), [{"prompt": one.prompt, "completion": one.answer, "user": one.user} for one in demonstrations]
    )


def write_prompts(path: Path | str, prompts: Sequence[Prompt]) -> None:
    """Writes rows {prompt, user} to a .jsonl file, in one move; `read_prompts` reads them."""
    write_rows(Path(path), [{"prompt": one.conversation, "user": one.user} for one in prompts])


def _examples(given: Any) -> tuple[tuple[str, str], ...]:
    if isinstance(given, (str, Mapping)) or not isinstance(given, Sequence):
        raise InputError(f"the examples are {shortened(given)}: give pairs of a query and its response")
    for number, pair in enumerate(given, 1):
        if isinstance(pair, (str, Mapping)) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise InputError(f"example {number} is {shortened(pair)}: give a query and its response")
        if not all(checked_text(text, f"example {number}").strip() for text in pair):
            raise InputError(f"example {number} has an empty query or response: write both")
    return tuple((query.strip(), response.strip()) for query, response in given)
