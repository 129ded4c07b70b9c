"""The layouts that data sets are published in: each row becomes one example, whatever its columns are called.

Demonstrations, rankings and prompts are all taken from that example, so that they know a row by one and the same prompt.
"""

import itertools
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.data.dialogue import (
    HUMAN,
    KWARGS,
    Answer,
    Conversation,
    Message,
    Messages,
    UnusableRowError,
    is_transcript,
    messages_of,
    parse_transcript,
    prompt_text,
    words_of,
)
from rlhf_jax.data.judgements import is_bad, is_harmless, is_number, is_truth, is_worse, judges, rates, words_in
from rlhf_jax.data.paths import ABSENT, all_of, at, conditions, names_in, number_of, required, truth_of
from rlhf_jax.data.sources import Row, name_of
from rlhf_jax.data.turns import (
    answer_of,
    begun,
    conversation_of,
    ends_in_answer,
    is_seen,
    is_whole,
    json_of,
    messages_in,
    messages_or_text,
    plain,
    quotes_turns,
    split_last,
    split_shared,
    with_words,
    without_nulls,
)
from rlhf_jax.errors import InputError, shortened

CONVERSATIONS = ("messages", "conversations", "conversation")
QUESTIONS = ("instruction", "question", "query", "problem")
SUPPLEMENTS = ("input", "context")  # what a question is about, and part of the prompt
ANSWERS = ("completion", "answer", "response", "output", "solution")
WRITTEN = (
    "completion",
    "response",
    "output",
    "completions",
    "responses",
)  # by whom answers; "answer" may be the right one
SEVERAL = ("completions", "answers", "responses")
TEXTS = ("text", "response", "answer", "content", "output")  # of one of several answers
SCORES = (
    "fine-grained_score",
    "overall_score",
    "score",
    "rating",
)  # of one of several answers, the largest is the best
SYSTEMS = ("system", "system_prompt")
LABELS = ("label", "kto_tag")  # of KTO, TRL's and LLaMA-Factory's
CHOICES = re.compile(  # columns of what a question lets choose: MMLU's and ARC's, HellaSwag's, MedMCQA's
    r"(?i:choices|options|endings|alternatives|distractors|(?:choice|option|ending|distractor)_?[a-z\d]|op[a-e])|[A-E]"
)
FOR_TEMPLATE = {
    "tools": "a list of JSON schemas",
    "documents": "a list of objects with title and text",
    KWARGS: "an object of names and values",
}
SPEAKER, ANSWERERS = ("role", "from", "speaker"), {"assistant", "gpt", "chatgpt", "bot", "chatbot", "model"}
PLAIN = re.compile(r"[\w-]+")  # what a condition takes as it stands
GUANACO = re.compile(r"### Human:.*### Assistant:\s*\S", re.DOTALL)
UNSEEN = ("image", "images", "video", "videos", "audio", "audios")  # columns of which models of text know nothing
CELLS = (bool, int, float, Decimal, str)  # what a judgement is written in
ANSWERS_ARE = (
    "messages",
    "answer",
    "answers",
    "chosen",
)  # names of a layout, of which one says what a row's answers are
CONTRADICTIONS = (  # names of which one would not be looked at
    *(("prompt", "messages"), ("ranks", "scores"), ("best", "ranks"), ("best", "scores")),
    *(("label", "answers"), ("label", "chosen"), ("label", "scores")),
)
TIES = {"tie", "tied", "draw", "equal"}  # words of what is said of a pair
FLIPS = {
    "flip",
    "flipped",
    "swap",
    "swapped",
    "inverted",
    "reversed",
    "exchanged",
    "mislabeled",
    "mislabelled",
    "noisy",
}
PAIRS_RATED = ("rating", "ratings", "score", "scores", "reward", "rewards", "rank", "ranks")  # lists of two numbers
MARGINS = {"margin", "gap", "delta", "diff", "difference", "strength"}  # of chosen above rejected


@dataclass(frozen=True)
class Layout:
    """Where a row has what, for what is published under no known name. What is named is read from there and nowhere else.

    Names are dotted paths: "meta.author", "answers.0.text", and through lists "completions.response"; with commas between
    them where each of several answers has a column of its own.
    """

    prompt: str = ""  # a text, or messages; here and below "" is what the known layouts have
    messages: str = ""  # a whole conversation, whose last turn is the answer
    answer: str = ""  # the one answer
    answers: str = ""  # several answers, with ranks, scores or best
    chosen: str = ""  # the better of two answers, or conversations
    rejected: str = ""  # the worse
    ranks: str = ""  # of the answers, the smallest is the best
    scores: str = ""  # of the answers, the largest is the best; "-x" is x with the other sign
    best: str = ""  # which of the answers is the best, the first being 0
    label: str = ""  # true where the one answer was liked
    system: str = ""  # the system message
    history: str = ""  # the turns before the prompt, in pairs or messages
    tools: str = ""  # that the chat template is to show: a list of JSON schemas, or its JSON
    documents: str = ""  # that it is to show: a list of objects, or its JSON
    category: str = ""  # of the prompt
    user: str = ""  # who typed the prompt
    labeler: str = ""  # who compared the answers
    split: str = ""  # the part that a row belongs to: train, valid (validation, dev, val) or test
    drop: str = ""  # rows to leave out, as "language != en or score < 3"; and binds more than or
    ignore: str = ""  # columns that say nothing of prompt and answers, as "label, rating"

    def check(self) -> None:
        """InputError: two names for one thing, one that needs another, a condition that cannot be read."""
        given = {name for name in self.__dataclass_fields__ if getattr(self, name)}
        for one, other in (*CONTRADICTIONS, *itertools.combinations(ANSWERS_ARE, 2)):
            if {one, other} <= given:
                raise InputError(f"the layout names both {one!r} and {other!r}: name one of them")
        for name, needed in (("rejected", "chosen"), ("ranks", "answers"), ("best", "answers")):
            if name in given and needed not in given:
                raise InputError(f"the layout names {name!r} and no {needed!r}: name both")
        if "scores" in given and not given & {"answer", "answers"}:
            raise InputError("the layout names 'scores' and neither 'answer' nor 'answers': name one of them")
        conditions(self.drop)

    def says_nothing(self) -> set[str]:
        """The columns that are not looked at for what they may say of the answers, or that rows are dropped by."""
        return {*names_in(self.ignore), *(path for each in conditions(self.drop) for path, _, _ in each)}


