"""Comparisons, and what somebody says of one: one schema for people, models and functions.

The metadata are those of InstructGPT's interface (Ouyang et al. 2022, Table 3 and Fig. 12): each answer is rated from 1 to 7
and flagged, then all are ranked, with ties. All that may be wrong is refused here, for files, the store and the page alike.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rlhf_jax.data import (
    Conversation,
    Messages,
    Ranking,
    checked_ranking,
    located,
    read_rows,
)
from rlhf_jax.data.turns import begun, has_words, messages_in, quotes_turns, with_words
from rlhf_jax.errors import InputError, shortened

# Table 3: what labelers say of an answer beside its overall quality, yes or no, in the paper's words.
FLAGS = {
    "fails_instruction": "Fails to follow the correct instruction / task",
    "inappropriate": "Inappropriate for customer assistant",
    "hallucination": "Hallucination",
    "satisfies_constraint": "Satisfies constraint provided in the instruction",
    "sexual": "Contains sexual content",
    "violent": "Contains violent content",
    "encourages_harm": "Encourages or fails to discourage violence/abuse/terrorism/self-harm",
    "denigrates": "Denigrates a protected class",
    "harmful_advice": "Gives harmful advice",
    "opinion": "Expresses opinion",
    "moral_judgment": "Expresses moral judgment",
}
LEAST, MOST = 1, 7  # of a rating, the paper's Likert scale of overall quality


class Completion(NamedTuple):
    """An answer of a model's, and how it was drawn."""

    text: str
    model: str = ""
    sampling: Mapping[str, str | int | float | bool | None] = {}  # temperature, top_p, seed, …


class Comparison(NamedTuple):
    """A prompt and its completions, which somebody is to judge."""

    id: str
    prompt: Conversation  # a question, a transcript, or messages
    completions: tuple[Completion, ...]
    user: str = ""  # who typed the prompt
    source: str = ""  # what it belongs to: a round, a run, a file

    def judged(self, labeler: str, **said: Any) -> "Judgement":
        """The judgement of a labeler, with the fields that are said. InputError: see `checked_judgement`."""
        about = {"prompt": self.prompt, "completions": self.completions, "user": self.user, "source": self.source}
        return checked_judgement(Judgement(task=self.id, labeler=labeler, **about, **said))


class Judgement(NamedTuple):
    """What a labeler says of the completions, in the order of the comparison. () and None: they were not asked."""

    task: str  # the comparison's id
    prompt: Conversation
    completions: tuple[Completion, ...]
    labeler: str
    ranks: tuple[int, ...] = ()  # 1 is best, equal ranks are ties; () where they skipped it
    skipped: str = ""  # why
    ratings: tuple[int, ...] = ()  # 1 to 7, of each completion
    flags: tuple[Mapping[str, bool], ...] = ()  # of each completion, name in FLAGS → yes or no; absent: not asked
    group: str = ""  # the labeler's
    user: str = ""  # who typed the prompt
    source: str = ""
    seconds: float | None = None  # that it took
    session: str = ""
    order: tuple[int, ...] = ()  # that they were shown in: the number of the first one shown, from 0, and so on
    time: float | None = None  # when it was submitted, in seconds since 1970 (UTC)
    id: str = ""  # of the submission, by which one that comes twice is known


class Opinion(NamedTuple):
    """What a function says that stands for a labeler, where it says more than ranks; see `Judgement`."""

    ranks: tuple[int, ...] = ()
    skipped: str = ""
    ratings: tuple[int, ...] = ()
    flags: tuple[Mapping[str, bool], ...] = ()


def comparison(
    prompt: Conversation,
    texts: Sequence[str],
    *,
    model: str = "",
    sampling: Mapping[str, str | int | float | bool | None] = {},
    user: str = "",
    source: str = "",
) -> Comparison:
    """Answers of one model to a prompt, to be judged. The id is a hash of the prompt, the texts and the source, so that the
    same comparison is known again. InputError: see `checked_comparison`."""
    completions = tuple(Completion(text, model, sampling) for text in texts)
    said = json.dumps([prompt, list(texts), source], default=str)
    return checked_comparison(
        Comparison(hashlib.sha256(said.encode()).hexdigest()[:24], prompt, completions, user, source)
    )


# What may be wrong.


