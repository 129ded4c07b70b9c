"""The hash of a state sees any damage to it, and nothing of how it lies."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rlhf_jax.runtime import leaf_sums, make_mesh, tree_hash


def test_the_hash_sees_a_value_a_path_a_shape_and_a_dtype():
    tree = {"a": jnp.zeros((2, 3)), "key": jax.random.key(0)}
    others = [
        tree | {"a": tree["a"].at[1, 2].set(-0.0)},
        {"b": tree["a"], "key": tree["key"]},
        tree | {"a": jnp.zeros((3, 2))},
        tree | {"a": jnp.zeros((2, 3), jnp.int32)},
        tree | {"key": jax.random.key(1)},
        tree | {"key": jax.random.key(0, impl="rbg")},
    ]
    assert len({tree_hash(each) for each in [tree, *others]}) == 7
    assert tree_hash(tree) == tree_hash(jax.tree.map(jnp.copy, tree))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool", "uint32"])
def test_it_sees_every_bit_and_every_exchange(dtype):
    size = jnp.dtype(dtype).itemsize
    given = np.random.default_rng(0).integers(0, 2 if dtype == "bool" else 256, (3, 5, size)).astype(np.uint8)
    seen = set()
    for place in [None, *np.ndindex(3, 5)]:
        for bit in range(1 if place is None or dtype == "bool" else 8 * size):
            damaged = given.copy()
            if place is not None:
                damaged[*place, bit // 8] ^= 1 << bit % 8
            seen.add(tree_hash(jnp.asarray(damaged.view(dtype)[..., 0])))
    bits = 1 if dtype == "bool" else 8 * size
    assert len(seen) == 1 + 15 * bits
    numbers = np.arange(15, dtype=np.float32)
    exchanges = [numbers]
    for i in range(15):
        for j in range(i):
            exchanges.append(numbers.copy())
            exchanges[-1][[i, j]] = numbers[[j, i]]
    assert len({tree_hash(jnp.asarray(each.reshape(3, 5))) for each in exchanges}) == 1 + 15 * 14 // 2


@pytest.mark.parametrize("spec", [("data",), (None, "tensor"), (("data", "fsdp"), "tensor"), ()])
def test_it_is_the_same_however_the_state_lies(spec):
    x = jnp.asarray(np.random.default_rng(1).normal(size=(8, 6)), jnp.float32)
    on_mesh = jax.device_put(x, NamedSharding(make_mesh(2, 2, 2), PartitionSpec(*spec)))
    assert tree_hash({"x": on_mesh}) == tree_hash({"x": x}) == tree_hash({"x": np.asarray(x)})


def mixed(x):
    """MurmurHash3's finalizer, in Python's integers."""
    x = (x ^ x >> 16) * 0x85EBCA6B % 2**32
    x = (x ^ x >> 13) * 0xC2B2AE35 % 2**32
    return x ^ x >> 16


def test_a_hash_is_made_of_the_sums_of_its_leaves():
    tree = {"a": jnp.asarray([3, 5], jnp.uint32), "b": {"c": jnp.ones((2, 1), jnp.bfloat16)}}
    sums = leaf_sums(tree)
    assert [(leaf.path, leaf.shape, leaf.dtype) for leaf in sums] == [
        ("a", [2], "uint32"),
        ("b/c", [2, 1], "bfloat16"),
    ]
    lanes = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F)
    # A leaf has its words along a last axis; the place of a word adds what its place along each axis is mixed to.
    words = [(3, mixed(0) + mixed(lanes[0])), (5, mixed(1) + mixed(lanes[0]))]
    expected = [
        sum(mixed(mixed((word + place) % 2**32) * lane % 2**32) for word, place in words) % 2**32 for lane in lanes
    ]
    assert sums[0].sum == expected
    text = "".join(f"{leaf.path} {leaf.dtype} {leaf.shape} {leaf.sum}\n" for leaf in sums)
    assert tree_hash(tree) == hashlib.sha256(text.encode()).hexdigest()


MANY = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from rlhf_jax.runtime import make_mesh, tree_hash
rows = NamedSharding(make_mesh(2), PartitionSpec("data"))
tree = {i: jax.device_put(np.full((256, 64), i, np.float32), rows) for i in range(300)}
for _ in range(3):
    print(tree_hash(tree))
"""


@pytest.mark.slow
def test_many_leaves_on_two_devices_need_no_more_threads_than_there_are():
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
    }
    del environment["PJRT_NPROC"]  # where all are under way together it dies after 40 seconds
    line = [sys.executable, "-c", MANY]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr[-1000:]
    assert set(done.stdout.split()) == {tree_hash({i: np.full((256, 64), i, np.float32) for i in range(300)})}
