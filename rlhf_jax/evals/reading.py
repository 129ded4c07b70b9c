"""Reading comprehension: SQuAD 2.0 (Rajpurkar et al. 2018, arXiv:1806.03822) and DROP (Dua et al. 2019, arXiv:1903.00161), in
the prompts of Brown et al. 2020 and InstructGPT, scored as the official scripts of each do it."""

import json
import re
import string
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import linear_sum_assignment

from rlhf_jax.data import read_rows
from rlhf_jax.data.sources import expand
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.evals.choices import context_of
from rlhf_jax.evals.intervals import SHARE
from rlhf_jax.evals.measured import Row, Value
from rlhf_jax.evals.task import Said, Task, Write

INSTRUCTION = (
    "Answer each question using information in the preceding background paragraph. If there is not enough information "
    "provided, answer with “Not in background.”"
)
NOT_THERE = "Not in background."
MOST_TOKENS = 32  # of an answer; those that OpenAI released for InstructGPT break off after some 25
PUNCTUATION = str.maketrans("", "", string.punctuation)  # of ASCII alone, as in both scripts
ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)


class Passage(NamedTuple):
    """A question about a passage."""

    id: str
    cluster: str  # SQuAD: the article, of which the data set drew whole ones; DROP: the passage
    title: str  # "" in DROP
    passage: str
    before: tuple[tuple[str, str], ...]  # the passage's earlier questions and an answer of each; () in DROP
    question: str
    answers: tuple[tuple[str, ...], ...]  # right ones, each of one span or more; () where there is none


def read_squad(source: str) -> list[Passage]:
    """The questions of SQuAD 2.0 (or 1.1), from the official .json, or from rows {id, title, context, question, answers:
    {text: […]}} as the hub's "rajpurkar/squad_v2:validation" has them.

    InputError, with the line or the question: a key that is missing, or not of its kind.
    """
    found, before = [], {}
    for title, passage, id, question, texts in _squad_rows(source):
        answers = tuple((text,) for text in dict.fromkeys(texts) if squad_words(text))
        earlier = before.setdefault((title, passage), [])
        found.append(Passage(id, title, title, passage, tuple(earlier), question, answers))
        earlier.append((question, answers[0][0] if answers else NOT_THERE))
    return _require_ids(found, source)


def read_drop(source: str) -> list[Passage]:
    """The questions of DROP, from the official .json, or from rows {query_id, section_id, passage, question, answer,
    validated_answers} as the hub's "EleutherAI/drop:validation" has them.

    An answer is a number, spans, or a date as "day month year" of those that it has; all annotators' are right ones but
    empty ones. A question without any counts 0, as in the official script. InputError, with the line or the question: a
    key that is missing, or not of its kind.
    """
    found = []
    for where, section, passage, id, question, answers in _drop_rows(source):
        try:
            spans = [_drop_answer(answer) for answer in answers]
        except (KeyError, TypeError, AttributeError):
            raise InputError(f"{where}: an answer of {id!r} has not number, date and spans: mend it") from None
        right = tuple(dict.fromkeys(each for each in spans if each[0].strip()))
        found.append(Passage(id, section, "", passage, (), question, right))
    return _require_ids(found, source)


def squad(items: Sequence[Passage], shots: Sequence[Passage] = (), chat: bool = False) -> Task:
    """Greedy answers up to the first newline: squad/exact and squad/f1 against the best of the right answers, and both of
    questions with an answer (squad_answerable/…) and without one (squad_unanswerable/…) by themselves.

    The prompt is "Title: …\\n\\nBackground: …\\n\\nQ: …\\n\\nA:" with the passage's earlier questions and answers
    between (Brown et al. 2020, Fig. G.28, and OpenAI's released samples of InstructGPT), behind InstructGPT's instruction;
    shots are whole prompts of others with their answers. "Not in background." is the answer where there is none, and so is
    an empty one.
    """
    scales = {"squad": SHARE, "squad_answerable": SHARE, "squad_unanswerable": SHARE}
    opening = "\n\n".join([INSTRUCTION, *(f"{_squad_prompt(shot)} {_shown_answer(shot)}" for shot in shots)]) + "\n\n"
    asks = partial(_asks, opening, chat, _squad_prompt)
    name = _name("squad", shots, chat)
    return Task(name, items, asks, _squad_scored, scales, max_tokens=MOST_TOKENS, stops=("\n",))


