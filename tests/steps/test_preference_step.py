"""Preference losses on a model: what they say at the reference, by hand, under padding, and that a step learns."""

import math
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.equations import values
from rlhf_jax.stages import OBJECTIVES
from rlhf_jax.steps import (
    KTOCoef,
    PreferenceCoef,
    TextCoef,
    adam,
    answer_logps,
    dpo,
    judged_loss,
    judged_step,
    preference_loss,
    preference_step,
)
from rlhf_jax.types import JudgedBatch, PairBatch, TextBatch, TrainState

COEF = jax.tree.map(
    jnp.float32,
    PreferenceCoef(beta=0.3, smoothing=0, margin=0.1, sft=0, rate=TextCoef(lr=0.02, steps=50, floor=1, warmup=0)),
)


def rows(seed: int) -> TextBatch:
    """Four rows of 7 tokens whose answers are 1 to 4 tokens long."""
    rng = np.random.default_rng(seed)
    predict = np.zeros((4, 7), bool)
    for row, length in enumerate((1, 4, 2, 3)):
        predict[row, 3 : 3 + length] = True
    return TextBatch(rng.integers(2, 11, (4, 7)).astype(np.int32), predict)


@pytest.fixture(scope="module")
def batch(tiny):
    chosen, rejected = rows(0), rows(1)
    of = jax.jit(partial(answer_logps, model=tiny.models.policy, per_token=False))
    reference = tiny.frozen.sft
    return PairBatch(chosen, rejected, of(reference, chosen)[0], of(reference, rejected)[0])


def loss_of(tiny, name):
    objective, per_token = OBJECTIVES[name]
    return jax.jit(partial(preference_loss, model=tiny.models.policy, objective=objective, per_token=per_token))


def test_at_the_reference_dpo_is_log_2_and_no_answer_is_preferred(tiny, batch):
    loss, metrics = loss_of(tiny, "dpo")(tiny.frozen.sft, batch, COEF)
    assert float(loss) == pytest.approx(math.log(2), rel=1e-5)
    assert abs(float(metrics["rewards/margins"].value)) < 1e-5


