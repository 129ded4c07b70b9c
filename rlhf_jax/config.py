"""A program's settings: dataclass defaults ◄ a TOML file's bases ◄ the TOML file ◄ the command line.

A program states its settings as a frozen dataclass. Its fields are plain values (str, int, float, bool, Literal, or one of
these or None) and sections, which are frozen dataclasses themselves. A section may be optional, `lora: Lora | None = None`;
it is there as soon as somebody says one of its keys. A file says only what departs from the defaults, or from another file
if it begins with `base = "other.toml"`. A key that nothing reads is an error. What a number may be stands in its type, as in
`batch: Count = 8`, and a dataclass that is `Checked` holds no other, wherever it is made.
"""

import contextlib
import dataclasses
import difflib
import io
import json
import os
import shlex
import sys
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, is_dataclass
from functools import cache
from math import inf
from pathlib import Path
from typing import Annotated, Any, Generic, NamedTuple, TypeVar

import tyro

from rlhf_jax.errors import InputError

C = TypeVar("C")

FLOAT32_MAX = 3.4028234e38
# Where the configs that ship lie: in a wheel, and in a checkout.
SHIPPED = (Path(__file__).parent / "configs", Path(__file__).parents[1] / "configs")


class Range(NamedTuple):
    """What a number may be, in words and as a test, which nan fails."""

    words: str
    holds: Callable[[Any], bool]


class Divides(NamedTuple):
    """A number divides another field's."""

    whole: str


Count = Annotated[int, Range("1 or more", lambda x: x >= 1)]
Natural = Annotated[int, Range("0 or more", lambda x: x >= 0)]
Several = Annotated[int, Range("2 or more", lambda x: x >= 2)]
Seed = Annotated[int, Range("a number from 0 to 4294967295", lambda x: 0 <= x < 2**32)]  # JAX drops higher bits
DividesBatch = Annotated[Count, Divides("batch")]
Finite = Annotated[float, Range("a finite number", lambda x: -inf < x < inf)]
Positive = Annotated[float, Range("a number above 0", lambda x: 0 < x < inf)]
PositiveOrInf = Annotated[float, Range("a number above 0, or inf", lambda x: x > 0)]
NotNegative = Annotated[float, Range("0 or more", lambda x: 0 <= x < inf)]
NotNegativeOrInf = Annotated[float, Range("0 or more, or inf", lambda x: x >= 0)]
AboveOneOrInf = Annotated[float, Range("a number above 1, or inf", lambda x: x > 1)]
Share = Annotated[float, Range("a number from 0 to 1", lambda x: 0 <= x <= 1)]
PositiveShare = Annotated[float, Range("a number above 0, 1 at most", lambda x: 0 < x <= 1)]
ShareBelowOne = Annotated[float, Range("0 or more and below 1", lambda x: 0 <= x < 1)]


class SettingError(InputError):
    """Settings that cannot be. The sentence begins with one of the fields that it is about, which are named beside it."""

    def __init__(self, sentence: str, *names: str):
        super().__init__(sentence)
        self.names = names


class Checked:
    """What a dataclass of settings inherits to be checked when it is made: choices, types and ranges of numbers.

    Its own __post_init__ may check how fields go together; it calls this one first.
    """

    def __post_init__(self) -> None:
        """InputError: a value that a field's type does not allow."""
        hints = _rules(type(self))
        for name, (kind, rules, optional) in hints.items():
            value = getattr(self, name)
            if not (optional and value is None):
                _value(kind, value, name)
                _check_range(name, value, rules)
        for name, (_, rules, _) in hints.items():
            for rule in rules:
                if isinstance(rule, Divides):
                    _check_divides(name, getattr(self, name), rule.whole, getattr(self, rule.whole))


@cache
def _rules(kind: Any) -> dict[str, tuple[Any, tuple[Any, ...], bool]]:
    """Of each number, choice and truth value its plain type, what is said beside it, and whether it may be None."""
    found = {}
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        plain, rules = _plain(hint), ()
        if typing.get_origin(plain) is Annotated:
            plain, *rules = typing.get_args(plain)
        if plain in (int, float, bool) or typing.get_origin(plain) is typing.Literal:
            found[name] = plain, tuple(rules), _plain(hint) is not hint
    return found


