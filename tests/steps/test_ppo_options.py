"""Every term of PPO that can be chosen or weighed does what it says, and nothing when it is off."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rlhf_jax.equations import kl_exact, states_before, token_logps, values
from rlhf_jax.models import Sampling, generate, hidden_states, logits, processors_of, reprocess_logits
from rlhf_jax.steps import (
    divergences,
    ema_lag,
    iteration,
    join,
    policy_loss,
    ppo_step,
    pretrain_loss,
    reading,
    training_score,
)
from rlhf_jax.types import Experience, Moments

TRUNCATED = Sampling(0.7, top_k=4, top_p=0.8)
TRANSFORMS = {
    "truncated": TRUNCATED,
    "all": Sampling(0.7, 8, 0.95, min_p=0.05, repetition_penalty=1.5),
}


def f32(**changes):
    return {name: jnp.float32(value) for name, value in changes.items()}


@pytest.fixture(scope="module")
def run(tiny):
    """One iteration under other coefficients, another form, or another sampling."""

    @cache
    def compiled(form, sampling):
        plan = tiny.plan._replace(sampling=sampling)
        return jax.jit(partial(iteration, models=tiny.models, optimisers=tiny.optimisers, plan=plan, form=form))

    def run(state=tiny.state, form=tiny.form, sampling=tiny.plan.sampling, frozen=tiny.frozen, **changes):
        state, metrics = compiled(form, sampling)(state, tiny.batch, tiny.coef._replace(**f32(**changes)), frozen)
        return state, {name: float(m) for name, m in values(metrics).items()}

    return run


@pytest.fixture(scope="module")
def experience(tiny):
    """Answers of the tiny policy under top-k and top-p, with made-up advantages."""
    policy, p = tiny.models.policy, tiny.plan

    @jax.jit
    def collect(prompts):
        y = generate(policy, tiny.state.policy, prompts, jax.random.key(3), 5, TRUNCATED, p.eos, p.pad)
        tokens, mask = join(prompts, y)
        logp_sft = reading(tiny.frozen.sft, tokens, mask, y, model=policy).logp
        return tokens, mask, y, logp_sft

    tokens, mask, y, logp_sft = collect(tiny.batch.prompts)
    adv = jnp.where(y.mask, jnp.asarray(np.random.default_rng(0).normal(size=y.mask.shape), jnp.float32), 0.0)
    return Experience(tokens, mask, y, logp_sft, None, adv, None, tiny.batch.pretrain)


@pytest.fixture(scope="module")
def warped(tiny):
    """Logits of a response's tokens under the transform that it was drawn through, [B, T, V]."""

    def warped(params, tokens, mask, y):
        hidden, _ = hidden_states(tiny.models.policy, params, tokens, mask)
        return reprocess_logits(
            logits(tiny.models.policy, params, states_before(hidden, y.tokens.shape[1])), processors_of(y)
        )

    return jax.jit(warped)


def gradient(tiny, experience, form=None, **changes):
    loss = partial(policy_loss, model=tiny.models.policy, form=form or tiny.form, reference=tiny.frozen.sft)
    coef = tiny.coef._replace(**f32(**changes))
    return jax.jit(jax.grad(lambda p: loss(p, experience, coef)[0]))(tiny.state.policy)


def test_answers_have_their_log_probabilities_again_under_top_k_and_top_p(tiny, experience):
    y = experience.response
    kept = np.asarray(y.support).sum(axis=-1)[np.asarray(y.mask)]
    assert kept.max() <= 4 and kept.min() < kept.max()  # top-k acts, and top-p below it
    read = jax.jit(partial(reading, model=tiny.models.policy))(tiny.state.policy, experience.tokens, experience.mask, y)
    np.testing.assert_allclose(read.logp, y.logp, atol=1e-5)


