"""A sweep is its members' separate runs in one program."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.sweep import program
from rlhf_jax.equations import values
from rlhf_jax.runtime import make_mesh, place, shard_rows


@pytest.fixture(scope="module")
def members(tiny):
    """(β, γ, learning rate, seed) of four members: their states, batches and coefficients."""
    states, coefs = [], []
    for seed, (beta, gamma, lr) in enumerate([(0.0, 1.0, 0.01), (0.5, 0.0, 0.01), (0.5, 1.0, 0.003), (0.0, 0.0, 0.02)]):
        key = jax.random.fold_in(tiny.state.key, seed)
        states.append(replace(tiny.state, key=key))
        coefs.append(tiny.coef._replace(beta=jnp.float32(beta), gamma=jnp.float32(gamma), lr=jnp.float32(lr)))
    return states, [tiny.batch] * 4, coefs


@pytest.fixture(scope="module")
def apart(tiny, members):
    """Each of them on its own, for two iterations."""
    ends = []
    for state, batch, coef in zip(*members, strict=True):
        for _ in range(2):
            state, metrics = tiny.jitted(state, batch, coef, tiny.frozen)
        ends.append((state, values(metrics)))
    return ends


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("together", "devices"), [(1, 2), (1, 1), (2, 1)])
def test_the_members_are_their_separate_runs(tiny, members, apart, assert_equal, together, devices):
    def stacked(trees):
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    mesh, traces = make_mesh(devices), []

    def one(*arguments):
        traces.append(1)
        return tiny.iteration(*arguments)

    run = program(one, together, mesh)
    states, batches, coefs = (shard_rows(stacked(trees), mesh) for trees in members)
    for _ in range(2):
        states, metrics = run(states, batches, coefs, place(tiny.frozen, mesh))
    assert len(traces) == 1  # one program for all settings and seeds
    for i, (state, figures) in enumerate(apart):
        assert_equal(jax.tree.map(lambda x, i=i: x[i], states), state, atol=1e-5)
        assert_equal({name: value[i] for name, value in values(metrics).items()}, figures, atol=1e-5)
    policies = np.asarray(jax.tree.leaves(states.policy)[0])
    assert all((policies[i] != policies[j]).any() for i in range(4) for j in range(i))
