"""Advantages within a group of answers: closed forms, unbiasedness by enumeration, and the values of TRL."""

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.equations import averaged, clipped_policy_loss, group_relative, kl_k3, leave_one_out, row_sums

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
def test_golden_group_advantages_of_trl(golden, scale, agree):
    g = golden("losses/grpo")
    scores = (g["adv_rewards_per_func"] @ g["adv_weights"]).reshape(3, 4)
    ours = group_relative(jnp.asarray(scores), scale).reshape(-1)
    agree(ours, g[f"adv/sum_then_normalize/{scale}"])


def test_golden_leave_one_out_of_trl(golden, agree):
    g = golden("losses/rloo")
    scores = (g["adv_rewards_per_func"] @ g["adv_weights"]).reshape(3, 4)
    agree(leave_one_out(jnp.asarray(scores)).reshape(-1), g["adv/beta0"])
    # β·k1 of the whole answer joins the score
    mask = g["adv_completion_mask"] > 0
    kl = np.where(mask, g["adv_old_per_token_logps"] - g["adv_ref_per_token_logps"], 0.0).sum(axis=1).reshape(3, 4)
    found = leave_one_out(jnp.asarray(scores - 0.05 * kl, jnp.float32)).reshape(-1)
    agree(found, g["adv/beta0.05"])


@pytest.mark.parametrize(
    ("case", "over"),
    [
        ("grpo", "answer"),
        ("grpo_beta0", "answer"),
        ("bnpo", "token"),
        ("dapo", "token"),
        ("dr_grpo", "constant"),
        ("grpo_clip_higher", "answer"),
        ("grpo_onpolicy", "answer"),
        ("grpo_entropy_bonus", "answer"),
    ],
)
def test_golden_losses_of_trl_s_grpo(golden, golden_meta, case, over, agree):
    """TRL 1.16's GRPOTrainer: clipped loss + β·k3 in the loss − an entropy bonus, loss and gradient. Its bonus is a mean
    over tokens whatever the loss is a mean over. Out of reach: its delta, which bounds the ratio before the clip and at
    positive advantages as well (dual_clip acts at negative ones, after the clip), and its sequence-level losses."""
    g, meta = golden("losses/grpo"), golden_meta("losses")["grpo"][case]
    mask = jnp.asarray(g["completion_mask"] > 0)
    ref, advantages = jnp.asarray(g["ref_per_token_logps"]), jnp.asarray(g["advantages"])[:, None]
    advantages = jnp.broadcast_to(advantages, mask.shape)
    low, high = meta["epsilon_low"], meta["epsilon_high"]
    assert (low == high) == (case != "grpo_clip_higher")

    def loss(logp):
        old = jax.lax.stop_gradient(logp) if case == "grpo_onpolicy" else jnp.asarray(g["old_per_token_logps"])
        losses, _ = clipped_policy_loss(logp, old, advantages, mask, low, high)
        bonus = averaged(jnp.asarray(g["entropies"]), mask, "token")
        penalised = averaged(losses + meta["beta"] * kl_k3(logp, ref), mask, over)
        return penalised.value - meta["entropy_coef"] * bonus.value

    value, grad = jax.jit(jax.value_and_grad(loss))(jnp.asarray(g["per_token_logps"]))
    agree(value, g[f"{case}/loss"])
    agree(grad, g[f"{case}/grad"])


def test_golden_loss_of_trl_s_rloo(golden, agree):
    """TRL's ratio is of the whole answer: log-probabilities are summed over it first, an answer is one "token"."""
    g = golden("losses/rloo")
    mask = jnp.asarray(g["completion_mask"] > 0)
    one = jnp.ones((8, 1), bool)

    def loss(logp):
        whole, old = (row_sums(x, mask)[:, None] for x in (logp, jnp.asarray(g["old_per_token_logps"])))
        losses, _ = clipped_policy_loss(whole, old, jnp.asarray(g["advantages"])[:, None], one, 0.2, 0.2)
        return averaged(losses, one, "token").value

    value, grad = jax.jit(jax.value_and_grad(loss))(jnp.asarray(g["per_token_logps"]))
    agree(value, g["loss"])
    agree(grad, g["grad"])
