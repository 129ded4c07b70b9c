import os
import platform
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from rlhf_jax.errors import InputError
from rlhf_jax.runtime import (
    join_rows,
    make_mesh,
    mapped,
    place,
    replicated,
    rows_here,
    run,
    shapes_on,
    shard_rows,
    sharding_of,
)


def test_cores_as_devices_bring_the_threads_that_their_collectives_need():
    text = """
import os, jax, jax.numpy as jnp
from rlhf_jax.runtime import cores_as_devices
cores_as_devices(1)
assert "PJRT_NPROC" not in os.environ
cores_as_devices(3)
print(os.environ["PJRT_NPROC"], jax.device_count())
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "XLA_FLAGS": ""}
    del environment["PJRT_NPROC"]
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == "16 3\n"


@pytest.mark.parametrize(
    "devices", [{"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, {"JAX_NUM_CPU_DEVICES": "3"}]
)
def test_so_does_a_program_whose_environment_makes_devices_of_its_cores(monkeypatch, devices):
    for name in ("PJRT_NPROC", "XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    seen = []
    for environment in ({}, devices):
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        run(lambda: seen.append(os.environ.get("PJRT_NPROC")))
    assert seen == [None, "16"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another library allocates")
def test_what_is_freed_on_a_cpu_is_there_for_the_next():
    """The pages that the system has to give for thirty arrays of 4 MB, ten times over."""
    text = """
import resource, sys, numpy as np
from rlhf_jax.runtime import make_mesh
if len(sys.argv) > 1:
    make_mesh(1)
faults = []
for _ in range(11):
    arrays = [np.ones(2**19) for _ in range(30)]
    del arrays
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[-1] - faults[0])
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "JAX_PLATFORMS": "cpu"}

    def faults(*arguments):
        command = [sys.executable, "-c", text, *arguments]
        return int(subprocess.run(command, capture_output=True, text=True, env=environment, check=True).stdout)

    assert faults("with a mesh") < 0.1 * faults()


def test_the_mesh_has_three_automatic_axes():
    mesh = make_mesh(2, 2, 1)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 2, "tensor": 1}
    assert mesh.axis_types == (AxisType.Auto,) * 3


@pytest.mark.parametrize("sizes", [(-1, 1, 1), (0, 1, 1), (9, 1, 1), (2, 3, 2)])
def test_a_mesh_that_does_not_fit_names_both_numbers(sizes):
    with pytest.raises(InputError, match=" × ".join(map(str, sizes)) + " devices.*there are 8"):
        make_mesh(*sizes)


@pytest.mark.parametrize("devices", [1, 8])
def test_donating_a_replicated_copy_leaves_the_original_valid(devices):
    tree = {"w": jnp.arange(1000.0), "key": jax.random.key(3), "n": np.ones(5), "none": None}
    copy = place(tree, make_mesh(devices))
    assert copy["w"].sharding.is_fully_replicated
    assert len(copy["w"].addressable_shards) == devices

    overwrite = jax.jit(lambda t: t | {"w": t["w"] - 1}, donate_argnums=0)
    jax.block_until_ready(overwrite(copy))
    assert copy["w"].is_deleted()
    np.testing.assert_array_equal(tree["w"], np.arange(1000.0))
    assert tree["key"] == jax.random.key(3)


def test_rows_lie_in_order_over_the_devices():
    rows = np.arange(24).reshape(8, 3)
    keys = jax.random.split(jax.random.key(0), 8)
    sharded = shard_rows({"x": rows, "y": jnp.arange(8), "key": keys}, make_mesh(4))
    assert (sharded["key"] == keys).all() and len(sharded["key"].sharding.device_set) == 4
    assert sharded["x"].sharding.spec == PartitionSpec(("data", "fsdp"))
    np.testing.assert_array_equal(sharded["x"].addressable_shards[1].data, rows[2:4])
    np.testing.assert_array_equal(sharded["x"], rows)
    np.testing.assert_array_equal(sharded["y"], np.arange(8))


@pytest.mark.parametrize("put", [place, shard_rows, join_rows])
def test_a_numpy_buffer_may_be_used_again(put):
    memory = np.zeros(8 * 64 + 64, np.uint8)
    start = -memory.ctypes.data % 64  # jax takes over memory that is aligned to 64 bytes
    buffer = memory[start : start + 8 * 64].view(np.float32)
    placed = put(buffer, make_mesh(1))
    buffer[:] = 5
    assert not np.any(placed)


def test_rows_that_do_not_divide_name_both_numbers():
    with pytest.raises(InputError, match="6 rows do not divide over 4 devices"):
        shard_rows(np.zeros((6, 3)), make_mesh(4))


