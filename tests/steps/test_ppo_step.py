from dataclasses import replace
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.equations import clipped_policy_loss, masked_mean, values
from rlhf_jax.models import LanguageModel, generate
from rlhf_jax.steps import (
    TextCoef,
    adam,
    initial_state,
    join,
    minibatches,
    next_token_loss,
    policy_loss,
    ppo_step,
    pretrain_loss,
    reading,
    response_values,
    value_loss,
    value_step,
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


def reinforce(logp, logp_old, advantages, mask, coef):
    return -advantages * logp, {"own": masked_mean(advantages, mask)}


def importance(logp, logp_old, advantages, mask, coef):
    """PPO's ratio, never clipped."""
    return -advantages * jnp.exp(logp - logp_old), {}


@pytest.mark.parametrize("objective", [reinforce, pytest.param(importance, marks=pytest.mark.long)])
def test_the_objective_is_an_argument(tiny, experience, objective):
    """Both have the gradient −mean A·ρ·∇log π, where REINFORCE has ρ = 1; by hand from the model's logits. What stands
    outside the answers, NaN included, has no influence."""
    model, y, T = tiny.models.policy, experience.response, tiny.plan.max_tokens
    advantages, mask = np.asarray(experience.advantages), np.asarray(y.mask)

    def by_hand(params, weights):
        hidden, _ = model.apply({"params": params}, experience.tokens, experience.mask)
        logits = model.apply({"params": params}, hidden, method=LanguageModel.logits)[:, -T - 1 : -1] / 0.7
        logp = jnp.take_along_axis(jax.nn.log_softmax(logits), y.tokens[..., None], axis=-1)[..., 0]
        return -jnp.sum(weights * jnp.where(mask, logp, 0.0)) / mask.sum(), logp

    elsewhere = jax.tree.map(lambda p: 1.1 * p, tiny.state.policy)  # where ρ ≠ 1
    hand = jax.jit(jax.grad(by_hand, has_aux=True))
    ratio = np.where(mask, np.exp(hand(elsewhere, advantages)[1] - y.logp), 0.0)
    expected, _ = hand(elsewhere, advantages * (1.0 if objective is reinforce else ratio))
    dirty = experience.replace(advantages=jnp.where(mask, advantages, jnp.nan), pretrain=None)
    loss = partial(policy_loss, model=model, form=tiny.form, objective=objective)
    found, _ = jax.jit(jax.grad(loss, has_aux=True))(elsewhere, dirty, tiny.coef)
    chex.assert_tree_all_finite(found)
    chex.assert_trees_all_close(found, expected, atol=1e-5)

    step = partial(ppo_step, models=tiny.models, optimisers=tiny.optimisers, form=tiny.form, objective=objective)
    state, metrics = jax.jit(step)(tiny.state.replace(policy=elsewhere), dirty, tiny.coef)
    norm = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in jax.tree.leaves(expected)))
    assert float(metrics["policy/grad_norm"].value) == pytest.approx(norm, rel=1e-4)
    assert ("own" in metrics) == (objective is reinforce)
    # The KL that ends an iteration's updates does not depend on the objective's metrics.
    stopped, _ = jax.jit(step)(tiny.state.replace(policy=elsewhere), dirty, tiny.coef._replace(stop_kl=jnp.float32(0)))
    assert bool(stopped.stopped) and not bool(state.stopped)


def test_the_default_objective_is_ppo_s_clipped_loss_to_the_bit(tiny, experience, losses):
    coef = tiny.coef._replace(clip_high=jnp.float32(0.3), dual_clip=jnp.float32(1.2))
    moved = jax.tree.map(lambda p: 1.1 * p, tiny.state.policy)
    read = jax.jit(partial(reading, model=tiny.models.policy, entropies=True))
    y = experience.response

    @jax.jit
    def direct(logp):
        each, metrics = clipped_policy_loss(logp, y.logp, experience.advantages, y.mask, 0.2, 0.3, 1.2)
        return masked_mean(each, y.mask), metrics

    policy, metrics = direct(read(moved, experience.tokens, experience.mask, y).logp)
    value, found = losses(moved, experience, coef)
    assert float(metrics["policy/clipfrac_avg"].value) > 0
    chex.assert_trees_all_equal({name: found[name] for name in metrics}, metrics)
    chex.assert_trees_all_equal((value, found["loss/policy_avg"]), (policy.value, policy))


