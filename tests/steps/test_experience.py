"""What an iteration makes of answers before anything learns from them, computed again in NumPy: scores, rewards, advantages
and returns of every form, the coefficients that the losses get, and whose parameters said what.

The answers here are made up, and so are the KLs, each estimator's its own numbers: what is read in another's place shows.
"""

from dataclasses import replace
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import grpo, rl_loop
from experiments import ppo_ptx as experiment
from rlhf_jax.equations import values
from rlhf_jax.models import generate, hidden_states, logits, scalars
from rlhf_jax.steps import (
    SAMPLE,
    Iteration,
    Reading,
    Rollout,
    iteration,
    minibatches,
    ppo_step,
    reward_scores,
    rollout,
    sample,
)
from rlhf_jax.steps import ppo_ptx as library
from rlhf_jax.types import Moments, PPOBatch, Response
from tests.models.conftest import wild
from tests.steps.conftest import EOS, PAD, flat

B, P, T = 8, 4, 5
LENGTHS = np.array([5, 2, 3, 5, 1, 4, 2, 3])
MASK = np.arange(T) < LENGTHS[:, None]
ENDED = np.array(
    [False, True, True, True, True, True, True, True]
)  # row 0 was cut off, row 3 came to its EOS at the end
BEFORE = (10.0, 0.5, 20.0)  # of earlier scores: their count, their mean and the sum of squares about it
STEP, KL_SCALE = 3, 1.3
PPO = {"the library's": library, "the experiment's": experiment}
SHIFTS = {"k1": 0.5, "k2": 0.9, "k3": 0.2, "exact": 0.7}  # of the estimators' means, nats a token
GROUPS = ("reinforce", "rloo", "grpo", "grpo_batch", "dr_grpo", "best")


@pytest.fixture(scope="module")
def state(tiny):
    """In the middle of a run: no two of its models are alike, β has moved, scores were seen, an iteration was stopped."""
    return replace(
        tiny.state,
        step=jnp.int32(STEP),
        ema=wild(tiny.models.policy, 5),
        ema_weight=jnp.float32(4.0),
        kl_scale=jnp.float32(KL_SCALE),
        scores=Moments(*(jnp.float32(m) for m in BEFORE)),
        stopped=jnp.bool_(True),
    )


@pytest.fixture(scope="module")
def coef(tiny, x):
    """The controller's target is a little below the KL that there is, where its step is not yet cut off."""
    nats = float(np.asarray(x.kl["k1"]).sum(1).mean())
    assert nats > 0
    changes = {"discount": 0.9, "lam": 0.8, "beta": 0.3, "beta_loss": 0.2, "beta_end": 0.5, "beta_steps": 8.0}
    changes |= {
        "kl_target": nats / 1.1,
        "kl_horizon": 40.0,
        "score_clip": 1.5,
        "missing_eos_penalty": 0.7,
        "uncertainty": 0.4,
    }
    return tiny.coef._replace(**{name: jnp.float32(value) for name, value in changes.items()})


@pytest.fixture(scope="module")
def x(tiny):
    """Answers to the tiny batch's prompts, every number of which is made up."""
    rng = np.random.default_rng(11)
    y = np.where(MASK, rng.integers(2, 11, (B, T)), PAD).astype(np.int32)
    y[np.flatnonzero(ENDED), LENGTHS[ENDED] - 1] = EOS

    def numbers():
        return np.where(MASK, rng.normal(size=(B, T)), 0.0).astype(np.float32)

    prompts = tiny.batch.prompts
    tokens, mask = np.concatenate([prompts.tokens, y], axis=1), np.concatenate([prompts.mask, MASK], axis=1)
    response = Response(y, MASK, numbers(), np.full(B, 0.7, np.float32), None)
    kl = {name: np.where(MASK, numbers() + np.float32(shift), np.float32(0)) for name, shift in SHIFTS.items()}
    made = Rollout(tokens, mask, response, ENDED, kl, numbers())
    return jax.tree.map(jnp.asarray, made)


@pytest.fixture(scope="module")
def scores():
    """Of two reward models."""
    return jnp.asarray(np.random.default_rng(12).normal(0.4, 1.5, (2, B)).astype(np.float32))