def test_dpo_by_hand(tiny, batch):
    """Token by token from the model's log-probabilities."""
    loss, metrics = loss_of(tiny, "dpo")(tiny.state.policy, batch, COEF)

    def summed(params, text):
        hidden, _ = tiny.models.policy.apply(
            {"params": params}, jnp.asarray(text.tokens), jnp.ones(text.tokens.shape, bool)
        )
        logp = jax.nn.log_softmax(
            tiny.models.policy.apply({"params": params}, hidden, method=type(tiny.models.policy).logits)
        )
        return np.array(
            [sum(float(logp[b, t - 1, text.tokens[b, t]]) for t in range(7) if text.predict[b, t]) for b in range(4)]
        )

    policy, reference = tiny.state.policy, tiny.frozen.sft
    h = summed(policy, batch.chosen) - summed(reference, batch.chosen)
    h -= summed(policy, batch.rejected) - summed(reference, batch.rejected)
    assert float(loss) == pytest.approx(np.mean(np.log1p(np.exp(-0.3 * h))), rel=1e-4)
    assert float(metrics["rewards/margins"].value) == pytest.approx(0.3 * h.mean(), rel=1e-4)
    assert float(metrics["rewards/accuracies"].value) == np.mean(h > 0)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_padding_is_without_influence(tiny, batch, name):
    def wider(text):
        tokens = np.pad(text.tokens, ((0, 0), (0, 3)), constant_values=9)
        return TextBatch(tokens, np.pad(text.predict, ((0, 0), (0, 3))))

    padded = replace(batch, chosen=wider(batch.chosen), rejected=wider(batch.rejected))
    coef = COEF._replace(sft=jnp.float32(0.5))
    once, again = (loss_of(tiny, name)(tiny.state.policy, b, coef)[0] for b in (batch, padded))
    np.testing.assert_allclose(once, again, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_a_few_steps_come_to_prefer_the_chosen_answers(tiny, batch, name):
    objective, per_token = OBJECTIVES[name]
    optimiser = adam(1e-8, 1.0)
    step = jax.jit(
        partial(
            preference_step,
            model=tiny.models.policy,
            optimiser=optimiser,
            objective=objective,
            per_token=per_token,
        )
    )
    params = tiny.frozen.sft
    state = TrainState(jnp.int32(0), params, optimiser.init(params), jax.random.key(0))
    state, first = step(state, batch, COEF)
    for _ in range(30):
        state, last = step(state, batch, COEF)
    first, last = values(first), values(last)
    gap = [float(m["logps/chosen"] - m["logps/rejected"]) for m in (first, last)]
    assert gap[1] > gap[0] + 0.1
    assert float(last["loss/train"]) < float(first["loss/train"])
    assert float(last["lr"]) == pytest.approx(0.02)


def test_the_sft_term_is_the_loss_on_the_chosen_answers(tiny, batch):
    of = loss_of(tiny, "dpo")
    without, metrics = of(tiny.state.policy, batch, COEF)
    with_it, _ = of(tiny.state.policy, batch, COEF._replace(sft=jnp.float32(2.0)))
    assert float(with_it - without) == pytest.approx(2 * float(metrics["loss/sft"].value), rel=1e-4)


def test_kto_on_a_model(tiny):
    """At the reference r = z = 0: each answer costs its weight times ½. A step raises what was liked above what was not."""
    reference = tiny.frozen.sft
    of = jax.jit(partial(answer_logps, model=tiny.models.policy, per_token=False))
    liked = np.array([True, False, True, True])
    given, others = rows(0), rows(1)
    batch = JudgedBatch(given, liked, of(reference, given)[0], others, of(reference, others)[0])
    coef = jax.tree.map(jnp.float32, KTOCoef(0.3, 1.0, 2.0, COEF.rate))
    loss, _ = jax.jit(partial(judged_loss, model=tiny.models.policy))(reference, batch, coef)
    assert float(loss) == pytest.approx((3 * 1.0 + 1 * 2.0) / 2 / 4, rel=1e-5)
    optimiser = adam(1e-8, 1.0)
    step = jax.jit(partial(judged_step, model=tiny.models.policy, optimiser=optimiser))
    state = TrainState(jnp.int32(0), reference, optimiser.init(reference), jax.random.key(0))
    for _ in range(5):
        state, metrics = step(state, batch, coef)
    figures = {name: float(m) for name, m in values(metrics).items()}
    assert figures["rewards/chosen"] > 0 > figures["rewards/rejected"] and figures["kl"] >= 0
    assert figures["loss/train"] < float(loss)


def test_the_schedule_is_an_argument_of_both_steps(tiny, batch):
    """Of 101 steps to a floor of 0.2, step 25: a quarter of the way."""
    params, optimiser = tiny.frozen.sft, adam()
    state = TrainState(jnp.int32(25), params, optimiser.init(params), jax.random.key(0))
    rate = COEF.rate._replace(steps=jnp.float32(101), floor=jnp.float32(0.2))
    pairs = partial(preference_step, objective=dpo, per_token=False)
    judged = JudgedBatch(batch.chosen, np.ones(4, bool), batch.ref_chosen, batch.rejected, batch.ref_rejected)
    kto = jax.tree.map(jnp.float32, KTOCoef(0.3, 1.0, 2.0, rate))
    for step, rows, coef in ((pairs, batch, COEF._replace(rate=rate)), (judged_step, judged, kto)):
        run = jax.jit(partial(step, model=tiny.models.policy, optimiser=optimiser, schedule="linear"))
        assert float(run(state, rows, coef)[1]["lr"].value) == pytest.approx(0.8 * 0.02, rel=1e-5)