def test_the_state_s_memory_can_be_given_to_a_step(tiny, experience):
    """The usual jax.jit(step, donate_argnums=0), on a fresh state, whose moving average is the policy."""
    policy, value = jax.tree.map(jnp.copy, (tiny.state.policy, tiny.state.value))
    state = initial_state(policy, value, tiny.optimisers, jax.random.key(7))
    chex.assert_trees_all_equal(state.ema, policy)
    once = chex.assert_max_traces(ppo_step, 1)
    step = partial(once, models=tiny.models, optimisers=tiny.optimisers, form=tiny.form)
    step = jax.jit(step, donate_argnums=0)
    for _ in range(2):
        state, metrics = step(state, experience, tiny.coef)
    chex.assert_tree_all_finite((state.policy, state.ema, state.value, values(metrics)))
    assert jax.tree.leaves(policy)[0].is_deleted()


@pytest.mark.parametrize(("schedule", "quarter"), [("linear", 0.775), ("cosine", 0.8681981)])
def test_the_schedule_of_both_rates_follows_the_warm_up(tiny, experience, schedule, quarter, assert_equal):
    """Of 11 iterations, 2 of them a warm-up from a tenth, 8 lead from iteration 2 to the last, at the floor."""
    form = tiny.form._replace(schedule=schedule)
    step = jax.jit(partial(ppo_step, models=tiny.models, optimisers=tiny.optimisers, form=form))

    def at(iteration, **changes):
        coef = tiny.coef._replace(
            **{k: jnp.float32(v) for k, v in ({"lr_steps": 11, "lr_floor": 0.1} | changes).items()}
        )
        state, metrics = step(tiny.state.replace(step=jnp.int32(iteration)), experience, coef)
        return state, float(metrics["lr"].value) / 0.01

    shares = [at(i)[1] for i in (0, 1, 2, 4, 6, 10, 50)]
    assert shares == pytest.approx([0.1, 0.55, 1.0, quarter, 0.55, 0.1, 0.1], rel=1e-5)
    assert at(0, warmup=0)[1] == pytest.approx(1.0)
    ended, _ = at(10, lr_floor=0)
    assert_equal((ended.policy, ended.value), (tiny.state.policy, tiny.state.value))


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


def test_what_the_coefficient_of_the_value_loss_does(tiny, experience):
    """Its own Adam divides a factor on the loss out again, but for eps, and for clip_norm where that cuts some gradients."""
    short, long = experience, replace(experience, returns=30 * experience.returns)
    state = replace(tiny.state, step=jnp.int32(9))  # after the warm-up

    def learner(clip_norm):
        optimiser = adam(1e-12, clip_norm)
        step = jax.jit(partial(value_step, model=tiny.models.value, optimiser=optimiser))

        def after(coef):
            now, norms = replace(state, value_opt=optimiser.init(state.value)), []
            for batch in (long, short):
                now, metrics = step(now, batch, tiny.coef._replace(value_coef=jnp.float32(coef)))
                norms.append(float(metrics["val/grad_norm"].value))
            return np.concatenate([np.ravel(x) for x in jax.tree.leaves(now.value)]), np.array(norms)

        return after

    free, before = learner(np.inf), np.concatenate([np.ravel(x) for x in jax.tree.leaves(state.value)])
    (one, norms), (tenth, shorter) = free(1.0), free(0.1)
    np.testing.assert_allclose(shorter, 0.1 * norms, rtol=1e-3)
    moved = np.linalg.norm(one - before)
    assert np.linalg.norm(one - tenth) < 1e-2 * moved
    cut = learner(0.1 * norms[0])  # of the whole loss's gradients the long one is cut to a tenth, of a tenth's none
    assert np.linalg.norm(cut(1.0)[0] - cut(0.1)[0]) > 5e-2 * moved


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
    """θ̄₁ = θ₁, θ̄₂ = (0.9 θ₁ + θ₂) / 1.9. In a warm-up of 2 iterations the rate is a tenth, 0.55, and then the whole."""
    for iteration, rate in ((0, 0.1), (1, 0.55), (2, 1.0), (9, 1.0)):
        state, metrics = step(tiny.state.replace(step=jnp.int32(iteration)), experience, tiny.coef)
        assert float(metrics["lr"].value) == pytest.approx(rate * 0.01, rel=1e-5)
    assert_equal(state.ema, state.policy)
    assert int(state.step) == 9
    again, _ = step(state, experience, tiny.coef)
    expected = jax.tree.map(lambda old, new: (0.9 * old + new) / 1.9, state.policy, again.policy)
    assert_equal(again.ema, expected, atol=1e-6)
    assert float(again.ema_weight) == pytest.approx(1.9)


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
