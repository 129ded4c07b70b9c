"""Where a stage's models and batches lie: [mesh], as placements."""

from collections.abc import Callable
from typing import Any

from jax.sharding import Mesh

from experiments.recipe import Config
from rlhf_jax.errors import InputError
from rlhf_jax.models import mesh_axes
from rlhf_jax.runtime import Rule, everywhere, make_mesh
from rlhf_jax.runtime import mapped as mapped_over

ROLES = {"sft": "reference", "ema": "policy", "base": "policy"}  # fields of states that are not named for their role


def mesh_of(config: Config) -> Mesh:
    c = config.mesh
    if c.micro_batches < 1:
        raise InputError(f"mesh.micro_batches is {c.micro_batches}; set it to 1 or more")
    return make_mesh(c.data, c.fsdp, c.tensor)


def rule(config: Config, role: str = "") -> Rule:
    """How a tree lies: as config.mesh says of its role, or where none is given of the one that the first name in a leaf's
    path tells (policy_opt is the policy's)."""

    def axes(path: tuple[Any, ...], ndim: int) -> tuple[str | None, ...]:
        name = role or str(getattr(path[0], "name", "policy")).removesuffix("_opt")
        how = getattr(config.mesh, ROLES.get(name, name), "cut")
        return (everywhere if how == "whole" or config.mesh.pmap else mesh_axes)(path, ndim)

    return axes


def mapped(config: Config, mesh: Mesh, step: Callable[..., Any]) -> Callable[..., Any]:
    return mapped_over(step, mesh, config.mesh.pmap)
