"""The code of a pure function as a hash: what a result owes to the function that a researcher changes."""

import ast
import builtins
import dataclasses
import dis
import enum
import functools
import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
import sysconfig
import textwrap
import types
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

# Of these the checkpoint's record has the version, so that a name says which code it is.
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "chex", "numpy", "orbax", "builtins", "functools")
_PACKAGE = __name__.partition(".")[0]
_SIMPLE = (str, bytes, int, float, complex, bool, type(None))


def source_sha256(function: Any) -> str:
    """sha256 (hex) of a function's source, in which comments, formatting, annotations and docstrings do not count.

    With it count the functions, classes and values of its module that it names, what it imported by name from another
    file of the user's, there or in its body, and theirs in turn; what it is bound to by functools.partial, as a method,
    by a closure or a default; and what an object that can be called holds. A NamedTuple of functions counts field by
    field. A function without source counts by its name and bytecode. Functions of JAX, Flax and Optax count by their
    names. Values are those of `values_sha256`.
    """
    return _digest(_pieces(function, _Seen()))


def values_sha256(value: Any) -> str:
    """sha256 (hex) of a value: numbers, texts, arrays, paths, patterns, and collections, dataclasses, namespaces and
    objects of the user's own classes that hold such. Of any other object only its class counts."""
    return _digest(_pieces_of_value(value, _Seen()))


def bound_sha256(function: Any) -> str:
    """sha256 (hex) of the values that a function is bound to, without the code; defaults do not count."""
    seen = _Seen()

    def pieces(function: Any) -> Iterator[str]:
        for name, value in _unwrapped(function)[1]:
            if name.startswith("default ") or name == "wrapper":
                continue
            yield f"bound {name}"
            yield from pieces(value) if _is_code(value) else _pieces_of_value(value, seen)

    return _digest(pieces(function))


