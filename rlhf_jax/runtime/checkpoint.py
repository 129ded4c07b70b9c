"""Checkpoints that are whole, verified and restorable on any number of devices (Orbax)."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import Sharding, SingleDeviceSharding
from jaxtyping import PyTree
from orbax.checkpoint.checkpoint_manager import StepAlreadyExistsError
from orbax.checkpoint.checkpoint_managers import LatestN, PreservationPolicy
from orbax.checkpoint.options import AsyncOptions

from rlhf_jax.errors import InputError
from rlhf_jax.runtime.files import disk_reason
from rlhf_jax.runtime.interruption import Interruption
from rlhf_jax.runtime.progress import info
from rlhf_jax.runtime.tree_hash import hash_of_sums, leaf_sums, path_name, tree_hash

Place = Callable[[tuple[str, ...], tuple[int, ...]], Sharding]  # a leaf's path and shape → where it is to lie
T = TypeVar("T")


class _DamagedError(Exception):
    """Why a step cannot be restored, in words that follow "step 7"."""


class Checkpoints:
    """The checkpoints of one run: folder/STEP/state holds the arrays, folder/STEP/record a JSON object.

    `keep` is how many of the newest are kept; None keeps all. `best` names a figure: of the steps whose record has it
    under "metrics", the one with the largest is kept as well, the earliest of equals; `marked` a key of records, and every
    step whose record has it is kept. Reading never writes into the folder.
    """

    def __init__(self, folder: Path, keep: int | None, best: str = "", marked: str = ""):
        self.folder = folder.absolute()
        self._keep = keep
        self._best = best
        self._marked = marked
        self._stay: set[int] = set()  # the marked steps that the manager knows
        self._damaged: list[int] = []
        self._manager: ocp.CheckpointManager | None = None  # for writing; made by the first save
        self._figures: dict[int, float | None] = {}  # `best` of each step that the manager knows

    def save(self, step: int, state: PyTree, record: dict) -> None:
        """Saves in the background, whole or not at all; does nothing if the step is there already.

        `state` is a pytree of arrays, sharded or not, typed keys included; it may be donated as soon as save
        returns. `record` is a JSON object; save adds "step", "leaves" (path, shape, dtype and checksum of each),
        "sha256" (`tree_hash` of the state, computed before save returns) and "seal" (sha256 of the record).
        InputError if the disk is full or read-only, here or at the next save, wait or close.
        """
        with self._sentence_if_unwritable():
            self._set_aside_damaged()
            if step in self.steps():
                return
            sums = leaf_sums(state)
            leaves = [leaf._asdict() for leaf in sums]
            whole = record | {"step": step, "leaves": leaves, "sha256": hash_of_sums(sums)}
            whole = json.loads(json.dumps(whole))  # as it will be read: tuples become lists, keys strings
            arguments = ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                record=ocp.args.JsonSave(whole | {"seal": _seal(whole)}),
            )
            self._figures[step] = whole.get("metrics", {}).get(self._best)
            if self._marked in whole:
                self._stay.add(step)
            with suppress(StepAlreadyExistsError):  # it was still being written above
                self._writer().save(step, args=arguments, force=True)

    def steps(self) -> list[int]:
        """The steps on disk, oldest first, intact or not."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdigit() and path.is_dir())

    def latest(self) -> int | None:
        """The newest step on disk, intact or not; None if there is none."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step on disk with the best figure; None if no intact record has it."""
        return _best({step: self._figure_of(step) for step in self.steps()})

    def best_figure(self) -> float | None:
        """The largest figure of those on disk and on their way there; None if none has it. The same on every process."""
        figures = {step: self._figure_of(step) for step in self.steps() if step not in self._figures} | self._figures
        step = _best(figures)
        return None if step is None else figures[step]

    def record(self, step: int) -> dict:
        """The record saved with a step; InputError if it is missing or damaged."""
        try:
            return self._read_record(step)
        except _DamagedError as error:
            raise InputError(f"{self.folder}: step {step} {error}; {self._way_out(self._read_record, step)}") from error

    def restore(self, target: PyTree, step: int | None = None) -> tuple[PyTree, dict] | None:
        """The state and record of a step, or of the newest intact step; None if there is no step at all.

        `target` is a pytree of arrays or ShapeDtypeStructs with the state's structure; where its leaves have
        a sharding, the state gets it. Damaged newer steps are passed over with a warning, and set aside by
        the next save. InputError if the step named is missing or damaged, if none is intact, or if the
        leaves' paths, shapes or dtypes differ from the target's.
        """
        return self._intact(lambda candidate: self._restore(target, candidate), step)

    def read(self, part: str, step: int | None = None, place: Place | None = None) -> tuple[PyTree, dict]:
        """One part of the state, such as "params", and the record, of a step or of the newest intact one.

        It comes as nested dicts and lists under the names by which it was saved, in the dtypes in which it was saved; the
        rest of the state is not read. place says where a leaf is to lie, by its path inside the part and its shape; without
        it each lies on this process's first device. With several processes each has to call it. InputError as for `restore`,
        and if there is no step, or no such part.
        """
        found = self._intact(lambda candidate: self._read_part(part, candidate, place), step)
        if found is None:
            raise InputError(f"{self.folder} holds no checkpoint; train it first, or name another folder")
        return found

    def wait(self) -> None:
        """Returns when everything is on disk; InputError if the disk is full or read-only."""
        with self._sentence_if_unwritable():
            if self._manager is not None:
                self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and lets go of the threads."""
        self.wait()
        if self._manager is not None:
            self._manager.close()
            self._manager = None

    def _writer(self) -> ocp.CheckpointManager:
        if self._manager is None:
            self._figures |= {step: self._figure_of(step) for step in self.steps()}
            self._stay |= {step for step in self.steps() if self._is_marked(step)}
            options = ocp.CheckpointManagerOptions(
                preservation_policy=_NewestAndBest(self._keep, self._figures, self._stay),
                cleanup_tmp_directories=True,  # what a killed run left half-written
                enable_async_checkpointing=True,
                # In the background, a folder that cannot be made holds up the program's exit for 5 minutes.
                async_options=AsyncOptions(create_directories_asynchronously=False),
            )
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        return self._manager

    def _set_aside_damaged(self) -> None:
        """Else a damaged step counts among the newest, or passes for saved when the run gets there again."""
        if not self._damaged:
            return
        self.close()  # the writer remembers the steps that it found
        if jax.process_index() == 0:
            for step in self._damaged:
                aside = self.folder / f"damaged-{step}"
                shutil.rmtree(aside, ignore_errors=True)
                (self.folder / str(step)).rename(aside)
        multihost_utils.sync_global_devices("damaged checkpoints set aside")
        self._damaged = []

    def _intact(self, read: Callable[[int], T], step: int | None) -> T | None:
        """What `read` makes of a step, or of the newest intact one; None if there is none on disk."""
        if step is not None:
            try:
                return read(step)
            except _DamagedError as error:
                raise InputError(f"{self.folder}: step {step} {error}; {self._way_out(read, step)}") from error
        damage = {}
        for candidate in reversed(self.steps()):
            try:
                found = read(candidate)
            except _DamagedError as error:
                damage[candidate] = str(error)
                continue
            if damage:
                info(f"{self.folder}: {_listed(damage)}; using step {candidate} instead")
            self._damaged = list(damage)
            return found
        if damage:
            raise InputError(
                f"{self.folder}: no checkpoint is intact ({_listed(damage)}); delete {self.folder} and run the program that "
                "made them again, it starts over"
            )
        return None

    def _way_out(self, read: Callable[[int], Any], step: int) -> str:
        """What to do about a step that is damaged or missing. Every other one that is named has been read."""
        others = [each for each in self.steps() if each != step and self._is_readable(read, each)]
        instead = f"name one of {others}" if others else "no other is intact"
        if step not in self.steps():
            return instead
        earlier = max((each for each in others if each < step), default=None)
        then = "starts over" if earlier is None else f"continues from step {earlier}"
        where = self.folder / str(step) if earlier is not None else self.folder
        return f"delete {where} and run the program that made it again, it {then}; or {instead}"

    def _is_readable(self, read: Callable[[int], Any], step: int) -> bool:
        try:
            read(step)
        except _DamagedError:
            return False
        return True

    def _restore(self, target: PyTree, step: int) -> tuple[PyTree, dict]:
        record = self._read_record(step)
        self._require_same_leaves(target, step, record)
        with _damaged_if_unreadable(), _reader(ocp.StandardCheckpointHandler()) as reader:
            arguments = ocp.args.StandardRestore(jax.tree.map(_abstract, target))
            state = reader.restore(self._state(step), args=arguments)
        if tree_hash(state) != record["sha256"]:
            raise _DamagedError("holds other bytes than were saved")
        return state, record

    def _read_part(self, part: str, step: int, place: Place | None) -> tuple[PyTree, dict]:
        record = self._read_record(step)
        saved = {leaf["path"]: leaf for leaf in record["leaves"]}
        if any("sum" not in leaf for leaf in saved.values()):
            raise InputError(
                f"{self.folder / str(step)} was saved by an earlier version of rlhf_jax; train it again in another out folder"
            )
        with _damaged_if_unreadable():
            structure = ocp.PyTreeCheckpointHandler().metadata(self._state(step)).tree
        if part not in structure:
            raise InputError(f"{self.folder / str(step)} holds no {part}; name one of {', '.join(structure)}")

        def target(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
            inside = tuple(path_name((key,)) for key in path[1:])
            shape = tuple(saved.get(path_name(path), {"shape": leaf.shape})["shape"])  # a key's, not that of its words
            where = place(inside, shape) if place else SingleDeviceSharding(jax.local_devices()[0])
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

        wanted = jax.tree_util.tree_map_with_path(target, {part: structure[part]})
        found = wanted
        if jax.tree.leaves(wanted):  # else there is nothing to read, as of a part that is None
            with _damaged_if_unreadable(), _reader(ocp.PyTreeCheckpointHandler()) as reader:
                arguments = ocp.args.PyTreeRestore(
                    item=wanted,
                    restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
                    partial_restore=True,  # what is not in `wanted` stays on the disk
                )
                found = reader.restore(self._state(step), args=arguments)
        read = {leaf.path: leaf._asdict() for leaf in leaf_sums(found)}
        if read != {path: leaf for path, leaf in saved.items() if path == part or path.startswith(f"{part}/")}:
            raise _DamagedError(f"holds other bytes of {part} than were saved")
        return found[part], record

    def _state(self, step: int) -> Any:  # Orbax declares another kind of path, and takes this one
        return self.folder / str(step) / "state"

    def _figure_of(self, step: int) -> float | None:
        try:
            return self._read_record(step).get("metrics", {}).get(self._best)
        except _DamagedError:
            return None

    def _is_marked(self, step: int) -> bool:
        try:
            return self._marked in self._read_record(step)
        except _DamagedError:
            return False

    def _read_record(self, step: int) -> dict:
        if not (self.folder / str(step)).is_dir():
            raise _DamagedError("is missing")
        try:
            with _reader(ocp.JsonCheckpointHandler()) as reader:
                record = reader.restore(self.folder / str(step) / "record", args=ocp.args.JsonRestore())
            seal = record.pop("seal")
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise _DamagedError("is empty or half-written") from error
        if seal != _seal(record):
            raise _DamagedError("has a record that differs from what was saved")
        return record

    def _require_same_leaves(self, target: PyTree, step: int, record: dict) -> None:
        have = {leaf["path"]: f"{leaf['dtype']}{leaf['shape']}" for leaf in record["leaves"]}
        want = {path: f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in _leaves(target)}
        for path in want | have:
            if have.get(path) != want.get(path):
                raise InputError(
                    f"{self.folder / str(step)}: leaf {path} is {have.get(path, 'absent')} in the checkpoint "
                    f"and {want.get(path, 'absent')} here; use the model section the checkpoint was trained "
                    "with, or another out folder"
                )

    @contextmanager
    def _sentence_if_unwritable(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._manager = None  # it would raise the same error again when it is closed
            reason = disk_reason(error)
            if reason is None:
                raise
            latest = self.latest()
            then = "starts over" if latest is None else f"continues from step {latest}"
            raise InputError(
                f"cannot write to {self.folder}: {reason} and run the same command again, it {then}"
            ) from error


@contextmanager
def _reader(handler: ocp.CheckpointHandler) -> Iterator[ocp.Checkpointer]:
    """Orbax's, which SIGTERM and Ctrl-C let end: stopped halfway, its threads would call a loop that is gone."""
    with Interruption("stops when the checkpoint is read"), ocp.Checkpointer(handler) as reader:
        yield reader


