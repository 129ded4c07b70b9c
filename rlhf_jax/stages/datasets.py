"""The data sets that a recipe is made from, the built-in world's or the user's files, in training and held-out parts."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from itertools import islice
from random import Random
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from rlhf_jax.config import Checked, Count, Finite, NotNegative, Share
from rlhf_jax.data import (
    Conversation,
    Demonstration,
    Judged,
    Layout,
    Prompt,
    Ranking,
    TextLayout,
    UnusableRowError,
    how_many,
    less_oldest_turns,
    located,
    may_go,
    not_held_out,
    openings,
    place_of,
    placed,
    prompt_text,
    read_demonstrations,
    read_prompts,
    read_rankings,
    read_texts,
    split_documents,
    split_of,
    text_of,
)
from rlhf_jax.data import world as built_in
from rlhf_jax.data.layouts import ANSWERS_ARE
from rlhf_jax.errors import InputError
from rlhf_jax.labelers import NOISE, Gold, Habits, Labeler, make_labelers
from rlhf_jax.runtime import info
from rlhf_jax.stages.curation import Curation, curate_parts, say_curated

SPLIT = (0.8, 0.08, 0.12)  # training, validation, test; InstructGPT's Table 6 has other shares for each data set
HELD_OUT = ("valid", "test")  # the parts that may be empty
SPLIT_TEXT = (0.95, 0.05)  # training, validation
LEAVE_OUT = ", or leave such rows out with unusable = 'drop'"  # what can be done with any row of a file
Row = TypeVar("Row")
Text = TypeVar("Text", Prompt, Demonstration, Ranking, Judged)


@dataclass(frozen=True)
class World(Checked):
    """How much of the built-in world is written down."""

    documents: Count = 20_000  # of pretraining text
    prompts: Count = 5_200  # that users type
    demonstrations: Count = 1_800  # the first so many training prompts are answered by people
    labelers: Count = 12  # who rank answers for training
    heldout_labelers: Count = 4  # who rank test answers only
    noise: NotNegative = NOISE  # standard deviation of a labeler's reading, in units of the gold score; so below
    position_bias: Finite = 0.0  # what the answer that a labeler sees first is worth more than the last
    length_bias: Finite = 0.0  # what 100 characters more are worth
    flips: Share = 0.0  # of rankings that labelers turn round; AlpacaFarm's is 0.25
    abstains: Share = 0.0  # of comparisons that labelers skip

    @property
    def habits(self) -> Habits:
        return Habits(self.noise, self.position_bias, self.length_bias, self.flips, self.abstains)


@dataclass(frozen=True)
class Layouts(Layout):
    """Where rows have what, for what is published under no known name: in the three files of conversations here, and in each
    file alone in the sections below."""

    pretrain: TextLayout = TextLayout()
    demonstrations: Layout | None = None  # names of this file alone, which go before those above; so below
    rankings: Layout | None = None
    prompts: Layout | None = None

    def __post_init__(self) -> None:
        """InputError: what a file has, by both, cannot be."""
        for file in ("demonstrations", "rankings", "prompts"):
            self.of(file).check()

    def of(self, file: str) -> Layout:
        """The layout of the file of that name in Files. Where its own section says what the answers are, nothing that is
        said of answers above holds for it, nor a prompt where they are whole conversations."""
        own = getattr(self, file) or Layout()
        apart = (
            {*ANSWERS_ARE, "rejected", "ranks", "scores", "best", "label"}
            if any(getattr(own, name) for name in ANSWERS_ARE)
            else set()
        )
        apart |= {"prompt"} if own.messages else set()
        above = {f.name: "" if f.name in apart else getattr(self, f.name) for f in fields(Layout)}
        return Layout(**{f.name: getattr(own, f.name) or above[f.name] for f in fields(Layout)})


@dataclass(frozen=True)
class Files(Checked):
    """The user's own data: local .json, .jsonl, .csv, .parquet or .txt files (.gz and .xz too), or hub ids for `datasets`, as
    "owner/name", "owner/name[config]:split", "owner/name[data_dir=folder]". What a program does not read may be ""."""

    pretrain: str = ""  # text
    demonstrations: str = ""  # prompts with the answer that a person wrote
    rankings: str = ""  # answers to a prompt, ranked or in pairs
    prompts: str = ""  # prompts without answers
    unusable: Literal["error", "drop"] = "error"  # rows without an answer, a prompt, …: refuse them, or leave them out
    layout: Layouts = Layouts()
    curation: Curation = Curation()  # of the prompts


@dataclass(frozen=True)
class Parts(Generic[Row]):
    """One data set: rows to learn from, rows to choose by, and rows to report on."""

    train: Sequence[Row]
    valid: Sequence[Row] = ()
    test: Sequence[Row] = ()

    def each(self) -> dict[str, Sequence[Row]]:
        """The parts by their names."""
        return {"train": self.train, "valid": self.valid, "test": self.test}


@dataclass(frozen=True)
class Truth:
    """What only the built-in world has: questions whose right answers are known, and people to ask about them."""

    world: built_in.World
    gold: Gold
    questions: Parts[built_in.Question]  # in the order of the prompts
    labelers: list[Labeler]
    heldout_labelers: list[Labeler]

    @cached_property
    def asked(self) -> dict[str, built_in.Question]:
        """A prompt's text → the question that it asks."""
        return {prompt_text(q.text): q for part in self.questions.each().values() for q in part}

    def question(self, prompt: Prompt) -> built_in.Question:
        """What a prompt asks. InputError: it is no prompt of this world."""
        if prompt.text not in self.asked:
            raise InputError(f"{prompt.text[:60]!r} is no prompt of this built-in world; is it another seed's?")
        return self.asked[prompt.text]

    def judge(self, prompts: Sequence[Prompt], answers: Sequence[str]) -> dict[str, float]:
        """The mean of the gold preference's scores of answers. InputError: a prompt of another world."""
        scores = [self.gold(self.question(p), answer) for p, answer in zip(prompts, answers, strict=True)]
        return {"gold/mean": float(np.mean(scores))}


