"""[mesh] as placements: each model lies as its role says, and its moments and average with it."""

import jax
import jax.numpy as jnp
import pytest

from rlhf_jax.errors import InputError
from rlhf_jax.stages import Devices
from rlhf_jax.steps import Frozen, Optimisers, adam, initial_state

MODEL = {"transformer": {"mlp": {"up": {"kernel": jnp.zeros((4, 4))}}}}


def sharded(tree, how) -> set[str]:
    """The first names of the paths of what is sharded."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path[0].name for path, leaf in leaves if any(how(path, jnp.ndim(leaf)))}


@pytest.fixture
def state():
    optimisers = Optimisers(adam(1e-8, 1.0), adam(1e-8, 1.0))
    return initial_state(MODEL, MODEL, optimisers, jax.random.key(0))


@pytest.fixture
def frozen():
    return Frozen(MODEL, (MODEL,), MODEL)


def test_all_models_are_sharded(state, frozen):
    how = Devices().rule()
    assert sharded(state, how) == {"policy", "policy_opt", "ema", "value", "value_opt"}
    assert sharded(frozen, how) == {"sft", "reward", "base"}


@pytest.mark.parametrize(
    ("role", "fields"),
    [
        ("policy", {"policy", "policy_opt", "ema", "base"}),
        ("value", {"value", "value_opt"}),
        ("reward", {"reward"}),
        ("reference", {"sft"}),
    ],
)
def test_each_may_be_replicated(state, frozen, role, fields):
    usual, changed = Devices().rule(), Devices(**{role: "replicated"}).rule()
    for tree in (state, frozen):
        assert sharded(tree, changed) == sharded(tree, usual) - fields


def test_a_tree_of_one_role_lies_as_that():
    ((path, _),) = jax.tree_util.tree_leaves_with_path(MODEL)
    replicated = Devices(reward="replicated")
    assert replicated.rule("reward")(path, 2) == (None, None)
    assert replicated.rule("policy")(path, 2) == ("fsdp", "tensor")


def test_under_pmap_everything_is_replicated(state):
    assert not sharded(state, Devices(pmap=True).rule())


def test_there_is_at_least_one_micro_batch():
    with pytest.raises(InputError, match="micro_batches is 0; set it to 1 or more"):
        Devices(micro_batches=0)