def _digest(pieces: Iterator[str]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(f"{len(piece)} {piece}\n".encode())
    return digest.hexdigest()


def source_name(function: Any) -> str:
    """A function's module and name, and in brackets those of the functions that it is bound to."""
    function, bound = _unwrapped(function)
    return _named(function, bound, set())


def from_package(name: str) -> bool:
    """Whether a `source_name` is of this package, with all that it is bound to of it or of the libraries below."""
    tops = [each.partition(".")[0] for each in _names(name)]
    return tops[0] == _PACKAGE and all(top == _PACKAGE or top in _LIBRARIES for top in tops)


def same_name(one: str, other: str) -> bool:
    """Whether two `source_name`s are of one function: a script goes by its file's name or by its dotted one."""
    ones, others = _names(one), _names(other)
    pairs = zip(ones, others, strict=False)
    return len(ones) == len(others) and all(f".{a}".endswith(f".{b}") or f".{b}".endswith(f".{a}") for a, b in pairs)


def functions_of(name: str, value: Any) -> dict[str, Any]:
    """{name: function}, or {name.field: function} of a NamedTuple of functions."""
    if not _is_named_tuple(value):
        return {name: value}
    found = {}
    for field in value._fields:
        if _is_code(getattr(value, field)):
            found |= functions_of(f"{name}.{field}", getattr(value, field))
    return found


def _names(name: str) -> list[str]:
    return name.replace("(", " ").replace(")", " ").replace(",", " ").split()


def _named(function: Any, bound: list[tuple[str, Any]], seen: set[int]) -> str:
    seen.add(id(function))
    module = getattr(function, "__module__", None) or "builtins"
    if module == "__main__":
        main = sys.modules["__main__"]
        spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
        module = spec.name if spec else file.rpartition("/")[2].removesuffix(".py") if file else module
    name = f"{module}.{getattr(function, '__qualname__', type(function).__qualname__)}"
    inner = []
    for key, value in bound:
        if key.startswith("default "):  # what it is by itself, and the next version may have otherwise
            continue
        for each in functions_of("", value).values() if _is_code(value) else ():
            each, its = _unwrapped(each)
            if id(each) not in seen:
                inner.append(_named(each, its, seen))
    return f"{name}({', '.join(inner)})" if inner else name


class _Seen(dict[int, tuple[Any, int]]):
    """What was told already, by id, with its number; the object is kept, so that no other takes its id."""

    numbers = 0

    def number(self, value: Any) -> int:
        """A number for a new object."""
        self[id(value)] = (value, self.numbers)
        self.numbers += 1
        return self.numbers - 1


def _pieces(value: Any, seen: _Seen) -> Iterator[str]:
    """Texts that together say what a function is, in an order that depends on nothing else."""
    if id(value) in seen:
        yield f"again {seen[id(value)][1]}"
        return
    if _is_named_tuple(value):
        seen.number(value)
        for field in value._fields:
            yield f"field {field}"
            yield from _pieces_of_value(getattr(value, field), seen)
        return
    function, bound = _unwrapped(value)
    if id(function) in seen:
        yield f"again {seen[id(function)][1]}"
        seen[id(value)] = (value, seen[id(function)][1])
    else:
        seen[id(value)] = (value, seen.number(function))  # one number, however it is compiled
        if _is_foreign(function):
            yield f"library {_named(function, [], set())}"
        else:
            yield from _pieces_of_code(function, seen)
    for name, each in bound:
        yield f"bound {name}"
        yield from _pieces_of_value(each, seen)


def _pieces_of_value(value: Any, seen: _Seen) -> Iterator[str]:
    if _is_simple(value):
        yield repr(value)
    elif isinstance(value, types.CodeType) and (tree := _source_tree(value)) is not None:
        yield ast.unparse(tree)
    elif isinstance(value, types.CodeType):
        yield from _bytecode(value)
    elif _is_code(value):
        yield from _pieces(value, seen)
    elif isinstance(value, (np.ndarray, np.generic, jax.Array)):
        yield _of_array(value)
    elif isinstance(value, enum.Enum):
        yield f"{type(value).__qualname__}.{value.name}"
    elif isinstance(value, (re.Pattern, Path)):
        yield repr(value)
    elif id(value) in seen:
        yield f"again {seen[id(value)][1]}"
    else:
        seen.number(value)
        yield from _pieces_of_object(value, seen)


def _pieces_of_object(value: Any, seen: _Seen) -> Iterator[str]:
    """Of what holds other values."""
    kind = type(value)
    yield f"a {kind.__qualname__}"
    if isinstance(value, (tuple, list)):
        for each in value:
            yield from _pieces_of_value(each, seen)
    elif isinstance(value, (set, frozenset)):
        yield from sorted(values_sha256(each) for each in value)
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _pieces_of_value(key, seen)
            yield from _pieces_of_value(each, seen)
    elif dataclasses.is_dataclass(value) or isinstance(value, types.SimpleNamespace) or _is_users(kind.__module__):
        if _is_users(kind.__module__):
            yield from _pieces(kind, seen)
        for name, each in sorted(_held(value).items()):
            yield f"holds {name}"
            yield from _pieces_of_value(each, seen)


def _held(value: Any) -> dict[str, Any]:
    """What an object holds by name, but for what it has worked out of the rest and kept."""
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name, None) for field in dataclasses.fields(value)}
    slots = [name for each in type(value).__mro__ for name in getattr(each, "__slots__", ()) if hasattr(value, name)]
    held = {name: getattr(value, name) for name in slots} | getattr(value, "__dict__", {})
    kept = {name for name in held if isinstance(getattr(type(value), name, None), functools.cached_property)}
    return {name: each for name, each in held.items() if name not in kept}


def _of_array(value: Any) -> str:
    if isinstance(value, Tracer):
        return f"traced {value.aval}"
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    held = np.asarray(value)
    return f"array {held.dtype} {held.shape} {hashlib.sha256(held.tobytes()).hexdigest()}"