# Answers, their ranks, and why nothing can be learned from them.
Answered = tuple[tuple[Answer, ...], tuple[int, ...], InputError | None]


class Example(NamedTuple):
    """What a row says."""

    prompt: Conversation
    answers: tuple[Answer, ...]
    ranks: tuple[int, ...]  # of the answers, 1 is best, equal ranks are ties; () where nothing compares them
    liked: bool | None  # what a label says of the one answer
    score: float | None  # or a score that the layout names
    problem: InputError | None  # why nothing can be learned from the answers, or from their absence
    category: str
    user: str
    labeler: str
    columns: dict[str, Any]  # all that the prompt was not made of, as JSON has it
    unread: tuple[str, ...]  # the columns that neither the prompt nor the answers, nor what is said of them, come from


def example(row: Row, layout: Layout = Layout()) -> Example:
    """The row as prompt and answers.

    InputError: a layout that is neither known nor named, or that another column makes unclear; broken dialogue.
    UnusableRowError: the prompt is empty or ends in an answer, a message has no content, half a character.
    """
    try:
        json.dumps(row.fields, ensure_ascii=False, default=str).encode()
        return _Reader(row, layout).example()
    except UnicodeEncodeError:
        raise UnusableRowError(
            "it holds half a character (a lone surrogate): remove it", "with half a character"
        ) from None
    except RecursionError:
        raise InputError("it holds lists or objects inside each other a thousand times: flatten them") from None