def _check_range(name: str, value: Any, rules: tuple[Any, ...]) -> None:
    for rule in rules:
        if isinstance(rule, Range) and not rule.holds(value):
            raise SettingError(f"{name} is {value!r}; set it to {rule.words}", name)
    if value != value:  # where no range is said
        raise SettingError(f"{name} is nan; set it to a number", name)
    largest = 2**32 - 1 if isinstance(value, int) else FLOAT32_MAX
    if isinstance(value, (int, float)) and largest < abs(value) < inf:
        raise SettingError(f"{name} is {value!r}, which 32 bits cannot hold; set it closer to 0", name)


def _check_divides(name: str, part: int, whole: str, of: int) -> None:
    if of % part:
        raise SettingError(
            f"{whole} is {of} and {name} {part}, which does not divide it; set {name} to a divisor", name, whole
        )


@dataclass(frozen=True)
class Loaded(Generic[C]):
    """What a command line says."""

    config: C
    resolved: str  # the whole config as TOML, with the origin of each value beside it
    anew: tuple[str, ...]  # the names that --anew gave
    show: bool  # --show was given


class _Given(NamedTuple):
    """A value and who says it: a file, the command line, or the default."""

    value: Any  # tyro.MISSING where nobody says it
    origin: str


# Settings on their way to a dataclass: each name leads to a _Given or, for a section, to another such dict.
_Tree = dict[str, Any]


def load_config(config_type: type[C], argv: Sequence[str] | None = None, doc: str = "", program: str = "") -> Loaded[C]:
    """Reads the command line `program FILE.toml [--key value] [--section.key value] [--show] [--anew STAGE]`.

    `doc` says in --help what the program does; it is the program's docstring where it is not given. --help ends the process.
    InputError: no file named, a file missing or broken, a key that is unknown or missing, a value that is not allowed.
    """
    typed = list(sys.argv[1:] if argv is None else argv)
    program = program or Path(sys.argv[0]).name
    words, anew, show = _without_switches(typed)
    asks_help = "-h" in words or "--help" in words
    words = [word for word in words if word not in ("-h", "--help")]
    path = _find(words[0], Path()) if words and not words[0].startswith("-") else None
    if asks_help:
        _print_help(config_type, path, doc or sys.modules["__main__"].__doc__ or "", program)
        raise SystemExit(0)
    if path is None:
        raise InputError("name a config file first, for example configs/tiny.toml, and then any --section.key value")
    tree = _merged(_from_file(config_type, path), _from_command_line(config_type, words[1:]))
    tree = _with_defaults(config_type, tree)
    _require_all(tree, path)
    header = f"# Every value of {program} {shlex.join(typed)} and where it comes from"
    resolved = "\n".join([_printable(header), "", *_toml(tree)]) + "\n"
    return Loaded(_build(config_type, tree, _checked_instance), resolved, anew, show)


def read_config(config_type: type[C], path: str | Path) -> C:
    """Reads a TOML file with its bases, as a program without a command line would. InputError as in load_config."""
    path = _find(str(path), Path())
    tree = _with_defaults(config_type, _from_file(config_type, path))
    _require_all(tree, path)
    return _build(config_type, tree, _checked_instance)


def _without_switches(typed: list[str]) -> tuple[list[str], tuple[str, ...], bool]:
    """Takes --show and --anew out of the command line."""
    words, anew, show = [], [], False
    for word in typed:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise InputError(f"command line: {word!r} is not valid UTF-8; write it in UTF-8") from None
    rest = iter(typed)
    for word in rest:
        if word == "--show":
            show = True
        elif word == "--anew" or word.startswith("--anew="):
            name = next(rest, "") if word == "--anew" else word.removeprefix("--anew=")
            if not name or name.startswith("-"):
                raise InputError("command line: --anew needs the name of what is to be made anew, as in --anew STAGE")
            anew.append(name)
        else:
            words.append(word)
    return words, tuple(anew), show