def drop(items: Sequence[Passage], shots: Sequence[Passage] = (), chat: bool = False) -> Task:
    """Greedy answers up to the first newline: drop/exact and drop/f1 of the answer as one span, as lm-evaluation-harness has
    it, and drop_list/… of the answer as the spans that stand between ", " and " and ", which those of several are.

    The prompt is "Passage: …\\nQuestion: …\\nAnswer:" (Brown et al. 2020, Fig. G.20, and the released samples, where
    spans are joined by " and "); shots are prompts of others with their answers, a blank line between.
    """
    opening = "".join(f"{_drop_prompt(shot)} {_shown_answer(shot)}\n\n" for shot in shots)
    asks = partial(_asks, opening, chat, _drop_prompt)
    scales = {"drop": SHARE, "drop_list": SHARE}
    return Task(_name("drop", shots, chat), items, asks, _drop_scored, scales, max_tokens=MOST_TOKENS, stops=("\n",))


def squad_words(text: str) -> list[str]:
    """The words that SQuAD's script compares: in lower case, without ASCII punctuation, a, an and the."""
    return ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split()


def squad_exact(said: str, right: str) -> float:
    """1 where both have the same words in the same order."""
    return float(squad_words(said) == squad_words(right))


def squad_f1(said: str, right: str) -> float:
    """2PR / (P + R) over the words, each as often as it stands there; where either has none, 1 if both have none."""
    ours, theirs = squad_words(said), squad_words(right)
    if not ours or not theirs:
        return float(ours == theirs)
    shared = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * shared / (len(ours) + len(theirs))


def drop_words(text: str) -> list[str]:
    """The words that DROP's script compares: cut at spaces and hyphens, in lower case, without ASCII punctuation but in a
    number, which is written as a float ("4,000" is 4000.0), without a, an and the."""
    words = []
    for word in re.split(" |-", text.lower()):
        # What is a number as it stands keeps its point and sign; "$1,500" becomes one without its punctuation.
        bare = word if _is_number(word) else word.translate(PUNCTUATION)
        words += ARTICLES.sub(" ", str(float(bare)) if _is_number(bare) else bare).split()
    return words


def drop_exact(said: Sequence[str], right: Sequence[str]) -> float:
    """1 where both are the same spans, in any order, and as many."""
    ours, theirs = ([" ".join(drop_words(span)) for span in spans] for spans in (said, right))
    return float(set(ours) == set(theirs) and len(ours) == len(theirs))


def drop_f1(said: Sequence[str], right: Sequence[str]) -> float:
    """The mean over spans of the F1 of their sets of words, spans put beside each other one to one so that the sum is the
    largest, and those left over counting 0. A right span with numbers has 0 beside one that shares none. Two decimals, as
    the script has it."""
    ours, theirs = ([frozenset(drop_words(span)) for span in spans] for spans in (said, right))
    scores = np.array([[_bag_f1(a, b) if _numbers_agree(a, b) else 0.0 for a in ours] for b in theirs])
    if not scores.size:
        return 0.0
    total = scores[linear_sum_assignment(scores, maximize=True)].sum()
    return round(float(total) / max(scores.shape), 2)


def spans_of(text: str) -> list[str]:
    """The parts of a list that is written out: "1906, 1907 and 1908"."""
    return [part for part in re.split(r",\s+(?:and\s+)?|\s+and\s+", text.strip()) if part] or [""]


def _bag_f1(said: frozenset[str], right: frozenset[str]) -> float:
    """An empty bag has precision or recall 1, as in the script: nothing said against nothing right is right."""
    shared = len(said & right)
    precision = shared / len(said) if said else 1.0
    recall = shared / len(right) if right else 1.0
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _numbers_agree(said: frozenset[str], right: frozenset[str]) -> bool:
    numbers = {word for word in right if _is_number(word)}
    return not numbers or not numbers.isdisjoint(said)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _name(name: str, shots: Sequence[Any], chat: bool) -> str:
    return f"{name}_{len(shots)}_shot{'_chat' if chat else ''}"


def _asks(opening: str, chat: bool, prompt: Any, item: Passage) -> list[Write]:
    return [Write(context_of(f"{opening}{prompt(item)}", chat))]


def _squad_prompt(item: Passage) -> str:
    before = "".join(f"Q: {question}\n\nA: {answer}\n\n" for question, answer in item.before)
    return f"Title: {item.title}\n\nBackground: {item.passage}\n\n{before}Q: {item.question}\n\nA:"


def _drop_prompt(item: Passage) -> str:
    return f"Passage: {item.passage}\nQuestion: {item.question}\nAnswer:"


def _shown_answer(item: Passage) -> str:
    return " and ".join(item.answers[0]) if item.answers else NOT_THERE


