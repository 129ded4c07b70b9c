"""Low-rank corrections of frozen matrices (LoRA, Hu et al. 2021, arXiv:2106.09685), as a pytree of their own.

    params = {"lora": {"transformer": {"block_0": {"attention": {"query": {"a": [in, r], "b": [r, out]}, …}}}}, "head": {…}}

head: what a scalar model has beside its transformer, trained whole; {} for a language model. Together with the frozen
parameters, in `Adapted`, they are a model. Optimiser states and moving averages are as small as these trees.
"""

from collections.abc import Collection

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, PyTree

from rlhf_jax.errors import InputError

MATRICES = ("query", "key", "value", "out", "gate", "up", "down")


def init_lora(
    base: PyTree, targets: Collection[str], rank: int, key: Key[Array, ""], head: PyTree | None = None
) -> PyTree:
    """Corrections of the named matrices of every block: a uniform within ±1/√in, b = 0, so that the model starts as its
    base. InputError: a name that no matrix of the base has."""
    kernels = {path: leaf for path, leaf in _kernels(base) if path[-1] in targets}
    if missing := set(targets) - {path[-1] for path in kernels}:
        raise InputError(f"there is no matrix {min(missing)!r} to correct; name some of {', '.join(MATRICES)}")
    lora: dict = {}
    for i, (path, kernel) in enumerate(kernels.items()):
        *lead, width, out = kernel.shape
        a = jax.random.uniform(jax.random.fold_in(key, i), (*lead, width, rank), minval=-1.0, maxval=1.0) * width**-0.5
        _at(lora, path).update({"a": a, "b": jnp.zeros((*lead, rank, out))})
    return {"lora": lora, "head": {} if head is None else head}


def merge_lora(base: PyTree, params: PyTree, scale: float) -> PyTree:
    """The model as ordinary parameters: W + scale·a·b where there is a correction, and the head beside them."""

    def merged(path, leaf):
        found = params["lora"]
        for key in path[:-1]:
            found = found.get(key.key, {})
        return leaf + (scale * (found["a"] @ found["b"])).astype(leaf.dtype) if "a" in found else leaf

    kernels = jax.tree_util.tree_map_with_path(
        lambda path, leaf: merged(path, leaf) if path[-1].key == "kernel" else leaf, base
    )
    return {**kernels, **params["head"]}


def _kernels(base: PyTree) -> list[tuple[tuple[str, ...], Array]]:
    leaves = jax.tree_util.tree_leaves_with_path(base)
    paths = ((tuple(p.key for p in path), leaf) for path, leaf in leaves)
    return [(path[:-1], leaf) for path, leaf in paths if path[-1] == "kernel" and leaf.ndim > 1]


def _at(tree: dict, path: tuple[str, ...]) -> dict:
    """The dict at the path, made where there is none."""
    for name in path:
        tree = tree.setdefault(name, {})
    return tree
