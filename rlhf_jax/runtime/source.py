"""The code of a pure function as a hash: what a result owes to the function that a researcher changes."""

import ast
import builtins
import functools
import hashlib
import inspect
import sys
import textwrap
import types
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

# Of these the checkpoint's record has the version, so that a name says which code it is.
_LIBRARIES = ("jax", "jaxlib", "flax", "optax", "chex", "numpy", "orbax", "builtins", "functools")
_PACKAGE = __name__.partition(".")[0]
_SIMPLE = (str, bytes, int, float, complex, bool, type(None))


def source_sha256(function: Any) -> str:
    """sha256 (hex) of a function's source, in which comments, formatting and docstrings do not count.

    With it count the functions, classes and simple constants of the same module that it names, and theirs in turn; the
    functions and simple values that it is bound to by functools.partial, a closure or a default. A NamedTuple of functions
    counts field by field. A function without source counts by its name and bytecode. Functions of JAX, Flax and Optax count
    by their names.
    """
    digest = hashlib.sha256()
    for piece in _pieces(function, _Seen()):
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

    def number(self, value: Any) -> int:
        """A number for a new object."""
        number = len({number for _, number in self.values()})
        self[id(value)] = (value, number)
        return number


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
    elif isinstance(value, (tuple, list)):
        for each in value:
            yield from _pieces_of_value(each, seen)


def _pieces_of_code(function: Any, seen: _Seen) -> Iterator[str]:
    tree = _source_tree(function)
    if tree is not None:
        yield ast.unparse(tree)
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    else:
        yield f"bytecode {getattr(function, '__qualname__', type(function).__qualname__)}"
        methods = vars(function).values() if isinstance(function, type) else [function]
        codes = [method.__code__ for method in methods if isinstance(method, types.FunctionType)]
        for code in codes:
            yield from _bytecode(code)
        names = {name for code in codes for each in _nested(code) for name in each.co_names}
    module = getattr(function, "__module__", None)
    around = getattr(function, "__globals__", None) or vars(sys.modules.get(module or "", builtins))
    for name in sorted(names & around.keys()):
        value = around[name]
        if _is_simple(value):
            yield f"constant {name} = {value!r}"
        elif _is_code(value):
            home = getattr(_unwrapped(value)[0], "__module__", None)
            if home == module or isinstance(value, (tuple, functools.partial)):  # those have no module of their own
                yield from _pieces(value, seen)


def _unwrapped(function: Any) -> tuple[Any, list[tuple[str, Any]]]:
    """The function below partial, jit, methods and other wrappers, and the values that it is bound to."""
    bound: list[tuple[str, Any]] = []
    while True:
        if isinstance(function, functools.partial):
            bound += [(str(i), value) for i, value in enumerate(function.args)]
            bound += sorted(function.keywords.items())
            function = function.func
        elif isinstance(function, types.MethodType):
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