class Call(NamedTuple):
    """What one update is given."""

    state: object
    batch: object
    coef: object
    fixed: dict


@pytest.fixture
def updates(monkeypatch):
    """(module, learn, …) → the updates that an iteration asks for, none of which is made; its state and its metrics."""

    def of(module, learn, *given, step="ppo_step", **fixed):
        calls = []

        def recorded(state, batch, coef=None, **more):
            calls.append(Call(state, batch, coef, more))
            return state, {}

        monkeypatch.setattr(module, step, recorded)
        with jax.disable_jit():
            state, metrics = learn(*given, **fixed)
        return calls, state, {name: float(m) for name, m in values(metrics).items()}

    return of


def by_row(calls, x, parts):
    """The batches of an epoch as one, in the order of the answers."""
    whole = jax.tree.map(lambda *leaves: np.concatenate(leaves), *(call.batch for call in calls[:parts]))
    rows = [np.flatnonzero((whole.tokens == row).all(axis=1)) for row in np.asarray(x.tokens)]
    assert all(len(found) == 1 for found in rows)  # each answer once
    return jax.tree.map(lambda leaf: leaf[np.concatenate(rows)], whole)


# In NumPy, from the formulas.


def score_by_hand(scores, coef, form):
    """Of each answer, as the policy is trained on it, and the moments of all scores so far."""
    scores = np.asarray(scores, np.float64)
    score = scores.min(0) if form.ensemble == "minimum" else scores.mean(0) - float(coef.uncertainty) * scores.var(0)
    count, mean, squares = BEFORE
    if form.score_norm == "running":
        total = count * mean + score.sum()
        raw = squares + count * mean**2 + (score**2).sum()
        count += B
        mean = total / count
        squares = raw - count * mean**2
    if form.score_norm != "off":
        score = (score - mean) / np.sqrt(squares / count)
    clip = float(coef.score_clip)
    return np.clip(score, -clip, clip) - float(coef.missing_eos_penalty) * ~ENDED, (count, mean, squares)


def beta_scale():
    """1.3 of the controller, times what a schedule from 1 to ½ over 8 iterations has in its third."""
    return KL_SCALE * (1 - 0.5 * 3 / 8)


def whitened(x, mask, unbiased, keep_mean=False):
    entries = x[mask]
    white = (x - entries.mean()) / np.sqrt(entries.var(ddof=int(unbiased)) + 1e-8)
    return np.where(mask, white + entries.mean() * keep_mean, 0.0)


def advantages_by_hand(r, V, discount, lam):
    """Âₜ = Σₗ (discount·λ)ˡ δₜ₊ₗ, as the sum that it is."""
    found = np.zeros((B, T))
    for row, n in enumerate(LENGTHS):
        after = [*V[row, 1:n], 0.0]
        delta = [r[row, t] + discount * after[t] - V[row, t] for t in range(n)]
        for t in range(n):
            found[row, t] = sum((discount * lam) ** (k - t) * delta[k] for k in range(t, n))
    return found


def experience_by_hand(x, scores, V, coef, form):
    """(advantages, returns)"""
    score, _ = score_by_hand(scores, coef, form)
    r = -float(coef.beta) * beta_scale() * np.asarray(x.kl[form.kl_reward], np.float64)
    r[np.arange(B), LENGTHS - 1] += score
    if form.whiten_rewards:
        r = whitened(r, MASK, unbiased=False, keep_mean=True)
    adv = advantages_by_hand(r, V, float(coef.discount), float(coef.lam))
    returns = np.where(MASK, adv + V, 0.0)
    return adv if form.whiten == "off" else whitened(adv, MASK, form.whiten == "unbiased"), returns


@pytest.fixture(scope="module")
def values_of(tiny, x):
    """V of the prompt and the answer before each token, by a scalar model's parameters."""
    states = jax.jit(partial(scalars, tiny.models.value))

    def of(params):
        before = np.asarray(states(params, x.tokens, x.mask), np.float64)[:, P - 1 : P + T - 1]
        return np.where(MASK, before, 0.0)

    return of


