"""The hash of a function's code sees what changes its result, and nothing of how it is written down."""

import functools
import importlib
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.runtime import source_name, source_sha256, tree_hash
from rlhf_jax.runtime.source import from_package, functions_of, same_name

MODULE = '''
BETA = 0.1

def helper(x):
    return x + 1

class Scale:
    """Of no use."""
    def by(self, x):
        return deep(x)

def deep(x):
    return x * 2

def unused(x):
    return x

def loss(x, scale=3.0):
    """What it says does not count."""
    return helper(x) * BETA + Scale().by(x)

def make(inner, beta):
    def made(x):
        return inner(x) + beta
    return made

mapped = lambda x: x + 5
'''


@pytest.fixture
def write(tmp_path):
    """A module of a given text, as if it were imported from a file of its own."""
    count = 0

    def written(text, name="mine"):
        nonlocal count
        count += 1
        path = tmp_path / f"version_{count}.py"
        path.write_text(text)
        module = types.ModuleType(name)
        exec(compile(text, str(path), "exec"), vars(module))
        sys.modules[name] = module
        return module

    yield written
    sys.modules.pop("mine", None)


def test_comments_formatting_and_docstrings_do_not_count(write):
    one = source_sha256(write(MODULE).loss)
    text = MODULE.replace("What it says", "Another sentence").replace("Of no use", "None")
    text = text.replace("    return x + 1", "    # why\n    return (x  +\n        1)")
    assert source_sha256(write(text).loss) == one
    assert source_sha256(write(text.replace('    """Another sentence does not count."""\n', "")).loss) == one
    assert source_sha256(write(MODULE.replace("def unused(x):\n    return x", "")).loss) == one


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("helper(x) * BETA", "helper(x) / BETA"),
        ("x + 1", "x + 2"),  # of a function that it names
        ("x * 2", "x * 3"),  # of a function that a class that it names names
        ("BETA = 0.1", "BETA = 0.2"),
        ("scale=3.0", "scale=4.0"),
    ],
)
def test_its_own_code_and_what_it_names_in_its_module_count(write, old, new):
    assert old in MODULE
    assert source_sha256(write(MODULE).loss) != source_sha256(write(MODULE.replace(old, new)).loss)


def test_what_it_is_bound_to_counts(write):
    module = write(MODULE)
    variants = [
        module.loss,
        functools.partial(module.loss, scale=1.0),
        functools.partial(module.loss, scale=2.0),
        functools.partial(module.loss, scale=module.helper),
        functools.partial(module.loss, scale=module.deep),
        functools.partial(module.loss, scale=functools.partial(module.helper, 1)),
        functools.partial(module.loss, scale=functools.partial(module.deep, 1)),
        module.make(module.helper, 0.1),
        module.make(module.deep, 0.1),
        module.make(module.deep, 0.2),
        functools.partial(module.make, optax.sgd(0.1)),
        functools.partial(module.make, optax.sgd(0.2)),
        jax.grad(module.loss),
        jax.vmap(module.loss),
    ]
    assert len({source_sha256(each) for each in variants}) == len(variants)
    assert source_sha256(module.make(module.deep, 0.2)) == source_sha256(module.make(module.deep, 0.2))
    assert source_sha256(jax.jit(module.loss)) == source_sha256(module.loss)  # the same function, compiled
    others = [functools.partial(module.loss, scale=object()) for _ in range(2)]
    assert source_sha256(others[0]) == source_sha256(others[1])  # of what else there is only the class counts


VALUES = """
import re
from dataclasses import dataclass
from types import SimpleNamespace
import numpy as np

PATTERN = re.compile("a")
WORDS = {"a", "b"}
WEIGHT = np.float32(1.0)
SPACE = SimpleNamespace(a=1)

@dataclass
class Taste:
    words: tuple
    weights: object = None

TASTE = Taste(("a",), np.ones(2))

class Keyword:
    scale = 1.0
    def __init__(self, word):
        self.word = word
    def __call__(self, prompts, answers):
        return [self.scale * (self.word in answer) for answer in answers]
    def score(self, prompts, answers):
        return self(prompts, answers)

the = Keyword("a")

def reward(prompts, answers):
    return [WEIGHT * len(PATTERN.findall(a)) + (a in WORDS) + SPACE.a + len(TASTE.words) for a in answers]

def closed():
    taste = Taste(("a",), np.ones(2))
    def inner(prompts, answers):
        return taste
    return inner

def function(words, prompts, answers):
    return words
"""