def checked_comparison(given: Comparison) -> Comparison:
    """The comparison with a prompt as readers have it (see `read_prompts`) and tuples in the place of lists.

    InputError, one sentence: no id; an empty prompt; fewer than two completions; an empty text, or half a character;
    sampling settings that are no numbers and texts.
    """
    texts = {"id": checked_text(given.id, "the comparison's id"), "user": checked_text(given.user, "user")}
    if not texts["id"].strip():
        raise InputError("the comparison has no id: give it one")
    if not isinstance(given.completions, (tuple, list)):
        raise InputError(f"the completions are {shortened(given.completions)}: give a list of them")
    if len(given.completions) < 2:
        raise InputError(f"there is {len(given.completions)} completion to compare: give two or more")
    completions = tuple(_completion(each, number) for number, each in enumerate(given.completions, 1))
    return Comparison(
        **texts,
        prompt=checked_prompt(given.prompt),
        completions=completions,
        source=checked_text(given.source, "source"),
    )


def checked_judgement(given: Judgement) -> Judgement:
    """The judgement with plain tuples, ints and floats.

    InputError, one sentence: what `checked_comparison` refuses; nobody's name; ranks and a reason to skip, or neither;
    another number of ranks, ratings or flags than completions; a rank outside of 1..K, or none that is 1 (gaps are left
    alone: 1, 3, 3 says what 1, 2, 2 does); a rating outside of 1..7; a flag that is unknown or neither true nor false; an
    order that is no permutation; times that are no finite numbers from 0 on.
    """
    about = checked_comparison(Comparison(given.task, given.prompt, given.completions, given.user, given.source))
    K = len(about.completions)
    names = ("labeler", "skipped", "group", "session", "id")
    texts = {name: checked_text(getattr(given, name), name) for name in names}
    texts["labeler"] = texts["labeler"].strip()  # the one who is called so
    if not texts["labeler"]:
        raise InputError("the judgement has no labeler: give their name")
    ranks = _numbers(given.ranks, "rank", K, 1, K)
    if ranks and 1 not in ranks:
        raise InputError(f"no completion has the rank 1 (the ranks are {ranks}): 1 is the best")
    first: dict[str, int] = {}
    for number, (each, rank) in enumerate(zip(about.completions, ranks, strict=False)):
        if ranks[first.setdefault(each.text, number)] != rank:
            raise InputError(
                f"completions {first[each.text] + 1} and {number + 1} are one text under two ranks: let them tie"
            )
    require_one(bool(ranks), bool(texts["skipped"].strip()), "the judgement", "ranks")
    return Judgement(
        about.id,
        about.prompt,
        about.completions,
        ranks=ranks,
        ratings=_numbers(given.ratings, "rating", K, LEAST, MOST),
        flags=_flags(given.flags, K),
        user=about.user,
        source=about.source,
        seconds=checked_seconds(given.seconds, "seconds"),
        order=_order(given.order, K),
        time=checked_seconds(given.time, "time"),
        **texts,
    )


def checked_prompt(prompt: Any) -> Conversation:
    """The prompt as readers have it: messages, or a transcript that ends in "\\n\\nAssistant:". InputError: it is neither a
    text nor messages, is empty, ends in an answer, or holds half a character."""
    if isinstance(prompt, str):
        checked_text(prompt, "prompt")
        asked = Messages([{"role": "user", "content": prompt}]) if quotes_turns(prompt) else prompt
    elif isinstance(prompt, (list, Messages)):
        asked = messages_in(list(prompt))
        checked_text(json.dumps(asked, ensure_ascii=False, default=str), "prompt")
    else:
        raise InputError(f"the prompt is {shortened(prompt)}, neither a text nor messages: make it one of them")
    return with_words(begun("", [], asked))


def _completion(given: Any, number: int) -> Completion:
    what = f"completion {number}"
    if not isinstance(given, Completion):
        raise InputError(f"{what} is {shortened(given)}: give Completion(text, model, sampling)")
    text = checked_text(given.text, what).strip()
    if not has_words(text):
        raise InputError(f"{what} is empty: leave it out")
    if not isinstance(given.sampling, Mapping):
        raise InputError(f"{what} has the sampling settings {shortened(given.sampling)}: give name → value")
    for name, value in given.sampling.items():
        checked_text(name, f"a sampling setting of {what}")
        if isinstance(value, str):
            checked_text(value, name)
        elif not (
            value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value))
        ):
            raise InputError(f"{what} has the sampling setting {name} = {shortened(value)}: use a number or a text")
    return Completion(text, checked_text(given.model, f"the model of {what}"), dict(given.sampling))


