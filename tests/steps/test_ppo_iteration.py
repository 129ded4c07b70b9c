"""The whole iteration of PPO-ptx on a tiny model, and the invariants that the design promises of it."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import ppo_ptx
from rlhf_jax.equations import values
from rlhf_jax.models import generate
from rlhf_jax.steps import Iteration, iteration, sample
from rlhf_jax.types import PPOBatch


@pytest.fixture(scope="module")
def first(tiny):
    return tiny.jitted(tiny.state, tiny.batch, tiny.coef, tiny.frozen)


def answers(tiny, state, prompts):
    key = jax.random.fold_in(jax.random.fold_in(state.key, state.step), 0)
    p = tiny.plan
    return generate(tiny.models.policy, state.policy, prompts, key, p.max_tokens, p.sampling, p.eos, p.pad)


def test_something_is_learned_and_everything_is_finite(tiny, first):
    state, metrics = first
    assert int(state.step) == 1
    for new, old in zip(jax.tree.leaves(state.policy), jax.tree.leaves(tiny.state.policy), strict=True):
        assert np.isfinite(new).all()
        assert (np.asarray(new) != np.asarray(old)).any()
    assert all(np.isfinite(float(m)) for m in values(metrics).values())
    y = jax.jit(lambda s, p: answers(tiny, s, p))(tiny.state, tiny.batch.prompts)
    lengths = np.asarray(y.mask).sum(axis=1)
    assert lengths.min() < lengths.max()  # ragged answers, or padding is not tested
    assert float(metrics["answer/length"].value) == pytest.approx(lengths.mean())


def test_the_reward_is_score_minus_beta_kl(tiny, first):
    m = {k: float(v) for k, v in values(first[1]).items()}
    assert m["objective/beta"] == pytest.approx(0.1)
    assert m["objective/non_score_reward"] == pytest.approx(-0.1 * m["objective/kl"], rel=1e-5)
    assert m["objective/rlhf_reward"] == pytest.approx(m["objective/scores"] - 0.1 * m["objective/kl"], rel=1e-5)


def test_the_kl_controller_moves_beta(tiny, first):
    """Ziegler et al. 2019: 1 + clip(KL/target − 1, ±0.2)·n/horizon, here target 1, n 8, horizon 100."""
    error = np.clip(float(first[1]["objective/kl"].value) / 1.0 - 1.0, -0.2, 0.2)
    assert float(first[0].kl_scale) == pytest.approx(1 + error * 8 / 100, rel=1e-6)


def test_fractional_rewards_survive(tiny):
    """A reward model that gives 0.7 to everything."""
    constant = jax.tree.map(jnp.zeros_like, tiny.frozen.reward[0]) | {"bias": jnp.float32(0.7)}
    _, metrics = tiny.jitted(tiny.state, tiny.batch, tiny.coef, tiny.frozen._replace(reward=(constant,)))
    assert float(metrics["objective/scores"].value) == pytest.approx(0.7, rel=1e-6)


def test_advantages_are_whitened(tiny, assert_equal):
    """With V = 0, ten times the scores and ten times β are ten times the advantages, and the same policy."""

    def after(factor):
        first = tiny.frozen.reward[0]
        reward = {**first, **{k: factor * first[k] for k in ("kernel", "bias")}}
        start = tiny.state.replace(value=jax.tree.map(jnp.zeros_like, tiny.state.value))
        coef = tiny.coef._replace(beta=factor * tiny.coef.beta)
        return tiny.jitted(start, tiny.batch, coef, tiny.frozen._replace(reward=(reward,)))

    (once, metrics), (ten, tenfold) = after(1.0), after(10.0)
    assert_equal(ten.policy, once.policy, atol=1e-5)
    np.testing.assert_allclose(tenfold["objective/scores"].value, 10 * metrics["objective/scores"].value, rtol=1e-5)


def test_a_policy_has_no_kl_to_itself(tiny):
    """At the temperature of the run, 0.7: the sampler's log-probs and the reference's are of the same distribution."""
    _, metrics = tiny.jitted(tiny.state, tiny.batch, tiny.coef, tiny.frozen._replace(sft=tiny.state.policy))
    assert abs(float(metrics["objective/kl"].value)) < 1e-5


def test_seven_settings_of_beta_and_gamma_cost_no_other_trace(tiny):
    tiny.jitted(tiny.state, tiny.batch, tiny.coef, tiny.frozen)
    before = len(tiny.traces)
    assert before >= 1
    seen = set()
    for beta, gamma in [(0.0, 0.0), (0.01, 0.0), (0.02, 1.0), (0.1, 0.5), (0.5, 5.0), (1.0, 27.8), (2.0, 50.0)]:
        coef = tiny.coef._replace(beta=jnp.float32(beta), gamma=jnp.float32(gamma))
        state, metrics = tiny.jitted(tiny.state, tiny.batch, coef, tiny.frozen)
        seen.add(float(jax.tree.leaves(state.policy)[0].sum()))
        assert float(metrics["objective/beta"].value) == pytest.approx(beta)
    assert len(tiny.traces) == before
    assert len(seen) == 7


def through_bytes(leaf):
    """What a disk keeps of an array: its bytes."""
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(through_bytes(jax.random.key_data(leaf)))
    return jnp.asarray(np.frombuffer(np.asarray(leaf).tobytes(), leaf.dtype).reshape(leaf.shape))


def test_keys_advance_and_a_restored_state_continues_bit_for_bit(tiny, first, assert_equal):
    state, _ = first
    still = tiny.coef._replace(lr=jnp.float32(0), value_lr=jnp.float32(0))
    one, metrics = tiny.jitted(tiny.state, tiny.batch, still, tiny.frozen)
    _, other_metrics = tiny.jitted(one, tiny.batch, still, tiny.frozen)  # the same policy, the same prompts
    assert float(metrics["objective/entropy"].value) != float(other_metrics["objective/entropy"].value)
    restored = jax.tree.map(through_bytes, state)
    through = tiny.jitted(state, tiny.batch, tiny.coef, tiny.frozen)
    assert_equal(tiny.jitted(restored, tiny.batch, tiny.coef, tiny.frozen), through)
    assert int(through[0].step) == 2


def test_gamma_0_is_no_pretraining_mix(tiny, first, assert_equal):
    off = tiny.coef._replace(gamma=jnp.float32(0))
    with_rows, metrics = tiny.jitted(tiny.state, tiny.batch, off, tiny.frozen)
    without, fewer = tiny.jitted(tiny.state, PPOBatch(tiny.batch.prompts, None), tiny.coef, tiny.frozen)
    assert_equal(with_rows, without, atol=1e-6)
    of_the_mix = {"loss/pretrain", "policy/grad_norm_ppo", "policy/grad_norm_ptx", "policy/grad_cosine"}
    assert set(metrics) - set(fewer) == of_the_mix
    apart = np.abs(jax.tree.leaves(first[0].policy)[0] - jax.tree.leaves(without.policy)[0]).max()
    assert apart > 1e-4  # γ = 0.5 does something


@pytest.mark.slow
def test_the_experiment_that_spells_it_out_is_the_same_to_the_bit(tiny, first, assert_equal):
    """experiments/ppo_ptx.py, which researchers copy, and the library's default."""
    step = partial(
        iteration,
        models=tiny.models,
        optimisers=tiny.optimisers,
        plan=tiny.plan,
        form=tiny.form,
        halves=Iteration(sample, ppo_ptx.learn),
    )
    state, metrics = jax.jit(step)(tiny.state, tiny.batch, tiny.coef, tiny.frozen)
    assert_equal(state, first[0])
    assert_equal(metrics, {name: first[1][name] for name in metrics})


@pytest.mark.slow
def test_a_grid_of_coefficients_in_one_program(tiny, assert_equal):
    betas, gammas = jnp.array([0.0, 0.5]), jnp.array([1.0, 0.0])
    grid = jax.tree.map(lambda c: jnp.broadcast_to(c, (2,)), tiny.coef)._replace(beta=betas, gamma=gammas)
    together = jax.jit(jax.vmap(tiny.iteration, in_axes=(None, None, 0, None)))(
        tiny.state, tiny.batch, grid, tiny.frozen
    )
    for i in range(2):
        alone = tiny.jitted(tiny.state, tiny.batch, jax.tree.map(lambda c, i=i: c[i], grid), tiny.frozen)
        assert_equal(jax.tree.map(lambda x, i=i: x[i], together[0]), alone[0], atol=1e-5)
        of_vmap = {k: v[i] for k, v in values(together[1]).items()}
        assert_equal(of_vmap, values(alone[1]), atol=1e-5)