@pytest.mark.parametrize(
    ("old", "new", "of"),
    [
        ('compile("a")', 'compile("b")', "reward"),
        ('WORDS = {"a", "b"}', 'WORDS = {"a", "c"}', "reward"),
        ("np.float32(1.0)", "np.float32(2.0)", "reward"),
        ("SimpleNamespace(a=1)", "SimpleNamespace(a=2)", "reward"),
        ('TASTE = Taste(("a",), np.ones(2))', 'TASTE = Taste(("a",), np.zeros(2))', "reward"),
        ('taste = Taste(("a",)', 'taste = Taste(("b",)', "closed"),
        ('Keyword("a")', 'Keyword("b")', "the"),
        ("scale = 1.0", "scale = 2.0", "the"),
    ],
)
def test_the_values_that_it_reads_count(write, old, new, of):
    assert old in VALUES

    def hashes(text):
        module = write(text)
        found = module.closed() if of == "closed" else getattr(module, of)
        return [source_sha256(found)] + ([source_sha256(found.score)] if of == "the" else [])

    assert hashes(VALUES) == hashes(VALUES)
    assert all(a != b for a, b in zip(hashes(VALUES), hashes(VALUES.replace(old, new)), strict=True))


def test_what_is_bound_by_a_partial_counts_whatever_it_is(write):
    module = write(VALUES)
    bound = [{"a"}, {"b"}, frozenset({"a"}), np.ones(2), np.ones(3), jnp.zeros(2), Path("a"), {"k": np.float32(1)}]
    hashes = [source_sha256(functools.partial(module.function, each)) for each in bound]
    assert len(set(hashes)) == len(bound)
    assert hashes == [source_sha256(functools.partial(module.function, each)) for each in bound]


def test_what_an_object_works_out_and_keeps_does_not_count(write):
    text = """
from dataclasses import dataclass
from functools import cached_property

@dataclass(frozen=True)
class Truth:
    words: tuple
    @cached_property
    def asked(self):
        return {word: 1 for word in self.words}

class Judge:
    @cached_property
    def table(self):
        return {"a": 1}
    def __call__(self, prompts, answers):
        return answers

judge, truth = Judge(), Truth(("a",))
def reward(prompts, answers):
    return truth.asked
"""
    module = write(text)
    before = source_sha256(module.judge), source_sha256(module.reward)
    assert module.judge.table and module.truth.asked
    assert (source_sha256(module.judge), source_sha256(module.reward)) == before


def test_a_local_name_is_no_global_and_an_annotation_no_code(write):
    text = """
def reward(prompts, answers):
    n = 1.0
    return [n * len(a) for a in answers]
"""
    one = source_sha256(write(text).reward)
    assert source_sha256(write("n, a = 3, [4]\n" + text).reward) == one
    settings = "class Settings:\n    beta: float = 0.1\n"
    annotated = settings + text.replace("(prompts, answers)", "(prompts: list, answers: Settings) -> list")
    assert source_sha256(write(annotated).reward) == one
    assert source_sha256(write(annotated.replace("0.1", "0.2")).reward) == one


def test_a_function_of_another_file_of_the_user_s_counts(write):
    def of(text):
        write(text, "helpers")
        return source_sha256(write("from helpers import score\ndef reward(p, a):\n    return score(a)\n").reward)

    one = "def score(a):\n    return [1.0 for _ in a]\n"
    assert of(one) == of(one + "# a comment") != of(one.replace("1.0", "2.0"))
    sys.modules.pop("helpers")


def test_what_is_taken_from_another_module_of_the_user_s_counts_and_nothing_else_of_it(write):
    def of(text):
        write(text, "helpers")
        return source_sha256(
            write("import helpers\ndef reward(p, a):\n    return helpers.score(a, helpers.K)\n").reward
        )

    one = "K = 1\nL = 1\ndef score(a, k):\n    return [half(k) for _ in a]\ndef half(k):\n    return k / 2\n"
    assert of(one) == of(one.replace("L = 1", "L = 3")) == of(one + "def other():\n    pass\n")
    assert len({of(one), of(one.replace("K = 1", "K = 3")), of(one.replace("k / 2", "-k / 2"))}) == 3
    sys.modules.pop("helpers")