@contextmanager
def _damaged_if_unreadable() -> Iterator[None]:
    try:
        yield
    except Exception as error:  # Orbax raises a bare Exception for an array that cannot be read
        if isinstance(error.__cause__ or error, jax.errors.JaxRuntimeError):
            raise  # the device's trouble (no memory left), not the disk's
        raise _DamagedError("cannot be read") from error


@dataclass
class _NewestAndBest(PreservationPolicy):
    """Ours, because Orbax's BestN knows the figures of the present process only: see the test of a restart."""

    keep: int | None
    figures: dict[int, float | None]
    marked: set[int]

    def should_preserve(self, checkpoints, *, context) -> Sequence[bool]:
        best = _best({info.step: self.figures.get(info.step) for info in checkpoints})
        newest = LatestN(self.keep).should_preserve(checkpoints, context=context)
        return [
            kept or info.step == best or info.step in self.marked
            for kept, info in zip(newest, checkpoints, strict=True)
        ]


def _best(figures: Mapping[int, float | None]) -> int | None:
    """The step of the largest, the earliest of equals."""
    known = {step: figure for step, figure in sorted(figures.items()) if figure is not None}
    return max(known, key=lambda step: known[step], default=None)


def _leaves(tree: PyTree) -> list[tuple[str, jax.Array | np.ndarray | jax.ShapeDtypeStruct]]:
    return [(path_name(path), leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)]


def _abstract(leaf) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _seal(record: dict) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _listed(damage: dict[int, str]) -> str:
    return ", ".join(f"step {step} {reason}" for step, reason in damage.items())
