"""Rewards and environments by their names in a config: folders of reward models, functions in files and packages."""

import difflib
import importlib
import importlib.util
import math
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from types import ModuleType
from typing import Any

from rlhf_jax.data import Columns, Prompt
from rlhf_jax.errors import InputError
from rlhf_jax.labelers import WEIGHTS, Facets
from rlhf_jax.rewards import from_trl
from rlhf_jax.stages.datasets import Truth
from rlhf_jax.stages.episodes import Environment, require_environment
from rlhf_jax.stages.functions import raised
from rlhf_jax.stages.model import Trained
from rlhf_jax.stages.rewards import Rewards, require_arguments, rewards_of
from rlhf_jax.stages.saved import model_in

GOLD = ("score", *Facets._fields)


@dataclass(frozen=True)
class GoldReward:
    """A part of the gold preference of the built-in world, or its score, as a reward function."""

    truth: Truth
    part: str

    @property
    def __name__(self) -> str:
        return f"gold_{self.part}"

    def __call__(self, prompts: list[Prompt], answers: list[str], rows: list[Columns]) -> list[float]:
        seen = [self.truth.gold.facets(self.truth.question(p), a) for p, a in zip(prompts, answers, strict=True)]
        if self.part == "score":
            return [float(WEIGHTS @ facets) for facets in seen]
        return [getattr(facets, self.part) for facets in seen]


def rewards_in(
    names: str, weights: str, start: Trained, truth: Truth | None = None, environment: Environment | None = None
) -> Rewards:
    """The rewards that a config names, with commas between them:

    runs/tiny/reward_model        the folder of a reward model, a stage's or Hugging Face's; several are an ensemble
    my_rewards.py:exact           a function of a file, from the working directory
    package.module:function       of a package or module, those in the working directory included
    trl:package.module:function   (trl:file.py:function) one that was written for TRL, see `from_trl`
    gold:content                  of the built-in world, whose truth is given: content, constraint, brevity, falsehood,
                                  rudeness, or the score that they make

    weights: a number for each, with commas between; "" is 1 each. environment: with one there may be none of them.
    InputError: what is not there, or is no reward.
    """
    entries = [each.strip() for each in names.split(",") if each.strip()]
    of = weights_of(weights, entries)
    parts = {name: reward_in(name, start, truth) for name in entries}
    models = {name: part for name, part in parts.items() if isinstance(part, Trained)}
    functions = {name: part for name, part in parts.items() if not isinstance(part, Trained)}
    alike = {of[name] for name in models}
    if len(alike) > 1:
        raise InputError(
            f"given.weights: the reward models {', '.join(models)} are an ensemble, which is one part; give them one weight"
        )
    named = [f"gold_{name[5:]}" if name.startswith("gold:") else name_in(name) for name in functions]
    given = [*alike, *(of[name] for name in functions)] if weights else []
    rewards = Rewards(tuple(models.values()), tuple(functions.values()), tuple(given), tuple(named))
    return rewards_of(rewards, needed=environment is None)


def environment_in(name: str) -> Environment | None:
    """The environment of a config: my_env.py, a file from the working directory with the functions start and reply, or
    package.module, a module with them; "" is none. InputError: what is not there, or is none."""
    if not name:
        return None
    key, (place, colon, _) = "given.environment", name.partition(":")
    if colon:
        raise InputError(f"{key} is {name}; name the file or the module alone, {place}, which has start and reply")
    found = Environment(*(function_in(f"{name}:{each}", key) for each in Environment._fields))
    require_environment(found)
    return found


def name_in(name: str) -> str:
    """By which a function, or a folder, is logged."""
    return name.rpartition(":")[2] if ":" in name else Path(name).name


def weights_of(text: str, entries: list[str]) -> dict[str, float]:
    """The weight of each name. InputError: two of one name; not a finite number for each."""
    twice = [name for name in entries if entries.count(name) > 1]
    if twice:
        raise InputError(f"given.reward names {twice[0]} twice; name it once, with a weight in given.weights")
    if not text:
        return dict.fromkeys(entries, 1.0)
    try:
        numbers = [float(each) for each in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != len(entries) or not all(map(math.isfinite, numbers)):
        raise InputError(
            f"given.weights is {text!r} and must have a number for each of given.reward, which are {', '.join(entries)}"
        )
    return dict(zip(entries, numbers, strict=True))


def reward_in(name: str, start: Trained, truth: Truth | None) -> Any:
    """The reward model or function of one name. InputError: it is not there, or is no reward."""
    if ":" not in name or Path(name).is_dir():
        if not Path(name).is_dir():
            asked = name if name.endswith(".py") else "my_rewards.py"
            raise InputError(
                f"given.reward: {name} is no folder of a reward model; name one, or a function, as in {asked}:exact"
            )
        return model_in(name, start.format)
    kind, _, rest = name.partition(":")
    if kind == "trl" and ":" in rest:
        return from_trl(function_in(rest))
    if kind == "gold":
        if rest not in GOLD:
            raise InputError(f"given.reward: the gold preference has no {rest!r}; name one of {', '.join(GOLD)}")
        if truth is None:
            raise InputError(f"given.reward: {name} is of the built-in world, and the data are files; name another")
        return GoldReward(truth, rest)
    function = function_in(name)
    require_arguments(function, rest)
    return function


def function_in(name: str, key: str = "given.reward") -> Callable:
    """What file.py:name or package.module:name names. key: of the config, that has it. InputError: there is none, or it
    cannot be called."""
    place, _, attribute = name.rpartition(":")
    module = file_module(Path(place), key) if place.endswith(".py") else package_module(place, key)
    try:
        found = reduce(getattr, attribute.split("."), module)
    except AttributeError:
        there = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
        near = difflib.get_close_matches(attribute, there, 1)
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(there[:10]) or 'none'}"
        raise InputError(f"{key}: {place} has no function {attribute!r}; {hint}") from None
    if not callable(found):
        raise InputError(f"{key}: {name} is of type {type(found).__name__} and cannot be called; name a function")
    return found


def package_module(name: str, key: str) -> ModuleType:
    """A module, which may be in the working directory. InputError: there is none, or it cannot be imported."""
    importable(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise InputError(f"{key}: there is no module {name}; install it, or name a file by its path") from None
        raise InputError(raised(f"{key}: {name}", error)) from error
    except InputError:
        raise
    except Exception as error:
        raise InputError(raised(f"{key}: {name}", error)) from error


def file_module(path: Path, key: str) -> ModuleType:
    """A file as a module, the files beside it importable. InputError: it is not there, or cannot be imported."""
    if not path.is_file():
        raise InputError(f"{key}: there is no file {path} in {Path.cwd()}; name one by its path from there")
    importable(path.resolve().parent)
    name = f"{path.stem}_py"  # a file called json.py is not Python's, whose code counts by its name
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(path.resolve()):
        return known
    if known is not None:  # of another folder
        name = f"{name}_{zlib.crc32(str(path.resolve()).encode()):08x}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # by which the hash of a function finds what it names
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, InputError) or not isinstance(error, Exception):
            raise
        raise InputError(raised(f"{key}: {path}", error)) from error
    return module


def importable(folder: Path) -> None:
    """Has modules of a folder found, after all others."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
