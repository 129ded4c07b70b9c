"""What a step of curation leaves, and what it drops."""

import importlib
from types import ModuleType
from typing import NamedTuple

from rlhf_jax.data.dialogue import ASSISTANT, HUMAN
from rlhf_jax.data.prompts import Prompt
from rlhf_jax.errors import InputError


class Dropped(NamedTuple):
    prompt: Prompt
    reason: str  # goes on from "12 prompts"
    detail: str = ""  # of this one
    near: Prompt | None = None  # the kept one that it was too like


class Curated(NamedTuple):
    """Every prompt that a step was given is in one of the two, in the order in which they came."""

    kept: list[Prompt]
    dropped: list[Dropped]


def written(prompt: Prompt) -> tuple[str, str]:
    """(what stands before the first human turn, such as a system's text; the transcript from there on, less the marker that
    opens it and the one that closes it). A text without turns is all the latter."""
    before, human, after = prompt.text.partition(HUMAN)
    return (before.strip(), after.removesuffix(ASSISTANT).strip()) if human else ("", before)


def library(module: str, package: str) -> ModuleType:
    """A module of the extra `curation`. InputError: it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{package} is not installed; run: pip install 'rlhf_jax[curation]'") from error
