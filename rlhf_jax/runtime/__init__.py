"""Devices, disk and clock: knows no algorithm."""

from rlhf_jax.runtime.checkpoint import Checkpoints, tree_hash
from rlhf_jax.runtime.files import require_writable, write_atomically
from rlhf_jax.runtime.mesh import cores_as_devices, make_mesh, replicate, shard_rows
from rlhf_jax.runtime.metrics import MetricsWriter, read_metrics
from rlhf_jax.runtime.program import run
from rlhf_jax.runtime.progress import progress, say
from rlhf_jax.runtime.stage import Stage
from rlhf_jax.runtime.watch import Watch, check_finite

__all__ = [
    "Checkpoints",
    "MetricsWriter",
    "Stage",
    "Watch",
    "check_finite",
    "cores_as_devices",
    "make_mesh",
    "progress",
    "read_metrics",
    "replicate",
    "require_writable",
    "run",
    "say",
    "shard_rows",
    "tree_hash",
    "write_atomically",
]
