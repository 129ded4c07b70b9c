"""The devices as one named axis, and how trees lie on them: whole on each, or by rows."""

from contextlib import suppress

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from rlhf_jax.errors import InputError


def cores_as_devices(count: int) -> None:
    """Where there is no accelerator, so many devices, for a core each. Once JAX is in use, the devices stay as they are."""
    if count > 1:
        with suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", count)


def make_mesh(data: int) -> Mesh:
    """The first `data` devices as a mesh with the axis "data"; InputError unless 1 ≤ data ≤ devices."""
    devices = jax.devices()
    if not 1 <= data <= len(devices):
        raise InputError(f"the mesh asks for {data} devices on its data axis and there are {len(devices)}")
    # Auto: with make_mesh's default, Explicit, the gather of an embedding raises ShardingTypeError.
    return jax.make_mesh((data,), ("data",), axis_types=(AxisType.Auto,), devices=devices[:data])


def replicate(tree: PyTree, mesh: Mesh) -> PyTree:
    """A copy of the tree, whole on every device of the mesh; donating the copy leaves the original valid."""
    whole = NamedSharding(mesh, PartitionSpec())

    def place(leaf):
        # A copy of our own: device_put may alias what it is given, even with may_alias=False (jax 0.10.2),
        # and on a mesh of several processes it takes NumPy arrays only.
        return jax.device_put(np.array(leaf), whole)

    return jax.tree.map(_keys_as_data(place), tree)


def shard_rows(tree: PyTree, mesh: Mesh) -> PyTree:
    """A copy of every leaf with axis 0 spread over "data". With several processes, each gives its own rows.

    InputError if the rows do not divide evenly over the devices of this process.
    """
    by_rows = NamedSharding(mesh, PartitionSpec("data"))
    devices = mesh.local_mesh.size

    def shard(leaf):
        if leaf.shape[0] % devices:
            raise InputError(f"{leaf.shape[0]} rows do not divide over {devices} devices; change the batch size")
        return jax.make_array_from_process_local_data(by_rows, np.array(leaf))

    return jax.tree.map(_keys_as_data(shard), tree)


def _keys_as_data(place):
    """`place` for typed keys as well, which NumPy does not know."""

    def placed(leaf):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(place(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        return place(leaf)

    return placed