FORMS = [
    {},
    {"kl_reward": "k2", "whiten": "unbiased"},
    {"kl_reward": "k3", "whiten": "off", "ensemble": "minimum"},
    {"kl_reward": "exact", "whiten_rewards": True},
    {"score_norm": "running", "whiten": "off"},
    {"score_norm": "fixed", "kl_reward": "k3", "whiten": "unbiased", "whiten_rewards": True},
]


CASES = [pytest.param("the library's", form) for form in FORMS] + [pytest.param("the experiment's", FORMS[0])]
CASES += [pytest.param("the experiment's", form, marks=pytest.mark.long) for form in FORMS[1:]]


@pytest.mark.parametrize(("learn", "change"), CASES, ids=str)
def test_the_losses_get_the_advantages_and_returns_of_the_formulas(
    tiny, state, coef, x, scores, values_of, updates, learn, change
):
    """Form by form, at a discount of 0.9 and λ = 0.8; the values are those of the value network that learns."""
    form, module = tiny.form._replace(**change), PPO[learn]
    fixed = {"models": tiny.models, "optimisers": tiny.optimisers, "plan": tiny.plan, "form": form}
    calls, after, metrics = updates(
        module, module.learn, state, x, scores, tiny.batch.pretrain, coef, tiny.frozen, **fixed
    )
    assert len(calls) == tiny.plan.epochs * tiny.plan.minibatches
    V = values_of(state.value)
    frozen = values_of(tiny.frozen.reward[0])
    assert np.abs(V - frozen)[MASK].min() > 1e-3  # or nothing here would tell them apart
    adv, returns = experience_by_hand(x, scores, V, coef, form)
    for epoch in range(tiny.plan.epochs):
        got = by_row(calls[epoch * tiny.plan.minibatches :], x, tiny.plan.minibatches)
        np.testing.assert_allclose(np.where(MASK, got.values, 0.0), V, atol=1e-5)
        np.testing.assert_allclose(got.advantages, adv, atol=2e-5)
        np.testing.assert_allclose(got.returns, returns, atol=2e-5)
        require_passed_on(got, x, tiny.batch.pretrain)
    require_coefficients(calls, tiny, state, coef, fixed)
    require_next_state(after, state, x, scores, coef, form)

    score, _ = score_by_hand(scores, coef, form)
    penalty = float(coef.beta) * beta_scale() * np.asarray(x.kl[form.kl_reward]).sum(1)
    assert metrics["objective/scores"] == pytest.approx(score.mean(), rel=1e-4)
    assert metrics["objective/reward_model"] == pytest.approx(np.asarray(scores).mean(), rel=1e-4)
    assert metrics["objective/rlhf_reward"] == pytest.approx((score - penalty).mean(), rel=1e-4)
    assert metrics["objective/beta"] == pytest.approx(0.3 * beta_scale(), rel=1e-5)
    assert metrics["val/mean"] == pytest.approx(V[MASK].mean(), rel=1e-4)
    explained = 1 - (returns - V)[MASK].var() / returns[MASK].var()
    assert metrics["val/explained_variance"] == pytest.approx(explained, rel=1e-3)
    require_metrics(metrics, x)


def require_equal(one, other):
    for a, b in zip(flat(one), flat(other), strict=True):
        np.testing.assert_array_equal(a, b)


def require_passed_on(got, x, text):
    """What an iteration hands from the sampler and from outside to the losses, row by row."""
    np.testing.assert_array_equal(got.tokens, x.tokens)
    np.testing.assert_array_equal(got.mask, x.mask)
    np.testing.assert_array_equal(got.logp_sft, x.logp_sft)
    require_equal(got.response, x.y)
    np.testing.assert_array_equal(got.pretrain.tokens, text.tokens)
    np.testing.assert_array_equal(got.pretrain.predict, text.predict)


def require_coefficients(calls, tiny, state, coef, fixed):
    """Those of the run, β_loss moved as β is; the reference is π_SFT; nothing is stopped yet."""
    for call in calls:
        expected = coef._replace(beta_loss=coef.beta_loss * beta_scale())
        for name, got, wanted in zip(coef._fields, call.coef, expected, strict=True):
            assert float(got) == pytest.approx(float(wanted), rel=1e-5), name
        require_equal(call.fixed["reference"], tiny.frozen.sft)
        assert all(call.fixed[name] is fixed[name] for name in ("optimisers", "form"))
        assert call.fixed["models"] == fixed["models"]
        assert int(call.state.step) == STEP and not bool(call.state.stopped)
        for name in ("policy", "value", "ema"):
            require_equal(getattr(call.state, name), getattr(state, name))


