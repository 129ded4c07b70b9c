"""One hash of a whole state, which does not depend on how the state lies on its devices."""

import hashlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, UInt32

LANES = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F)  # odd, so that each makes another permutation of all words


class LeafSum(NamedTuple):
    """One leaf of a state and the checksum of its content."""

    path: str
    shape: list[int]
    dtype: str
    sum: list[int]  # four words of 32 bits


def tree_hash(tree: PyTree) -> str:
    """sha256 (hex) over path, dtype, shape and checksum of every leaf; the same however the tree is sharded.

    A leaf's checksum has 128 bits and finds damage, not forgery: a sum over its words, each mixed with its place, so that
    every device adds up what it holds and nothing is gathered. With several processes each has to call it.
    """
    return hash_of_sums(leaf_sums(tree))


def leaf_sums(tree: PyTree) -> list[LeafSum]:
    """The checksum of every leaf, by which a part of a state can be verified. With several processes each has to call it."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    lanes = []
    for _, leaf in leaves:
        lanes.append(_checksum(leaf))
        if isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1:
            # Sums over many devices that are under way together wait for each other for ever where threads are few.
            lanes[-1].block_until_ready()
    return [
        LeafSum(path_name(path), list(leaf.shape), str(leaf.dtype), np.asarray(lane).tolist())
        for (path, leaf), lane in zip(leaves, lanes, strict=True)
    ]


def hash_of_sums(sums: Iterable[LeafSum]) -> str:
    """`tree_hash` of the tree that has these leaves."""
    digest = hashlib.sha256()
    for leaf in sums:
        digest.update(f"{leaf.path} {leaf.dtype} {leaf.shape} {leaf.sum}\n".encode())
    return digest.hexdigest()


def path_name(path: tuple[Any, ...]) -> str:
    """A leaf's path in a tree, its keys joined by slashes."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


@jax.jit
def _checksum(leaf: Array) -> UInt32[Array, "4"]:
    """Σ mix(lane · mix(word + place)) modulo 2³² over the leaf's words, for each lane."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    word_bits = 8 * min(leaf.dtype.itemsize, 4)
    words = leaf[..., None].view(f"uint{word_bits}").astype(jnp.uint32)
    place = jnp.uint32(0)
    for axis, size in enumerate(words.shape):  # one number an axis, since more than 2³² words may lie here
        along = _mix(jnp.arange(size, dtype=jnp.uint32) + jnp.uint32(LANES[0] * axis % 2**32))
        place = place + jnp.expand_dims(along, [i for i in range(words.ndim) if i != axis])
    mixed = _mix(words + place)
    return jnp.stack([jnp.sum(_mix(mixed * jnp.uint32(lane)), dtype=jnp.uint32) for lane in LANES])


def _mix(x: UInt32[Array, "..."]) -> UInt32[Array, "..."]:
    """A permutation of the 32-bit words in which every bit moves all others: MurmurHash3's finalizer (Appleby 2011)."""
    x = (x ^ (x >> 16)) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> 13)) * jnp.uint32(0xC2B2AE35)
    return x ^ (x >> 16)