@pytest.mark.parametrize(
    "sampling", [TRUNCATED, pytest.param(TRANSFORMS["all"], marks=pytest.mark.long)], ids=list(TRANSFORMS)
)
def test_the_ratio_is_1_and_a_policy_has_no_kl_to_itself(tiny, run, sampling):
    """Under every transform, with answers dealt out to shuffled minibatches."""
    _, metrics = run(sampling=sampling, frozen=tiny.frozen._replace(sft=tiny.state.policy), lr=0.0)
    for estimator in ("objective/kl", "objective/kl_k2", "objective/kl_k3", "objective/kl_exact"):
        assert abs(metrics[estimator]) < 1e-5
    assert metrics["val/ratio"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["policy/approxkl_avg"] < 1e-9
    _, metrics = run(sampling=sampling, lr=0.0)
    assert all(np.isfinite(list(metrics.values())))
    assert metrics["objective/kl_exact"] > 0.01


def test_a_reference_that_would_not_say_it_leaves_a_finite_kl(tiny, experience, warped):
    """π_SFT speaks of the tokens that the sampler kept, whatever it would itself have kept."""
    own = experience.response.replace(support=None)
    free = warped(tiny.frozen.sft, experience.tokens, experience.mask, own)
    given = np.where(experience.response.support, free, -np.inf)
    expected = np.where(own.mask, token_logps(jnp.asarray(given), own.tokens), 0.0)
    np.testing.assert_allclose(experience.logp_sft, expected, atol=1e-5)


def test_the_four_estimators_are_of_the_same_two_distributions(tiny, experience, warped):
    y = experience.response.replace(support=None)
    both, rows = (tiny.state.policy, tiny.frozen.sft), (experience.tokens, experience.mask, y)
    read = jax.jit(partial(reading, model=tiny.models.policy))(both[0], *rows, reference=both[1])
    found = divergences(read, y.mask)
    one, other = (warped(params, *rows) for params in both)
    difference = np.where(y.mask, token_logps(one, y.tokens) - token_logps(other, y.tokens), 0.0)
    np.testing.assert_allclose(found["k1"], difference, atol=1e-6)
    np.testing.assert_allclose(found["k2"], difference**2 / 2, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["k3"], np.exp(-difference) - 1 + difference, rtol=1e-4, atol=1e-6)
    p, q = jax.nn.softmax(one), jax.nn.softmax(other)
    exact = np.where(y.mask, np.sum(p * np.log(np.asarray(p) / np.asarray(q)), axis=-1), 0.0)
    np.testing.assert_allclose(found["exact"], exact, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(
    "change",
    [{"kl_reward": "k2"}, {"kl_reward": "k3", "whiten_rewards": True}, {"kl_reward": "exact", "whiten": "off"}],
    ids=str,
)
def test_any_estimator_can_be_the_reward_s_and_whitening_can_move_or_end(tiny, run, change):
    state, metrics = run(form=tiny.form._replace(**change))
    logged = metrics[f"objective/kl_{change['kl_reward']}"]
    assert metrics["objective/non_score_reward"] == pytest.approx(-0.1 * logged, rel=1e-5)
    one, other = (jax.tree.leaves(s.policy)[0] for s in (state, run()[0]))
    assert (np.asarray(one) != np.asarray(other)).any()


@pytest.mark.parametrize("estimator", ["k2", "k3", "exact"])
def test_the_kl_in_the_loss_adds_its_gradient(tiny, experience, warped, assert_equal, estimator):
    form, y = tiny.form._replace(kl_loss=estimator), experience.response

    def kl(params):
        one, other = (warped(p, experience.tokens, experience.mask, y) for p in (params, tiny.frozen.sft))
        x = jnp.where(y.mask, token_logps(one, y.tokens), 0.0) - experience.logp_sft
        by_hand = {"k2": x**2 / 2, "k3": jnp.exp(-x) - 1 + x, "exact": kl_exact(one, other)}[estimator]
        return jnp.sum(jnp.where(y.mask, by_hand, 0.0)) / jnp.sum(y.mask)

    without, with_it = gradient(tiny, experience, form), gradient(tiny, experience, form, beta_loss=0.3)
    expected = jax.tree.map(lambda a, b: a + 0.3 * b, without, jax.jit(jax.grad(kl))(tiny.state.policy))
    assert_equal(with_it, expected, atol=1e-5)
    assert max(float(abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (with_it, without)), strict=True)) > 1e-3


def test_the_entropy_bonus_raises_the_entropy(tiny, experience):
    loss = partial(policy_loss, model=tiny.models.policy, form=tiny.form)
    flat = replace(experience, advantages=experience.advantages * 0)
    uphill = gradient(tiny, flat, entropy=0.5)

    def entropy(params):
        return float(loss(params, flat, tiny.coef)[1]["policy/entropy_avg"].value)

    moved = jax.tree.map(lambda p, g: p - 0.01 * g, tiny.state.policy, uphill)
    slope = 0.01 * float(optax.tree.norm(uphill)) ** 2 / 0.5  # the loss is −0.5·H
    assert entropy(moved) - entropy(tiny.state.policy) == pytest.approx(slope, rel=0.1)


@pytest.mark.parametrize("over", ["answer", "constant"])
def test_the_policy_s_mean_can_be_over_answers_or_constant(tiny, experience, over):
    """At ratio 1 the loss of a token is −A."""
    loss = partial(policy_loss, model=tiny.models.policy, form=tiny.form._replace(policy_mean=over))
    mask, adv = np.asarray(experience.response.mask), np.asarray(experience.advantages)
    expected = -adv.sum() / mask.size if over == "constant" else -np.mean(adv.sum(axis=1) / mask.sum(axis=1))
    assert float(loss(tiny.state.policy, experience, tiny.coef)[0]) == pytest.approx(expected, rel=1e-4)


def test_gamma_per_example_is_gamma_per_token_times_a_row_s_tokens(tiny):
    """16 rows, 65 predicted tokens: each row of 6 predicts 5, and five of the first rows lost 2, and none the first."""
    rows = tiny.batch.pretrain
    tokens = int(rows.predict[..., 1:].sum())
    token, example = (
        float(pretrain_loss(tiny.state.policy, rows, tiny.coef, model=tiny.models.policy, form=form)[0])
        for form in (tiny.form, tiny.form._replace(pretrain_mean="example"))
    )
    assert example == pytest.approx(token * tokens / 16, rel=1e-5)


def test_the_gradients_of_both_terms_are_measured_apart(tiny, experience):
    coef = tiny.coef._replace(**f32(gamma=0.5))
    step = partial(ppo_step, models=tiny.models, optimisers=tiny.optimisers, form=tiny.form)
    _, metrics = jax.jit(step)(tiny.state, experience, coef)
    ppo = gradient(tiny, experience)
    ptx = jax.jit(
        jax.grad(lambda p: pretrain_loss(p, tiny.batch.pretrain, coef, model=tiny.models.policy, form=tiny.form)[0])
    )(tiny.state.policy)
    a, b = (np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)]) for tree in (ppo, ptx))
    m = {name: float(v) for name, v in values(metrics).items()}
    assert m["policy/grad_norm_ppo"] == pytest.approx(np.linalg.norm(a), rel=1e-4)
    assert m["policy/grad_norm_ptx"] == pytest.approx(np.linalg.norm(b), rel=1e-4)
    assert m["policy/grad_cosine"] == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-3)
    assert m["policy/grad_norm"] == pytest.approx(np.linalg.norm(a + b), rel=1e-4)