def require_next_state(after, state, x, scores, coef, form, moments=None):
    assert int(after.step) == STEP + 1
    nats = np.asarray(x.kl["k1"]).sum(1).mean()
    expected = KL_SCALE * (1 + np.clip(nats / float(coef.kl_target) - 1, -0.2, 0.2) * B / 40.0)
    assert float(after.kl_scale) == pytest.approx(expected, rel=1e-5)
    found = [float(m) for m in (after.scores.count, after.scores.mean, after.scores.squares)]
    assert found == pytest.approx(moments or score_by_hand(scores, coef, form)[1], rel=1e-4)
    np.testing.assert_array_equal(jax.random.key_data(after.key), jax.random.key_data(state.key))


def require_metrics(metrics, x):
    for name, estimator in (("kl", "k1"), ("kl_k2", "k2"), ("kl_k3", "k3"), ("kl_exact", "exact")):
        assert metrics[f"objective/{name}"] == pytest.approx(np.asarray(x.kl[estimator]).sum(1).mean(), rel=1e-4)
    assert metrics["objective/entropy"] == pytest.approx(-np.asarray(x.y.logp).sum(1).mean(), rel=1e-4)
    assert metrics["answer/length"] == pytest.approx(LENGTHS.mean())
    assert metrics["answer/ended"] == pytest.approx(7 / 8)
    assert metrics["episode"] == (STEP + 1) * B


# Groups.


def group_advantages_by_hand(r, how, K):
    """Of B answers, K to each prompt and one after the other."""
    found = []
    for start in range(0, B, K):
        group = r[start : start + K]
        for i, own in enumerate(group):
            others = np.delete(group, i)
            found.append(
                {
                    "reinforce": own - BEFORE[1],
                    "rloo": own - others.mean(),
                    "grpo": (own - group.mean()) / (group.std(ddof=1) + 1e-4),
                    "grpo_batch": (own - group.mean()) / (r.std(ddof=1) + 1e-4),
                    "dr_grpo": own - group.mean(),
                    "best": float(i == group.argmax()),
                }[how]
            )
    return np.array(found)


@pytest.mark.parametrize("how", GROUPS)
@pytest.mark.parametrize("K", [4, pytest.param(2, marks=pytest.mark.long)])
def test_groups_are_of_one_prompt_and_their_baseline_is_their_own(tiny, state, coef, x, scores, updates, how, K):
    kl = ("k1", "k2", "k3", "exact")[(GROUPS.index(how) + K) % 4]
    form, bare = tiny.form._replace(kl_reward=kl), replace(state, value=None, value_opt=None)
    fixed = {"models": tiny.models, "optimisers": tiny.optimisers, "plan": tiny.plan, "form": form}
    learn = partial(grpo.learn, advantage=how, answers=K)
    calls, after, metrics = updates(grpo, learn, bare, x, scores, tiny.batch.pretrain, coef, tiny.frozen, **fixed)
    score, _ = score_by_hand(scores, coef, form)
    r = score - float(coef.beta) * beta_scale() * np.asarray(x.kl[kl], np.float64).sum(1)
    A = group_advantages_by_hand(r, how, K)
    for epoch in range(tiny.plan.epochs):
        got = by_row(calls[epoch * tiny.plan.minibatches :], x, tiny.plan.minibatches)
        np.testing.assert_allclose(got.advantages, np.where(MASK, A[:, None], 0.0), atol=2e-5)
        assert got.values is None and got.returns is None
        require_passed_on(got, x, tiny.batch.pretrain)
    require_coefficients(calls, tiny, bare, coef, fixed)
    count, mean, squares = BEFORE  # of what answers earned, from iteration to iteration
    total, raw = count * mean + r.sum(), squares + count * mean**2 + (r**2).sum()
    moments = count + B, total / (count + B), raw - total**2 / (count + B)
    require_next_state(after, bare, x, scores, coef, form, moments)
    assert metrics["objective/rlhf_reward"] == pytest.approx(r.mean(), rel=1e-4)
    assert metrics["group/deviation"] == pytest.approx(r.reshape(-1, K).std(axis=1).mean(), rel=1e-4)
    require_metrics(metrics, x)