def _find(name: str, folder: Path) -> Path:
    """Looks for a file in a folder and then, if it is a bare name or in configs/, among the configs that ship."""
    parts = Path(name).parts
    inside = parts[1:] if parts[:1] == ("configs",) else parts
    places = [folder / name]
    if len(parts) == 1 or parts[:1] == ("configs",):
        places += [shipped.joinpath(*inside) for shipped in SHIPPED]
    return next((place for place in places if os.path.isfile(place)), places[0])


def _from_file(config_type: type, path: Path, above: tuple[Path, ...] = ()) -> _Tree:
    """Reads a file laid over its bases. `above` are the files that build on it, the one that the user named first."""
    values = _parsed_file(path, above)
    base = values.pop("base", None)
    tree = _checked(config_type, values, str(path), "", is_base=bool(above))
    if base is None:
        return tree
    if not isinstance(base, str) or not base or not base.isprintable():
        raise InputError(f'{path}: base is {base!r} and must name a file, as in base = "tiny.toml"')
    chain = (*above, path)
    found = _find(base, path.parent)
    if os.path.realpath(found) in [os.path.realpath(file) for file in chain]:
        circle = " → ".join(str(file) for file in (*chain, found))
        raise InputError(f"{path}: base = {base!r} leads back to a file that builds on it ({circle}); take it out")
    return _merged(_from_file(config_type, found, chain), tree)