def test_without_a_value_network_the_policy_learns_alone(tiny, experience, assert_equal):
    bare = replace(tiny.state, value=None, value_opt=None)
    step = jax.jit(partial(ppo_step, models=tiny.models, optimisers=tiny.optimisers, form=tiny.form))
    state, metrics = step(bare, experience, tiny.coef)
    assert state.value is None and "loss/value_avg" not in metrics
    with_one, _ = step(tiny.state, experience, tiny.coef)
    assert_equal(state.policy, with_one.policy)


def test_the_updates_of_an_iteration_end_where_the_policy_has_gone_too_far(tiny, run, assert_equal):
    """2 epochs of 2 minibatches: the first update is free (ratio 1), the second sees the KL that it made."""
    whole, metrics = run()
    assert metrics["policy/updated"] == 1
    stopped, metrics = run(stop_kl=1e-9)
    assert metrics["policy/updated"] == pytest.approx(1 / 4)
    assert_equal(stopped.value, whole.value)  # the value network learns on
    assert int(stopped.policy_opt[1].count) == 1 and int(whole.policy_opt[1].count) == 4
    assert float(stopped.ema_weight) == 1.0 and float(whole.ema_weight) == pytest.approx(1 + 0.9 + 0.81 + 0.729)
    assert_equal(stopped.ema, stopped.policy)  # updates that were not made are not averaged
    again, metrics = run(state=stopped, stop_kl=1e-9)
    assert metrics["policy/updated"] == pytest.approx(1 / 4) and bool(again.stopped)  # a new iteration begins anew