# The entrance's own iteration.


@pytest.fixture(scope="module")
def entrance(tiny):
    """Its settings and its model."""
    tokenizer = SimpleNamespace(ends=(EOS,), pad=PAD)
    m = SimpleNamespace(decoder=tiny.models.policy.config, tokenizer=tokenizer, format=SimpleNamespace(answer_tokens=T))
    return rl_loop.Settings(beta=0.3, lam=0.8, minibatches=2, batch=B), m


def test_the_entrance_s_experience(tiny, entrance, state, x, scores, values_of, updates):
    """KL by k1, a discount of 1, Â whitened, no schedule."""
    c, m = entrance
    given = (state, x, scores[0], tiny.batch.pretrain)
    calls, after, _ = updates(rl_loop, rl_loop.learn, *given, step="update", c=c, m=m)
    assert len(calls) == 2 and all(call.fixed == {"c": c, "m": m} for call in calls)
    V = values_of(state.value)
    r = -0.3 * np.asarray(x.kl["k1"], np.float64)
    r[np.arange(B), LENGTHS - 1] += np.asarray(scores[0])
    adv = advantages_by_hand(r, V, 1.0, 0.8)
    got = by_row(calls, x, 2)
    np.testing.assert_allclose(np.where(MASK, got.values, 0.0), V, atol=1e-5)
    np.testing.assert_allclose(got.advantages, whitened(adv, MASK, unbiased=False), atol=2e-5)
    np.testing.assert_allclose(got.returns, np.where(MASK, adv + V, 0.0), atol=2e-5)
    require_passed_on(got, x, tiny.batch.pretrain)
    assert int(after.step) == STEP + 1


# One update.


def adam_step(grads, lr):
    """Adam's first: β₁ and β₂ cancel, and what is left is the sign of the clipped gradient, but for ε."""
    norm = np.sqrt(sum(float((np.asarray(g, np.float64) ** 2).sum()) for g in jax.tree.leaves(grads)))
    clip = min(1.0, 1.0 / norm)
    return jax.tree.map(lambda g: -lr * clip * g / (jnp.abs(clip * g) + 1e-8), grads)


@pytest.fixture(scope="module")
def one_minibatch(tiny, state, x):
    """A whole batch of experience, whose numbers are made up."""
    rng = np.random.default_rng(13)
    made = jnp.asarray(np.where(MASK, rng.normal(size=(3, B, T)), 0.0).astype(np.float32))
    return library.Experience(x.tokens, x.mask, x.y, x.logp_sft, made[0], made[1], made[2], tiny.batch.pretrain)


def logps_by_hand(model, params, tokens, mask, y):
    """At the temperature of the run, 0.7."""
    hidden, _ = hidden_states(model, params, tokens, mask)
    distribution = jax.nn.log_softmax(logits(model, params, hidden[:, P - 1 : P + T - 1]) / 0.7)
    return jnp.take_along_axis(distribution, y[..., None], axis=2)[..., 0]


def text_loss(model, params, text):
    tokens, predict = (jnp.asarray(leaf).reshape(-1, leaf.shape[-1]) for leaf in (text.tokens, text.predict))
    hidden, _ = hidden_states(model, params, tokens, jnp.ones(tokens.shape, bool))
    distribution = jax.nn.log_softmax(logits(model, params, hidden[:, :-1]))
    nll = -jnp.take_along_axis(distribution, tokens[:, 1:, None], axis=2)[..., 0]
    return jnp.sum(jnp.where(predict[:, 1:], nll, 0.0)) / jnp.sum(predict[:, 1:])


def policy_objective(tiny, coef, batch, params):
    """−min(Aρ, A·clip(ρ)) + β_loss·½(log π/π_SFT)² a token + γ times the loss on text."""
    logp = logps_by_hand(tiny.models.policy, params, batch.tokens, batch.mask, batch.response.tokens)
    ratio = jnp.exp(jnp.where(MASK, logp - batch.response.logp, 0.0))
    clipped = jnp.clip(ratio, 1 - coef.clip_low, 1 + coef.clip_high)
    gain = jnp.minimum(batch.advantages * ratio, batch.advantages * clipped)
    kl = 0.5 * (logp - batch.logp_sft) ** 2
    a_token = jnp.where(MASK, coef.beta_loss * kl - gain, 0.0).sum() / MASK.sum()
    return a_token + coef.gamma * text_loss(tiny.models.policy, params, batch.pretrain)