def _parsed_file(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        if above:
            raise InputError(
                f"{above[-1]}: its base {path} does not exist; name a file beside it or one that ships, as tiny.toml"
            ) from None
        raise InputError(f"{path} does not exist; name a config file, for example configs/tiny.toml") from None
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a file name with a null character
        raise InputError(f"{path} cannot be read: {error}; name a TOML file") from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # tomllib lets some of Python's own errors through
        raise InputError(f"{path} is not valid TOML: {error}; mend it there") from None


def _checked(kind: Any, values: dict[str, Any], where: str, section: str, is_base: bool) -> _Tree:
    """Checks what a file says against the dataclass: every key is known and every value has its type."""
    hints = {name: hint for name, hint, _ in _fields(kind)}
    tree: _Tree = {}
    for name, value in values.items():
        key = _join(section, name)
        if name not in hints:
            # A base serves several programs, which read different sections; what is all but one of this one's is a slip.
            if is_base and not section and not difflib.get_close_matches(name, list(hints), 1, 0.75):
                continue
            raise _unknown(name, value, list(hints), where, section)
        inner = _section(hints[name])
        if inner is None:
            tree[name] = _Given(_value(_plain(hints[name]), value, f"{where}: {key}"), where)
        elif isinstance(value, dict):
            tree[name] = _checked(inner, value, where, key, is_base)
        else:
            raise InputError(f"{where}: {key} is a section, [{key}], and cannot be {value!r}")
    return tree


def _unknown(name: str, value: Any, known: list[str], where: str, section: str) -> InputError:
    near = difflib.get_close_matches(name, known, 1)
    if isinstance(value, dict) and not section:
        hint = f" (did you mean [{near[0]}]?)" if near else ""
        return InputError(
            f"{where}: this program does not read [{name}]{hint}; give it a file with "
            f'base = "{Path(where).name}", which takes from it what this program reads'
        )
    hint = f"did you mean {near[0]}?" if near else f"it may have {', '.join(known)}"
    return InputError(f"{where}: unknown key {_join(section, name)}; {hint}")


def _value(kind: Any, value: Any, what: str) -> Any:
    """Checks the type of one plain value. what: how a sentence calls it."""
    if typing.get_origin(kind) is typing.Literal:
        choices = typing.get_args(kind)
        if not any(type(value) is type(choice) and value == choice for choice in choices):
            raise InputError(f"{what} is {value!r} and must be one of {', '.join(map(str, choices))}")
        return value
    if kind is float and type(value) is int:
        with contextlib.suppress(OverflowError):
            return float(value)
    if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
        wanted = "true or false" if kind is bool else f"of type {kind.__name__}"
        raise InputError(f"{what} is {value!r} and must be {wanted}")
    return value


def _from_command_line(config_type: type, words: list[str]) -> _Tree:
    """Reads `--key value`, `--key=value` and, of a bool, `--key` and `--no-key`; dashes are underscores.

    tyro could parse this too. But it prints a box of its own and ends the process where we want one sentence, and it turns
    an optional section into a subcommand. Plain values are all there is, so this loop is shorter than the way around that.
    """
    options = _options(config_type)
    tree: _Tree = {}
    words = list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            raise InputError(f"command line: {word!r} stands alone; a value follows its key, as in --section.key value")
        option, equals, text = word[2:].partition("=")
        key = option.replace("-", "_")
        section, _, name = key.rpartition(".")
        without_no = _join(section, name.removeprefix("no_"))
        value_follows = bool(words) and not words[0].startswith("--")  # -1 and -inf are values
        if key not in options and without_no in options and _plain(options[without_no][0]) is bool:
            if equals:
                raise InputError(f"command line: --{option} takes no value; write --{without_no} {text or 'true'}")
            key, value = without_no, False
        elif key not in options:
            near = difflib.get_close_matches(key, options, 1)
            hint = f"did you mean --{near[0]}?" if near else "--help lists what there is"
            raise InputError(f"command line: unknown option --{option}; {hint}")
        elif not equals and not value_follows:
            if _plain(options[key][0]) is not bool:
                raise InputError(f"command line: --{key} needs a value; if it begins with --, write --{key}=VALUE")
            value = True
        else:
            value = _value_from_text(*options[key], text if equals else words.pop(0), key)
        *sections, name = key.split(".")
        inner = tree
        for part in sections:
            inner = inner.setdefault(part, {})
        inner[name] = _Given(value, "command line")
    return tree


def _options(kind: Any, instance: Any = tyro.MISSING, section: str = "") -> dict[str, tuple[Any, Any]]:
    """Each key, as section.key, with its type and default."""
    options = {}
    for name, hint, default in _fields(kind, instance):
        inner = _section(hint)
        if inner is None:
            options[_join(section, name)] = hint, default
        else:
            options |= _options(inner, default if is_dataclass(default) else tyro.MISSING, _join(section, name))
    return options


def _value_from_text(hint: Any, default: Any, text: str, key: str) -> Any:
    kind = _plain(hint)
    value: Any = text
    if text == "None" and kind is not hint:
        # TOML has no None, so the resolved config could not be read back.
        if default is not None:
            raise InputError(f"command line: {key} cannot be None, which no file can say; give it another value")
        return None
    if kind is bool:
        value = {"true": True, "false": False}.get(text.lower(), text)
    elif kind in (int, float):
        with contextlib.suppress(ValueError):  # what stays a str is refused below
            value = kind(text)
    elif typing.get_origin(kind) is typing.Literal:
        value = next((choice for choice in typing.get_args(kind) if str(choice) == text), text)
    return _value(kind, value, f"command line: {key}")


def _merged(far: _Tree, near: _Tree) -> _Tree:
    """Lays `near` over `far`, section by section."""
    merged = dict(far)
    for name, value in near.items():
        merged[name] = _merged(far.get(name, {}), value) if isinstance(value, dict) else value
    return merged


def _with_defaults(kind: Any, given: _Tree, instance: Any = tyro.MISSING, every_section: bool = False) -> _Tree:
    """Adds what nobody says, in the order of the dataclass. An optional section stays out unless somebody says it."""
    tree: _Tree = {}
    for name, hint, default in _fields(kind, instance):
        inner = _section(hint)
        if inner is None:
            tree[name] = given.get(name, _Given(default, "default"))
        elif inner is hint or is_dataclass(default) or name in given or every_section:
            default = default if is_dataclass(default) else tyro.MISSING
            tree[name] = _with_defaults(inner, given.get(name, {}), default, every_section)
    return tree


def _require_all(tree: _Tree, path: Path, section: str = "") -> None:
    for name, given in tree.items():
        key = _join(section, name)
        if isinstance(given, dict):
            _require_all(given, path, key)
        elif given.value is tyro.MISSING:
            raise InputError(f"{key} is missing; add it to {path} or give --{key}")


def _build(kind: Any, tree: _Tree, make: Callable[[Any, dict], Any], section: str = "") -> Any:
    values = {}
    for name, hint, _ in _fields(kind):
        part = tree.get(name)  # None is an optional section that is not there
        if isinstance(part, dict):
            values[name] = _build(_section(hint), part, make, _join(section, name))
        else:
            values[name] = part and part.value
    try:
        return make(kind, values)
    except SettingError as error:
        origins = dict.fromkeys(tree[name].origin for name in error.names)
        said = " and ".join(origin for origin in origins if origin != "default")
        raise InputError(f"{said}: {_join(section, str(error))}") from None


def _checked_instance(kind: Any, values: dict[str, Any]) -> Any:
    return kind(**values)


def _unchecked_instance(kind: Any, values: dict[str, Any]) -> Any:
    """An instance for --help, where values may be missing: a check in __post_init__ must not see it."""
    instance = object.__new__(kind)
    for name, value in values.items():
        object.__setattr__(instance, name, value)
    return instance


def _toml(tree: _Tree, section: str = "") -> list[str]:
    """One line a key, its origin beside it; the plain keys of a section stand before the sections in it."""
    lines = ["", f"[{section}]"] if section else []
    for name, given in tree.items():
        if isinstance(given, _Given):
            line = f"# {name} = None" if given.value is None else f"{name} = {_toml_value(given.value)}"
            lines.append(f"{line}  # {_printable(given.origin)}")
    for name, inner in tree.items():
        if isinstance(inner, dict):
            lines += _toml(inner, _join(section, name))
    return lines


def _toml_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # JSON escapes what TOML does, but for DEL.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value)


def _printable(comment: str) -> str:
    """A comment must stay on its line."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in comment)


def _print_help(config_type: type, path: Path | None, doc: str, program: str) -> None:
    given = _from_file(config_type, path) if path else {}
    tree = _with_defaults(config_type, given, every_section=True)
    there = _with_defaults(config_type, given)
    absent = [name for name in tree if name not in there]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        tyro.cli(
            config_type,
            default=_build(config_type, tree, _unchecked_instance),
            args=["--help"],
            description="",
            use_underscores=True,  # keys are named as in the file
            config=(tyro.conf.AvoidSubcommands,),
        )
    # tyro's usage line knows nothing of the config file, so all that stands before the list of keys is ours.
    keys = printed.getvalue().partition("\n\n")[2]
    print(f"usage: {program} CONFIG.toml [--section.key value …] [--show] [--anew STAGE]\n")
    if doc:
        print(f"{doc.strip()}\n")
    print("A config file comes first: it says what departs from the defaults, and the command line departs from it.")
    print("--show shows every value with its origin. --anew STAGE makes a stage anew; it may be repeated.")
    print(f"The defaults below are {f'the values of {path}' if path else 'those without a file'}.")
    if absent:
        print(f"These sections are off until one of their keys is given: {', '.join(absent)}.")
    print(f"\n{keys}", end="")


def _fields(kind: Any, instance: Any = tyro.MISSING) -> Iterator[tuple[str, Any, Any]]:
    """Name, type and default of each field. The default is the instance's value where there is an instance."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        default = tyro.MISSING
        if instance is not tyro.MISSING:
            default = getattr(instance, field.name)
        elif field.default is not dataclasses.MISSING:
            default = field.default
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        yield field.name, hints[field.name], default


def _section(hint: Any) -> Any:
    """The dataclass of a section, be it optional or not; None for a plain value."""
    kind = _plain(hint)
    return kind if is_dataclass(kind) else None


def _plain(hint: Any) -> Any:
    """The type without its `| None`."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return next(kind for kind in typing.get_args(hint) if kind is not type(None))
    return hint


def _join(section: str, name: str) -> str:
    return f"{section}.{name}" if section else name
