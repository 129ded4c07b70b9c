"""One hash of a whole state, which does not depend on how the state lies on its devices."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, UInt32

LANES = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F)  # odd, so that each makes another permutation of all words


def tree_hash(tree: PyTree) -> str:
    """sha256 (hex) over path, dtype, shape and checksum of every leaf; the same however the tree is sharded.

    A leaf's checksum has 128 bits and finds damage, not forgery: a sum over its words, each mixed with its place, so that
    every device adds up what it holds and nothing is gathered. With several processes each has to call it.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    sums = [_checksum(leaf) for _, leaf in leaves]  # all are under way before the first is read
    digest = hashlib.sha256()
    for (path, leaf), lanes in zip(leaves, sums, strict=True):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        digest.update(f"{name} {leaf.dtype} {list(leaf.shape)} {np.asarray(lanes).tolist()}\n".encode())
    return digest.hexdigest()


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
