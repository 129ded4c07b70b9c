from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.equations import values
from rlhf_jax.models import generate
from rlhf_jax.steps import (
    TextCoef,
    join,
    minibatches,
    next_token_loss,
    policy_loss,
    ppo_step,
    pretrain_loss,
    reading,
    response_values,
    value_loss,
)
from rlhf_jax.types import Experience, TextBatch


@pytest.fixture(scope="module")
def experience(tiny):
    """Answers of the tiny policy with made-up advantages and returns."""

    @jax.jit
    def collect(prompts):
        y = generate(
            tiny.models.policy,
            tiny.state.policy,
            prompts,
            jax.random.key(3),
            tiny.plan.max_tokens,
            tiny.plan.sampling,
            tiny.plan.eos,
            tiny.plan.pad,
        )
        tokens, mask = join(prompts, y)
        V = response_values(tiny.state.value, tokens, mask, tiny.plan.max_tokens, model=tiny.models.value)
        return tokens, mask, y, V

    tokens, mask, y, V = collect(tiny.batch.prompts)
    rng = np.random.default_rng(0)
    advantages, returns = (np.where(y.mask, rng.normal(size=y.mask.shape), 0).astype(np.float32) for _ in range(2))
    return Experience(
        tokens, mask, y, jnp.zeros_like(V), V, jnp.asarray(advantages), jnp.asarray(returns), tiny.batch.pretrain
    )


@pytest.fixture(scope="module")
def losses(tiny):
    return jax.jit(partial(policy_loss, model=tiny.models.policy, form=tiny.form))


@pytest.fixture(scope="module")
def step(tiny):
    return jax.jit(partial(ppo_step, models=tiny.models, optimisers=tiny.optimisers, form=tiny.form))


def test_the_ratio_is_1_before_the_first_update_and_not_after_it(tiny, experience, losses, step):
    _, metrics = losses(tiny.state.policy, experience, tiny.coef)
    assert float(metrics["val/ratio"].value) == pytest.approx(1.0, abs=1e-5)
    assert float(metrics["policy/approxkl_avg"].value) < 1e-10
    assert float(metrics["policy/clipfrac_avg"].value) == 0
    state, _ = step(tiny.state, experience, tiny.coef)
    _, metrics = losses(state.policy, experience, tiny.coef)
    assert abs(float(metrics["val/ratio"].value) - 1) > 1e-5
    assert float(metrics["policy/approxkl_avg"].value) > 1e-8


def test_every_token_of_an_answer_has_its_own_log_prob(tiny, experience):
    """log π of the sampler, token by token, is that of a forward pass over the finished answer; 0 on padding."""
    y = experience.response
    run = jax.jit(partial(reading, model=tiny.models.policy))
    logps = run(tiny.state.policy, experience.tokens, experience.mask, y).logp
    np.testing.assert_allclose(logps, y.logp, atol=1e-5)
    outside = ~np.asarray(y.mask)
    assert outside.any()
    assert (np.asarray(logps)[outside] == 0).all()


def test_the_eos_is_trained_and_the_padding_is_not(tiny, experience):
    """The gradient with respect to the advantages is that of the mean over the answers' tokens: EOS among them."""
    loss = partial(policy_loss, model=tiny.models.policy, form=tiny.form)
    grad = jax.jit(jax.grad(lambda a: loss(tiny.state.policy, experience.replace(advantages=a), tiny.coef)[0]))(
        experience.advantages
    )
    mask = np.asarray(experience.response.mask)
    is_eos = (np.asarray(experience.response.tokens) == tiny.plan.eos) & mask
    assert is_eos.any()
    np.testing.assert_allclose(grad, np.where(mask, -1 / mask.sum(), 0.0), rtol=1e-4)  # −ρ/n, ρ = 1


def test_clipping_acts(tiny, experience):
    """Where the ratio has left 1 ± clip on the side of the advantage, nothing flows back."""
    loss = partial(policy_loss, model=tiny.models.policy, form=tiny.form)
    grad = jax.jit(jax.grad(loss, has_aux=True))
    positive = experience.replace(advantages=jnp.ones_like(experience.advantages))
    y = experience.response
    moved = positive.replace(response=y.replace(logp=jnp.where(y.mask, y.logp - 0.5, 0.0)))  # ρ = e^0.5 = 1.65
    grads, metrics = grad(tiny.state.policy, moved, tiny.coef)
    assert float(metrics["policy/clipfrac_avg"].value) == 1
    assert max(float(abs(g).max()) for g in jax.tree.leaves(grads)) == 0
    grads, metrics = grad(tiny.state.policy, moved, tiny.coef._replace(clip_high=jnp.float32(0.7)))
    assert float(metrics["policy/clipfrac_avg"].value) == 0
    assert max(float(abs(g).max()) for g in jax.tree.leaves(grads)) > 1e-3


