"""Where parameters lie on a mesh of devices: each names the logical axes of its dimensions, and a rule places each axis.

    embed         the residual stream     fsdp
    vocab         words                   tensor
    heads         all heads together      tensor
    mlp           width of the MLP        tensor

A row of the batch lies on "data" and "fsdp" together. Matrices are cut along "tensor" as in Megatron-LM (Shoeybi et al. 2019,
arXiv:1909.08053, §3): query, key, value, gate and up by columns, out and down by rows.
"""

from typing import Any, TypeVar

import jax
from jax.sharding import AbstractMesh, AxisType, PartitionSpec
from jaxtyping import Array, Float

T = TypeVar("T")
RULES = {"embed": "fsdp", "vocab": "tensor", "heads": "tensor", "mlp": "tensor"}

AXES: dict[tuple[str, str], tuple[str | None, ...]] = {
    ("embedding", "embedding"): ("vocab", "embed"),
    ("position", "embedding"): (None, "embed"),
    ("embedding_in", "kernel"): (None, "embed"),
    ("embedding_out", "kernel"): ("embed", None),
    **{(name, "kernel"): ("embed", "heads") for name in ("query", "key", "value")},
    **{(name, "bias"): ("heads",) for name in ("query", "key", "value")},
    ("out", "kernel"): ("heads", "embed"),
    ("out", "bias"): (None,),
    **{(name, "kernel"): ("embed", "mlp") for name in ("gate", "up")},
    **{(name, "bias"): ("mlp",) for name in ("gate", "up")},
    ("down", "kernel"): ("mlp", "embed"),
    ("down", "bias"): (None,),
    ("", "unembedding"): ("embed", "vocab"),
    ("", "kernel"): (None,),  # of a scalar head, or one a category
    ("", "bias"): (),
}


def mesh_axes(path: tuple[Any, ...], ndim: int) -> tuple[str | None, ...]:
    """The mesh's axis, or None, for each dimension of a leaf at a path as jax.tree_util has it.

    The leaf may stand anywhere in a state: Adam's moments and moving averages lie as their parameters do, a low-rank
    correction's long side as its matrix's, and what is no parameter (a step, a key) is whole everywhere, as are norms.
    ValueError: a parameter that has no entry here.
    """
    names = [key.key for key in path if hasattr(key, "key") and isinstance(key.key, str)]
    if not names:
        return (None,) * ndim
    module, name = (["", *names])[-2:]
    if module.endswith("_norm"):
        return (None,) * ndim
    if name in ("a", "b"):
        rows, columns = AXES[module, "kernel"]
        axes = (rows, None) if name == "a" else (None, columns)
    elif (module, name) in AXES:
        axes = AXES[module, name]
    elif ("", name) in AXES:
        axes = AXES["", name]
    else:
        raise ValueError(f"models/placement.py does not say on which axes {'/'.join(names)} lies")
    stacked = (None,) * (ndim - len(axes))  # layers under config.scan
    return (*stacked, *(None if axis is None else RULES[axis] for axis in axes))


def constrain_rows(x_btd: Float[Array, "B T D"]) -> Float[Array, "B T D"]:
    """The same, held to lie by rows where the program is compiled for a mesh with those axes (jax.set_mesh): left alone, the
    compiler may cut the residual stream as the matrices are, and exchange it all the time."""
    if _mesh() is None or len(x_btd) % row_shards():
        return x_btd
    return jax.lax.with_sharding_constraint(x_btd, PartitionSpec(("data", "fsdp"), None, None))


def row_shards() -> int:
    """Over how many devices, or groups of them, the rows of a batch are spread by that mesh; 1 without one."""
    mesh = _mesh()
    return 1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"]


def replicate_rows(tree: T) -> T:
    """All rows on every device of that mesh, so that each process can read them. With several, each has to call it."""
    if _mesh() is None:
        return tree
    return jax.tree.map(lambda x: jax.lax.with_sharding_constraint(x, PartitionSpec()), tree)


def replicate_columns(table_vd: Float[Array, "V D"]) -> Float[Array, "V D"]:
    """A table about to be looked up, on such a mesh with its vectors in one piece: the rows of what is read there lie on
    "fsdp", so its columns cannot."""
    mesh = _mesh()
    if mesh is None:
        return table_vd
    words = None if len(table_vd) % mesh.shape["tensor"] else "tensor"
    return jax.lax.with_sharding_constraint(table_vd, PartitionSpec(words, None))


def platform() -> str:
    """ "cpu", "gpu" or "tpu": that of the mesh that the program is compiled for, which need not be this machine's; without
    one JAX's own."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        return jax.default_backend()
    return "gpu" if device.platform in ("cuda", "rocm") else device.platform


def _mesh() -> AbstractMesh | None:
    """The mesh of several devices that the program is compiled for, if its axes are ours and not those of a shard_map."""
    mesh = jax.sharding.get_abstract_mesh()
    ours = mesh.axis_names == ("data", "fsdp", "tensor") and set(mesh.axis_types) == {AxisType.Auto}
    return mesh if ours and mesh.size > 1 else None
