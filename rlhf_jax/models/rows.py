"""How the rows of a batch go through a model: in micro-batches, and spread over the devices of a mapped axis.

Results come back for all rows, so that a loss, its denominators and every statistic of a batch are written once, as if
there were one device and memory without end.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from rlhf_jax.errors import InputError
from rlhf_jax.models.heads import Adapted, AnyModel
from rlhf_jax.models.placement import row_shards

T = TypeVar("T")
Model = TypeVar("Model", bound=AnyModel)


def by_rows(fn: Callable[..., T], model: AnyModel, *rows: PyTree) -> T:
    """fn(*rows), where every leaf given and returned has the B rows of the batch in front and fn treats each by itself.

    model.config.micro_batches: so many parts of the batch go through one after the other, at most: the greatest divisor
    shared with the rows that each device has, so that every part is spread over all of them. Only one part's activations are
    in memory at a time: the gradient computes each part again, which costs a forward pass. model.config.axis_name: each
    device of the mapped axis takes its share of the rows, and all get the results of all; gradients must then be averaged
    over the axis (`averaged_over`).
    """
    axis_name = model.config.axis_name
    rows = local_rows(rows, axis_name)
    B = len(jax.tree.leaves(rows)[0])
    devices = row_shards()
    parts = math.gcd(B // devices if B % devices == 0 else B, model.config.micro_batches)
    if parts == 1:
        return all_gather_rows(fn(*rows), axis_name)

    def cut(x: jax.Array) -> jax.Array:  # every part has rows of all devices
        return jnp.moveaxis(jnp.asarray(x).reshape(B // parts, parts, *x.shape[1:]), 1, 0)

    part = jax.checkpoint(lambda part: fn(*part), prevent_cse=False)
    found = jax.lax.map(part, jax.tree.map(cut, rows))
    found = jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(B, *x.shape[2:]), found)
    return all_gather_rows(found, axis_name)


def in_parts(model: Model, count: int) -> Model:
    """The model for a batch of `count` batches: it goes through in count times as many parts, which are as large as those of
    one of these batches. In half precision a product's roundings depend on its shape, and rows that are to get the same
    numbers need parts of the same size."""
    if isinstance(model, Adapted):
        return model._replace(model=in_parts(model.model, count))
    return model.clone(config=replace(model.config, micro_batches=count * model.config.micro_batches))


def local_rows(tree: T, axis_name: str | None) -> T:
    """This device's share of the rows of every leaf, in the order of the devices; all of them without an axis. InputError:
    they do not divide evenly."""
    if axis_name is None:
        return tree
    i, n = jax.lax.axis_index(axis_name), jax.lax.axis_size(axis_name)

    def own(x: jax.Array) -> jax.Array:
        if len(x) % n:
            raise InputError(
                f"{len(x)} rows, of a batch or a minibatch, do not divide over {n} devices; change its size"
            )
        return jax.lax.dynamic_slice_in_dim(jnp.asarray(x), i * (len(x) // n), len(x) // n)

    return jax.tree.map(own, tree)


def all_gather_rows(tree: T, axis_name: str | None) -> T:
    """The shares of all devices, back together."""
    if axis_name is None:
        return tree
    return jax.tree.map(partial(jax.lax.all_gather, axis_name=axis_name, tiled=True), tree)


def averaged_over(tree: T, axis_name: str | None) -> T:
    """Gradients of a loss that every device computed alike from `by_rows`: their mean over the axis is the loss's own.

    Each device's is that of its own rows, times the number of devices: what it handed out to all came back from all.
    """
    return tree if axis_name is None else jax.lax.pmean(tree, axis_name)
