"""One stage of a run in its folder: it starts where it stopped, logs, saves, and knows what it was made from."""

import json
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from jaxtyping import PyTree

from rlhf_jax.errors import InputError
from rlhf_jax.runtime.checkpoint import Checkpoints
from rlhf_jax.runtime.hosts import first_process
from rlhf_jax.runtime.interruption import Interruption
from rlhf_jax.runtime.metrics import MetricsWriter
from rlhf_jax.runtime.progress import progress, say
from rlhf_jax.runtime.watch import Watch, check_finite

State = TypeVar("State")


class Stage:
    """folder/checkpoints, folder/metrics.jsonl and folder/tensorboard.

    config: what the result depends on, as JSON. parents: name → sha256 of the checkpoints that it starts from. A folder
    that was made from something else is an InputError that names the key. program: the file that runs the stage, for
    sentences. keep: how many of the newest checkpoints stay, None for all. best: the figure whose largest value marks one
    more that stays; "" for none.
    """

    def __init__(
        self,
        folder: Path,
        steps: int,
        config: Mapping,
        tokenizer: str,
        parents: Mapping[str, str],
        program: str,
        keep: int | None,
        best: str = "",
        wandb: bool = False,
    ):
        self.folder = folder
        self.name = folder.name
        self.total = steps
        self._program = program
        self._best = best
        self._wandb = wandb
        self.record = {
            "config": json.loads(json.dumps(config)),
            "tokenizer": tokenizer,
            "parents": dict(parents),
        }
        self.checkpoints = Checkpoints(folder / "checkpoints", keep, best)
        self.resumed: dict | None = None  # the record of the checkpoint that `resume` found
        latest = self.checkpoints.latest()
        if latest is not None:
            self._require_same_origin(self._newest_record())

    @property
    def finished(self) -> bool:
        return self.total in self.checkpoints.steps()

    def resume(self, state: State) -> State:
        """The state of the newest checkpoint, or the one given where there is none. Call before `steps`."""
        restored = self.checkpoints.restore(state)
        if restored is None:
            return state
        state, self.resumed = restored
        say(f"{self.name}: continues after step {self.resumed['data']['step']} of {self.total}")
        return state

    def steps(self, start: int, watch: Watch | None = None) -> Iterator[int]:
        """The steps that are left. Inside the loop call `log` and then `save`; the end waits for the last save.

        SIGTERM and Ctrl-C let the step at hand end, save it, say so and exit with 0 and 130; Ctrl-C again exits at once.
        """
        with ExitStack() as stack:
            self._interruption = stack.enter_context(Interruption())
            self._stopped_by = 0
            self._metrics = MetricsWriter(self.folder, start, self._wandb) if first_process() else None
            if self._metrics is not None:
                stack.callback(self._metrics.close)
            stack.callback(self.checkpoints.close)
            self._advance = stack.enter_context(progress(self.name, self.total, start))
            self._watch = watch
            self._waiting: tuple[int, Mapping] | None = None
            self._written: tuple[int, dict[str, float]] = (start, {})
            for i in range(start, self.total):
                yield i
                if self._stopped_by:
                    break
            self._flush()
            self.checkpoints.wait()
            if not self._stopped_by and not self.finished:
                raise RuntimeError(f"{self.name}: the last step was not saved")
        if self._stopped_by:
            say(f"{self.name}: saved step {self.checkpoints.latest()} of {self.total}; the same command continues")
            raise SystemExit(0 if self._stopped_by == signal.SIGTERM else 130)

    def log(self, i: int, metrics: Mapping[str, Any]) -> None:
        """Metrics of step i (0-based). They are read when the next step is under way, so that devices never wait.

        InputError if those of the first step lack the figure that marks the best.
        """
        self._flush()
        if i == 0 and self._best and self._best not in metrics:
            raise InputError(
                f"{self.name}: no figure is called {self._best!r} that would mark the best checkpoint; "
                f"name one of {', '.join(metrics)}"
            )
        self._waiting = (i + 1, metrics)
        # The bar shows the loss or the reward, whichever there is.
        shown = {
            n.split("/")[-1]: metrics[n] for n in ("loss/train", "objective/scores", "objective/kl") if n in metrics
        }
        self._advance(**shown)

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
        """InputError, with the program to run, if the stage is not finished."""
        if not self.finished:
            latest = self.checkpoints.latest()
            found = "is not there" if latest is None else f"stopped at step {latest} of {self.total}"
            raise InputError(
                f"{self.folder}: the stage {self.name} {found}; run {self._program} with the same config first"
            )

    def _flush(self) -> None:
        if self._waiting is None:
            return
        step, metrics = self._waiting
        values = {name: float(value) for name, value in metrics.items()}
        self._waiting = None
        self._written = (step, values)
        if self._metrics is not None:
            self._metrics.write(step, values)
        check_finite(self.name, step, values)
        if self._watch is not None:
            self._watch.look(step, values)

    def _newest_record(self) -> dict:
        for step in reversed(self.checkpoints.steps()):
            try:
                return self.checkpoints.record(step)
            except InputError:
                continue  # `resume` says which steps are damaged
        return self.record

    def _require_same_origin(self, found: dict) -> None:
        if found["tokenizer"] != self.record["tokenizer"]:
            raise InputError(
                f"{self.folder}: this checkpoint was trained with another tokenizer (sha256 {found['tokenizer'][:12]}, "
                f"not {self.record['tokenizer'][:12]}); give it its own tokenizer, or choose another --out"
            )
        key = _first_difference(found["config"], self.record["config"])
        if key is not None:
            raise InputError(
                f"{self.folder}: it was made with another {key}; set it back, choose another --out, or delete the folder"
            )
        for name, sha in self.record["parents"].items():
            if found["parents"].get(name) != sha:
                raise InputError(f"{self.folder}: it was made from another {name}; delete the folder to make it anew")


def _first_difference(found: Any, wanted: Any, key: str = "") -> str | None:
    if isinstance(found, dict) and isinstance(wanted, dict):
        for name in [*found, *wanted]:
            different = _first_difference(found.get(name), wanted.get(name), f"{key}.{name}" if key else name)
            if different:
                return different
        return None
    return None if found == wanted else f"{key} ({found!r}, not {wanted!r})"
