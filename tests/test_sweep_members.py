"""Which member of a sweep gets which coefficients, key and batches. tests/steps/test_sweep.py compares them with separate
runs."""

from dataclasses import dataclass
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import sweep
from rlhf_jax import stages


@pytest.fixture
def c(tmp_path):
    table = sweep.Sweep("zip beta=0,0.25 gamma=2,3", seeds=3)
    return sweep.Config(out=str(tmp_path), sweep=table, ppo=stages.PPO(batch=8, minibatches=2))


def test_every_setting_meets_every_seed(c):
    found = [(m.index, m.coefficients["beta"], m.coefficients["gamma"], m.seed) for m in sweep.members_of(c)]
    assert found == [(0, 0, 2, 0), (1, 0, 2, 1), (2, 0, 2, 2), (3, 0.25, 3, 0), (4, 0.25, 3, 1), (5, 0.25, 3, 2)]


def test_a_member_has_its_settings_coefficients_and_else_those_of_the_config(c):
    found = sweep.member_coefficients(c, sweep.members_of(c))
    assert found.beta.tolist() == [0, 0, 0, 0.25, 0.25, 0.25] and found.gamma.tolist() == [2, 2, 2, 3, 3, 3]
    assert found.lam.tolist() == [np.float32(c.ppo.lam)] * 6


@dataclass(frozen=True)
class State:
    key: jax.Array
    params: jax.Array


def test_members_of_one_seed_have_one_key_and_begin_alike(c):
    jax.tree_util.register_dataclass(State, ["key", "params"], [])
    found = sweep.copied(State(jax.random.key(5), jnp.arange(3.0)), sweep.members_of(c))
    keys = [tuple(key) for key in jax.random.key_data(found.key).tolist()]
    assert keys[:3] == keys[3:] and len(set(keys)) == 3
    assert found.params.tolist() == [[0, 1, 2]] * 6


def test_members_of_one_seed_have_one_order_of_prompts(c, monkeypatch):
    def batches(prompts, text, start, ppo, run, first, role):
        return lambda i: ([], {"prompts": np.array([i, int(role.removeprefix("sweep "))])})

    monkeypatch.setattr(sweep, "batches", batches)
    before = SimpleNamespace(data=SimpleNamespace(prompts=stages.Parts(()), text=stages.Parts(())), rl_init=None)
    found = sweep.member_batches(c, before, sweep.members_of(c))(7)
    assert found["prompts"].tolist() == [[7, 0], [7, 1], [7, 2]] * 2


def test_figures_go_by_member_and_one_that_diverged_is_left_out(c):
    members = sweep.members_of(c)
    found = sweep.by_member(members, {"objective/kl": np.array([0, 1, 2, 3, np.nan, 5.0])})
    assert found == {f"objective/kl/{m.label}": m.index for m in members if m.index != 4}
    assert members[5].label == "beta=0.25 gamma=3 seed=2"