@dataclass(frozen=True)
class DataSets:
    """All data of a run."""

    text: Parts[str]  # documents for pretraining
    demonstrations: Parts[Demonstration]
    prompts: Parts[Prompt]
    rankings: Parts = Parts(())  # or labels; none in the built-in world, whose labelers rank a model's answers
    truth: Truth | None = None

    def to_learn_from(self, rankings: Sequence[Any]) -> list[Any]:
        """Of a file of one's own the rankings, or answers with labels, that no held-out user wrote and that ask nothing
        held-out prompts ask; how many are left out is said."""
        parts = (self.prompts, self.demonstrations, self.rankings)
        kept = not_held_out(rankings, [row for part in parts for row in (*part.valid, *part.test)])
        left_out(len(rankings) - len(kept), len(rankings), "rankings", "hold what is held out")
        return kept

    def tokenizer_text(self) -> Iterable[str]:
        """What a tokenizer is trained on."""
        yield from islice(self.text.train, 20_000)
        for demonstration in self.demonstrations.train:
            yield f"{text_of(demonstration.prompt)} {text_of(demonstration.answer)}"


def parts_of(rows: Parts[Row] | Sequence[Row]) -> Parts[Row]:
    """Rows that come in no parts are all for training."""
    return rows if isinstance(rows, Parts) else Parts(rows)


def data_sets(settings: World | Files, seed: int, rankings: Callable[..., list[Any]] = read_rankings) -> DataSets:
    """The data of a run, as its settings have it. rankings: see `from_files`."""
    return from_world(settings, seed) if isinstance(settings, World) else from_files(settings, seed, rankings)