def value_objective(tiny, coef, batch, params):
    """½ max((V − R)², (V_old + clip(V − V_old) − R)²) a token, times its coefficient."""
    V = scalars(tiny.models.value, params, batch.tokens, batch.mask)[:, P - 1 : P + T - 1]
    near = batch.values + jnp.clip(V - batch.values, -coef.value_clip, coef.value_clip)
    error = 0.5 * jnp.maximum((V - batch.returns) ** 2, (near - batch.returns) ** 2)
    return coef.value_coef * jnp.where(MASK, error, 0.0).sum() / MASK.sum()


@pytest.fixture(scope="module")
def updated(tiny, state, one_minibatch):
    """coef → the state after one update."""
    step = jax.jit(partial(ppo_step, models=tiny.models, optimisers=tiny.optimisers, form=tiny.form))
    return lambda coef: step(replace(state, stopped=jnp.bool_(False)), one_minibatch, coef)[0]


@pytest.fixture(scope="module")
def gradients(tiny, state, one_minibatch):
    """coef → the gradients of the losses as they are written down here."""

    def of(coef):
        return {
            "policy": jax.grad(partial(policy_objective, tiny, coef, one_minibatch))(state.policy),
            "value": jax.grad(partial(value_objective, tiny, coef, one_minibatch))(state.value),
        }

    return jax.jit(of)


@pytest.mark.parametrize("change", [{}, {"beta_loss": 0.7, "gamma": 2.0, "clip_low": 0.1, "value_clip": 0.05}], ids=str)
def test_an_update_is_of_the_policy_and_the_value_network_each_by_its_own_loss(state, coef, updated, gradients, change):
    """Adam's first step from the gradients of losses that are written down here, at a rate that is still warming up."""
    coef = coef._replace(**{name: jnp.float32(value) for name, value in ({"warmup": 6.0} | change).items()})
    after, found, share = updated(coef), gradients(coef), 0.1 + 0.9 * STEP / 6
    for name, rate in (("policy", coef.lr), ("value", coef.value_lr)):
        moves = adam_step(found[name], float(rate) * share)
        trees = getattr(state, name), moves, found[name], getattr(after, name)
        for old, move, grad, new in zip(*map(jax.tree.leaves, trees), strict=True):
            seen = np.abs(np.asarray(grad)) > 1e-5  # below, rounding decides the sign
            np.testing.assert_allclose(np.where(seen, new, 0.0), np.where(seen, old + move, 0.0), atol=2e-5)


def test_the_moving_average_is_the_policy_s(state, coef, updated):
    """Its updates so far weigh 4: with a decay of 0.9 this one is one of 1 + 0.9·4 = 4.6."""
    after = updated(coef)
    assert float(after.ema_weight) == pytest.approx(4.6)
    for old, new, average in zip(*map(jax.tree.leaves, (state.ema, after.policy, after.ema)), strict=True):
        np.testing.assert_allclose(average, (3.6 * np.asarray(old) + np.asarray(new)) / 4.6, atol=1e-6)


@pytest.fixture(scope="module")
def drawn(tiny, state):
    """Answers of the policy to the tiny batch's prompts, as the first half of an iteration gives them."""
    return jax.jit(partial(sample, models=tiny.models, plan=tiny.plan))(state, tiny.batch.prompts, tiny.frozen)