def checked_text(given: Any, what: str) -> str:
    """The text. InputError: it is none, or holds half a character, which no file takes."""
    if not isinstance(given, str):
        raise InputError(f"{what} is {shortened(given)}: make it a text")
    try:
        given.encode()
    except UnicodeEncodeError:
        raise InputError(f"{what} holds half a character (a lone surrogate): remove it") from None
    return given


def _numbers(given: Any, what: str, count: int, least: int, most: int) -> tuple[int, ...]:
    given = _listed(given, what, count)
    for number, value in enumerate(given, 1):
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not whole or not least <= value <= most:
            raise InputError(
                f"completion {number} has the {what} {shortened(value)}: use whole numbers from {least} to {most}"
            )
    return tuple(map(int, given))


def _flags(given: Any, count: int) -> tuple[dict[str, bool], ...]:
    given = _listed(given, "flag", count)
    for number, flags in enumerate(given, 1):
        if not isinstance(flags, Mapping):
            raise InputError(f"completion {number} has the flags {shortened(flags)}: give name → true or false")
        for name, value in flags.items():
            if name not in FLAGS:
                raise InputError(f"completion {number} has the flag {shortened(name)}: there are {', '.join(FLAGS)}")
            if not isinstance(value, (bool, np.bool_)):
                raise InputError(f"completion {number} has {name} = {shortened(value)}: make it true or false")
    return tuple({name: bool(flags[name]) for name in FLAGS if name in flags} for flags in given)


def _order(given: Any, count: int) -> tuple[int, ...]:
    given = _listed(given, "place in the order", count)
    whole = all(isinstance(value, (int, np.integer)) and not isinstance(value, bool) for value in given)
    if given and (not whole or sorted(given) != list(range(count))):
        raise InputError(f"the order shown is {shortened(given)}: give each number from 0 to {count - 1} once")
    return tuple(map(int, given))


def _listed(given: Any, what: str, count: int) -> tuple:
    if given is None or isinstance(given, (str, Mapping)) or not isinstance(given, (Sequence, np.ndarray)):
        raise InputError(f"the {what}s are {shortened(given)}: give a list with one for each completion")
    if len(given) not in (0, count):
        raise InputError(f"there are {count} completions and {len(given)} {what}s: give each one, or none any")
    return tuple(given)


def require_one(said: bool, skipped: bool, whose: str, what: str) -> None:
    """InputError: something was said and yet skipped, or neither."""
    if said == skipped:
        both = f"both {what} and a reason to skip" if said else f"neither {what} nor a reason to skip"
        raise InputError(f"{whose} has {both}: give one of them")


def checked_seconds(given: Any, what: str) -> float | None:
    """The seconds as a float. InputError: they are no finite number from 0 on."""
    if given is None:
        return None
    number = isinstance(given, (int, float, np.integer, np.floating)) and not isinstance(given, bool)
    # Of the year 9999: a number of hundreds of digits is no float.
    if not number or not 0 <= given < 253402300800:
        raise InputError(f"{what} is {shortened(given)}: give a number of seconds, from 0 on")
    return float(given)


# Rows of files.


def comparison_row(given: Comparison) -> dict[str, Any]:
    """The comparison as JSON has it."""
    completions = [_completion_row(each) for each in given.completions]
    return {**given._asdict(), "completions": completions}


def comparison_of(row: Mapping[str, Any]) -> Comparison:
    """The comparison of such a row. InputError: see `checked_comparison`; a key that is missing or unknown."""
    _keys(row, Comparison, "id", "prompt", "completions")
    return checked_comparison(Comparison(**{**row, "completions": _completions(row["completions"])}))


def judgement_row(given: Judgement) -> dict[str, Any]:
    """The judgement as JSON has it, which is a known layout of rankings: see `read_rankings`."""
    completions = []
    for i, each in enumerate(given.completions):
        rank, rating = (numbers[i] if numbers else None for numbers in (given.ranks, given.ratings))
        flags = {name: given.flags[i].get(name) for name in FLAGS} if given.flags else None
        completions.append({**_completion_row(each), "rank": rank, "rating": rating, "flags": flags})
    row = {**given._asdict(), "completions": completions, "order": list(given.order)}
    return {key: value for key, value in row.items() if key not in ("ranks", "ratings", "flags")}


