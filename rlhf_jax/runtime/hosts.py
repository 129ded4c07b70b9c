"""Several processes as one program, through jax.distributed."""

import os

import jax
import numpy as np
from jax.experimental import multihost_utils

from rlhf_jax.errors import InputError


def threads_for_collectives() -> None:
    """So many threads that collectives between the devices of one CPU do not wait for each other for ever. Before JAX is
    used."""
    os.environ.setdefault("PJRT_NPROC", "16")


def join_processes(coordinator: str, processes: int | None = None, process: int | None = None) -> None:
    """Makes this process number `process` of `processes`, which meet at coordinator = "host:port" of number 0. Before JAX is
    used. "auto": what Slurm, Kubernetes, Open MPI or a TPU pod says to JAX.

    InputError: a coordinator that is no host:port, numbers that are missing, or do not fit.
    """
    threads_for_collectives()
    if coordinator == "auto":
        jax.distributed.initialize()
        return
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise InputError(f'--coordinator is {coordinator!r}; give host:port of the first process, or "auto"')
    if processes is None or process is None or not 0 <= process < processes:
        raise InputError(
            f"--processes is {processes} and --process {process}; give their number, and which this is, from 0"
        )
    # By default process 0 would listen on every address of its machine.
    bind = coordinator if process == 0 else None
    try:
        jax.distributed.initialize(coordinator, processes, process, coordinator_bind_address=bind)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"process {process} of {processes} found no others at {coordinator} ({str(error).splitlines()[0]}); start all of "
            "them with the same --coordinator"
        ) from error


def first_process() -> bool:
    """Whether this process is the one that writes and speaks for all. Does not start JAX's devices."""
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def meet(name: str) -> None:
    """Waits until every process is here; of a single one it asks nothing. Does not start JAX's devices for it."""
    if jax.distributed.is_initialized():
        multihost_utils.sync_global_devices(name)


def of_first_process(array: np.ndarray) -> np.ndarray:
    """The first process's array, on every process; the others give one of its shape and dtype."""
    return np.asarray(multihost_utils.broadcast_one_to_all(array)) if jax.distributed.is_initialized() else array
