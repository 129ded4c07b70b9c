"""The devices as a mesh of named axes, how trees lie on it, and a step mapped over it.

data     rows of the batch; everything else whole on each
fsdp     rows of the batch too; parameters, their moments and averages cut into as many pieces (ZeRO-3)
tensor   one row's matrices and vocabulary cut into as many pieces
"""

import ctypes
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from rlhf_jax.errors import InputError
from rlhf_jax.runtime.hosts import threads_for_collectives

AXES = ("data", "fsdp", "tensor")
ROWS = PartitionSpec(("data", "fsdp"))
T = TypeVar("T")
Rule = Callable[[tuple[Any, ...], int], tuple[str | None, ...]]  # a leaf's path and dimensions → a mesh axis for each


def cores_as_devices(count: int) -> None:
    """Where there is no accelerator, so many devices, for a core each. Once JAX is in use, the devices stay as they are."""
    if count > 1:
        threads_for_collectives()
        with suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", count)


def keep_pages() -> None:
    """Where glibc allocates, what a step frees stays with the process for the next one. As it is, the arrays of every step on
    a CPU are pages that the system has to clear first, which takes a fifth of a small model's step."""
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, top_pad, mmap_max = -1, -2, -4  # as malloc.h has them
        libc = ctypes.CDLL(None)
        for parameter, value in ((mmap_max, 0), (top_pad, 2**27), (trim_threshold, 2**31 - 1)):
            libc.mallopt(parameter, value)


def make_mesh(data: int, fsdp: int = 1, tensor: int = 1, devices: Sequence[Any] | None = None) -> Mesh:
    """The first data · fsdp · tensor devices, of JAX's own or of those given, as a mesh. InputError unless there are so many.

    With several processes all devices take part: each process must have some.
    """
    devices, sizes = jax.devices() if devices is None else devices, (data, fsdp, tensor)
    wanted = int(np.prod(sizes))
    if min(sizes) < 1 or wanted > len(devices) or (jax.process_count() > 1 and wanted != len(devices)):
        exactly = "exactly " if jax.process_count() > 1 else ""
        raise InputError(
            f"the mesh asks for {data} × {fsdp} × {tensor} devices (data × fsdp × tensor) and there are {exactly}"
            f"{len(devices)}; set data, fsdp and tensor anew"
        )
    if devices[0].platform == "cpu":
        keep_pages()
    # Auto: with make_mesh's default, Explicit, the gather of an embedding raises ShardingTypeError.
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:wanted])


def replicated(path: tuple[Any, ...], ndim: int) -> tuple[str | None, ...]:
    """The rule by which every leaf is whole on every device."""
    return (None,) * ndim


def sharding_of(path: tuple[Any, ...], shape: tuple[int, ...], mesh: Mesh, rule: Rule) -> NamedSharding:
    """How a leaf lies by a rule. A dimension that its axis does not divide is not cut."""
    axes = zip(rule(path, len(shape)), shape, strict=True)
    return NamedSharding(mesh, PartitionSpec(*(a if a and n % mesh.shape[a] == 0 else None for a, n in axes)))


def shapes_on(mesh: Mesh, tree: PyTree, rule: Rule = replicated) -> PyTree:
    """Of every array or shape its jax.ShapeDtypeStruct with how it lies by a rule: what a checkpoint is restored to."""

    def one(path: tuple[Any, ...], leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding_of(path, leaf.shape, mesh, rule))

    return jax.tree_util.tree_map_with_path(one, tree)


def place(tree: T, mesh: Mesh, rule: Rule = replicated) -> T:
    """A copy of a tree, cut over the mesh by a rule; donating the copy leaves the original valid. What lies on several
    devices goes from device to device; of the rest, with several processes, each gives the whole and keeps its devices'
    pieces."""

    def placed(path: tuple[Any, ...], leaf: Any) -> jax.Array:
        where = sharding_of(path, leaf.shape, mesh, rule)
        if isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1:
            return jax.device_put(leaf, where).copy()
        # A copy of our own: device_put may alias what it is given, even with may_alias=False (jax 0.10.2),
        # and on a mesh of several processes it takes NumPy arrays only.
        return _keys_as_data(leaf, lambda x: jax.device_put(np.array(x), where))

    return jax.tree_util.tree_map_with_path(placed, tree)


def shard_rows(tree: T, mesh: Mesh) -> T:
    """A copy of every leaf with axis 0 spread over "data" and "fsdp". With several processes each gives all rows and keeps
    those of its devices. InputError if the rows do not divide evenly."""
    sharding = NamedSharding(mesh, ROWS)

    def shard(leaf: Any) -> jax.Array:
        _require_even(leaf.shape[0], mesh)
        rows = np.array(leaf)
        return jax.make_array_from_callback(rows.shape, sharding, lambda index: rows[index])

    return jax.tree.map(lambda leaf: _keys_as_data(leaf, shard), tree)


