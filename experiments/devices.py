"""Where a stage's models and batches lie: [mesh], as placements."""

from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh, NamedSharding
from jax.tree_util import DictKey
from jaxtyping import PyTree

from experiments.recipe import Config
from rlhf_jax.errors import InputError
from rlhf_jax.models import mesh_axes
from rlhf_jax.runtime import Rule, everywhere, lies, make_mesh, shapes_on


def mesh_of(config: Config) -> Mesh:
    c = config.mesh
    if c.micro_batches < 1:
        raise InputError(f"mesh.micro_batches is {c.micro_batches}; set it to 1 or more")
    return make_mesh(c.data, c.fsdp, c.tensor)


def rule(config: Config, role: str = "") -> Rule:
    """How a tree lies: as config.mesh says of its role, or where none is given of the one that the first name in a leaf's
    path tells."""
    c = config.mesh
    policy, value, reward, reference = (
        everywhere if how == "whole" or c.pmap else mesh_axes for how in (c.policy, c.value, c.reward, c.reference)
    )
    of_role = {
        **dict.fromkeys(("policy", "policy_opt", "ema", "base"), policy),
        **dict.fromkeys(("value", "value_opt"), value),
        "reward": reward,
        **dict.fromkeys(("reference", "sft"), reference),
    }

    def axes(path: tuple[Any, ...], ndim: int) -> tuple[str | None, ...]:
        return of_role.get(role or getattr(path[0], "name", ""), everywhere)(path, ndim)

    return axes


def to_import(config: Config, mesh: Mesh) -> Callable[[tuple[str, ...], tuple[int, ...]], NamedSharding]:
    """Where a parameter of the policy goes, by its path and shape, as it is read from a file."""
    axes = rule(config, "policy")
    return lambda path, shape: lies(tuple(map(DictKey, path)), shape, mesh, axes)


def to_load(config: Config, shapes: PyTree, role: str, mesh: Mesh | None) -> PyTree:
    """What a checkpoint of these shapes is loaded to: one device, or the mesh, so that none need hold it whole."""
    return shapes if mesh is None else shapes_on(mesh, shapes, rule(config, role))