def from_world(settings: World, seed: int) -> DataSets:
    """The built-in world that a seed makes."""
    made = built_in.make_world(seed)
    asked = {prompt_text(q.text): q for q in built_in.questions(made, settings.prompts)}
    written = [Prompt(text, q.category, q.user) for text, q in asked.items()]
    train, valid, test = split_of(SPLIT, seed, written).rows(written)
    # Nothing is learned or chosen by prompts about the people and places that are held out.
    train, valid = ([p for p in part if asked[p.text].about not in made.held_out] for part in (train, valid))
    prompts = Parts(train, valid, test)

    def demonstrate(part: str, prompts: Sequence[Prompt]) -> list[Demonstration]:
        rng = Random(f"{part} demonstrations {seed}")
        return [Demonstration(p.text, built_in.demonstrate(made, asked[p.text], rng)) for p in prompts]

    return DataSets(
        text=Parts(
            list(built_in.documents(made, settings.documents, "train")),
            # Each is there once, and there are some 2,500: of more the world would never have enough.
            list(built_in.documents(made, min(max(settings.documents // 20, 500), 1_000), "valid")),
        ),
        demonstrations=Parts(
            demonstrate("train", prompts.train[: settings.demonstrations]), demonstrate("valid", prompts.valid)
        ),
        prompts=prompts,
        truth=Truth(
            world=made,
            gold=Gold(made),
            questions=Parts(*([asked[p.text] for p in part] for part in prompts.each().values())),
            labelers=make_labelers(seed, settings.labelers, "train", settings.habits),
            heldout_labelers=make_labelers(seed, settings.heldout_labelers, "heldout", settings.habits),
        ),
    )


def from_files(files: Files, seed: int, rankings: Callable[..., list[Any]] = read_rankings) -> DataSets:
    """The user's own data in parts, by one rule for all files: see rlhf_jax.data.Split; or, of a file whose layout names its
    split, in those that its rows say. No opening of a held-out conversation is in training, whichever file it is in. Pieces
    of the text go by their own hash. Prompts are curated part by part (see `curate_parts`), when what is held out is settled:
    an opening stays held out where its prompt is left out. What is left out is said.

    rankings: reads files.rankings; `read_feedback` takes answers with labels by themselves. InputError: a file that cannot be
    read.
    """

    def read(reader: Callable[..., list[Text]], file: str) -> tuple[list[Text], list[list[Text]]]:
        """Rows that are to be dealt out, and those that come in their parts: all are the one or the other."""
        layout, source = files.layout.of(file), getattr(files, file)
        if not source:
            return [], [[] for _ in SPLIT]
        if layout.split:
            return [], [reader(source, files.unusable, layout, part) for part in ("train", *HELD_OUT)]
        return reader(source, files.unusable, layout), [[] for _ in SPLIT]

    def parted(
        rows: list[Text],
        given: list[list[Text]],
        what: str,
        curated: Callable[[Sequence[list[Text]]], Sequence[list[Text]]] = lambda parts: parts,
    ) -> Parts[Text]:
        lists = [mine + theirs for mine, theirs in zip(split.rows(rows), split.given(given), strict=True)]
        count, kept = len(rows) + sum(map(len, given)), sum(map(len, lists))
        left_out(count - kept, count, what, "hold what is held out elsewhere")
        parts = Parts(*curated(lists))
        users = len({row.user for part in (rows, *given) for row in part if row.user})
        counts = f"{len(parts.train)} for training, {len(parts.valid)} for validation, {len(parts.test)} for testing"
        info(f"{what}: {counts}; {f'by {users} users' if users else 'no user is named'}")
        return parts

    def curated(parts: Sequence[list[Prompt]]) -> list[list[Prompt]]:
        found = curate_parts(parts, files.curation)
        say_curated(found)
        return [part.kept for part in found]

    prompts, given_prompts = read(read_prompts, "prompts")
    demonstrations, given_demonstrations = read(read_demonstrations, "demonstrations")
    ranked, given_ranked = read(rankings, "rankings")
    given = openings([[*p, *d, *r] for p, d, r in zip(given_prompts, given_demonstrations, given_ranked, strict=True)])
    split = split_of(SPLIT, seed, prompts, demonstrations, ranked, given)
    texts = read_texts(files.pretrain, files.layout.pretrain) if files.pretrain else ()
    pieces = [piece for document in texts for piece in pieces_of(document)]
    train, valid = split_documents(pieces, SPLIT_TEXT, seed)
    clean = split.without_held_out(train)
    left_out(len(train) - len(clean), len(train), "pieces of training text", "hold a prompt that is held out")
    return DataSets(
        text=Parts(clean, valid),
        demonstrations=parted(demonstrations, given_demonstrations, "demonstrations"),
        prompts=parted(prompts, given_prompts, "prompts", curated),
        rankings=parted(ranked, given_ranked, "rankings"),
    )


def left_out(count: int, of: int, what: str, why: str) -> None:
    """Says so, where any are."""
    if count:
        info(f"{count} of {of} {what} {why} and are left out")


def kept_by_length(
    given: Sequence[Text],
    fits: Callable[[Text], bool],
    too_long: Literal["drop", "cut", "error"],
    what: str,
    limit: str,
) -> list[Text]:
    """Those that fit; the others are an InputError, or left out, or lose their oldest turns, which is said (format.too_long).
    InputError: there is none, or none is left, of those to train on; with its place, a row that the format cannot write, or
    would lose something of, unless its source said to leave such rows out (files.unusable), which is counted."""
    kept, usable, cut, dropped, first = [], [], 0, dict[str, list[str]](), ""
    for number, row in enumerate(given, 1):
        place = place_of(row[0]) or f"{what}, row {number}"
        try:
            with located(place):
                shorter = shortened_row(row, fits) if too_long == "cut" else row
                kept += [shorter] if fits(shorter) else []
        except UnusableRowError as error:
            if not may_go(row[0]):
                raise InputError(f"{error}{LEAVE_OUT if place_of(row[0]) else ''}") from error
            first = first or str(error)
            dropped.setdefault(error.reason, []).append(place)
            continue
        cut += shorter is not row
        usable.append(row)
    if cut:
        info(f"{cut} of {len(given)} {what} are longer than {limit} and lose their oldest turns")
    if dropped:
        info(how_many(what, dropped, len(usable)))
    if not given and not what.startswith(HELD_OUT):
        raise InputError(f"there are no {what}; give more rows, of which some are not held out")
    if given and not usable and not what.startswith(HELD_OUT):
        raise InputError(f"{how_many(what, dropped, 0)}; none is left: {first}")
    if len(kept) == len(usable):
        return kept
    given, sentence = usable, f"{len(usable) - len(kept)} of {len(usable)} {what} are longer than {limit}"
    more = "raise format.prompt_tokens or format.answer_tokens"
    if too_long == "error":
        conversation = next(row for row in given if not fits(row))[0]
        first = ", ".join(filter(None, (place_of(conversation), repr(text_of(conversation)[:60]))))
        raise InputError(f'{sentence}, the first being {first}; {more}, or set format.too_long = "drop"')
    if not kept and not what.startswith(HELD_OUT):
        raise InputError(f"{sentence}, and none is left; {more}")
    info(f"{sentence} and left out")
    return kept


def is_kept(row: Text, fits: Callable[[Text], bool]) -> bool:
    """Whether `kept_by_length` keeps a row as it is. InputError: the format cannot write it."""
    try:
        return fits(row)
    except UnusableRowError:
        if may_go(row[0]):
            return False
        raise


def shortened_row(row: Text, fits: Callable[[Text], bool]) -> Text:
    """The row less the oldest turns that it takes to fit; the row itself where it fits, or nothing helps."""
    conversation = row.conversation if isinstance(row, Prompt) else row.prompt

    def with_conversation(shorter: Conversation) -> Text:
        shorter = placed(shorter, place_of(conversation), may_go(conversation))
        return row._replace(**{"conversation" if isinstance(row, Prompt) else "prompt": shorter})

    shorter = less_oldest_turns(conversation, lambda each: fits(with_conversation(each)))
    return row if shorter is None or shorter is conversation else with_conversation(shorter)


def pieces_of(document: str, characters: int = 4000) -> Iterable[str]:
    """A book as pieces that end at the ends of paragraphs, of lines where a paragraph is longer than a piece, of words where
    a line is, so that one book can give training and validation text."""
    piece = ""
    for part in _parts(document.replace("\r\n", "\n"), characters):
        piece += part
        if len(piece) >= characters:
            yield piece.strip("\n")
            piece = ""
    if piece.strip():
        yield piece.strip("\n")


def _parts(text: str, characters: int, ends: Sequence[str] = ("\n\n", "\n", " ")) -> Iterable[str]:
    """A text cut behind the first of these ends, and of the parts those that are longer than so many characters behind the
    next."""
    for part in re.split(f"(?<={ends[0]})(?!{ends[0][0]})", text):
        if len(part) > characters and ends[1:]:
            yield from _parts(part, characters, ends[1:])
        else:
            yield part
