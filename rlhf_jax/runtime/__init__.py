"""Devices, disk and clock: knows no algorithm."""

from rlhf_jax.runtime.checkpoint import Checkpoints
from rlhf_jax.runtime.files import require_writable, write_atomically
from rlhf_jax.runtime.hosts import first_process, join_processes
from rlhf_jax.runtime.mesh import (
    ROWS,
    Rule,
    cores_as_devices,
    everywhere,
    gather_rows,
    jitted,
    join_rows,
    lies,
    make_mesh,
    mapped,
    place,
    rows_here,
    shapes_on,
    shard_rows,
)
from rlhf_jax.runtime.metrics import MetricsWriter, read_metrics
from rlhf_jax.runtime.program import run
from rlhf_jax.runtime.progress import progress, say
from rlhf_jax.runtime.stage import Stage
from rlhf_jax.runtime.tree_hash import tree_hash
from rlhf_jax.runtime.watch import Watch, check_finite

__all__ = [
    "ROWS",
    "Checkpoints",
    "MetricsWriter",
    "Rule",
    "Stage",
    "Watch",
    "check_finite",
    "cores_as_devices",
    "everywhere",
    "first_process",
    "gather_rows",
    "jitted",
    "join_processes",
    "join_rows",
    "lies",
    "make_mesh",
    "mapped",
    "place",
    "progress",
    "read_metrics",
    "require_writable",
    "rows_here",
    "run",
    "say",
    "shapes_on",
    "shard_rows",
    "tree_hash",
    "write_atomically",
]