def rows_here(count: int, mesh: Mesh) -> range:
    """Which rows of a batch of so many lie on this process's devices. InputError if the rows do not divide evenly."""
    _require_even(count, mesh)
    pieces: Any = NamedSharding(mesh, ROWS).addressable_devices_indices_map((count,)).values()
    rows = sorted({row for (piece,) in pieces for row in range(count)[piece]})
    return range(rows[0], rows[-1] + 1)


def join_rows(tree: T, mesh: Mesh) -> T:
    """As `shard_rows`, from the rows of `rows_here` alone: no process reads another's."""
    sharding = NamedSharding(mesh, ROWS)
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(sharding, np.array(leaf)), tree)


def gather_rows(rows: np.ndarray, mesh: Mesh) -> np.ndarray:
    """All rows of a batch, from those of `rows_here` on each process. Every process has to call it."""
    if jax.process_count() == 1:
        return rows
    return multihost_utils.process_allgather(join_rows(rows, mesh), tiled=True)


def _keys_as_data(leaf: Any, put: Callable[[Any], jax.Array]) -> jax.Array:
    """`put` for typed keys as well, which NumPy does not know."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
    return put(leaf)


def _require_even(rows: int, mesh: Mesh) -> None:
    devices = mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % devices:
        raise InputError(f"{rows} rows do not divide over {devices} devices; change the batch size")


def mapped(step: Callable[..., Any], mesh: Mesh, pmap: bool = False, reads_only: bool = False) -> Callable[..., Any]:
    """step(state, batch, …) → (state, metrics) over the mesh, all arguments of `place` and `shard_rows`. The state is donated
    and comes back lying as it was. From the second call on, nothing may move between host and devices unasked.

    reads_only: of a step that gives anything else than a state, which then stays as it is.

    pmap: through jax.pmap over the axis "data", for which the step's models must have it as their axis_name, and whose
    state is whole on every device. Else through jax.jit, which reads off the arguments where everything lies.
    InputError: pmap over a mesh with other axes, or in one of several processes.
    """
    if pmap and mesh.size != mesh.shape["data"]:
        raise InputError("mesh.pmap maps over data alone; set mesh.fsdp and mesh.tensor to 1")
    if pmap and jax.process_count() > 1:
        raise InputError("mesh.pmap maps over the devices of one process; leave it out, mesh.data spans all of them")
    compiled: list[Callable[..., Any]] = []

    def call(state: PyTree, *arguments: PyTree) -> Any:
        if not compiled:
            if pmap:
                compiled.append(_pmapped(step, mesh, () if reads_only else (0,)))
            else:
                compiled.append(_on_mesh(jax.jit(step) if reads_only else jitted(step, state), mesh))
            return compiled[0](state, *arguments)
        with jax.transfer_guard("disallow"):
            return compiled[0](state, *arguments)

    return call


def jitted(step: Callable[..., Any], state: PyTree) -> Any:
    """step under jax.jit, its state donated and coming back lying as this one; its leaves may be jax.ShapeDtypeStructs with a
    sharding. To be called or lowered under jax.set_mesh, which the models look at."""
    where = [leaf.sharding for leaf in jax.tree.leaves(state)]

    def one(state: PyTree, *arguments: PyTree) -> Any:
        state, metrics = step(state, *arguments)
        leaves, structure = jax.tree.flatten(state)  # lying elsewhere they would make the next call another program
        leaves = [jax.lax.with_sharding_constraint(x, s) for x, s in zip(leaves, where, strict=True)]
        return jax.tree.unflatten(structure, leaves), metrics

    return jax.jit(one, donate_argnums=0)


def _on_mesh(program: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    def call(*arguments: PyTree) -> Any:
        with jax.set_mesh(mesh):
            return program(*arguments)

    return call


def _pmapped(step: Callable[..., Any], mesh: Mesh, donated: tuple[int, ...]) -> Callable[..., Any]:
    """Every device sees the whole batch, whose arrays are small, and runs its own rows of it through the models."""

    def one(state: PyTree, rows: PyTree, arguments: PyTree) -> Any:
        batch = jax.tree.map(lambda x: jax.lax.all_gather(x, "data", tiled=True), rows)
        return step(state, batch, *arguments)

    devices = mesh.devices.flatten().tolist()
    run = jax.pmap(one, "data", in_axes=(None, 0, None), out_axes=None, devices=devices, donate_argnums=donated)
    by_device = jax.jit(lambda batch: jax.tree.map(lambda x: x.reshape(mesh.size, -1, *x.shape[1:]), batch))
    return lambda state, batch, *arguments: run(state, by_device(batch), arguments)
