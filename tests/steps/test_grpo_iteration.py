"""The iteration of experiments/grpo.py: answers as one another's baseline."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.grpo import advantages, learn
from rlhf_jax.equations import values
from rlhf_jax.steps import Iteration, iteration, sample
from rlhf_jax.types import Moments, PPOBatch

NOTHING = Moments(jnp.float32(0), jnp.float32(0), jnp.float32(0))


def test_advantages_by_hand():
    """Groups of 3: means 3 and 5, of the others 4, 3.5 and 1.5; earlier scores had the mean 2."""
    r = jnp.asarray([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]])
    before = Moments(jnp.float32(4), jnp.float32(2), jnp.float32(0))
    np.testing.assert_allclose(advantages(r, "reinforce", before), r - 2)
    np.testing.assert_allclose(advantages(r, "rloo", before), [[-3, -1.5, 4.5], [0, 0, 0]])
    np.testing.assert_allclose(advantages(r, "dr_grpo", before), [[-2, -1, 3], [0, 0, 0]])
    np.testing.assert_allclose(advantages(r, "grpo", before)[0], np.array([-2, -1, 3]) / (np.sqrt(7) + 1e-4), rtol=1e-5)
    np.testing.assert_array_equal(advantages(r, "best", before), [[0, 0, 1], [1, 0, 0]])
    deviation = np.std([1, 2, 6, 5, 5, 5], ddof=1) + 1e-4
    np.testing.assert_allclose(advantages(r, "grpo_batch", before)[0], np.array([-2, -1, 3]) / deviation, rtol=1e-5)


@pytest.fixture(scope="module")
def run(tiny):
    step = jax.jit(
        partial(
            iteration,
            models=tiny.models,
            optimisers=tiny.optimisers,
            plan=tiny.plan,
            form=tiny.form._replace(policy_mean="answer"),
            halves=Iteration(sample, partial(learn, advantage="rloo", answers=2), has_value=False),
        )
    )
    prompts = jax.tree.map(lambda x: x[::2].repeat(2, axis=0), tiny.batch.prompts)
    bare = replace(tiny.state, value=None, value_opt=None, scores=NOTHING)

    def run(frozen=tiny.frozen, **changes):
        coef = tiny.coef._replace(**{name: jnp.float32(value) for name, value in changes.items()})
        state, metrics = step(bare, PPOBatch(prompts, tiny.batch.pretrain), coef, frozen)
        return state, {name: float(m) for name, m in values(metrics).items()}

    return run


@pytest.mark.slow
def test_the_policy_learns_and_no_value_network_is_needed(tiny, run):
    state, metrics = run()
    assert state.value is None and all(np.isfinite(list(metrics.values())))
    assert metrics["group/no_difference"] == 0
    assert metrics["objective/rlhf_reward"] == pytest.approx(
        metrics["objective/scores"] - 0.1 * metrics["objective/kl"], rel=1e-5
    )
    for new, old in zip(jax.tree.leaves(state.policy), jax.tree.leaves(tiny.state.policy), strict=True):
        assert np.isfinite(new).all() and (np.asarray(new) != np.asarray(old)).any()


@pytest.mark.slow
def test_answers_that_earn_the_same_teach_nothing(tiny, run, assert_equal):
    constant = jax.tree.map(jnp.zeros_like, tiny.frozen.reward[0]) | {"bias": jnp.float32(0.7)}
    state, metrics = run(tiny.frozen._replace(reward=(constant,)), beta=0.0, gamma=0.0)
    assert metrics["group/no_difference"] == 1 and metrics["group/deviation"] == 0
    assert metrics["policy/grad_norm_ppo"] == 0
    assert_equal(state.policy, tiny.state.policy)
