"""What the stages read: from the built-in world, or from the user's files."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from random import Random
from typing import TYPE_CHECKING, Literal

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

if TYPE_CHECKING:
    from experiments.recipe import Config

Part = Literal["train", "valid", "test"]
SPLIT = (0.8, 0.08, 0.12)


@dataclass(frozen=True)
class World:
    """[world]: how much of the built-in world is written down."""

    documents: int
    prompts: int
    demonstrations: int
    labelers: int
    heldout_labelers: int


@dataclass(frozen=True)
class Files:
    """[files]: sources as rlhf_jax.data.read_rows takes them."""

    pretrain: str
    demonstrations: str
    rankings: str
    prompts: str
    empty_answers: Literal["error", "drop"]  # rows without an answer


@dataclass(frozen=True)
class Truth:
    """What only the built-in world has: questions whose right answers are known, and people to ask about them."""

    world: built_in.World
    gold: Gold
    questions: dict[Part, list[built_in.Question]]  # in the order of the prompts
    labelers: list[Labeler]
    heldout_labelers: list[Labeler]


@dataclass(frozen=True)
class Material:
    documents: dict[Part, list[str]]
    demonstrations: dict[Part, list[Demonstration]]
    prompts: dict[Part, list[Prompt]]
    rankings: dict[Part, list[Ranking]] | None  # None: labelers rank the SFT model's answers
    truth: Truth | None

    def tokenizer_text(self) -> Iterable[str]:
        yield from islice(self.documents["train"], 20_000)
        for demonstration in self.demonstrations["train"]:
            yield demonstration.prompt + " " + demonstration.answer


def material_from_world(world: World, seed: int) -> Material:
    made = built_in.make_world(seed)
    asked = {prompt_text(q.text): q for q in built_in.questions(made, world.prompts)}
    parts = split_by_user([Prompt(text, q.category, q.user) for text, q in asked.items()], SPLIT, seed)
    train, valid, test = parts
    rng = Random(f"demonstrations {seed}")

    def demonstrate(prompts: list[Prompt]) -> list[Demonstration]:
        return [Demonstration(p.text, built_in.demonstrate(made, asked[p.text], rng)) for p in prompts]

    truth = Truth(
        world=made,
        gold=Gold(made),
        questions={
            "train": [asked[p.text] for p in train],
            "valid": [asked[p.text] for p in valid],
            "test": [asked[p.text] for p in test],
        },
        labelers=make_labelers(seed, world.labelers, "train"),
        heldout_labelers=make_labelers(seed, world.heldout_labelers, "heldout"),
    )
    return Material(
        documents={
            "train": list(built_in.documents(made, world.documents, "train")),
            "valid": list(built_in.documents(made, max(world.documents // 20, 500), "valid")),
        },
        demonstrations={"train": demonstrate(train[: world.demonstrations]), "valid": demonstrate(valid)},
        prompts={"train": train, "valid": valid, "test": test},
        rankings=None,
        truth=truth,
    )


def material_from_files(config: "Config") -> Material:
    """Rows whose prompt is among the validation or the test prompts stay out of training, whichever file they are in."""
    files = config.files
    if files is None:
        raise InputError("the config has neither a [world] nor a [files] section; give it one of them")
    prompts = dict.fromkeys(read_prompts(files.prompts))
    train, valid, test = split_by_user(list(prompts), SPLIT, config.seed)
    held: dict[str, Part] = dict.fromkeys((p.text for p in valid), "valid")
    held.update(dict.fromkeys((p.text for p in test), "test"))

    def part_of(row: Demonstration | Ranking) -> Part:
        return held.get(row.prompt, "train")

    demonstrations: dict[Part, list[Demonstration]] = {"train": [], "valid": [], "test": []}
    for row in read_demonstrations(files.demonstrations, empty=files.empty_answers):
        demonstrations[part_of(row)].append(row)
    rankings: dict[Part, list[Ranking]] = {"train": [], "valid": [], "test": []}
    for row in read_rankings(files.rankings, empty=files.empty_answers):
        rankings[part_of(row)].append(row)
    texts = [piece for document in text_documents(read_rows(files.pretrain)) for piece in _pieces(document)]
    held_out = max(len(texts) // 20, 1)
    return Material(
        documents={"train": texts[:-held_out], "valid": texts[-held_out:]},
        demonstrations=demonstrations,
        prompts={"train": train, "valid": valid, "test": test},
        rankings=rankings,
        truth=None,
    )


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
