"""TOML and command line → a frozen dataclass. Every value stands in the file: no key is optional, none is ignored."""

import difflib
import sys
import tomllib
import types
import typing
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import tyro

from rlhf_jax.errors import InputError

C = TypeVar("C")


def load_config(config_type: type[C], argv: Sequence[str] | None = None) -> C:
    """The config of `program FILE.toml [--key value] [--section.key value]`.

    Raises InputError: no file named, file missing, broken TOML, a key that is unknown, missing or of another type.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0].startswith("-"):
        if arguments[:1] not in (["-h"], ["--help"]):
            raise InputError(
                "name a config file first, for example configs/tiny.toml, and then any --section.key value"
            )
        tyro.cli(config_type, args=["--help"])
    config = read_config(config_type, Path(arguments[0]))
    return tyro.cli(config_type, default=config, args=arguments[1:], config=(tyro.conf.AvoidSubcommands,))


def read_config(config_type: type[C], path: Path) -> C:
    """A TOML file as the dataclass, strictly."""
    try:
        values = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; name a config file, for example configs/tiny.toml") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}") from None
    return _build(config_type, values, str(path), "")


def _build(kind: Any, value: Any, where: str, key: str) -> Any:
    if _optional(kind):  # it may be left out
        return _build(next(k for k in typing.get_args(kind) if k is not type(None)), value, where, key)
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise InputError(f"{where}: {key} is a section, [{key}]")
        hints = typing.get_type_hints(kind)
        for name in value:
            if name not in hints:
                near = difflib.get_close_matches(name, hints, 1)
                hint = f"did you mean {near[0]}?" if near else f"it may have {', '.join(hints)}"
                raise InputError(f"{where}: unknown key {_join(key, name)}; {hint}")
        built = {}
        for field in fields(kind):
            if field.name in value:
                built[field.name] = _build(hints[field.name], value[field.name], where, _join(key, field.name))
            elif _optional(hints[field.name]):
                built[field.name] = None
            else:
                raise InputError(f"{where}: {_join(key, field.name)} is missing; add it, see configs/tiny.toml")
        return typing.cast(Any, kind)(**built)
    if typing.get_origin(kind) is typing.Literal:
        if value not in typing.get_args(kind):
            raise InputError(f"{where}: {key} is {value!r} and must be one of {', '.join(typing.get_args(kind))}")
        return value
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        raise InputError(f"{where}: {key} is {value!r} and must be of type {kind.__name__}")
    return value


def _optional(kind: Any) -> bool:
    return typing.get_origin(kind) in (types.UnionType, typing.Union)


def _join(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name
