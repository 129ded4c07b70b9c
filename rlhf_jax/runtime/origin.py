"""What a folder was made from: recorded in it, compared when it is opened again, and set aside with all that came from it."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from rlhf_jax.errors import InputError, shortened
from rlhf_jax.runtime.checkpoint import Checkpoints
from rlhf_jax.runtime.files import locked
from rlhf_jax.runtime.hosts import first_process, meet
from rlhf_jax.runtime.progress import info
from rlhf_jax.runtime.source import (
    bound_sha256,
    from_package,
    functions_of,
    same_name,
    source_name,
    source_sha256,
)
from rlhf_jax.runtime.versions import made_with

SET_ASIDE = "set_aside"
CHECKPOINTS = "checkpoints"
MADE = "made.json"


class Origin(NamedTuple):
    """What a stage's result is made from."""

    settings: Mapping[str, Any]  # every value that it depends on, nested, as JSON; compared key by key
    inputs: Mapping[str, str]  # name → sha256 of a parent's checkpoint or of the content of data; compared
    code: Mapping[str, Any]  # argument → the pure function handed in, or NamedTuple of such; compared by source
    model: Mapping[str, Any]  # what a reader of the folder needs to know, as JSON; not compared


class Change(NamedTuple):
    """A setting, or the source of a function, that differs from what a folder was made with."""

    key: str
    old: Any
    new: Any


def record_of(origin: Origin) -> dict[str, Any]:
    """An origin as it is written into a folder, with the versions of the libraries that are at work and the
    commit of the checkout."""
    functions = {key: f for name, value in origin.code.items() for key, f in functions_of(name, value).items()}
    record = {
        "settings": origin.settings,
        "inputs": origin.inputs,
        "code": {
            name: {"where": source_name(f), "sha256": source_sha256(f), "bound": bound_sha256(f)}
            for name, f in functions.items()
        },
        "model": origin.model,
        "versions": made_with(),
    }
    return json.loads(json.dumps(record, default=_plain))  # as it will be read: tuples become lists, keys strings


def require_same_origin(
    folder: Path,
    found: Mapping[str, Any],
    wanted: Mapping[str, Any],
    free: tuple[str, ...] = (),
    free_code: tuple[str, ...] = (),
) -> list[Change]:
    """Compares the record found in a folder with the one that it would get now.

    It returns what differs and may: settings whose key ends in one of `free`, and functions handed in as one of `free_code`.
    Functions of the package itself may differ too, which is said. InputError, with the first difference, for all others.
    """
    if "settings" not in found:
        raise InputError(
            f"{folder} holds checkpoints of an earlier version of rlhf_jax; choose another folder, or delete the folder"
        )
    _require_same_inputs(folder, found["inputs"], wanted["inputs"])
    changes = list(_differences(found["settings"], wanted["settings"]))
    for change in changes:
        if change.key.rpartition(".")[2] not in free:
            raise InputError(
                f"{folder}: it was made with another {change.key} ({shortened(change.old)}, not {shortened(change.new)}); "
                f"set it back, {or_anew(folder)}"
            )
    for name in free_code:
        old, new = ((record["code"].get(name) or {}).get("sha256") for record in (found, wanted))
        if old != new:
            changes.append(Change(name, *(f"sha256 {str(sha256)[:12]}" for sha256 in (old, new))))
    _require_same_code(folder, *({**r, "code": _without(r["code"], free_code)} for r in (found, wanted)))
    return changes


def or_anew(folder: Path) -> str:
    """The end of a sentence about a folder that was made from something else."""
    anew = f"--anew {folder.name} (in Python runtime.set_aside)"
    return f"choose another folder, or {anew} makes it and what came from it again"


def set_aside(out: Path, name: str) -> list[str]:
    """Moves out/name, and every folder below `out` that was made from it, to out/set_aside, where nothing is deleted.

    It returns the names of what it moved and says them. InputError if there is no such folder, or if another process is at
    work in one of them. With several processes each has to call it.
    """
    folders = {path.relative_to(out).as_posix(): path for path in _made_below(out)}
    if name not in folders:
        there = f"it holds {', '.join(folders)}" if folders else "it holds nothing that was made"
        raise InputError(f"{out}: there is no {name} to make anew; {there}")
    links = {each: _results_and_inputs(folder) for each, folder in folders.items()}
    moved, results = [name], set(links[name][0])
    while children := [each for each in links if each not in moved and results & links[each][1]]:
        moved += children
        results |= {result for child in children for result in links[child][0]}
    meet("read what was made from what")
    if first_process():
        with ExitStack() as stack:
            for each in moved:
                stack.enter_context(locked(folders[each]))
            for each in reversed(moved):  # children first: if it is killed, the same call moves the rest
                target = _free_name(out / SET_ASIDE, each)
                target.parent.mkdir(parents=True, exist_ok=True)
                folders[each].rename(target)
        info(f"set aside in {out / SET_ASIDE}: {', '.join(moved)}")
    meet("set aside")
    return moved


