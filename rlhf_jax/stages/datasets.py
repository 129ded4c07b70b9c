"""The data sets that a recipe is made from, the built-in world's or the user's files, in training and held-out parts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from random import Random
from typing import Generic, Literal, TypeVar

import numpy as np

from rlhf_jax.config import Checked, Count
from rlhf_jax.data import (
    Demonstration,
    Prompt,
    Ranking,
    prompt_text,
    read_demonstrations,
    read_prompts,
    read_rankings,
    read_rows,
    split_by_user,
    text_documents,
)
from rlhf_jax.data import world as built_in
from rlhf_jax.errors import InputError
from rlhf_jax.labelers import Gold, Labeler, make_labelers
from rlhf_jax.runtime import info

SPLIT = (0.8, 0.08, 0.12)  # training, validation, test; InstructGPT's Table 6 has other shares for each data set
Row = TypeVar("Row")
Text = TypeVar("Text", Prompt, Demonstration, Ranking)


@dataclass(frozen=True)
class World(Checked):
    """How much of the built-in world is written down."""

    documents: Count = 20_000  # of pretraining text
    prompts: Count = 4_500  # that users type
    demonstrations: Count = 1_800  # the first so many training prompts are answered by people
    labelers: Count = 12  # who rank answers for training
    heldout_labelers: Count = 4  # who rank test answers only


@dataclass(frozen=True)
class Files(Checked):
    """The user's own data: local .json, .jsonl, .csv, .parquet or .txt files (.gz and .xz too), or hub ids for `datasets`."""

    pretrain: str  # text
    demonstrations: str  # prompts with the answer that a person wrote
    rankings: str  # answers to a prompt, ranked or in pairs
    prompts: str  # prompts without answers
    empty_answers: Literal["error", "drop"] = "error"  # rows without an answer: refuse them, or leave them out


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
    rankings: Parts[Ranking] = Parts(())  # none in the built-in world, whose labelers rank a model's answers
    truth: Truth | None = None

    def tokenizer_text(self) -> Iterable[str]:
        """What a tokenizer is trained on."""
        yield from islice(self.text.train, 20_000)
        for demonstration in self.demonstrations.train:
            yield demonstration.prompt + " " + demonstration.answer


def parts_of(rows: Parts[Row] | Sequence[Row]) -> Parts[Row]:
    """Rows that come in no parts are all for training."""
    return rows if isinstance(rows, Parts) else Parts(rows)


def data_sets(settings: World | Files, seed: int) -> DataSets:
    """The data of a run, as its settings have it."""
    return from_world(settings, seed) if isinstance(settings, World) else from_files(settings, seed)


def from_world(settings: World, seed: int) -> DataSets:
    """The built-in world that a seed makes."""
    made = built_in.make_world(seed)
    asked = {prompt_text(q.text): q for q in built_in.questions(made, settings.prompts)}
    train, valid, test = split_by_user([Prompt(text, q.category, q.user) for text, q in asked.items()], SPLIT, seed)
    # Nothing is learned or chosen by prompts about the people and places that are held out.
    train, valid = ([p for p in part if asked[p.text].about not in made.held_out] for part in (train, valid))
    prompts = Parts(train, valid, test)
    rng = Random(f"demonstrations {seed}")

    def demonstrate(prompts: Sequence[Prompt]) -> list[Demonstration]:
        return [Demonstration(p.text, built_in.demonstrate(made, asked[p.text], rng)) for p in prompts]

    return DataSets(
        text=Parts(
            list(built_in.documents(made, settings.documents, "train")),
            list(built_in.documents(made, max(settings.documents // 20, 500), "valid")),
        ),
        demonstrations=Parts(demonstrate(prompts.train[: settings.demonstrations]), demonstrate(prompts.valid)),
        prompts=prompts,
        truth=Truth(
            world=made,
            gold=Gold(made),
            questions=Parts(*([asked[p.text] for p in part] for part in prompts.each().values())),
            labelers=make_labelers(seed, settings.labelers, "train"),
            heldout_labelers=make_labelers(seed, settings.heldout_labelers, "heldout"),
        ),
    )


def from_files(files: Files, seed: int) -> DataSets:
    """Rows whose prompt is among the validation or the test prompts stay out of training, whichever file they are in."""
    prompts = Parts(*split_by_user(list(dict.fromkeys(read_prompts(files.prompts))), SPLIT, seed))
    held = dict.fromkeys((p.text for p in prompts.valid), "valid") | dict.fromkeys(
        (p.text for p in prompts.test), "test"
    )

    def parted(rows: Iterable[Row], prompt_of: Callable[[Row], str]) -> Parts[Row]:
        parts: dict[str, list[Row]] = {"train": [], "valid": [], "test": []}
        for row in rows:
            parts[held.get(prompt_of(row), "train")].append(row)
        return Parts(**parts)

    texts = [piece for document in text_documents(read_rows(files.pretrain)) for piece in _pieces(document)]
    held_out = max(len(texts) // 20, 1)
    return DataSets(
        text=Parts(texts[:-held_out], texts[-held_out:]),
        demonstrations=parted(read_demonstrations(files.demonstrations, empty=files.empty_answers), lambda d: d.prompt),
        prompts=prompts,
        rankings=parted(read_rankings(files.rankings, empty=files.empty_answers), lambda r: r.prompt),
    )


def kept_by_length(
    given: Sequence[Text], fits: Callable[[Text], bool], too_long: Literal["error", "drop"], what: str, limit: str
) -> list[Text]:
    """Those that fit; the others are an InputError, or left out, which is said (format.too_long). InputError: none is left of
    those to train on."""
    kept = [row for row in given if fits(row)]
    if len(kept) == len(given):
        return kept
    sentence = f"{len(given) - len(kept)} of {len(given)} {what} are longer than {limit}"
    more = "raise format.prompt_tokens or format.answer_tokens"
    if too_long == "error":
        first = repr(next(row for row in given if not fits(row))[0][:60])
        raise InputError(f'{sentence}, the first being {first}; {more}, or set format.too_long = "drop"')
    if not kept and not what.startswith(("valid", "test")):
        raise InputError(f"{sentence}, and none is left; {more}")
    info(f"{sentence} and left out")
    return kept


def _pieces(document: str, characters: int = 4000) -> Iterable[str]:
    """A book as pieces that end at the ends of paragraphs, so that one book can give training and validation text."""
    piece = ""
    for paragraph in document.split("\n\n"):
        piece += paragraph + "\n\n"
        if len(piece) >= characters:
            yield piece.strip("\n")
            piece = ""
    if piece.strip():
        yield piece.strip("\n")
