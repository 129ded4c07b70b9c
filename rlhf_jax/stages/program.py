"""How a program begins: its config from the command line, the processes that take part, and what is to be made anew."""

import sys
import tomllib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from rlhf_jax.config import Checked, Count, Natural, Seed, load_config
from rlhf_jax.runtime import (
    first_process,
    info,
    join_processes,
    require_writable,
    set_aside,
    undo_if_refused,
    write_atomically,
)
from rlhf_jax.stages.run import Devices, Optimiser, Run, Runtime


@dataclass(frozen=True)
class Program(Checked):
    """What the config of every program has; its own sections come beside it."""

    out: str  # the folder that everything is written into
    seed: Seed = 0  # of every use of chance
    optimiser: Optimiser = Optimiser()
    mesh: Devices = Devices()
    runtime: Runtime = Runtime()
    coordinator: str | None = None  # host:port of the first of several processes, or "auto" where the cluster says it
    processes: Count | None = None  # how many there are
    process: Natural | None = None  # which this is, from 0

    @property
    def run(self) -> Run:
        return Run(self.seed, self.optimiser, self.mesh, self.runtime)

    @property
    def folder(self) -> Path:
        return Path(self.out)

    def about(self) -> dict[str, Any]:
        """The settings that say what is computed, and not where or by how many."""
        apart = ("out", "mesh", "runtime", "coordinator", "processes", "process")
        return {name: value for name, value in asdict(self).items() if name not in apart and value is not None}


P = TypeVar("P", bound=Program)


def begin(config_type: type[P], name: str, doc: str | None, argv: Sequence[str] | None = None) -> P:
    """The config of the command line, in a process that has joined the others where there are several.

    The whole resolved config goes to out/NAME.toml with the origin of each value; the same file runs again. Where the file
    says the same already it stays, and a program that is refused leaves the one that was there. --show prints it and ends the
    program; --anew STAGE sets that stage aside with what came from it. InputError: see `load_config`; a folder that cannot be
    written.
    """
    given = load_config(config_type, argv, doc=doc or "", program=sys.argv[0])
    config = given.config
    if given.show:
        print(given.resolved, end="")
        raise SystemExit(0)
    if config.coordinator is not None:
        join_processes(config.coordinator, config.processes, config.process)
    say_uneven(config)
    for stage in given.anew:
        set_aside(config.folder, stage)
    if first_process():
        require_writable(config.folder)
        keep_config(config.folder / f"{Path(name).stem}.toml", given.resolved)
    return config


def say_uneven(settings: Program) -> None:
    """Says which batches, or with mesh.pmap minibatches, do not divide over the devices: a stage that is still to be trained
    on one will be refused, perhaps hours from now."""
    devices = settings.mesh.data * settings.mesh.fsdp
    for name in (field.name for field in fields(settings) if field.name != "runtime"):
        section = getattr(settings, name)
        parts = getattr(section, "minibatches", 1) if settings.mesh.pmap else 1
        rows = getattr(section, "batch", devices * parts) // parts
        if rows % devices:
            what = "minibatch" if parts > 1 else "batch"
            info(
                f"the {rows} rows of {name}'s {what} do not divide over {devices} devices: where it is not trained yet, "
                f"change {name}.batch, mesh.data or mesh.fsdp"
            )


def keep_config(path: Path, resolved: str) -> None:
    """Writes a resolved config, unless the file says the same; if the program is refused, what was there comes back."""
    before = path.read_text(encoding="utf-8") if path.is_file() else None
    with suppress(tomllib.TOMLDecodeError):
        if before is not None and tomllib.loads(before) == tomllib.loads(resolved):
            return
    write_atomically(path, resolved)

    def undo() -> None:
        if before is not None:
            write_atomically(path, before)
            return
        path.unlink(missing_ok=True)
        with suppress(OSError):  # it holds more
            path.parent.rmdir()

    undo_if_refused(undo)