def judgement_of(row: Mapping[str, Any]) -> Judgement:
    """The judgement of such a row. InputError: see `checked_judgement`; a key that is missing or unknown; a rank, a rating
    or flags of some completions and not of others."""
    more = {"ranks": (), "ratings": (), "flags": ()}
    _keys({**row, **more}, Judgement, "task", "prompt", "completions", "labeler")
    plain = row["completions"]
    completions = _completions(plain, "rank", "rating", "flags")
    for name, several in (("rank", "ranks"), ("rating", "ratings"), ("flags", "flags")):
        values = [each.get(name) for each in plain]
        missing = [number for number, value in enumerate(values, 1) if value is None]
        if missing and len(missing) < len(values):
            raise InputError(f"completion {missing[0]} has no {name}, which others have: give it to all, or to none")
        more[several] = () if missing else tuple(values)
    more["flags"] = tuple(_without_none(flags) for flags in more["flags"])
    order = () if row.get("order") is None else row["order"]
    return checked_judgement(Judgement(**{**row, **more, "completions": completions, "order": order}))


def read_comparisons(source: str) -> list[Comparison]:
    """The comparisons of a file that `write_comparisons` wrote, or like it (see `read_rows`). InputError, with the line:
    see `comparison_of`; two have one id."""
    found: dict[str, Comparison] = {}
    for row in read_rows(source):
        with located(row.where):
            one = comparison_of(row.fields)
            if one.id in found:
                raise InputError(f"the comparison {one.id} is there already: give each an id of its own")
            found[one.id] = one
    return list(found.values())


def write_comparisons(path: Path | str, comparisons: Sequence[Comparison]) -> None:
    """Writes rows {id, prompt, completions: [{text, model, sampling}, …], user, source} to a .jsonl file, in one move."""
    write_rows(Path(path), [comparison_row(each) for each in comparisons])


def read_judgements(source: str) -> list[Judgement]:
    """The judgements of a file that `write_judgements` wrote, or like it (see `read_rows`). InputError, with the line: see
    `judgement_of`."""
    found = []
    for row in read_rows(source):
        with located(row.where):
            found.append(judgement_of(row.fields))
    return found


def write_judgements(path: Path | str, judgements: Sequence[Judgement]) -> None:
    """Writes a row a judgement, in one move, to a .jsonl or a .parquet file, of which `read_judgements` reads the same again,
    to the bit. The `datasets` library reads both, and `read_rankings` too.

    InputError: another ending; in Parquet, whose columns are of one kind, prompts of which some are texts and some
    messages, or messages with more than a role and a text: write those as .jsonl.
    """
    write_rows(Path(path), [judgement_row(each) for each in judgements], parquet=True)


def as_rankings(judgements: Sequence[Judgement]) -> list[Ranking]:
    """What a reward model learns from: the judgements less those that were skipped, or rank no completion above another."""
    found = []
    for one in judgements:
        texts = tuple(each.text for each in one.completions)
        if len(set(one.ranks)) > 1:
            found.append(checked_ranking(Ranking(one.prompt, texts, one.ranks, one.labeler, one.user)))
    return found


def as_pairs(judgements: Sequence[Judgement]) -> list[dict[str, Any]]:
    """Rows {prompt, chosen, rejected}, as TRL's RewardTrainer and DPOTrainer read them: of each judgement all pairs of which
    one is ranked above the other, none of equals. Messages stay messages; after a transcript answers begin with a space."""
    pairs = []
    for one in judgements:
        prompt = one.prompt if isinstance(one.prompt, str) else list(one.prompt)
        answers = [_answer(each.text, one.prompt) for each in one.completions]
        for i, j in permutations(range(len(one.ranks)), 2):
            if one.ranks[i] < one.ranks[j]:
                pairs.append({"prompt": prompt, "chosen": answers[i], "rejected": answers[j]})
    return pairs


def write_pairs(path: Path | str, judgements: Sequence[Judgement]) -> None:
    """Writes the rows of `as_pairs` to a .jsonl file, in one move."""
    write_rows(Path(path), as_pairs(judgements))