def ancestors(out: Path, sha256: str) -> set[str]:
    """The hashes of all that a result was made from, itself or through others, as far as folders below `out` say so."""
    links = [_results_and_inputs(folder) for folder in _made_below(out)]
    found, waiting = set[str](), [sha256]
    while waiting:
        child = waiting.pop()
        parents = {parent for results, inputs in links if child in results for parent in inputs} - found
        found |= parents
        waiting += parents
    return found


def _require_same_inputs(folder: Path, found: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    for name in [*found, *wanted]:
        old, new = found.get(name), wanted.get(name)
        if old == new:
            continue
        if name == "tokenizer" and old and new:
            raise InputError(
                f"{folder}: it was trained with another tokenizer (sha256 {old[:12]}, not {new[:12]}); "
                f"give it its own tokenizer, {or_anew(folder)}"
            )
        raise InputError(f"{folder}: it was made from another {name}; {or_anew(folder)}")


def _require_same_code(folder: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    older = [
        name
        for name in [*found["code"], *(wanted["code"].keys() - found["code"].keys())]
        if _code_changed_in_the_library(folder, name, found["code"].get(name), wanted["code"].get(name))
    ]
    versions = [record["versions"]["rlhf_jax"] for record in (found, wanted)]
    if older and versions[0] != versions[1]:
        info(f"{folder.name}: made by rlhf_jax {versions[0]}, and this is {versions[1]}")
    elif older:
        names = [f"{name} {wanted['code'][name]['where'].partition('(')[0].rpartition('.')[2]}" for name in older]
        info(f"{folder.name}: its {' and its '.join(names)} has changed in the library since")


def _code_changed_in_the_library(
    folder: Path, name: str, old: Mapping[str, str] | None, new: Mapping[str, str] | None
) -> bool:
    if old is not None and new is not None and old["sha256"] == new["sha256"]:
        return False  # whatever its file is called now
    if old is None or new is None or not same_name(old["where"], new["where"]):
        was, now = (each["where"] if each else "none" for each in (old, new))
        raise InputError(
            f"{folder}: it was made with another {name} ({was}, not {now}); set it back, {or_anew(folder)}"
        )
    if old.get("bound") != new["bound"]:
        raise InputError(
            f"{folder}: its {name} ({new['where']}) was bound to other values; set them back, {or_anew(folder)}"
        )
    if not (from_package(old["where"]) and from_package(new["where"])):
        raise InputError(f"{folder}: its {name} ({new['where']}) has changed since; {or_anew(folder)}")
    return True


def _differences(found: Any, wanted: Any, key: str = "") -> Iterator[Change]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in [*found, *(each for each in wanted if each not in found)]:
            yield from _differences(found.get(name), wanted.get(name), f"{key}.{name}" if key else name)
    elif found != wanted or isinstance(found, bool) != isinstance(wanted, bool):  # 1 and True are equal to Python
        yield Change(key, found, wanted)


def _without(code: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in code.items() if name not in names}


def _results_and_inputs(folder: Path) -> tuple[set[str], set[str]]:
    """The hashes by which others record this folder as what they were made from, and those of what it was made from."""
    results, inputs = set(), set()
    checkpoints = Checkpoints(folder / CHECKPOINTS, None)
    for step in checkpoints.steps():
        try:
            record = checkpoints.record(step)
        except InputError:
            continue  # a damaged one tells nothing
        results.add(record["sha256"])
        inputs |= set(record.get("inputs", {}).values())
    try:
        made = json.loads((folder / MADE).read_text(encoding="utf-8"))
        results |= {made[name] for name in ("sha256", "known_as") if name in made}
        inputs |= set(made["inputs"].values())
    except (OSError, ValueError, LookupError, AttributeError, TypeError):
        pass
    return results, inputs


def _made_below(out: Path) -> Iterator[Path]:
    """The folders that stages and data are made in; one that holds others is none itself."""
    if not out.is_dir():
        return
    for path in sorted(out.iterdir()):
        if path.is_symlink() or not path.is_dir() or path.name == SET_ASIDE or path.name.startswith("."):
            continue
        if (path / CHECKPOINTS).is_dir() or (path / MADE).is_file():
            yield path
        else:
            yield from list(_made_below(path)) or ([path] if _begun(path) else [])


def _begun(path: Path) -> bool:
    """Whether a stage was begun in a folder and has saved nothing."""
    return (path / "metrics.jsonl").exists() or (path / "tokenizer").is_dir()


def _free_name(folder: Path, name: str) -> Path:
    path, number = folder / name, 1
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}"
    return path


def _plain(value: Any) -> Any:
    """NumPy's numbers and paths, which JSON does not know."""
    if hasattr(value, "item"):
        return value.item()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no JSON: {value!r}")