class _Reader:
    """One row, what the layout says of it, and which of its columns have become the prompt."""

    def __init__(self, row: Row, layout: Layout):
        self.row, self.layout = row, layout
        self.fields = {key: value for key, value in row.fields.items() if value is not None}
        self.used: set[str] = set()
        self.answered = ""  # the column that the answers are read from
        asked = self.fields.get("input")
        if (
            isinstance(asked, dict)
            and "messages" in asked
            and {"preferred_output", "non_preferred_output"} <= self.fields.keys()
            and not any(getattr(layout, name) for name in ("prompt", *ANSWERS_ARE))
        ):  # OpenAI's preferences
            beside = layout.says_nothing() & {"tools", "input.tools"}
            self.layout = replace(
                layout,
                prompt="input.messages",
                chosen="preferred_output",
                rejected="non_preferred_output",
                tools=layout.tools or ("" if beside or not asked.get("tools") else "input.tools"),
            )

    def example(self) -> Example:
        for key in UNSEEN:
            if self.fields.get(key, "") not in ("", []) and key not in self.layout.says_nothing():
                raise InputError(
                    f"there is {key!r} beside the texts, which models of text do not see: leave such rows out, or say that "
                    f"the texts do without, ignore = {key!r} in [files.layout]"
                )
        prompt, answers, ranks, problem = self.content()
        if beside := self.for_template():
            first, *rest = messages_of(prompt)
            if KWARGS in first:
                raise InputError(
                    f"there is {min(beside)!r} beside the {KWARGS!r} of the first message: keep one of them"
                )
            prompt = Messages([{**first, KWARGS: beside}, *rest])
        if problem is None:
            problem = self.doubt(len(answers))
        if not any(getattr(self.layout, name) for name in ("prompt", *ANSWERS_ARE)):
            problem = self.said_otherwise(prompt, answers, problem)
        liked = score = None
        try:
            if problem is None:
                liked, score = self.verdict(answers, ranks)
        except InputError as error:  # of which a prompt knows nothing
            problem = error
        category, user, labeler = (self.name(name) for name in ("category", "user", "labeler"))
        columns = {key: plain(value) for key, value in self.row.fields.items() if key not in self.used}
        return Example(
            prompt, answers, ranks, liked, score, problem, category, user, labeler, columns, self.unread(len(answers))
        )

    def content(self) -> tuple[Conversation, tuple[Answer, ...], tuple[int, ...], InputError | None]:
        """Prompt, answers, their ranks, and what is missing."""
        named = {name for name in ANSWERS_ARE if getattr(self.layout, name)}
        # What the layout names is read from there: then the names that are known mean nothing.
        known = {} if named else self.fields
        several, conversation = (next((key for key in keys if key in known), "") for keys in (SEVERAL, CONVERSATIONS))
        single = [key for key in ANSWERS if key in known]
        if "chosen" in named or known.get("chosen", []) != []:
            return self.compared()
        beside = (single or several) and "prompt" in self.fields
        if "messages" in named or (conversation and not (beside or self.layout.prompt)):
            return self.conversation(conversation)
        prompt = self.prompt()
        if "answers" in named or (several and not single):
            return prompt, *self.tried(lambda: self.several(several))
        return prompt, *self.tried(lambda: self.single(single))

    def single(self, keys: list[str]) -> Answered:
        """Of the one answer that the layout names, or that there is under the known names."""
        if self.layout.answer:
            return (answer_of(required(self.row.fields, self.layout.answer)),), (), None
        if len(keys) > 1:
            raise InputError(
                f"there are two answers, {keys[0]!r} and {keys[1]!r}: keep one, or name it, answer = {keys[0]!r} in "
                "[files.layout]"
            )
        if not keys and "user" in self.used:
            keys = ["assistant"]
        if not keys:
            raise UnusableRowError(
                f"no answer (found: {', '.join(self.fields)}): give prompt and completion, messages, or chosen, for a "
                "ranking chosen and rejected, or prompt and completions, or name their columns in [files.layout], as in "
                "answers = 'a, b' and best = 'c' (or ranks, or scores)",
                "without an answer",
            )
        self.answered = key = keys[0]
        value = self.fields[key]
        if isinstance(value, list) and value and all(isinstance(text, str) for text in value):
            raise InputError(
                f"{key!r} is a list of texts: write the one answer as a string; or, of several, say which is better, as in "
                f"answers = {key!r} and scores = 'scores' (or ranks, or best) in [files.layout]"
            )
        return (answer_of(value),), (), None

    def tried(self, answers: Callable[[], Answered]) -> Answered:
        """The answers, or what is wrong with them, of which a prompt that stands beside them knows nothing."""
        try:
            return answers()
        except InputError as error:
            return (), (), error

    # The prompt.

    def take(self, name: str, known: Sequence[str]) -> Any:
        """What stands where the layout says, or else under the first of the known names; None: nothing."""
        path = getattr(self.layout, name, "")
        key = path or next((key for key in known if key in self.fields and key not in self.used), "")
        if not key:
            return None
        self.used.add(key)
        found = at(self.fields, key)
        return None if found is ABSENT else found

    def prompt(self) -> Conversation:
        """The prompt of a row that has it beside its answers."""
        asked = conversation_of(self.prompt_column())
        texts = json_of(asked)
        if isinstance(texts, list) and texts and all(isinstance(text, str) for text in texts):
            raise UnusableRowError(
                f"the prompt is a list of texts written as JSON, {shortened(asked)}: write the text itself, or messages "
                "where there are several turns",
                "whose prompt is a list of texts written as JSON",
            )
        if isinstance(asked, str) and not is_seen(asked):
            raise UnusableRowError("the prompt is empty: give it some text", "whose prompt is empty")
        self.nothing_to_choose(asked)
        self.asked_by_user(asked)
        if isinstance(asked, str) and quotes_turns(asked):
            asked = Messages([{"role": "user", "content": asked}])
        return with_words(begun(self.system, self.history, asked))

    def asked_by_user(self, asked: Conversation) -> None:
        """InputError: another column says that the assistant wrote it. UnusableRowError: it holds turns, answers among them,
        that are marked as in OpenAssistant's Guanaco."""
        for key in SPEAKER if isinstance(asked, str) else ():
            said = self.fields.get(key)
            if key not in self.not_judging and isinstance(said, str) and said.strip().casefold() in ANSWERERS:
                raise InputError(
                    f"there is {key!r} beside the prompt, and it is {said!r}, who answers: drop such rows in [files.layout], "
                    f"drop = '{key} == {said.strip()}', or read on without it, ignore = {key!r}"
                )
        if isinstance(asked, str) and GUANACO.search(asked):
            raise UnusableRowError(
                "the prompt holds turns of its own ('### Human:' and '### Assistant:'): write the conversation as messages",
                "whose prompt holds '### Human:' and '### Assistant:'",
            )

    def nothing_to_choose(self, asked: Conversation) -> None:
        """InputError: choices beside a question that does not hold them."""
        held = _typed(asked if isinstance(asked, str) else " ".join(map(words_of, asked)))
        beside = [key for key in self.fields if CHOICES.fullmatch(key) and key not in self.not_judging]
        for key in beside if not self.layout.prompt else ():
            if missing := [text for text in _leaves(json_of(self.fields[key])) if _typed(text) not in held]:
                raise InputError(
                    f"there is {key!r} beside the question, which does not hold {shortened(missing[0])}: write the choices "
                    f"into the prompt, or read on without them, ignore = {', '.join(beside)!r} in [files.layout]"
                )

    def prompt_column(self) -> Any:
        if self.layout.prompt:
            self.used.add(self.layout.prompt)
            return required(self.row.fields, self.layout.prompt)
        more = [key for key in SUPPLEMENTS if self.fields.get(key) not in (None, "")]
        if "prompt" in self.fields:
            if more:
                raise InputError(
                    f"there is {more[0]!r} beside 'prompt': name what the prompt is, prompt = 'prompt' in [files.layout]"
                )
            self.used.add("prompt")
            value = self.no_object("prompt")
            for key in QUESTIONS:
                if not self.within(key, conversation_of(value)):
                    raise InputError(
                        f"there are two prompts, 'prompt' and {key!r}: name one, prompt = 'prompt' in [files.layout], or, if "
                        "the first is the system message, that too, system = 'prompt'"
                    )
            return value
        keys = [key for key in QUESTIONS if key in self.fields]
        if len(keys) > 1:
            raise InputError(
                f"there are two prompts, {keys[0]!r} and {keys[1]!r}: name one, prompt = {keys[0]!r} in [files.layout]"
            )
        if not keys and {"user", "assistant"} <= self.fields.keys():
            if more:
                raise InputError(
                    f"there is {more[0]!r} beside 'user': name what the prompt is, prompt = 'user' in [files.layout]"
                )
            self.used.add("user")
            return self.fields["user"]
        keys += [key for key in ("input",) if not keys and key in self.fields]
        if not keys:
            absent = ("prompt", *QUESTIONS, "input", *CONVERSATIONS, "chosen")
            if null := next((key for key in absent if key in self.row.fields and key not in self.fields), ""):
                raise UnusableRowError(f"{null!r} is null: give it a value", f"whose {null!r} is null")
            answer = next((key for key in (*ANSWERS, *SEVERAL) if key in self.fields), None)
            if answer:
                raise InputError(f"there is {answer!r} but no 'prompt': add it, or name its column in [files.layout]")
            found = ", ".join(self.fields) or "nothing"
            raise InputError(
                f"no prompt (found: {found}): give prompt, messages, or chosen, or name in [files.layout] which of these the "
                "prompt is, or messages"
            )
        parts = [self.fields[key] for key in dict.fromkeys([*keys, *more])]
        self.used |= {*keys, *more, *(key for key in SUPPLEMENTS if key in self.fields)}
        if len(parts) == 1:
            return self.no_object(keys[0])
        if not all(isinstance(part, str) for part in parts):
            raise InputError(
                f"{keys[0]!r} and {more[0]!r} are no two texts: name one, prompt = {keys[0]!r} in [files.layout]"
            )
        return "\n\n".join(part.strip() for part in parts if part.strip())

    def within(self, key: str, conversation: Conversation) -> bool:
        """Whether a conversation's systems, its first or its last turn of the user hold the texts of a column, which then
        says nothing more. So they do where there is no such column, or where it is ignored."""
        value = messages_or_text(self.fields.get(key, ""))
        if value in ("", []) or key in self.layout.says_nothing():
            return True
        if isinstance(conversation, str) and not is_transcript(conversation):
            conversation = Messages([{"role": "user", "content": conversation}])
        if isinstance(value, str) and isinstance(conversation, str) and conversation.strip().startswith(value.strip()):
            return True
        held = list(parse_transcript(conversation) if isinstance(conversation, str) else conversation)
        asked = [words_of(message) for message in held if message["role"] == "user"]
        there = [*asked[:1], *asked[-1:], *(words_of(m) for m in held if m["role"] in ("system", "developer"))]
        if isinstance(value, str) and is_transcript(value):
            value = parse_transcript(value)
        if isinstance(value, list):
            texts = [words_of(message) for message in messages_in(value) if message["role"] != "assistant"]
            return {_typed(text) for text in texts} <= {_typed(words_of(message)) for message in held}
        return isinstance(value, str) and any(_typed(value) in _typed(text) for text in there)

    def nothing_beside(self, conversation: Conversation, names: str, keys: Sequence[str]) -> None:
        """InputError: a column that would be of a prompt, and a conversation that does not hold it."""
        for key in keys:
            if not self.within(key, conversation):
                raise InputError(
                    f"there is {key!r} beside a whole conversation, which does not hold it: to read on without it say "
                    f"ignore = {key!r} in [files.layout], or name there what is the prompt, prompt = {key!r}, or what the "
                    f"conversation, {names}"
                )

    def said_otherwise(
        self, prompt: Conversation, answers: tuple[Answer, ...], problem: InputError | None
    ) -> InputError | None:
        """The problem of answers beside which other columns have other ones. InputError: another prompt is beside it."""
        unread = [key for key in self.fields if key not in self.used | self.layout.says_nothing()]
        for key in (key for key in CONVERSATIONS if key in unread):
            value = messages_or_text(self.fields[key])
            if not value or not (isinstance(value, list) or (isinstance(value, str) and is_transcript(value))):
                continue
            own, turns = _said(prompt), _said(conversation_of(value))
            opened = own if turns[0][0] == own[0][0] else [turn for turn in own if turn[0] != "system"]
            if turns[: len(opened)] != opened:
                raise InputError(
                    f"there is {key!r} beside the prompt, which it does not begin with: name what the conversation is, "
                    f"messages = {key!r} in [files.layout], or read on without it, ignore = {key!r}"
                )
            more = turns[len(opened) :]
            if answers and more and more not in [_said(answer, "assistant") for answer in answers]:
                problem = problem or _another(key)
        given = {_said(answer, "assistant")[-1][1] for answer in answers}
        given |= {_typed(answer) for answer in answers if isinstance(answer, str)}
        for key in (key for key in WRITTEN if key in unread and answers and key != self.answered):
            texts = _texts(self.fields[key])
            if texts and not set(texts) & given:
                problem = problem or _another(key)
        return problem

    def no_object(self, key: str) -> Any:
        """What the column holds. InputError: an object that is no message."""
        value = self.fields[key]
        if isinstance(value, dict) and "content" not in value and not {"from", "value"} <= value.keys():
            texts = {name: len(text) for name, text in value.items() if isinstance(text, str)}
            inner = max(texts, key=lambda name: texts[name], default="text")
            raise InputError(
                f"{key!r} holds an object: name the text in it, as in prompt = '{key}.{inner}' in [files.layout]"
            )
        return value

    @cached_property
    def system(self) -> str:
        value = self.take("system", SYSTEMS)
        if value is not None and not isinstance(value, str):
            raise InputError(f"the system message is {shortened(value)}: make it a string, or name its column's place")
        return (value or "").strip()

    @cached_property
    def history(self) -> list[Message]:
        value = self.take("history", ("history",))
        if value in (None, "", []):
            return []
        if isinstance(value, list) and all(isinstance(turn, list) and len(turn) == 2 for turn in value):
            value = [words for turn in value for words in turn]
        elif not (isinstance(value, list) and all(isinstance(turn, dict) for turn in value)):
            raise InputError(
                f"the history is {shortened(value)}: make it pairs of a question and its answer, or messages; or, if it "
                "is the prompt itself, say prompt = 'history' in [files.layout]"
            )
        return list(messages_in(value))

    def for_template(self) -> dict[str, Any]:
        """What the chat template is given beside the messages, by its names: TRL's columns, objects or their JSON. Nulls in
        objects are gone, which tables fill up with the keys of other rows."""
        found: dict[str, Any] = {}
        functions = json_of(self.fields.get("functions"))
        named = self.layout.tools or "functions" in self.layout.says_nothing()
        if not named and isinstance(functions, list) and any(isinstance(each, dict) for each in functions):
            raise InputError(
                "there are 'functions' beside the texts: say that the chat template is to show them, tools = 'functions' in "
                "[files.layout], or read on without them, ignore = 'functions'"
            )
        for name, kind in (("tools", list), ("documents", list), (KWARGS, dict)):
            given = self.take(name, () if name in self.layout.says_nothing() else (name,))
            value = json_of(given if isinstance(given, str) else without_nulls(plain(given)))
            value = [json_of(each) for each in value] if isinstance(value, list) else value
            if value in (None, "", [], {}):
                continue
            if not isinstance(value, kind) or (kind is list and not all(isinstance(each, dict) for each in value)):
                raise InputError(
                    f"{name!r} is {shortened(given)}, and the chat template is given {FOR_TEMPLATE[name]}: make it that, or "
                    f"say that it is something else, ignore = {name!r} in [files.layout]"
                )
            more = value if isinstance(value, dict) else {name: value}
            more = {key: inner for key, inner in more.items() if key not in FOR_TEMPLATE or inner not in (None, "", [])}
            if twice := found.keys() & more.keys():
                raise InputError(f"there is {min(twice)!r} in its own column and in {KWARGS!r}: keep one of them")
            found |= more
        return found

    # Whole conversations.

    def whole(self, value: Any) -> Conversation:
        """A whole conversation after the row's system message."""
        found = conversation_of(value)
        if self.history:
            raise InputError("there is a 'history' beside a whole conversation: keep one of them")
        if isinstance(found, Messages):
            return begun(self.system, [], found)
        if not self.system or found.startswith(self.system):
            return found
        if not found.startswith(HUMAN):
            raise InputError("there are two system messages, in the transcript and beside it: keep one")
        return self.system + found

    def conversation(self, key: str) -> tuple[Conversation, tuple[Answer, ...], tuple[int, ...], InputError | None]:
        path = self.layout.messages or key
        self.used |= {path, "prompt"}
        found = self.whole(required(self.row.fields, path))
        if isinstance(found, str) and not is_transcript(found):
            raise InputError(f"{path!r} holds {shortened(found)}, which is no conversation: give it turns")
        if not self.layout.messages:
            self.nothing_beside(found, f"messages = {path!r}", ("prompt", *QUESTIONS, *SUPPLEMENTS))
        if ends_in_answer(found):
            prompt, answer = split_last(found)
            return with_words(prompt), (answer,), (), None
        problem = UnusableRowError(
            f"the conversation ends in {shortened(found[-1] if isinstance(found, Messages) else found[-60:])} and not in a "
            "turn of the assistant: add the answer, or leave such rows out with unusable = 'drop'",
            "that do not end in a turn of the assistant",
        )
        return with_words(found if isinstance(found, Messages) else prompt_text(found)), (), (), problem

    def compared(self) -> tuple[Conversation, tuple[Answer, ...], tuple[int, ...], InputError | None]:
        """Of chosen and rejected, answers or whole conversations."""
        chosen = required(self.row.fields, self.layout.chosen or "chosen")
        path = self.layout.rejected if self.layout.chosen else "rejected"
        rejected = at(self.fields, path) if path else ABSENT
        rejected = None if rejected is ABSENT or rejected == [] else rejected
        has_prompt = self.layout.prompt or {"prompt", *QUESTIONS, "input"} & self.fields.keys()
        both = [messages_or_text(value) for value in (chosen, rejected) if value is not None]
        whole = [is_whole(value) for value in both]
        if any(whole) and not all(whole) and has_prompt:
            raise InputError("one of 'chosen' and 'rejected' is a conversation, the other an answer: make them alike")
        _, ranks, problem = self.tried(lambda: ((), self.pair_ranks(both), None))
        if has_prompt and not any(whole):
            return self.prompt(), *self.tried(lambda: (tuple(map(answer_of, both)), ranks, problem))
        turns = next((key for key in CONVERSATIONS if self.fields.get(key, []) != []), "")
        if turns and not any(whole) and not self.layout.chosen:  # LLaMA-Factory's: the turns before both
            self.used.add(turns)
            asked = self.whole(self.fields[turns])
            prompt = with_words(asked if isinstance(asked, Messages) else prompt_text(asked))
            return prompt, *self.tried(lambda: (tuple(map(answer_of, both)), ranks, problem))
        self.used |= {self.layout.chosen or "chosen", path}
        for value in both:
            if isinstance(value, str) and not is_transcript(value):
                raise InputError(
                    "there are answers and no prompt: give it, or name its column in [files.layout], as in "
                    "prompt = 'question' (a beginning that two texts share is none, where it ends nobody says: write "
                    '{"prompt": "The sky is", "chosen": "blue.", "rejected": "green."})'
                )
        both = self.with_prompt_column([self.whole(value) for value in both])
        if not self.layout.chosen:
            names = " and ".join(f"{name} = {name!r}" for name in ("chosen", "rejected")[: len(both)])
            keys = ("prompt", *QUESTIONS, *SUPPLEMENTS)
            self.nothing_beside(both[0], names, [key for key in keys if key != self.layout.prompt])
        if len(both) == 1:
            prompt, answer = split_last(both[0])
            return with_words(prompt), (answer,), (), problem
        prompt, *answers = split_shared(*both)
        return with_words(prompt), tuple(answers), ranks, problem

    def with_prompt_column(self, both: list[Conversation]) -> list[Conversation]:
        """The conversations as they are, with the system message of a prompt column of messages. Of a title beside them
        nothing is taken, nor of the first turn, which is theirs already. InputError: a prompt that does not begin them."""
        path = self.layout.prompt or "prompt"
        self.used.add(path)
        found = messages_or_text(at(self.fields, path))
        if not isinstance(found, list):
            return both
        given = messages_in(found)
        said = [message for message in given if message["role"] not in ("system", "developer")]
        for i, value in enumerate(both):
            own = value if isinstance(value, Messages) else parse_transcript(value)
            if [m for m in own if m["role"] not in ("system", "developer")][: len(said)] != said:
                raise InputError("the prompt is not how 'chosen' and 'rejected' begin: keep one of them")
            if len(given) > len(said) and own[0]["role"] not in ("system", "developer"):
                both[i] = Messages([*given[: len(given) - len(said)], *own])
        return both

    def pair_ranks(self, both: list[Any]) -> tuple[int, ...]:
        """The ranks of chosen and rejected, by the scores beside them, where there are any; () of one without the other.
        UnusableRowError: the rejected one is rated higher."""
        if len(both) < 2:
            return ()
        ignored, scores = self.layout.says_nothing(), []
        lower = {key.lower(): key for key in self.fields}
        for name in (name for name in lower if "chosen" in name and rates(lower[name])):
            keys = [lower[name], lower.get(name.replace("chosen", "rejected"), "")]
            if all(is_number(self.fields.get(each)) for each in keys) and ignored.isdisjoint(keys):
                scores.append((keys[0], [number_of(self.fields[each], each) for each in keys]))
        for name in PAIRS_RATED:
            rating = self.fields.get(name)
            if not isinstance(rating, list) or len(rating) != 2 or name in ignored:
                continue
            # As Distilabel has it: of the generations, which need not be in the order of chosen and rejected.
            numbers = [number_of(value, name) for value in rating]
            exchanged = both == (self.fields.get("generations") or both)[::-1]
            scores.append((name, numbers[::-1] if exchanged else numbers))
        for name, (better, worse) in scores:
            if (better > worse) if "rank" in name.lower() else (better < worse):
                raise UnusableRowError(
                    f"the rejected answer is rated higher ({worse:g}) than the chosen one ({better:g}): exchange them, or "
                    "say in [files.layout] which columns to ignore",
                    "whose rejected answer is rated higher than the chosen one",
                )
        said = {self.said_of_pair(key): key for key in self.fields if key not in self.not_judging}
        if "rejected" in said:
            raise UnusableRowError(
                f"{said['rejected']!r} is {shortened(self.fields[said['rejected']])}, by which the rejected answer is the "
                "better one: exchange them, or say in [files.layout] which columns to ignore",
                "whose rejected answer is said to be the better one",
            )
        tied = "tie" in said or (bool(scores) and all(better == worse for _, (better, worse) in scores))
        return (1, 1) if tied else (1, 2)

    # Several answers.

    def several(self, key: str) -> Answered:
        """Of the columns that the layout names, or of the list under `key`, of texts or of objects with ranks or scores."""
        c = self.layout
        if not c.answers:
            return self.listed(key)
        answers = tuple(answer_of(value) for value in all_of(self.row.fields, c.answers, "answers"))
        if c.best:
            best = number_of(required(self.row.fields, c.best), c.best)
            if best not in range(len(answers)):
                sentence = f"{c.best!r} says {best:g} and there are {len(answers)} answers: give 0 for the first"
                raise UnusableRowError(sentence, "that do not say which answer is the best")
            return answers, tuple(1 if i == best else 2 for i in range(len(answers))), None
        if c.ranks or c.scores:
            numbers = [
                number_of(value, c.ranks or c.scores)
                for value in all_of(self.row.fields, c.ranks or c.scores, "scores")
            ]
            if len(numbers) != len(answers):
                raise InputError(f"there are {len(answers)} answers and {len(numbers)} numbers: let each have one")
            return answers, ranked(numbers if c.ranks else [-number for number in numbers]), None
        return (
            answers,
            (),
            InputError("nothing says which answer is better: name ranks, scores or best in [files.layout]"),
        )

    def listed(self, key: str) -> Answered:
        values = self.fields[key]
        beside = next((name for name in ("ranks", "scores", "ratings") if name in self.fields), "")
        if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
            if not beside:
                sentence = f"{key!r} holds texts and nothing ranks them: name ranks, scores or best in [files.layout]"
                raise InputError(sentence)
            numbers = [number_of(value, beside) for value in all_of(self.row.fields, beside, beside)]
            if len(numbers) != len(values):
                return (
                    (),
                    (),
                    InputError(f"{key!r} has {len(values)} texts and {beside!r} {len(numbers)}: let them be as many"),
                )
            order = numbers if beside == "ranks" else [-number for number in numbers]
            return tuple(value.strip() for value in values), ranked(order), None
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise InputError(f"{key!r} is no list of objects: give each completion a text and a rank")
        reason = self.fields.get("skipped")
        if isinstance(reason, str) and reason.strip() and all(value.get("rank") is None for value in values):
            sentence = f"its labeler skipped it ({shortened(reason)}): remove the row, or drop unusable ones"
            return (), (), UnusableRowError(sentence, "that their labeler skipped")
        text = next((name for name in TEXTS if values and name in values[0]), "text")
        score = next((name for name in SCORES if values and all(v.get(name) is not None for v in values)), "")
        by_rank = not score or any(value.get("rank") is not None for value in values)
        some = score or next((name for name in SCORES if any(v.get(name) is not None for v in values)), "")
        by_rank = by_rank and not (some and all(value.get("rank") is None for value in values))
        for number, value in enumerate(values, 1):
            if not isinstance(value.get(text), (str, list)):
                raise InputError(f"completion {number} has no {text!r}: add it, as a string")
            if not by_rank and value.get(some) is None:
                raise InputError(
                    f"completion {number} has no {some!r}, which others have: add it, or give all a 'rank'"
                )
            if by_rank and value.get("rank") is None:
                raise InputError(f"completion {number} has no 'rank': add it, 1 being the best")
        # Texts are taken as they are: in files of our own they are what a model wrote, which may look like anything.
        answers = tuple(v[text].strip() if isinstance(v[text], str) else answer_of(v[text]) for v in values)
        if not by_rank:
            return answers, ranked([-number_of(value[score], score) for value in values]), None
        return answers, tuple(whole_rank(v["rank"], f"completion {i}") for i, v in enumerate(values, 1)), None

    # What is said of the answers.

    def verdict(self, answers: tuple[Answer, ...], ranks: tuple[int, ...]) -> tuple[bool | None, float | None]:
        """What a label or a score that the layout names says of the one answer."""
        if len(answers) != 1 or ranks:
            return None, None
        found = ((key, self.row.fields[key]) for key in LABELS if key in self.row.fields)
        labels = [key for key, value in found if value is None or isinstance(value, CELLS)]
        labels = [key for key in labels if key not in self.not_judging and not self.layout.scores]
        path, liked = self.layout.label or next(iter(labels), ""), None
        if path:
            liked = truth_of(required(self.row.fields, path), path)
        if not self.layout.scores:
            return liked, None
        scores = all_of(self.row.fields, self.layout.scores, "scores")
        if len(scores) != 1:
            raise InputError(
                f"there is one answer and {self.layout.scores!r} has {len(scores)} numbers: let it have one"
            )
        return liked, number_of(scores[0], self.layout.scores)

    def doubt(self, count: int) -> InputError | None:
        """The refusal of answers beside which a column says that they are good or bad, where nothing says how to read it."""
        c = self.layout
        if c.label or c.scores or c.ranks or c.best:
            return None
        doubted = [key for key in self.fields if self.is_doubted(key, count)]
        if not doubted:
            return None
        key, value, worse = doubted[0], self.fields[doubted[0]], is_worse(doubted[0])
        number, truth = ("> 0", "true") if worse else ("< 1", "false")
        dropped, named = f"{key} {number}", ""
        if is_truth(value):
            dropped = f"{key} == {truth}"
            named = "" if worse or count > 1 else f"label = {key!r}"  # true where the answer was liked
        elif isinstance(value, str) and not is_number(value):
            dropped = f"{key} == {value.strip() if PLAIN.fullmatch(value.strip()) else 'bad'}"
        elif self.answered:
            named = f"answer = {self.answered!r} and scores = {('-' if worse else '') + key!r}"
        made = f", or to have it say which answers are better name it, as in {named}" if named else ""
        return InputError(
            f"there is {key!r} beside the answers, which may say that they are bad: drop rows by it in [files.layout], as in "
            f"drop = {dropped!r}{made}, or say that it means nothing, ignore = {', '.join(doubted)!r}"
        )

    def is_doubted(self, key: str, count: int) -> bool:
        """Whether a column may say of the answers that they are bad, or that they were exchanged."""
        value, pair = self.fields[key], bool(self.layout.chosen) or "chosen" in self.fields
        if isinstance(value, list) and len(value) == 1 == count:
            (value,) = value  # of the one answer
        if not count or value == "" or not isinstance(value, CELLS) or key in self.not_judging:
            return False
        if count > 1 and not pair:
            return judges(key)
        if pair and count > 1:
            words = set(words_in(key))
            if self.said_of_pair(key):
                return False
            if words & {"chosen", "rejected"}:  # of one of the two: numbers are compared, names of models mean nothing
                return judges(key) and is_truth(value)
            return judges(key) or is_bad(value) or (bool(words & FLIPS) and truth_of(value) is True)
        if key in LABELS and not isinstance(self.fields[key], list) and truth_of(value) is not None:
            return False
        return judges(key) or (not is_harmless(key) and (is_bad(value) or is_truth(value)))

    @cached_property
    def not_judging(self) -> set[str]:
        """The columns of prompt and answers, and those that the layout names."""
        named = {path for name in self.layout.__dataclass_fields__ for path in names_in(getattr(self.layout, name))}
        named = {step for path in named for step in (path.removeprefix("-"), path.removeprefix("-").split(".")[0])}
        texts = (*CONVERSATIONS, "prompt", *QUESTIONS, *SUPPLEMENTS, *ANSWERS, *SEVERAL, *SYSTEMS, "chosen")
        rejected = self.fields.get("rejected")
        if "chosen" in self.fields or (isinstance(rejected, str) and not is_truth(rejected)):
            texts += ("rejected",)
        others = ("user", "assistant", "category", "labeler", "history", "split")
        return {*self.layout.says_nothing(), *self.used, *named, *texts, *others}

    def said_of_pair(self, key: str) -> str:
        """What a column says of chosen and rejected: "chosen" or "rejected" is the better, "tie"; "" is none of them."""
        value, words = self.fields[key], set(words_in(key))
        said = value.strip().casefold() if isinstance(value, str) else ""
        if words & TIES and truth_of(value) is not None:
            return "tie" if truth_of(value) else "chosen"
        if words & MARGINS and is_number(value):
            return "rejected" if number_of(value, key) < 0 else "chosen"
        if judges(key) or words & {"status", "label", *TIES}:
            return "tie" if said in TIES else said if said in ("chosen", "rejected") else ""
        return ""

    def unread(self, count: int) -> tuple[str, ...]:
        """The columns that nothing was read from, beside so many answers."""
        pair, lower = "chosen" in self.fields or self.layout.chosen, {key.lower(): key for key in self.fields}

        def reads(key: str) -> bool:
            if count == 1 and key in LABELS:
                return True
            if not pair or count < 2:
                return count > 1 and key in ("ranks", "scores", "ratings", "skipped")
            better, worse = (key.lower().replace(*words) for words in (("rejected", "chosen"), ("chosen", "rejected")))
            if better != worse and {better, worse} <= lower.keys():
                return rates(lower[better]) and is_number(self.fields[key])
            rated = [name for name in PAIRS_RATED if isinstance(self.fields.get(name), list)]
            return bool(key in rated or (rated and key == "generations") or self.said_of_pair(key))

        return tuple(key for key in self.fields if key not in self.used | self.not_judging and not reads(key))

    def name(self, name: str) -> str:
        """The category, the user or the labeler; "" where there is none, or "user" is what they said."""
        if name in self.used:
            return ""
        value = self.take(name, () if name in self.layout.says_nothing() else (name,))
        if isinstance(value, (dict, list)):
            raise InputError(
                f"{name!r} holds {shortened(value)}: make it a string, name its place in [files.layout], or say "
                f"ignore = {name!r} there"
            )
        row = Row({name: value if value is not None else ""}, self.row.where)
        return row.text(name) if name == "category" else name_of(row, name)


