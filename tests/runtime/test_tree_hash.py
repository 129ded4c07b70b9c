"""The hash of a state sees any damage to it, and nothing of how it lies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rlhf_jax.runtime import make_mesh, tree_hash


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