def _pieces_of_code(function: Any, seen: _Seen) -> Iterator[str]:
    tree, codes = _source_tree(function), list(_codes(function))
    if tree is not None:
        yield ast.unparse(tree)
    else:
        yield f"bytecode {getattr(function, '__qualname__', type(function).__qualname__)}"
        for code in codes:
            yield from _bytecode(code)
    if isinstance(function, type) and _is_users(function.__module__):
        for name, value in sorted(vars(function).items()):
            if not name.startswith("__") and not callable(value) and not hasattr(value, "__get__"):
                yield f"attribute {name}"
                yield from _pieces_of_value(value, seen)
    names = {name for code in codes for each in _nested(code) for name in _globals_of(each)}
    names |= {base.__name__ for base in getattr(function, "__bases__", ())}
    module = getattr(function, "__module__", None)
    around = getattr(function, "__globals__", None) or vars(sys.modules.get(module or "", builtins))
    for name in sorted(names & around.keys()):
        value = around[name]
        if not isinstance(value, types.ModuleType):
            yield from _pieces_of_global(name, value, module, seen)
        elif _is_users(value.__name__):
            yield from _pieces_of_module(name, value, codes, seen)
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from _pieces_of_import(node, around.get("__package__"), codes, seen)


def _pieces_of_module(name: str, module: types.ModuleType, codes: list[types.CodeType], seen: _Seen) -> Iterator[str]:
    """What code takes from a module of the user's own: helper.score."""
    taken = {attribute for code in codes for each in _nested(code) for attribute in each.co_names}
    for attribute in sorted(taken & vars(module).keys()):
        found = vars(module)[attribute]
        if not isinstance(found, types.ModuleType):
            yield from _pieces_of_global(f"{name}.{attribute}", found, module.__name__, seen)


def _pieces_of_import(
    node: ast.Import | ast.ImportFrom, package: str | None, codes: list[types.CodeType], seen: _Seen
) -> Iterator[str]:
    """What code imports in its body from modules of the user's own, which are imported here as its first call would."""
    for alias in node.names:
        if isinstance(node, ast.Import):
            parts = alias.name.split(".")
            for name in (".".join(parts[: i + 1]) for i in range(len(parts))):
                if (module := _users_module(name)) is not None:
                    yield from _pieces_of_module(name, module, codes, seen)
            continue
        home = "." * node.level + (node.module or "")
        with suppress(ImportError):  # relative to no package
            home = importlib.util.resolve_name(home, package)
        if (module := _users_module(home)) is None:
            continue
        name = f"{home}.{alias.name}"
        found = vars(module)[alias.name] if alias.name in vars(module) else _users_module(name)
        if not isinstance(found, types.ModuleType):
            yield from _pieces_of_global(name, found, home, seen)
        elif _is_users(found.__name__):
            yield from _pieces_of_module(name, found, codes, seen)


def _users_module(name: str) -> types.ModuleType | None:
    """The module of that name, imported where it is not yet; None where it is not the user's own, or cannot be imported."""
    if name not in sys.modules:
        if name.partition(".")[0] in (*_LIBRARIES, _PACKAGE, *sys.stdlib_module_names):
            return None
        try:
            spec = importlib.util.find_spec(name)
            if spec is None or _is_installed(spec.origin):
                return None
            importlib.import_module(name)
        except (Exception, SystemExit):  # the call says so, where it comes to it
            return None
    return sys.modules[name] if _is_users(name) else None


def _pieces_of_global(name: str, value: Any, module: str | None, seen: _Seen) -> Iterator[str]:
    if not _is_code(value):
        yield f"global {name}"
        yield from _pieces_of_value(value, seen)
        return
    home = getattr(_unwrapped(value)[0], "__module__", None)
    # A tuple or a partial has no module of its own.
    if home == module or isinstance(value, (tuple, functools.partial)) or _is_users(home):
        yield from _pieces(value, seen)


def _codes(function: Any) -> Iterator[types.CodeType]:
    """The compiled code of a function, or of a class's methods."""
    for each in vars(function).values() if isinstance(function, type) else [function]:
        each = each.fget if isinstance(each, property) else getattr(each, "__func__", each)
        each = inspect.unwrap(each) if callable(each) and not isinstance(each, type) else each
        if isinstance(each, types.FunctionType):
            yield each.__code__


def _globals_of(code: types.CodeType) -> Iterator[str]:
    """The names that it looks up in its module."""
    for step in dis.get_instructions(code):
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME"):
            yield step.argval


@functools.cache
def _is_users(module: str | None) -> bool:
    """Whether a module is the user's own: no library, neither Python's nor this package."""
    if module is None or module.partition(".")[0] in (*_LIBRARIES, _PACKAGE, *sys.stdlib_module_names):
        return module == "__main__"
    file = getattr(sys.modules.get(module), "__file__", None)
    return not _is_installed(file)


