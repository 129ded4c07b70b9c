"""Advantages within a group of answers: closed forms, unbiasedness by enumeration, and the values of TRL."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.equations import group_relative, leave_one_out

LOGITS, REWARDS = jnp.asarray([0.3, -0.5, 1.0]), np.array([1.0, -2.0, 0.5])


def mean_gradient(advantages, K: int) -> np.ndarray:
    """E over all groups of K draws of mean Aₖ ∇ log π(yₖ): what REINFORCE's gradient is on average."""
    logp = jax.nn.log_softmax(LOGITS)
    scores_of = np.asarray(jax.jacobian(jax.nn.log_softmax)(LOGITS))  # ∇ log π(v)
    total = np.zeros(3)
    for group in product(range(3), repeat=K):
        chance = float(jnp.exp(sum(logp[v] for v in group)))
        A = np.asarray(advantages(jnp.asarray([REWARDS[list(group)]])))[0]
        total += chance * np.mean([a * scores_of[v] for a, v in zip(A, group, strict=True)], axis=0)
    return total


EXACT = np.asarray(jax.grad(lambda logits: jnp.sum(jax.nn.softmax(logits) * REWARDS))(LOGITS))


def test_leave_one_out_is_unbiased():
    np.testing.assert_allclose(mean_gradient(leave_one_out, 3), EXACT, atol=1e-6)


def test_the_group_mean_shrinks_the_gradient_by_one_answer_in_k():
    found = mean_gradient(lambda r: group_relative(r, "none"), 3)
    np.testing.assert_allclose(found, EXACT * 2 / 3, atol=1e-6)


def test_the_group_s_standard_deviation_turns_the_gradient():
    """Divided by the spread, the expectation is no multiple of the exact gradient any more."""
    found = mean_gradient(lambda r: group_relative(r, "group"), 3)
    assert found @ EXACT / np.linalg.norm(found) / np.linalg.norm(EXACT) < 0.999


def test_closed_forms():
    scores = jnp.asarray([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0]])
    np.testing.assert_allclose(leave_one_out(scores), [[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(group_relative(scores, "none"), [[-2.0, -1.0, 3.0], [0.0, 0.0, 0.0]])
    std = np.sqrt((4 + 1 + 9) / 2) + 1e-4
    np.testing.assert_allclose(group_relative(scores, "group")[0], np.array([-2.0, -1.0, 3.0]) / std, rtol=1e-6)
    np.testing.assert_array_equal(group_relative(scores, "group")[1], [0.0, 0.0, 0.0])


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_golden_group_advantages_of_trl(golden, scale):
    g = golden("losses/grpo")
    scores = (g["adv_rewards_per_func"] @ g["adv_weights"]).reshape(3, 4)
    ours = group_relative(jnp.asarray(scores), scale).reshape(-1)
    np.testing.assert_allclose(ours, g[f"adv/sum_then_normalize/{scale}"], rtol=2e-5, atol=1e-6)


def test_golden_leave_one_out_of_trl(golden):
    g = golden("losses/rloo")
    scores = (g["adv_rewards_per_func"] @ g["adv_weights"]).reshape(3, 4)
    np.testing.assert_allclose(leave_one_out(jnp.asarray(scores)).reshape(-1), g["adv/beta0"], rtol=2e-5, atol=1e-6)
    # β·k1 of the whole answer joins the score
    mask = g["adv_completion_mask"] > 0
    kl = np.where(mask, g["adv_old_per_token_logps"] - g["adv_ref_per_token_logps"], 0.0).sum(axis=1).reshape(3, 4)
    found = leave_one_out(jnp.asarray(scores - 0.05 * kl, jnp.float32)).reshape(-1)
    np.testing.assert_allclose(found, g["adv/beta0.05"], rtol=2e-5, atol=1e-6)
