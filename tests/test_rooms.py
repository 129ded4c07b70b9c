"""What the tree promises: imports point one way, every option is read, and public functions say what they do."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "rlhf_jax"
BASE = {"types", "errors"}
GROUND = ("data", "models", "equations", "runtime")  # these four never import each other
# room → what it may import beside types and errors
MAY = {
    "types": set(),
    "errors": set(),
    "config": set(),
    **{room: set() for room in GROUND},
    "steps": {"models", "equations"},
    "evals": {"models", "equations", "steps"},
    "labelers": {"models", "equations", "steps", "data"},
    "moderation": {"models", "equations", "steps", "evals", "labelers"},
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


def test_labelers_import_the_world_and_nothing_else_of_the_data():
    for path in PACKAGE.glob("labelers/*.py"):
        of_data = {name for name in imports(path) if name.startswith("rlhf_jax.data")}
        assert all(name.startswith("rlhf_jax.data.world") for name in of_data), path


def sections() -> list[tuple[str, str]]:
    """Every field of every config dataclass of the experiments."""
    found = []
    for name in ("recipe", "material"):
        for node in ast.parse((ROOT / "experiments" / f"{name}.py").read_text()).body:
            is_config = isinstance(node, ast.ClassDef) and node.name not in ("Truth", "Material")
            if is_config and any("dataclass" in ast.unparse(d) for d in node.decorator_list):
                found += [(node.name, f.target.id) for f in node.body if isinstance(f, ast.AnnAssign)]
    return found


# Sections that a function takes as a whole, by name: it reads every field of the named tuple, or the dataclass, it makes.
WHOLE = {
    "Model": {"transformer": "TransformerConfig"},  # asdict(self) less two fields, checked below
    "PPO": {"coefficients": "PPOCoef", "form_of": "Form"},  # getattr(c, name) for name in PPOCoef._fields
}


def fields_read_as_a_whole(section: str) -> set[str]:
    import dataclasses

    from rlhf_jax.models import TransformerConfig
    from rlhf_jax.steps import Form, PPOCoef

    fields = {
        "TransformerConfig": {f.name for f in dataclasses.fields(TransformerConfig)},
        "PPOCoef": set(PPOCoef._fields),
        "Form": set(Form._fields),
    }
    source = "".join(path.read_text() for path in (ROOT / "experiments").glob("*.py"))
    for maker, made in WHOLE[section].items():
        functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and n.name == maker]
        assert any(made in ast.unparse(f) for f in functions), f"{maker} no longer makes {made}"
    return set().union(*(fields[made] for made in WHOLE[section].values()))


@pytest.mark.parametrize(("section", "field"), sections(), ids=".".join)
def test_every_option_is_read_somewhere(section, field):
    """As an attribute, in a file of experiments/ other than in its own declaration."""
    read = {
        node.attr
        for path in (ROOT / "experiments").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }
    whole = fields_read_as_a_whole(section) if section in WHOLE else set()
    assert field in read | whole


def test_there_are_options_to_check():
    names = {section for section, _ in sections()}
    assert {"Config", "Model", "PPO", "World", "Files", "Runtime"} <= names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_every_public_function_says_what_it_does(path):
    functions = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    silent = [f.name for f in functions if not f.name.startswith("_") and not ast.get_docstring(f)]
    assert not silent
