"""One stage of a run in its folder: it starts where it stopped, logs, saves, and knows what it was made from."""

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

import jax
from jaxtyping import PyTree

from rlhf_jax.errors import DivergenceError, InputError
from rlhf_jax.runtime.checkpoint import Checkpoints
from rlhf_jax.runtime.files import locked, write_atomically
from rlhf_jax.runtime.hosts import first_process
from rlhf_jax.runtime.interruption import Interruption
from rlhf_jax.runtime.metrics import MetricsWriter
from rlhf_jax.runtime.origin import CHECKPOINTS, Change, Origin, or_anew, record_of, require_same_origin
from rlhf_jax.runtime.program import something_is_made
from rlhf_jax.runtime.progress import info, progress
from rlhf_jax.runtime.watch import Watch, check_finite, holds_nan

State = TypeVar("State")
DIVERGED = "diverged.json"  # says that, and where, the run met a figure that is not finite
FAILED = "failed.json"  # says which of the functions handed in raised, and where
FREE_AFTER_DIVERGENCE = ("lr", "value_lr", "clip_norm", "warmup", "floor")  # the last part of a setting's key


class Stage:
    """folder/checkpoints, folder/metrics.jsonl and folder/tensorboard.

    origin: what the result is made from. A folder that was made from something else is an InputError that names it. keep: how
    many of the newest checkpoints stay, None for all. best: the figure whose largest value marks one more that stays; "" for
    none. marked: a key of records, by which all that have it stay; "" for none. wandb: whether W&B gets the figures too; a
    dict is its config. fixed_length: why another number of steps needs a new start, as a sentence for the user; "" where a
    longer run continues a shorter one.

    After a DivergenceError the rates and limits of FREE_AFTER_DIVERGENCE may differ from what the folder was made with, and
    after `failed` the function that raised.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        origin: Origin,
        *,
        keep: int | None = 2,
        best: str = "",
        marked: str = "",
        wandb: bool | dict[str, Any] = False,
        fixed_length: str = "",
    ):
        if steps < 1:
            raise InputError(f"{folder}: {steps} steps are asked for; ask for 1 or more")
        self.folder = folder
        self.name = folder.name
        self.total = steps
        self._best = best
        self._wandb = wandb
        self.record = record_of(origin) | {"total": steps}
        self.checkpoints = Checkpoints(folder / CHECKPOINTS, keep, best, marked)
        self.resumed: dict | None = None  # the record of the checkpoint that `resume` found
        self._changes: list[Change] = []
        self._said_done = False
        self._diverged = (folder / DIVERGED).exists()
        self._failed = (folder / FAILED).exists()
        found = self._newest_record()
        if found is not None:
            unfinished = found["step"] != found.get("total")
            free = FREE_AFTER_DIVERGENCE if self._diverged and unfinished else ()
            mended = (json.loads((folder / FAILED).read_text())["code"],) if self._failed and unfinished else ()
            self._changes = require_same_origin(folder, found, self.record, free, mended)
            self._require_length(found, fixed_length)
            if "changed" in found:
                self.record["changed"] = found["changed"]

    @property
    def finished(self) -> bool:
        """Whether the last step is saved."""
        return self.total in self.checkpoints.steps()

    def done(self) -> bool:
        """Whether the stage is finished; if so it says so, once."""
        if self.finished and not self._said_done:
            self._said_done = True
            info(f"{self.name}: done, {self.total} steps")
        return self.finished

    def resume(self, state: State) -> State:
        """The state of the newest checkpoint, or the one given where there is none. Call before `steps`.

        Its arrays are bound to the devices on which they are: else a step's second call would be compiled again.
        InputError if the run has diverged before that checkpoint was saved.
        """
        restored = self.checkpoints.restore(state)
        if restored is None:
            return jax.tree.map(lambda x: jax.device_put(x, x.sharding) if isinstance(x, jax.Array) else x, state)
        state, self.resumed = restored
        after, total = self.resumed["step"], self.resumed["total"]
        if self._diverged and holds_nan(state):  # the figures of a step are from before its update
            raise InputError(
                f"{self.folder}: the checkpoint of step {after} holds numbers that are nan already; delete "
                f"{self.checkpoints.folder / str(after)} and run again, it continues from the one before"
            )
        if self._changes:
            changed = [{"after": after, "key": key, "from": old, "to": new} for key, old, new in self._changes]
            self.record["changed"] = [*self.resumed.get("changed", []), *changed]
        news = ", ".join(
            f"{change.key.rpartition('.')[2]} {change.new} instead of {change.old}" for change in self._changes
        )
        if self.done():
            return state
        _say_other_versions(self.name, self.resumed, self.record)
        length = f", now to {self.total}" if total != self.total else "" if news else f" of {total}"
        info(f"{self.name}: continues after step {after}{f' with {news}' if news else ''}{length}")
        return state

    def steps(self, start: int, watch: Watch | None = None) -> Iterator[int]:
        """The steps that are left. Inside the loop call `log` and then `save`; the end waits for the last save.

        InputError if another process is at work in the folder.

        SIGTERM and Ctrl-C let the step at hand end, save it, say so and exit with 0 and 130; Ctrl-C again exits at once.
        """
        with ExitStack() as stack:
            if first_process():
                stack.enter_context(locked(self.folder))
            self._interruption = stack.enter_context(Interruption())
            self._stopped_by = 0
            self._metrics = MetricsWriter(self.folder, start, self._wandb) if first_process() else None
            if self._metrics is not None:
                stack.callback(self._metrics.close)
            stack.callback(self.checkpoints.close)
            self._advance = stack.enter_context(progress(self.name, self.total, start))
            self._watch = watch
            self._waiting: tuple[int, Mapping, Mapping] | None = None
            self._written: tuple[int, dict[str, float]] = (start, {})
            something_is_made()
            for i in range(start, self.total):
                yield i
                if self._stopped_by:
                    break
            self._flush()
            self.checkpoints.wait()
            if not self._stopped_by and not self.finished:
                raise RuntimeError(f"{self.name}: the last step was not saved")
        if self._stopped_by:
            info(f"{self.name}: saved step {self.checkpoints.latest()} of {self.total}; the same command continues")
            raise SystemExit(0 if self._stopped_by == signal.SIGTERM else 130)

    def log(self, i: int, metrics: Mapping[str, Any], tables: Mapping[str, Any] = {}) -> None:
        """Metrics of step i (0-based). They are read when the next step is under way, so that devices never wait. tables: see
        `MetricsWriter.write`.

        InputError if those of the first step lack the figure that marks the best.
        """
        self._flush()
        if i == 0 and self._best and self._best not in metrics:
            raise InputError(
                f"{self.name}: no figure is called {self._best!r} that would mark the best checkpoint; "
                f"name one of {', '.join(metrics)}"
            )
        self._waiting = (i + 1, metrics, tables)
        # The bar shows the loss or the reward, whichever there is.
        shown = {
            n.split("/")[-1]: metrics[n] for n in ("loss/train", "objective/scores", "objective/kl") if n in metrics
        }
        self._advance(**shown)

    def is_best(self, metrics: Mapping[str, Any]) -> bool:
        """Whether the figure that marks the best is larger in these metrics than in any checkpoint."""
        if self._best not in metrics:
            return False
        before = self.checkpoints.best_figure()
        return before is None or float(metrics[self._best]) > before

    def save(self, i: int, state: PyTree, every: int, more: Callable[[], dict[str, Any]] = dict) -> None:
        """After step i: saved every so many steps, at the last one, and where the program is told to stop.

        more: what else the checkpoint's record shall have, asked for when there is one.
        """
        self._stopped_by = self._interruption.asked()
        if (i + 1) % every == 0 or i + 1 == self.total or self._stopped_by:
            self._flush()
            step, figures = self._written
            reached = {"data": {"step": i + 1}, "metrics": figures if step == i + 1 else {}}
            self.checkpoints.save(i + 1, state, self.record | reached | more())
            if self._diverged or self._failed:
                self.checkpoints.wait()  # it is over once there is a checkpoint with what was changed
                self._diverged = self._failed = False
                if first_process():
                    for name in (DIVERGED, FAILED):
                        (self.folder / name).unlink(missing_ok=True)

    def failed(self, i: int, state: PyTree, code: str, name: str = "") -> None:
        """In step i the function handed in as `code` raised: what was learned before is saved, and it may be mended. name:
        the function's own."""
        if i == 0:
            return  # nothing stands in the folder that owes anything to it
        self.save(i - 1, state, 1)
        self.checkpoints.wait()
        self._failed = True
        if first_process():
            said = {"step": i + 1, "code": code, **({"name": name} if name else {})}
            write_atomically(self.folder / FAILED, json.dumps(said) + "\n")
        what = name or f"the {code}"
        info(f"{self.name}: saved step {i} of {self.total}; the same command continues, with {what} mended or not")

    def load(self, target: State, step: int | None = None) -> tuple[State, dict]:
        """State and record of the finished stage (or of one of its steps); InputError if it is not finished."""
        self.require_finished()
        restored = self.checkpoints.restore(target, self.total if step is None else step)
        assert restored is not None
        return restored

    @property
    def best(self) -> int:
        """The finished stage's step of the best figure among those on disk; InputError if none has it."""
        self.require_finished()
        step = self.checkpoints.best()
        if step is None:
            raise InputError(
                f"{self.folder}: no checkpoint was saved with the figure {self._best!r}; export the last one"
            )
        return step

    @property
    def sha256(self) -> str:
        """Of the finished stage's checkpoint: what its children record as their parent. InputError if it is not finished."""
        self.require_finished()
        return self.checkpoints.record(self.total)["sha256"]

    def require_finished(self) -> None:
        """InputError if the stage is not finished."""
        if not self.finished:
            latest = self.checkpoints.latest()
            found = "is not there" if latest is None else f"stopped at step {latest} of {self.total}"
            raise InputError(f"{self.folder}: the stage {self.name} {found}; finish it first")

    def _flush(self) -> None:
        if self._waiting is None:
            return
        step, metrics, tables = self._waiting
        values = {name: float(value) for name, value in metrics.items()}
        self._waiting = None
        self._written = (step, values)
        if self._metrics is not None:
            self._metrics.write(step, values, tables)
        try:
            check_finite(self.name, step, values)
        except DivergenceError as error:
            if first_process():
                write_atomically(self.folder / DIVERGED, json.dumps({"step": step, "message": str(error)}) + "\n")
            raise
        if self._watch is not None:
            self._watch.look(step, values)

    def _newest_record(self) -> dict | None:
        for step in reversed(self.checkpoints.steps()):
            try:
                return self.checkpoints.record(step)
            except InputError:
                continue  # `resume` says which steps are damaged
        return None

    def _require_length(self, found: dict, fixed_length: str) -> None:
        reached, total = found["step"], found["total"]
        if self.total < reached:
            raise InputError(
                f"{self.folder}: {reached} steps were run and {self.total} are asked for; ask for {reached} or more, "
                f"{or_anew(self.folder)}"
            )
        if self.total != total and fixed_length:
            were = "run" if reached == total else "planned"
            raise InputError(f"{self.folder}: {total} steps were {were} and {self.total} are asked for; {fixed_length}")


def _say_other_versions(name: str, found: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Of the libraries that compute; for rlhf_jax itself the code of the functions is compared."""
    versions = found["versions"], now["versions"]
    others = [each for each in ("jax", "flax", "optax") if versions[0].get(each) != versions[1].get(each)]
    if others:
        before, here = (", ".join(f"{each} {of.get(each)}" for each in others) for of in versions)
        info(f"{name}: was saved with {before}, and this is {here}: the last digits of its figures may differ")