@pytest.mark.long
def test_an_objective_of_one_s_own_gets_both_log_probabilities_the_advantages_and_the_coefficients(
    tiny, state, coef, drawn, scores
):
    """On the first minibatch of answers that the policy has drawn: its own log-probabilities, and those of the sampler."""
    seen = []

    def objective(logp, logp_old, advantages, mask, coef):
        jax.debug.callback(lambda *given: seen.append(given), logp, logp_old, advantages, mask, coef)
        return -advantages * jnp.exp(logp - logp_old), {}

    fixed = {"models": tiny.models, "optimisers": tiny.optimisers, "plan": tiny.plan, "form": tiny.form}
    still = coef._replace(lr=jnp.float32(0), value_lr=jnp.float32(0))
    learn = jax.jit(partial(library.learn, objective=objective, **fixed))
    jax.block_until_ready(learn(state, drawn, scores, tiny.batch.pretrain, still, tiny.frozen))
    jax.effects_barrier()
    assert len(seen) == tiny.plan.epochs * tiny.plan.minibatches
    every = [np.concatenate([np.asarray(given[i]) for given in seen[:2]]) for i in range(4)]
    old = {tuple(row): i for i, row in enumerate(np.asarray(drawn.y.logp).round(6).tolist())}
    order = [old[tuple(row)] for row in every[1].round(6).tolist()]
    assert sorted(order) == list(range(B))
    mask = np.asarray(drawn.y.mask)[order]
    np.testing.assert_array_equal(every[3], mask)
    np.testing.assert_allclose(every[0], every[1], atol=1e-5)
    assert every[2][mask].mean() == pytest.approx(0, abs=1e-5) and every[2][mask].std() == pytest.approx(1, rel=1e-3)
    assert float(seen[0][4].beta_loss) == pytest.approx(0.2 * beta_scale(), rel=1e-5)


# The first half.


def test_the_policy_writes_and_the_reference_and_the_reward_models_are_asked(tiny, state, drawn):
    frozen = tiny.frozen._replace(reward=(*tiny.frozen.reward, wild(tiny.models.value, 6)))
    y, mask = drawn.y, np.asarray(drawn.y.mask)
    np.testing.assert_array_equal(drawn.tokens, np.concatenate([tiny.batch.prompts.tokens, y.tokens], axis=1))
    np.testing.assert_array_equal(drawn.mask, np.concatenate([tiny.batch.prompts.mask, mask], axis=1))
    logps = jax.jit(partial(logps_by_hand, tiny.models.policy))
    key, plan = jax.random.fold_in(jax.random.fold_in(state.key, state.step), SAMPLE), tiny.plan
    rest = (key, plan.max_tokens, plan.sampling, plan.eos, plan.pad)
    write = jax.jit(lambda params, prompts: generate(tiny.models.policy, params, prompts, *rest).tokens)
    np.testing.assert_array_equal(y.tokens, write(state.policy, tiny.batch.prompts))
    assert (np.asarray(write(frozen.sft, tiny.batch.prompts)) != np.asarray(y.tokens)).any()
    both = (logps(params, drawn.tokens, drawn.mask, y.tokens) for params in (state.policy, frozen.sft))
    logp, logp_sft = (np.where(mask, each, 0.0) for each in both)
    np.testing.assert_allclose(y.logp, logp, atol=1e-5)
    np.testing.assert_allclose(drawn.logp_sft, logp_sft, atol=1e-5)
    np.testing.assert_allclose(drawn.kl["k1"], logp - logp_sft, atol=2e-5)  # of π_RL from π_SFT, and not the reverse
    np.testing.assert_array_equal(drawn.ended, [(row == EOS).any() for row in np.asarray(y.tokens)])
    scores = reward_scores(drawn, frozen, model=tiny.models.value)
    last = P + mask.sum(axis=1) - 1
    every_state = jax.jit(partial(scalars, tiny.models.value))
    for params, given in zip(frozen.reward, scores, strict=True):
        every = every_state(params, drawn.tokens, drawn.mask)
        np.testing.assert_allclose(given, np.asarray(every)[np.arange(B), last], atol=1e-5)


def test_an_iteration_s_scores_are_the_reward_models(tiny, state, coef, drawn):
    """And of what its own policy wrote: both halves in one."""
    seen = {}

    def asked(state, prompts, frozen, *, models, plan):
        assert prompts is tiny.batch.prompts and frozen is tiny.frozen and plan == tiny.plan
        return drawn

    def learn(state, x, scores, text, coef, frozen, **fixed):
        seen.update(x=x, scores=scores, text=text)
        return state, {}

    batch = PPOBatch(tiny.batch.prompts, tiny.batch.pretrain)
    halves = Iteration(asked, learn)
    fixed = {"models": tiny.models, "optimisers": tiny.optimisers, "plan": tiny.plan, "form": tiny.form}
    iteration(state, batch, coef, tiny.frozen, halves=halves, **fixed)
    expected = reward_scores(seen["x"], tiny.frozen, model=tiny.models.value)
    np.testing.assert_allclose(seen["scores"], expected, atol=1e-6)
    assert seen["text"] is batch.pretrain and seen["x"] is drawn


