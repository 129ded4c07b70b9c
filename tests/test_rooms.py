"""What the tree promises: imports point one way, every option is read, and public functions say what they do."""

import ast
import dataclasses
import importlib
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlhf_jax.data import Layout
from rlhf_jax.models import TransformerConfig
from rlhf_jax.stages import Program
from rlhf_jax.steps import Form, PPOCoef

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rlhf_jax"
BASE = {"types", "errors"}
GROUND = ("data", "models", "equations", "runtime")  # these four never import each other
# room → what it may import beside types and errors
MAY = {
    "types": set(),
    "errors": set(),
    "config": set(),
    "__main__": {"config"},
    **{room: set() for room in GROUND},
    "steps": {"models", "equations"},
    "evals": {"models", "equations", "steps", "data"},
    "labelers": {"models", "equations", "steps", "data"},
    "labeling": {"data", "labelers"},
    "rewards": {"data"},
    "moderation": {"models", "equations", "steps", "evals", "labelers", "data"},
    "stages": {*GROUND, "config", "steps", "evals", "labelers", "rewards", "moderation"},
    "serving": {*GROUND, "config", "steps", "evals", "labelers", "rewards", "moderation", "stages"},
}


def imports(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports, at its top or inside a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module or "")
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


SOURCES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    room = room_of(path)
    if room == "__init__":
        assert not any(name.startswith("rlhf_jax") for name in imports(path))
        return
    allowed = MAY[room] | {room} | (BASE if room not in BASE else set())
    names = imports(path)
    taken = {name.split(".")[1] for name in names if name.startswith("rlhf_jax.")}
    assert taken <= allowed, f"{room} may import {sorted(allowed)}"
    assert "rlhf_jax" not in names
    assert not any(name.split(".")[0] in ("experiments", "tests") for name in names)


def test_the_gold_preference_and_who_see_it_know_the_world_and_nothing_else_of_the_data():
    for path in (PACKAGE / "labelers" / "gold.py", PACKAGE / "labelers" / "simulated.py"):
        of_data = {name for name in imports(path) if name.startswith("rlhf_jax.data")}
        assert all(name.startswith("rlhf_jax.data.world") for name in of_data), path


def modules(folder: Path) -> dict[str, set[str]]:
    """Each module of a folder, and those of the same folder that it imports."""
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in sorted(folder.rglob("*.py"))}
    return {name: (imports(path) & names.keys()) - {name} for name, path in names.items()}


@pytest.mark.parametrize("folder", ["rlhf_jax/stages", "experiments"])
def test_no_imports_go_in_a_circle(folder):
    waiting = modules(ROOT / folder)
    assert len(waiting) > 5 and any(waiting.values())
    while ready := [name for name, needs in waiting.items() if not needs & waiting.keys()]:
        for name in ready:
            del waiting[name]
    assert not waiting


def test_an_experiment_that_may_be_copied_stands_on_rlhf_jax_alone():
    """The sweep runs the whole recipe before its own part, and a study is a table of the sweep's; no other imports one."""
    stand_on = {name.rpartition(".")[2] for name, needs in modules(ROOT / "experiments").items() if needs}
    assert stand_on == {"sweep", "ablate_beta_gamma"}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.Lambda]:
    return (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, (ast.FunctionDef, ast.Lambda)))


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("stages/*.py")), ids=lambda p: p.name)
def test_a_stage_takes_what_it_is_made_from_and_no_config(path):
    """begin(config_type) makes one from the command line; it takes none."""
    for function in functions(path):
        a = function.args
        assert "config" not in {arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if arg}


# Options. A program's config is a subclass of Program, or what it hands to tyro; its sections are dataclasses themselves.


def program_modules() -> list[str]:
    return [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in sorted((ROOT / "experiments").rglob("*.py"))]


def settings_of(kind: type) -> dict[str, type]:
    """A settings dataclass and all sections in it, by their names."""
    found = {f"{kind.__module__.rpartition('.')[2]}.{kind.__name__}": kind}
    for hint in typing.get_type_hints(kind).values():
        for each in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(each) and isinstance(each, type):
                found |= settings_of(each)
    return found


def all_settings() -> dict[str, type]:
    found = {}
    for name in program_modules():
        for kind in vars(importlib.import_module(name)).values():
            of_its_own = isinstance(kind, type) and kind.__module__ == name and dataclasses.is_dataclass(kind)
            if of_its_own and (issubclass(kind, Program) or kind.__name__ == "Settings"):
                found |= settings_of(kind)
    return found


SETTINGS = all_settings()
FILES = {"demonstrations", "rankings", "prompts"}

# Sections of which a function reads fields as a whole, by the names of what it makes: where it says so, and which they are.
NAMES = {field.name for field in dataclasses.fields(Layout)}
WHOLE = {
    "layouts.Layout": {"getattr(own, f.name) or above[f.name]": NAMES},
    "datasets.Layouts": {"getattr(own, f.name) or above[f.name]": NAMES, "getattr(self, file)": FILES},
    "corpus.TextLayout": {"read_texts(files.pretrain, files.layout.pretrain)": {"text", "drop"}},
    "policy.PPO": {
        "np.float32(getattr(self, name)) for name in PPOCoef._fields": set(PPOCoef._fields),
        "getattr(self, name) for name in Form._fields": set(Form._fields),
    },
    "model.Decoder": {
        "asdict(decoder) | asdict(memory or Memory())": {f.name for f in dataclasses.fields(TransformerConfig)}
    },
    "model.Memory": {
        "asdict(decoder) | asdict(memory or Memory())": {f.name for f in dataclasses.fields(TransformerConfig)}
    },
}


def sources_that_read() -> str:
    files = [*PACKAGE.glob("stages/*.py"), *(ROOT / "experiments").rglob("*.py")]
    return "\n".join(path.read_text() for path in files)


READ = {
    node.attr
    for node in ast.walk(ast.parse(sources_that_read()))
    if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
}


def fields_read_as_a_whole(section: str) -> set[str]:
    source = ast.unparse(ast.parse(sources_that_read()))
    for words in WHOLE.get(section, {}):
        assert words in source, f"nothing reads {section} by {words} any more"
    return set().union(*WHOLE.get(section, {}).values())


@pytest.mark.parametrize("section", SETTINGS)
def test_every_option_is_read_somewhere(section):
    """As an attribute, in a stage or an experiment, or as one of the names that a NamedTuple is made by."""
    fields = {field.name for field in dataclasses.fields(SETTINGS[section])}
    assert fields <= READ | fields_read_as_a_whole(section)


def test_there_are_options_to_check():
    assert len(SETTINGS) > 25
    known = "instructgpt.Config sweep.Sweep grpo.Group dpo.Given rl_loop.Settings policy.PPO pretrain.Stream model.Lora"
    known += (
        " run.Runtime run.Devices run.Optimiser datasets.World datasets.Files evaluation.Evaluate preference.Preference"
    )
    assert set(known.split()) <= SETTINGS.keys()


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_public_function_says_what_it_does(path):
    functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    silent = [f.name for f in functions if not f.name.startswith("_") and not ast.get_docstring(f)]
    assert not silent