def _is_installed(file: str | None) -> bool:
    installed = [Path(sysconfig.get_path(name)) for name in ("purelib", "platlib")]
    return file is not None and any(folder in Path(file).parents for folder in installed)


def _unwrapped(function: Any) -> tuple[Any, list[tuple[str, Any]]]:
    """The function below partial, jit, methods and other wrappers, and the values that it is bound to."""
    bound: list[tuple[str, Any]] = []
    while True:
        if isinstance(function, functools.partial):
            bound += [(str(i), value) for i, value in enumerate(function.args)]
            bound += sorted(function.keywords.items())
            function = function.func
        elif isinstance(function, types.MethodType):
            bound.append(("self", function.__self__))
            function = function.__func__
        elif hasattr(function, "__wrapped__") and not isinstance(function, type):
            bound += _wrapper(function)
            function = function.__wrapped__
        else:
            break
    if isinstance(function, types.FunctionType):
        bound += [(f"default {i}", value) for i, value in enumerate(function.__defaults__ or ())]
        bound += [(f"default {name}", value) for name, value in sorted((function.__kwdefaults__ or {}).items())]
        bound += _cells(function)
    elif not isinstance(function, (type, types.BuiltinFunctionType)):
        bound += [(f"holds {name}", value) for name, value in sorted(_held(function).items())]
        function = type(function)  # an object that can be called
    return function, bound


def _wrapper(function: Any) -> list[tuple[str, Any]]:
    """What a decorator put around a function: jax.grad and jax.vmap make another of it; jit and checks of types do not."""
    if not isinstance(function, types.FunctionType):
        return []
    top = function.__globals__.get("__name__", "").partition(".")[0]
    if top in ("jaxtyping", "beartype"):
        return []
    code = function.__code__
    return [("wrapper", code.co_qualname if top in _LIBRARIES else code), *_cells(function)]


def _cells(function: types.FunctionType) -> Iterator[tuple[str, Any]]:
    """The values of a closure by name."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with suppress(ValueError):  # not assigned yet
            yield name, cell.cell_contents


def _source_tree(function: Any) -> ast.AST | None:
    """The parsed source without docstrings; None where there is no source, or it does not tell which function is meant."""
    code = function if isinstance(function, types.CodeType) else getattr(inspect.unwrap(function), "__code__", None)
    if code is not None and code.co_filename == "<string>":
        return None  # of exec: from 3.13 on Python gives it the text of python -c
    try:
        tree: ast.AST = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    name = function.co_name if isinstance(function, types.CodeType) else getattr(function, "__name__", "")
    if name == "<lambda>":
        lambdas = [node for node in ast.walk(tree) if isinstance(node, ast.Lambda)]
        return lambdas[0] if len(lambdas) == 1 else None
    for node in ast.walk(tree):
        if (
            isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
            and ast.get_docstring(node) is not None
        ):
            node.body = node.body[1:] or [ast.Pass()]
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
    return tree


def _bytecode(code: types.CodeType) -> Iterator[str]:
    for each in _nested(code):
        yield each.co_code.hex()
        yield " ".join(each.co_names)
        yield from (repr(constant) for constant in each.co_consts if _is_simple(constant))


def _nested(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _nested(constant)


def _is_foreign(function: Any) -> bool:
    return (getattr(function, "__module__", None) or "builtins").partition(".")[0] in _LIBRARIES


def _is_named_tuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_fields")


def _is_code(value: Any) -> bool:
    """Whether it is a function, a class, a partial, a jitted function, or a NamedTuple of such."""
    if _is_named_tuple(value):
        return any(_is_code(field) for field in value)
    kinds = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial, type)
    return isinstance(value, kinds) or (callable(value) and hasattr(value, "__wrapped__"))


def _is_simple(value: Any) -> bool:
    if type(value) in (tuple, list):
        return all(_is_simple(each) for each in value)
    if type(value) is dict:
        return all(_is_simple(each) for each in [*value, *value.values()])
    return type(value) in _SIMPLE