def test_the_value_network_warms_up_alone(tiny, run, assert_equal):
    state, metrics = run(value_warmup=1)
    assert metrics["policy/updated"] == 0
    assert_equal(
        (state.policy, state.policy_opt, state.ema), (tiny.state.policy, tiny.state.policy_opt, tiny.state.ema)
    )
    assert float(state.ema_weight) == 0.0
    assert_equal(state.value, run()[0].value)
    assert run(state=state, value_warmup=1)[1]["policy/updated"] == 1


def test_how_far_the_average_lags(tiny, run):
    """‖θ − θ̄‖ / ‖θ − θ_start‖, by hand; 0 where the average is the policy, as at a decay of 0 and before the first update."""
    state, metrics = run(ema=0.9)
    start, now, average = (
        np.concatenate([x.ravel() for x in jax.tree.leaves(tree)])
        for tree in (tiny.frozen.sft, state.policy, state.ema)
    )
    expected = np.linalg.norm(now - average) / np.linalg.norm(now - start)
    assert 0 < expected == pytest.approx(float(metrics["policy/ema_lag"]), rel=1e-4)
    assert run(ema=0.0)[1]["policy/ema_lag"] == run(value_warmup=1)[1]["policy/ema_lag"] == 0
    assert float(ema_lag(replace(state, ema=tiny.frozen.sft), tiny.frozen.sft).value) == 1.0
    assert float(ema_lag(tiny.state, tiny.state.policy).value) == 0.0  # neither has moved


def test_the_schedule_of_beta(tiny, run):
    assert run(beta_end=0.5, beta_steps=2)[1]["objective/beta"] == pytest.approx(0.1)
    for step, beta in ((1, 0.075), (2, 0.05), (9, 0.05)):
        later = replace(tiny.state, step=jnp.int32(step))
        assert run(state=later, beta_end=0.5, beta_steps=2)[1]["objective/beta"] == pytest.approx(beta)


def score(tiny, form, raw, ended=(True, True), moments=(0.0, 0.0, 0.0), **changes):
    given = Moments(*(jnp.float32(m) for m in moments))
    coef = tiny.coef._replace(**f32(**changes))
    found, after = training_score(jnp.asarray(raw, jnp.float32), jnp.asarray(ended), given, coef, form)
    return np.asarray(found), tuple(float(m) for m in (after.count, after.mean, after.squares))


def test_the_score_that_trains(tiny):
    raw = [[4.0, -1.0]]
    found, after = score(tiny, tiny.form, raw, (True, False), score_clip=3.0, missing_eos_penalty=0.5)
    np.testing.assert_allclose(found, [3.0, -1.5])  # clipped, then less for the one that was cut off
    assert after == (0, 0, 0)
    fixed = tiny.form._replace(score_norm="fixed")
    found, after = score(tiny, fixed, raw, moments=(10.0, 2.0, 40.0))  # mean 2, variance 4
    np.testing.assert_allclose(found, [1.0, -1.5])
    assert after == (10, 2, 40)
    running = tiny.form._replace(score_norm="running")
    found, after = score(tiny, running, raw)  # mean 1.5, deviation 2.5
    np.testing.assert_allclose(found, [1.0, -1.0], rtol=1e-5)
    assert after == (2, 1.5, 12.5)
    found, _ = score(tiny, tiny.form._replace(ensemble="minimum"), [[4.0, -1.0], [1.0, 0.0]])
    np.testing.assert_allclose(found, [1.0, -1.0])


def test_running_moments_are_carried_from_iteration_to_iteration(tiny, run):
    form = tiny.form._replace(score_norm="running")
    state, metrics = run(form=form)
    assert float(state.scores.count) == 8
    assert float(state.scores.mean) == pytest.approx(metrics["objective/reward_model"], rel=1e-5)
    assert metrics["objective/scores"] == pytest.approx(0, abs=1e-5)  # all that was seen is this batch
    assert float(run(state=state, form=form)[0].scores.count) == 16


def test_an_ensemble_s_mean_is_the_one_model_s_score_if_they_agree(tiny, run, assert_equal):
    one, metrics = run()
    three, same = run(frozen=tiny.frozen._replace(reward=tiny.frozen.reward * 3), uncertainty=7.0)
    assert same["objective/scores"] == pytest.approx(metrics["objective/scores"], rel=1e-5)
    assert_equal(three.policy, one.policy, atol=1e-5)
