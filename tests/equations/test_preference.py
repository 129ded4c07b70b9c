"""Losses on pairs of answers: closed forms, and the values of TRL."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from rlhf_jax.equations import (
    dpo_loss,
    hinge_loss,
    ipo_loss,
    kto_loss,
    log_ratio_margin,
    mismatched_kl,
    odds_ratio_loss,
    simpo_loss,
)


def softplus(x: float) -> float:
    """−log σ(−x)"""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


H = [2.0, -1.0]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (lambda h: dpo_loss(h, 0.5), (softplus(-1.0) + softplus(0.5)) / 2),
        (lambda h: dpo_loss(h, 0.5, 0.1), 0.45 * (softplus(-1) + softplus(0.5)) + 0.05 * (softplus(1) + softplus(-0.5))),
        (lambda h: ipo_loss(h, 0.5), ((2 - 1) ** 2 + (-1 - 1) ** 2) / 2),
        (lambda h: hinge_loss(h, 0.5), (0.0 + 1.5) / 2),
        (lambda h: simpo_loss(h, jnp.zeros(2), 0.5, 0.25), (softplus(0.25 - 1.0) + softplus(0.25 + 0.5)) / 2),
    ],
)  # fmt: skip
def test_closed_forms(loss, expected):
    assert float(loss(jnp.asarray(H)).value) == pytest.approx(expected, rel=1e-6)


def test_dpo_at_the_reference_is_log_2_and_its_gradient_half_beta():
    logp = jnp.asarray([-3.0, -40.0])

    def loss(chosen, rejected):
        return dpo_loss(log_ratio_margin(chosen, rejected, logp, logp), 0.1).value

    value, grads = jax.value_and_grad(loss, argnums=(0, 1))(logp, logp)
    assert float(value) == pytest.approx(math.log(2))
    np.testing.assert_allclose(grads, [[-0.025, -0.025], [0.025, 0.025]], rtol=1e-6)


def test_odds_ratio_closed_form_and_certain_answers():
    """odds(0.8) = 4, odds(0.5) = 1: −log σ(log 4) = log(1 + ¼). An answer of probability 1 stays finite."""
    loss = odds_ratio_loss(jnp.log(jnp.asarray([0.8])), jnp.log(jnp.asarray([0.5])))
    assert float(loss.value) == pytest.approx(math.log(1.25), rel=1e-5)
    value, grad = jax.value_and_grad(lambda p: odds_ratio_loss(p, jnp.asarray([-1.0])).value)(jnp.asarray([0.0]))
    assert np.isfinite(value) and np.isfinite(grad).all()


def test_kto_closed_form():
    """At r = z each answer costs half its weight; no gradient flows through z."""
    log_ratio, liked = jnp.asarray([0.3, 0.3]), jnp.asarray([True, False])
    assert float(kto_loss(log_ratio, liked, jnp.float32(0.3), 0.1, 1.0, 3.0).value) == pytest.approx((0.5 + 1.5) / 2)
    assert float(jax.grad(lambda z: kto_loss(log_ratio, liked, z, 0.1).value)(jnp.float32(0.1))) == 0.0
    assert float(mismatched_kl(jnp.asarray([-1.0, -2.0]), jnp.asarray([-1.5, -1.0]))) == 0.0
    assert float(mismatched_kl(jnp.asarray([-1.0, -2.0]), jnp.asarray([-1.5, -4.0]))) == pytest.approx(1.25)


LOSSES = {
    "dpo": lambda h: dpo_loss(h, 0.1, 0.05),
    "ipo": lambda h: ipo_loss(h, 0.1),
    "hinge": lambda h: hinge_loss(h, 0.1),
}


def with_gradient(loss):
    def mean(h):
        found = loss(h)
        return found.value, found

    return jax.jit(jax.value_and_grad(mean, has_aux=True))


COMPILED = {name: with_gradient(loss) for name, loss in LOSSES.items()}


@settings(deadline=None, max_examples=25)
@given(h=arrays(np.float32, 4, elements=st.floats(-1e4, 1e4, width=32)), name=st.sampled_from(sorted(LOSSES)))
def test_parts_of_a_batch_add_up_and_gradients_are_finite(h, name):
    loss = COMPILED[name]
    (_, whole), grad = loss(h)
    parts = loss(h[:1])[0][1] + loss(h[1:])[0][1]
    assert float(whole.count) == float(parts.count) == len(h)
    np.testing.assert_allclose(whole.value, parts.value, rtol=1e-5)
    chex.assert_tree_all_finite(grad)


def summed(token_logps, mask):
    return jnp.sum(jnp.where(mask, token_logps, 0.0), axis=1)


def averaged(token_logps, mask):
    return summed(token_logps, mask) / jnp.sum(mask, axis=1)


@pytest.mark.parametrize(
    ("case", "of_tokens", "loss"),
    [
        ("sigmoid", summed, lambda h: dpo_loss(h, 0.1)),
        ("sigmoid_beta0.5", summed, lambda h: dpo_loss(h, 0.5)),
        ("sigmoid_norm", averaged, lambda h: dpo_loss(h, 0.1)),
        ("hinge", summed, lambda h: hinge_loss(h, 0.1)),
        ("ipo", averaged, lambda h: ipo_loss(h, 0.1)),
    ],
)
def test_golden_dpo_of_trl(golden, case, of_tokens, loss, agree):
    """TRL divides IPO's log-probabilities by the length; the paper does not, and here the caller decides."""
    g = golden("losses/dpo")
    mask, B = g["completion_mask"][:, 1:] > 0, 5

    def of(policy):
        logp, ref = of_tokens(policy, mask), of_tokens(jnp.asarray(g["ref_token_logps"]), mask)
        return loss(log_ratio_margin(logp[:B], logp[B:], ref[:B], ref[B:])).value

    value, grad = jax.jit(jax.value_and_grad(of))(jnp.asarray(g["policy_token_logps"]))
    agree(value, g[f"{case}/loss"])
    # TRL's arrays are 0 outside the answers, and it sums them whole: its gradient there is that of the sum.
    agree(grad, np.where(mask, g[f"{case}/grad_token_logps"], 0.0))


