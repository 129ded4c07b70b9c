"""[mesh] as placements: each model lies as its role says, and its moments and average with it."""

import jax
import jax.numpy as jnp
import pytest

from experiments.devices import mesh_of, rule
from experiments.ppo_ptx import Frozen
from experiments.recipe import Config
from rlhf_jax.config import load_config
from rlhf_jax.errors import InputError
from rlhf_jax.steps import Optimisers, adam, initial_state

MODEL = {"transformer": {"mlp": {"up": {"kernel": jnp.zeros((4, 4))}}}}


def config(*more: str) -> Config:
    return load_config(Config, ["configs/tiny.toml", *more])


def cut(tree, how) -> set[str]:
    """The first names of the paths of what is cut."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path[0].name for path, leaf in leaves if any(how(path, jnp.ndim(leaf)))}


@pytest.fixture
def state():
    optimisers = Optimisers(adam(1e-8, 1.0), adam(1e-8, 1.0))
    return initial_state(MODEL, MODEL, optimisers, jax.random.key(0))


@pytest.fixture
def frozen():
    return Frozen(MODEL, (MODEL,), MODEL)


def test_all_models_are_cut(state, frozen):
    how = rule(config())
    assert cut(state, how) == {"policy", "policy_opt", "ema", "value", "value_opt"}
    assert cut(frozen, how) == {"sft", "reward", "base"}


@pytest.mark.parametrize(
    ("role", "fields"),
    [
        ("policy", {"policy", "policy_opt", "ema", "base"}),
        ("value", {"value", "value_opt"}),
        ("reward", {"reward"}),
        ("reference", {"sft"}),
    ],
)
def test_each_may_be_whole_on_every_device(state, frozen, role, fields):
    usual, changed = rule(config()), rule(config(f"--mesh.{role}", "whole"))
    for tree in (state, frozen):
        assert cut(tree, changed) == cut(tree, usual) - fields


def test_a_tree_of_one_role_lies_as_that():
    ((path, _),) = jax.tree_util.tree_leaves_with_path(MODEL)
    whole_rewards = config("--mesh.reward", "whole")
    assert rule(whole_rewards, "reward")(path, 2) == (None, None)
    assert rule(whole_rewards, "policy")(path, 2) == ("fsdp", "tensor")


def test_under_pmap_everything_is_whole(state):
    assert not cut(state, rule(config("--mesh.pmap")))


def test_there_is_at_least_one_micro_batch():
    with pytest.raises(InputError, match=r"mesh\.micro_batches is 0; set it to 1 or more"):
        mesh_of(config("--mesh.micro-batches", "0"))