def _answer(text: str, prompt: Conversation) -> Any:
    return f" {text}" if isinstance(prompt, str) else [{"role": "assistant", "content": text}]


def _completion_row(given: Completion) -> dict[str, Any]:
    # A text, since a table needs the same columns in each row, and models have settings of their own.
    return {**given._asdict(), "sampling": json.dumps(dict(given.sampling))}


def _completions(given: Any, *more: str) -> tuple[Completion, ...]:
    """The completions of a row, whose objects may have more keys."""
    if not isinstance(given, list):
        raise InputError(f"the completions are {shortened(given)}: give a list of objects, each with a text")
    found = []
    for number, each in enumerate(given, 1):
        if not isinstance(each, Mapping):
            raise InputError(f"completion {number} is {shortened(each)}: make it an object with a text")
        unknown = next((key for key in each if key not in (*Completion._fields, *more)), None)
        if unknown is not None or "text" not in each:
            wrong = "no 'text'" if unknown is None else f"the key {shortened(unknown)}, which is unknown"
            raise InputError(f"completion {number} has {wrong}: it has {', '.join((*Completion._fields, *more))}")
        sampling = each.get("sampling")
        if isinstance(sampling, str):
            try:
                sampling = json.loads(sampling)
            except (ValueError, RecursionError):
                raise InputError(
                    f"completion {number} has the sampling settings {shortened(sampling)}: give JSON"
                ) from None
        found.append(Completion(each["text"], each.get("model") or "", {} if sampling is None else sampling))
    return tuple(found)


def _keys(row: Mapping[str, Any], kind: type, *needed: str) -> None:
    fields = getattr(kind, "_fields")  # noqa: B009 (of any NamedTuple)
    if missing := [key for key in needed if key not in row]:
        raise InputError(f"the key {missing[0]!r} is missing (found: {', '.join(map(str, row)) or 'nothing'}): add it")
    if unknown := [key for key in row if key not in fields]:
        raise InputError(
            f"the key {shortened(unknown[0])} is unknown: a {kind.__name__.lower()} has {', '.join(fields)}"
        )


def _without_none(flags: Any) -> Any:
    return {name: value for name, value in flags.items() if value is not None} if isinstance(flags, Mapping) else flags


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], parquet: bool = False) -> None:
    """Writes JSON lines, or where it may be Parquet, in one move. InputError: another ending, a place that takes no file."""
    if path.suffix != ".jsonl" and not (parquet and path.suffix == ".parquet"):
        raise InputError(f"{path}: unknown ending: let it be .jsonl{' or .parquet' * parquet}")
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        if path.suffix == ".parquet":
            _write_parquet(partial, rows, path)
        else:
            with partial.open("w", encoding="utf-8") as file:
                file.writelines(json.dumps(row) + "\n" for row in rows)
        partial.replace(path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise InputError(f"{path} cannot be written ({reason}): make its folder, or name another place") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _write_parquet(partial: Path, rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    import pyarrow  # 0.1 s that nobody else waits for
    from pyarrow import parquet

    texts = [isinstance(row["prompt"], str) for row in rows]
    if not all(texts) and any(texts):
        raise InputError(f"{path}: some prompts are texts and some messages: write a .jsonl, or two files")
    for number, row in enumerate(rows, 1):
        for message in () if texts[number - 1] else row["prompt"]:
            if message.keys() != {"role", "content"} or not isinstance(message["content"], str):
                raise InputError(f"{path}: prompt {number} has messages of more than a role and a text: write a .jsonl")
    text, number = pyarrow.string(), pyarrow.float64()
    message = pyarrow.struct({"role": text, "content": text})
    flags = pyarrow.struct({name: pyarrow.bool_() for name in FLAGS})
    completion = dict.fromkeys(Completion._fields, text) | {"rank": pyarrow.int32(), "rating": pyarrow.int32()}
    special = {
        "prompt": text if all(texts) else pyarrow.list_(message),
        "completions": pyarrow.list_(pyarrow.struct(completion | {"flags": flags})),
        "order": pyarrow.list_(pyarrow.int32()),
        "seconds": number,
        "time": number,
    }
    names = [name for name in Judgement._fields if name not in ("ranks", "ratings", "flags")]
    schema = pyarrow.schema({name: special.get(name, text) for name in names})
    parquet.write_table(pyarrow.Table.from_pylist(list(rows), schema), partial)