@pytest.mark.parametrize(
    "body",
    [
        "import helpers\n    return helpers.score(a)",
        "import helpers as h\n    return h.score(a)",
        "from helpers import score as s\n    return s(a)",
        "import kit.helpers\n    return kit.helpers.score(a)",
        "from kit import helpers\n    return helpers.score(a)",
        "from kit.helpers import score\n    return score(a)",
        "def inner():\n        from .helpers import score\n        return score(a)\n    return inner()",
    ],
)
def test_what_is_imported_in_its_body_counts_before_it_is_called(write, body, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    (tmp_path / "kit").mkdir()
    (tmp_path / "kit" / "__init__.py").write_text("")

    def of(text):
        for path in (tmp_path / "helpers.py", tmp_path / "kit" / "helpers.py"):
            path.write_text(text)
        for name in ("helpers", "kit.helpers", "kit"):
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        module = write(f"__package__ = 'kit'\ndef reward(p, a):\n    {body}\n")
        before = source_sha256(module.reward)
        module.reward("p", "a")
        assert source_sha256(module.reward) == before
        return before

    one = "L = 1\ndef score(a):\n    return [half(1) for _ in a]\ndef half(k):\n    return k / 2\n"
    assert of(one) == of(one.replace("L = 1", "L = 3")) != of(one.replace("k / 2", "-k / 2"))
    for name in ("helpers", "kit.helpers", "kit"):
        sys.modules.pop(name, None)


def test_an_import_in_a_body_that_cannot_be_done_is_left_to_the_call(write):
    text = "def reward(p, a):\n    try:\n        import not_there.at_all\n    except ImportError:\n        return [1]\n"
    assert source_sha256(write(text).reward) == source_sha256(write(text).reward)


class Iteration(NamedTuple):
    sample: object
    learn: object


def test_a_named_tuple_of_functions_counts_field_by_field(write):
    module = write(MODULE)
    given = [(module.helper, module.deep), (module.deep, module.helper), (module.helper, module.loss)]
    assert len({source_sha256(Iteration(*each)) for each in given}) == 3
    assert list(functions_of("iteration", Iteration(module.helper, module.deep))) == [
        "iteration.sample",
        "iteration.learn",
    ]


def test_a_function_without_source_counts_by_its_bytecode():
    def made(text):
        around = {"__name__": "typed"}
        exec(text, around)
        return around["f"]

    one, other = "def f(x): return x + 1", "def f(x): return x + 2"
    assert source_sha256(made(one)) == source_sha256(made(one)) != source_sha256(made(other))
    assert source_sha256(made(one.replace("+", "-"))) != source_sha256(made(one))
    assert source_sha256(len) != source_sha256(max)


def test_of_lambdas_on_one_line_each_has_its_own_hash(write):
    text = "a, b = lambda x: x + 1, lambda x: x + 2\n"
    module = write(text)
    assert source_sha256(module.a) != source_sha256(module.b)
    assert source_sha256(write(MODULE).mapped) != source_sha256(write(MODULE.replace("x + 5", "x + 6")).mapped)


def test_recursion_ends():
    def outer(x):
        return inner(x)

    def inner(x):
        return outer(x)

    assert source_sha256(outer) == source_sha256(outer) != source_sha256(inner)


HASHES = """
import functools, optax, sys
from rlhf_jax.runtime import Stage, run, source_sha256, source_name, tree_hash
bound = functools.partial(run, main=tree_hash, name="a", many=(1, 2), of={"b": None})
for each in (tree_hash, Stage, bound, optax.adamw(1e-3)):
    print(source_sha256(each), source_name(each))
"""


def test_it_is_the_same_in_every_process():
    def printed(seed):
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", HASHES], capture_output=True, text=True, env=environment, check=True
        )
        return done.stdout

    one = printed("1")
    assert one == printed("2")
    assert "0x" not in one
    assert one.split()[0] == source_sha256(tree_hash)  # here the tests' check of shapes is wrapped around it


def test_a_name_says_whose_function_it_is(write):
    module = write(MODULE)
    assert source_name(module.loss) == "mine.loss"
    bound = source_name(functools.partial(tree_hash, tree=module.helper))
    assert bound == "rlhf_jax.runtime.tree_hash.tree_hash(mine.helper)"
    assert source_name(module.make(module.deep, 1)) == "mine.make.<locals>.made(mine.deep)"
    assert from_package(source_name(tree_hash)) and from_package(source_name(functools.partial(tree_hash, jax.nn.relu)))
    assert not from_package(bound) and not from_package("rlhf_jax_mine.loss")
    assert same_name("experiments.ppo.learn(experiments.ppo.f)", "ppo.learn(ppo.f)")
    assert not same_name("ppo.learn(ppo.f)", "ppo.learn(ppo.g)") and not same_name("ppo.learn", "ppo.relearn")