def test_the_pretraining_gradient_is_gamma_times_the_language_models(tiny, assert_equal):
    rows = tiny.batch.pretrain
    flat = TextBatch(rows.tokens.reshape(16, 6), rows.predict.reshape(16, 6))
    model = tiny.models.policy
    ours = jax.jit(jax.grad(partial(pretrain_loss, model=model, form=tiny.form), has_aux=True))(
        tiny.state.policy, rows, tiny.coef
    )[0]
    plain = jax.jit(jax.grad(partial(next_token_loss, model=model), has_aux=True))(
        tiny.state.policy, flat, TextCoef(0.0, 1.0, 0.0, 0.0)
    )[0]
    assert_equal(ours, jax.tree.map(lambda g: 0.5 * g, plain), atol=1e-6)


def test_the_value_loss_by_hand(tiny, experience):
    """½ mean over tokens of (V − R)² at the values the answers were written with, where nothing is clipped."""
    loss, _ = jax.jit(partial(value_loss, model=tiny.models.value))(
        tiny.state.value, experience, tiny.coef._replace(value_coef=jnp.float32(3.0))
    )
    mask = np.asarray(experience.response.mask)
    errors = (np.asarray(experience.values) - np.asarray(experience.returns))[mask]
    assert float(loss) == pytest.approx(3.0 * 0.5 * np.mean(errors**2), rel=1e-5)


def test_the_value_is_of_the_state_before_the_token(tiny, experience):
    """V(sₜ) does not see yₜ: another last token leaves every value as it is."""
    run = jax.jit(partial(response_values, model=tiny.models.value), static_argnums=3)
    changed = np.array(experience.tokens)
    changed[:, -1] = (changed[:, -1] + 1) % 11
    one = run(tiny.state.value, experience.tokens, experience.mask, 5)
    np.testing.assert_array_equal(run(tiny.state.value, changed, experience.mask, 5), one)
    changed[:, -2] = (changed[:, -2] + 1) % 11
    whole = np.asarray(experience.mask)[:, -1]
    assert whole.any()
    assert (
        np.asarray(run(tiny.state.value, changed, experience.mask, 5))[whole, -1] != np.asarray(one)[whole, -1]
    ).all()


def test_the_moving_average_and_the_warm_up(tiny, experience, step, assert_equal):
    """θ̄ ← 0.9 θ̄ + 0.1 θ; at iteration 0 of a warm-up of 2 the rate is a tenth, at 1 it is 0.55, at 2 the whole."""
    for iteration, rate in ((0, 0.1), (1, 0.55), (2, 1.0), (9, 1.0)):
        state, metrics = step(tiny.state.replace(step=jnp.int32(iteration)), experience, tiny.coef)
        assert float(metrics["lr"].value) == pytest.approx(rate * 0.01, rel=1e-5)
    expected = jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, tiny.state.ema, state.policy)
    assert_equal(state.ema, expected, atol=1e-6)
    assert int(state.step) == 9


def test_minibatches_are_each_epoch_once_in_a_new_order(experience):
    """8 answers, 2 epochs of 4 minibatches of 2."""
    parts = jax.jit(lambda key: minibatches(key, experience, 2, 4))(jax.random.key(0))
    numbered = experience.replace(tokens=jnp.arange(8)[:, None] * jnp.ones((1, 9), jnp.int32))
    order = np.asarray(minibatches(jax.random.key(0), numbered, 2, 4).tokens[..., 0])
    assert order.shape == (8, 2)
    first, second = order[:4].ravel(), order[4:].ravel()
    assert sorted(first) == sorted(second) == list(range(8))
    assert (first != second).any()
    np.testing.assert_array_equal(parts.advantages, np.asarray(experience.advantages)[order])
    np.testing.assert_array_equal(parts.pretrain.tokens, np.asarray(experience.pretrain.tokens)[order])


def test_padding_is_without_influence_on_losses_and_metrics(tiny, experience, losses):
    """NaN advantages and wild tokens outside the answers."""
    clean = losses(tiny.state.policy, experience, tiny.coef)
    outside = ~np.asarray(experience.response.mask)
    y = experience.response
    dirty = experience.replace(
        advantages=jnp.asarray(np.where(outside, np.nan, experience.advantages)),
        response=y.replace(
            tokens=jnp.asarray(np.where(outside, 7, y.tokens)), logp=jnp.asarray(np.where(outside, -1e9, y.logp))
        ),
    )
    got = losses(tiny.state.policy, dirty, tiny.coef)
    np.testing.assert_array_equal(got[0], clean[0])
    for name, value in values(clean[1]).items():
        np.testing.assert_array_equal(values(got[1])[name], value)
