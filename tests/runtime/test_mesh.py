import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from rlhf_jax.errors import InputError
from rlhf_jax.runtime import make_mesh, replicate, shard_rows


def test_the_mesh_has_one_automatic_axis():
    mesh = make_mesh(4)
    assert dict(mesh.shape) == {"data": 4}
    assert mesh.axis_types == (AxisType.Auto,)


@pytest.mark.parametrize("data", [-1, 0, 9])
def test_a_mesh_that_does_not_fit_names_both_numbers(data):
    with pytest.raises(InputError, match=f"{data} devices.*there are 8"):
        make_mesh(data)


@pytest.mark.parametrize("devices", [1, 8])
def test_donating_a_replicated_copy_leaves_the_original_valid(devices):
    tree = {"w": jnp.arange(1000.0), "key": jax.random.key(3), "n": np.ones(5), "none": None}
    copy = replicate(tree, make_mesh(devices))
    assert copy["w"].sharding.is_fully_replicated
    assert len(copy["w"].addressable_shards) == devices

    overwrite = jax.jit(lambda t: t | {"w": t["w"] - 1}, donate_argnums=0)
    jax.block_until_ready(overwrite(copy))
    assert copy["w"].is_deleted()
    np.testing.assert_array_equal(tree["w"], np.arange(1000.0))
    assert tree["key"] == jax.random.key(3)


def test_rows_lie_in_order_over_the_devices():
    rows = np.arange(24).reshape(8, 3)
    sharded = shard_rows({"x": rows, "y": jnp.arange(8)}, make_mesh(4))
    assert sharded["x"].sharding.spec == PartitionSpec("data")
    np.testing.assert_array_equal(sharded["x"].addressable_shards[1].data, rows[2:4])
    np.testing.assert_array_equal(sharded["x"], rows)
    np.testing.assert_array_equal(sharded["y"], np.arange(8))


@pytest.mark.parametrize("place", [replicate, shard_rows])
def test_a_numpy_buffer_may_be_used_again(place):
    memory = np.zeros(8 * 64 + 64, np.uint8)
    start = -memory.ctypes.data % 64  # jax takes over memory that is aligned to 64 bytes
    buffer = memory[start : start + 8 * 64].view(np.float32)
    placed = place(buffer, make_mesh(1))
    buffer[:] = 5
    assert not np.any(placed)


def test_rows_that_do_not_divide_name_both_numbers():
    with pytest.raises(InputError, match="6 rows do not divide over 4 devices"):
        shard_rows(np.zeros((6, 3)), make_mesh(4))