def by_name(path, ndim):
    return {"rows": ("fsdp", None), "both": ("fsdp", "tensor"), "odd": ("fsdp",)}.get(path[-1].key, (None,) * ndim)


def test_a_tree_is_cut_by_its_rule_where_the_axis_divides_it():
    mesh = make_mesh(2, 2, 2)
    tree = {
        "rows": np.arange(12).reshape(4, 3),
        "both": np.arange(8).reshape(2, 4),
        "odd": np.arange(5),
        "key": jax.random.key(1),
    }
    found = place(tree, mesh, by_name)
    shapes = {name: leaf.addressable_shards[0].data.shape for name, leaf in found.items()}
    assert shapes == {"rows": (2, 3), "both": (1, 2), "odd": (5,), "key": ()}
    for name in ("rows", "both", "odd"):
        np.testing.assert_array_equal(found[name], tree[name])


def test_rows_lie_over_data_and_fsdp_and_whole_over_tensor():
    mesh = make_mesh(2, 2, 2)
    rows = np.arange(8)
    (found,) = {tuple(map(int, s.data)) for s in shard_rows(rows, mesh).addressable_shards if s.device.id in (2, 3)}
    assert found == (2, 3)
    assert rows_here(8, mesh) == range(8)  # of the only process
    np.testing.assert_array_equal(join_rows(rows, mesh), shard_rows(rows, mesh))


def test_what_lies_on_the_mesh_is_cut_anew_as_a_copy():
    mesh, overwrite = make_mesh(2, 2, 2), jax.jit(lambda x: x * 0 - 7, donate_argnums=0)
    given = {"w": jnp.arange(64.0).reshape(8, 8), "key": jax.random.key(3)}
    cut = place(given, mesh, lambda path, ndim: ("fsdp", "tensor")[:ndim])
    for rule in (
        replicated,
        lambda path, ndim: ("tensor", "fsdp")[:ndim],
        lambda path, ndim: ("fsdp", "tensor")[:ndim],
    ):
        again = place(cut, mesh, rule)
        assert again["w"].sharding.is_equivalent_to(sharding_of((), (8, 8), mesh, rule), 2)
        overwrite(again["w"])
        np.testing.assert_array_equal(cut["w"], given["w"])
        np.testing.assert_array_equal(jax.random.key_data(again["key"]), jax.random.key_data(given["key"]))


def test_shapes_on_a_mesh_are_those_of_what_is_placed_there():
    mesh, rule = make_mesh(1, 2, 4), lambda path, ndim: ("fsdp", "tensor")[:ndim]
    tree = {"even": jnp.ones((8, 8)), "odd": jnp.ones((3, 8)), "key": jax.random.key(0)}
    placed, shapes = place(tree, mesh, rule), shapes_on(mesh, jax.eval_shape(lambda: tree), rule)
    for name, leaf in placed.items():
        assert (shapes[name].shape, shapes[name].dtype) == (leaf.shape, leaf.dtype)
        assert leaf.sharding.is_equivalent_to(shapes[name].sharding, leaf.ndim)


def test_pmap_is_over_data_alone():
    with pytest.raises(InputError, match=r"set mesh\.fsdp and mesh\.tensor to 1"):
        mapped(lambda state, batch: (state, {}), make_mesh(2, 2, 1), pmap=True)


def test_pmap_is_within_one_process(monkeypatch):
    mesh = make_mesh(8)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(InputError, match=r"devices of one process; leave it out, mesh\.data spans all"):
        mapped(lambda state, batch: (state, {}), mesh, pmap=True)


def test_a_mapped_step_is_one_program_that_moves_nothing_unasked():
    mesh, traces = make_mesh(2, 2, 2), []

    def step(state, batch, coef):
        traces.append(1)
        moved = state["both"] + coef * jnp.sum(batch) + jnp.ones((2, 4))
        return {"both": moved.T.reshape(2, 4)}, {"sum": jnp.sum(moved)}

    run, state = mapped(step, mesh), place({"both": np.zeros((2, 4), np.float32)}, mesh, by_name)
    coef, batch = place(np.float32(2), mesh), shard_rows(np.ones(8, np.float32), mesh)
    where = state["both"].sharding
    for _ in range(3):
        state, metrics = run(state, batch, coef)
        assert state["both"].sharding == where
    assert len(traces) == 1
    assert float(metrics["sum"]) == 3 * 8 * 17
    with pytest.raises(jax.errors.JaxRuntimeError, match="Disallowed"):
        run(state, np.ones(8, np.float32), coef)