@pytest.fixture
def keys(x, monkeypatch):
    """What the sampler and the shuffle of a module's iteration are given. The answers are the made-up ones."""
    seen = {"sample": [], "shuffle": []}

    def generated(model, params, prompts, key, *rest, **more):
        seen["sample"].append(np.asarray(jax.random.key_data(key)).tolist())
        return x.y

    def read(*given, **more):
        return Reading(x.logp_sft, None, x.logp_sft, x.logp_sft)

    def shuffled(key, *rest):
        seen["shuffle"].append(np.asarray(jax.random.key_data(key)).tolist())
        return minibatches(key, *rest)

    monkeypatch.setattr(rollout, "generate", generated)
    monkeypatch.setattr(rollout, "reading", read)
    monkeypatch.setattr(rl_loop, "models", SimpleNamespace(**{**vars(rl_loop.models), "generate": generated}))
    own = {**vars(rl_loop.steps), "minibatches": shuffled, "reading": read}
    monkeypatch.setattr(rl_loop, "steps", SimpleNamespace(**own))
    for module in (library, experiment, grpo):
        monkeypatch.setattr(module, "minibatches", shuffled)
    return seen


@pytest.mark.parametrize("name", ["library", "experiment", "grpo", "rl_loop"])
def test_no_key_is_used_for_two_things_or_in_two_iterations(
    tiny, entrance, state, coef, x, scores, keys, updates, name
):
    module = {"library": library, "experiment": experiment, "grpo": grpo, "rl_loop": rl_loop}[name]
    c, m = entrance
    fixed = {"models": tiny.models, "optimisers": tiny.optimisers, "plan": tiny.plan, "form": tiny.form}
    other = jax.random.key(8)
    for key, step in product((state.key, other), (3, 4)):
        at = replace(state, key=key, step=jnp.int32(step))
        if module is rl_loop:
            rl_loop.sample(at, tiny.batch.prompts, tiny.frozen.sft, c=c, m=m)
        else:
            sample(at, tiny.batch.prompts, tiny.frozen, models=tiny.models, plan=tiny.plan)
        if module is rl_loop:
            updates(module, module.learn, at, x, scores[0], tiny.batch.pretrain, step="update", c=c, m=m)
        else:
            learn = partial(grpo.learn, advantage="rloo", answers=2) if module is grpo else module.learn
            updates(module, learn, at, x, scores, tiny.batch.pretrain, coef, tiny.frozen, **fixed)
    every = [tuple(key) for key in keys["sample"] + keys["shuffle"]]
    assert len(keys["sample"]) == len(keys["shuffle"]) == 4
    assert len(set(every)) == 8


def test_each_epoch_has_every_answer_once_and_its_own_order(tiny, x):
    """All that belongs to an answer moves with it."""
    numbers = jnp.arange(B, dtype=jnp.float32)
    rows = jnp.broadcast_to(numbers[:, None], (B, T))
    experience = library.Experience(x.tokens, x.mask, x.y, rows, rows, rows, rows, tiny.batch.pretrain)
    parts = minibatches(jax.random.key(1), experience, 3, 4)
    assert parts.tokens.shape == (12, 2, P + T)
    orders = np.asarray(parts.values)[..., 0].astype(int).reshape(3, B)
    assert all(sorted(order) == list(range(B)) for order in orders.tolist())
    assert len({tuple(order) for order in orders.tolist()}) == 3
    at = orders.reshape(12, 2)
    for name in ("tokens", "mask", "logp_sft", "values", "advantages", "returns"):
        np.testing.assert_array_equal(getattr(parts, name), np.asarray(getattr(experience, name))[at])
    np.testing.assert_array_equal(parts.response.logp, np.asarray(x.y.logp)[at])
    np.testing.assert_array_equal(parts.pretrain.tokens, tiny.batch.pretrain.tokens[at])