def _squad_scored(items: Sequence[Passage], replies: Sequence[Sequence[Said]]) -> list[Row]:
    rows = []
    for item, (said,) in zip(items, replies, strict=True):
        answer = said.text.strip()
        # The instruction's words are what the official script has as the empty answer.
        compared = "" if squad_words(answer) == squad_words(NOT_THERE) else answer
        right = [spans[0] for spans in item.answers] or [""]
        exact = max(squad_exact(compared, each) for each in right)
        f1 = max(squad_f1(compared, each) for each in right)
        part = "squad_answerable" if item.answers else "squad_unanswerable"
        values: dict[str, Value] = {
            f"{name}/{k}": v for name in ("squad", part) for k, v in (("exact", exact), ("f1", f1))
        }
        rows.append(Row(item.id, item.cluster, values, {"question": item.question, "answer": answer, "right": right}))
    return rows


def _drop_scored(items: Sequence[Passage], replies: Sequence[Sequence[Said]]) -> list[Row]:
    rows = []
    for item, (said,) in zip(items, replies, strict=True):
        answer = said.text.strip()
        values: dict[str, Value] = {}
        for name, spans in (("drop", [answer]), ("drop_list", spans_of(answer))):
            values[f"{name}/exact"] = max((drop_exact(spans, right) for right in item.answers), default=0.0)
            values[f"{name}/f1"] = max((drop_f1(spans, right) for right in item.answers), default=0.0)
        shown = {"question": item.question, "answer": answer, "right": [list(spans) for spans in item.answers]}
        rows.append(Row(item.id, item.cluster, values, shown))
    return rows


def _squad_rows(source: str) -> Iterator[tuple[str, str, str, str, list[str]]]:
    """Title, passage, id, question, answers."""
    official = _official(source, "data", list)
    if official is None:
        for row in read_rows(source):
            answers = row.fields.get("answers")
            texts = answers.get("text") if isinstance(answers, dict) else None
            if texts is None or not all(isinstance(text, str) for text in texts):
                raise InputError(f"{row.where}: 'answers' has no list of texts: make it {{'text': […]}}")
            title, passage, id, question = (row.text(key) for key in ("title", "context", "id", "question"))
            yield title, passage, id, question, list(texts)
        return
    for article in official:
        try:
            for paragraph in article["paragraphs"]:
                for qa in paragraph["qas"]:
                    texts = [answer["text"] for answer in qa["answers"]]
                    yield article["title"], paragraph["context"], str(qa["id"]), qa["question"], texts
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{source}: an article of 'data' has no {error} where SQuAD has it: take the official file"
            ) from None


def _drop_rows(source: str) -> Iterator[tuple[str, str, str, str, str, list[dict[str, Any]]]]:
    """Where, passage's id, passage, id, question, answers."""
    official = _official(source, None, dict)
    if official is None:
        for row in read_rows(source):
            answer, others = row.fields.get("answer"), row.fields.get("validated_answers") or {}
            if not isinstance(answer, dict):
                raise InputError(f"{row.where}: 'answer' is no object: make it {{'number', 'date', 'spans'}}")
            # The hub has a list of objects as an object of lists.
            names = ("number", "date", "spans")
            each = zip(*(others.get(name, []) for name in names), strict=True)
            more = [{"number": number, "date": date, "spans": spans} for number, date, spans in each]
            section, passage, id, question = (
                row.text(key) for key in ("section_id", "passage", "query_id", "question")
            )
            yield row.where, section, passage, id, question, [answer, *more]
        return
    for section, found in official.items():
        try:
            for qa in found["qa_pairs"]:
                answers = [qa["answer"], *qa.get("validated_answers", [])]
                yield source, section, found["passage"], qa["query_id"], qa["question"], answers
        except (KeyError, TypeError) as error:
            raise InputError(
                f"{source}: {section!r} has no {error} where DROP has it: take the official file"
            ) from None


def _drop_answer(answer: dict[str, Any]) -> tuple[str, ...]:
    if answer["number"] not in ("", None):
        return (str(answer["number"]),)
    if answer["spans"]:
        return tuple(answer["spans"])
    date = answer["date"]
    return (" ".join(str(date.get(part) or "") for part in ("day", "month", "year")).strip(),)


def _official(source: str, key: str | None, kind: type) -> Any:
    """What the official .json holds, under a key if it has one; None: the source is rows."""
    path = Path(expand(source))
    if not path.is_file() or path.suffix.lower() != ".json":
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise InputError(f"{source} cannot be read ({error}): copy it anew") from None
    if isinstance(found, list):
        return None
    found = found.get(key) if key is not None and isinstance(found, dict) else found
    if not isinstance(found, kind):
        raise InputError(
            f"{source} holds {shortened(found)} where the official file has {key or 'its passages'}: check it"
        )
    return found


def _require_ids(items: list[Passage], source: str) -> list[Passage]:
    ids = Counter(item.id for item in items)
    if not items:
        raise InputError(f"{source} has no questions: check that it is the right file")
    twice, count = ids.most_common(1)[0]
    if count > 1:
        raise InputError(f"{source}: the question {twice!r} stands there {count} times: keep one")
    return items
