"""Devices, disk and clock: knows no algorithm."""

from rlhf_jax.runtime.checkpoint import Checkpoints
from rlhf_jax.runtime.files import disk_reason, file_sha256, locked, require_writable, write_atomically
from rlhf_jax.runtime.hosts import first_process, join_processes, meet, of_first_process
from rlhf_jax.runtime.made import Made
from rlhf_jax.runtime.mesh import (
    ROWS,
    Rule,
    cores_as_devices,
    gather_rows,
    jitted,
    join_rows,
    make_mesh,
    mapped,
    place,
    replicated,
    rows_here,
    shapes_on,
    shard_rows,
    sharding_of,
)
from rlhf_jax.runtime.metrics import MetricsWriter, read_metrics
from rlhf_jax.runtime.origin import Origin, ancestors, set_aside
from rlhf_jax.runtime.program import run, undo_if_refused
from rlhf_jax.runtime.progress import info, progress
from rlhf_jax.runtime.source import source_name, source_sha256, values_sha256
from rlhf_jax.runtime.stage import Stage
from rlhf_jax.runtime.times import Session, sessions
from rlhf_jax.runtime.tree_hash import leaf_sums, tree_hash
from rlhf_jax.runtime.versions import commit_of, made_with
from rlhf_jax.runtime.watch import Watch, check_finite

__all__ = [
    "ROWS",
    "Checkpoints",
    "Made",
    "MetricsWriter",
    "Origin",
    "Rule",
    "Session",
    "Stage",
    "Watch",
    "ancestors",
    "check_finite",
    "commit_of",
    "cores_as_devices",
    "disk_reason",
    "file_sha256",
    "first_process",
    "gather_rows",
    "info",
    "jitted",
    "join_processes",
    "join_rows",
    "leaf_sums",
    "locked",
    "made_with",
    "make_mesh",
    "mapped",
    "meet",
    "of_first_process",
    "place",
    "progress",
    "read_metrics",
    "replicated",
    "require_writable",
    "rows_here",
    "run",
    "sessions",
    "set_aside",
    "shapes_on",
    "shard_rows",
    "sharding_of",
    "source_name",
    "source_sha256",
    "tree_hash",
    "undo_if_refused",
    "values_sha256",
    "write_atomically",
]