@pytest.mark.parametrize(
    ("case", "loss"),
    [
        ("cpo_sigmoid", lambda w, l: dpo_loss(w - l, 0.1)),
        ("cpo_sigmoid_ls", lambda w, l: dpo_loss(w - l, 0.1, 0.1)),
        ("cpo_hinge", lambda w, l: hinge_loss(w - l, 0.1)),
        ("cpo_ipo", lambda w, l: ipo_loss(w - l, 0.1)),
        ("simpo_b2_g1", lambda w, l: simpo_loss(w, l, 2.0, 1.0)),
    ],
)
def test_golden_losses_without_a_reference_of_trl(golden, case, loss, agree):
    g = golden("losses/orpo_cpo")
    chosen, rejected = jnp.asarray(g["chosen_avg_logps"]), jnp.asarray(g["rejected_avg_logps"])
    value, (dw, dl) = jax.jit(jax.value_and_grad(lambda w, l: loss(w, l).value, (0, 1)))(chosen, rejected)
    agree(value, g[f"{case}/losses"].mean())
    agree(dw, g[f"{case}/grad_chosen"])
    agree(dl, g[f"{case}/grad_rejected"])


def test_golden_odds_ratio_of_trl(golden, agree):
    g = golden("losses/orpo_cpo")
    chosen, rejected = jnp.asarray(g["chosen_avg_logps"]), jnp.asarray(g["rejected_avg_logps"])
    value, (dw, dl) = jax.value_and_grad(lambda w, l: 0.1 * odds_ratio_loss(w, l).value, argnums=(0, 1))(
        chosen, rejected
    )
    agree(value, -g["orpo/or_term"].mean())
    agree(dw, g["orpo/grad_chosen_of_minus_mean"])
    agree(dl, g["orpo/grad_rejected_of_minus_mean"])


@pytest.mark.parametrize(
    ("case", "kl", "weights"),
    [("kto_klpos", "klpos", (1.0, 1.0)), ("kto_klneg", "klneg", (1.0, 1.0)), ("kto_weighted", "klpos", (1.33, 0.8))],
)
def test_golden_kto_of_trl(golden, case, kl, weights, agree):
    g = golden("losses/kto")
    mask = g["completion_mask"][:, 1:] > 0
    z = mismatched_kl(jnp.asarray(g[f"{kl}/KL_logps"]), jnp.asarray(g[f"{kl}/ref_KL_logps"]))

    def of(policy):
        log_ratio = summed(policy, mask) - g["ref_logps"]
        return kto_loss(log_ratio, jnp.asarray(g["label"]), z, 0.1, *weights).value

    value, grad = jax.jit(jax.value_and_grad(of))(jnp.asarray(g["token_logps"]))
    agree(value, g[f"{case}/loss"])
    agree(grad, np.where(mask, g[f"{case}/grad_token_logps"], 0.0))