def ranked(numbers: Sequence[float]) -> tuple[int, ...]:
    """The ranks of numbers of which the smallest is the best: one more than there are better ones, so that equal ones tie."""
    return tuple(1 + sum(other < number for other in numbers) for number in numbers)


def _said(words: Conversation | Answer, role: str = "user") -> list[tuple[str, str]]:
    """Who says what, without regard to case and white space; a text that is no transcript is the role's."""
    if isinstance(words, str):
        messages = messages_of(words) if is_transcript(words) else [{"role": role, "content": words}]
    else:
        messages = words
    return [(message["role"], _typed(words_of(message))) for message in messages]


def _texts(value: Any) -> list[str]:
    """The texts in a column of answers, as they compare: one, or those of a list of texts, messages or completions."""
    found = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    texts = [next((v[name] for name in TEXTS if name in v), "") if isinstance(v, dict) else v for v in found]
    return [_typed(text) for text in texts if isinstance(text, str) and text.strip()]


def _leaves(value: Any) -> list[str]:
    """All texts and numbers in a value, but for the keys of objects and ARC's labels of choices."""
    if isinstance(value, dict):
        return [text for key, inner in value.items() if key not in ("label", "key") for text in _leaves(inner)]
    if isinstance(value, (list, tuple)):
        return [text for inner in value for text in _leaves(inner)]
    return [] if value in (None, "") else [str(value)]


def _another(key: str) -> InputError:
    return InputError(
        f"there is {key!r} beside the answer, and it says something else: name which of them is the answer, "
        f"answer = {key!r} in [files.layout], or read on without it, ignore = {key!r}"
    )


def _typed(text: str) -> str:
    """A text without regard to case and white space."""
    return " ".join(text.casefold().split())


def whole_rank(rank: Any, what: str) -> int:
    """The rank as Python's int, whichever integer it is, or a float that is one, as tables have them. InputError, which
    begins with `what`: it is no whole number from 1 on."""
    if isinstance(rank, (float, np.floating)) and float(rank).is_integer():
        rank = int(rank)
    if isinstance(rank, bool) or not isinstance(rank, (int, np.integer)) or rank < 1:
        raise InputError(f"{what} has the rank {rank!r}: use whole numbers from 1 on")
    if rank >= 2**31:
        raise InputError(f"{what} has the rank {rank}: use numbers below 2,147,483,648, of 32 bits")
    return int(rank)
