import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import equations
from rlhf_jax.equations import kl_k1, kl_k3

# Compiled: an operation at a time would be slower than what it computes. test_variants.py compares the two.
gae, row_sums, token_rewards = jax.jit(equations.gae), jax.jit(equations.row_sums), jax.jit(equations.token_rewards)
whiten = jax.jit(equations.whiten, static_argnames=("shift_mean", "unbiased"))

RNG = np.random.default_rng(0)
REWARDS = RNG.normal(size=(3, 5)).astype(np.float32)
VALUES = RNG.normal(size=(3, 5)).astype(np.float32)
LENGTHS = np.array([5, 3, 1])
MASK = np.arange(5) < LENGTHS[:, None]


def test_by_hand():
    """Two tokens, discount ½, λ ½: δ₂ = 4 − 2 = 2; δ₁ = 1 + ½·2 − 3 = −1; A₁ = −1 + ¼·2 = −½."""
    advantages, returns = gae(np.array([[1.0, 4.0]]), np.array([[3.0, 2.0]]), np.ones((1, 2), bool), 0.5, 0.5)
    np.testing.assert_array_equal(advantages, [[-0.5, 2.0]])
    np.testing.assert_array_equal(returns, [[2.5, 4.0]])


def test_lambda_0_is_the_one_step_error():
    advantages, returns = gae(REWARDS, VALUES, MASK, 0.9, 0.0)
    for row, n in enumerate(LENGTHS):
        for t in range(n):
            ahead = float(VALUES[row, t + 1]) if t + 1 < n else 0.0
            target = float(REWARDS[row, t]) + 0.9 * ahead
            assert float(advantages[row, t]) == pytest.approx(target - float(VALUES[row, t]), abs=1e-6)
            assert float(returns[row, t]) == pytest.approx(target, abs=1e-6)


def test_lambda_1_is_the_discounted_return():
    advantages, returns = gae(REWARDS, VALUES, MASK, 0.9, 1.0)
    for row, n in enumerate(LENGTHS):
        for t in range(n):
            monte_carlo = sum(0.9 ** (s - t) * float(REWARDS[row, s]) for s in range(t, n))
            assert float(returns[row, t]) == pytest.approx(monte_carlo, abs=1e-6)
            assert float(advantages[row, t]) == pytest.approx(monte_carlo - float(VALUES[row, t]), abs=1e-6)


def test_the_definition_for_a_lambda_between():
    """Aₜ = Σₗ (discount·λ)ˡ δₜ₊ₗ (Schulman et al. 2016, Eq. 16)."""
    discount, lam = 0.97, 0.8
    advantages, _ = gae(REWARDS, VALUES, MASK, discount, lam)
    for row, n in enumerate(LENGTHS):
        v = [*np.asarray(VALUES[row, :n], float), 0.0]
        delta = [float(REWARDS[row, t]) + discount * v[t + 1] - v[t] for t in range(n)]
        expected = [sum((discount * lam) ** (s - t) * delta[s] for s in range(t, n)) for t in range(n)]
        np.testing.assert_allclose(advantages[row, :n], expected, atol=1e-6)
        np.testing.assert_array_equal(advantages[row, n:], np.zeros(5 - n))


def test_what_stands_after_the_last_token_is_without_influence():
    clean = gae(REWARDS, VALUES, MASK, 0.9, 0.8)
    for rubbish in (np.float32(123), np.float32(np.nan)):
        dirty = gae(np.where(MASK, REWARDS, rubbish), np.where(MASK, VALUES, rubbish), MASK, 0.9, 0.8)
        np.testing.assert_array_equal(dirty, clean)
    shorter = gae(REWARDS[1:2, :3], VALUES[1:2, :3], MASK[1:2, :3], 0.9, 0.8)
    np.testing.assert_allclose(np.stack(shorter)[:, 0], np.stack(clean)[:, 1, :3], atol=1e-7)


def test_no_token_at_all():
    nothing = np.zeros((2, 4), bool)
    advantages, returns = gae(np.ones((2, 4)), np.ones((2, 4)), nothing, 1.0, 0.95)
    np.testing.assert_array_equal(advantages, np.zeros((2, 4)))
    np.testing.assert_array_equal(returns, np.zeros((2, 4)))
    np.testing.assert_array_equal(token_rewards(np.ones(2), np.ones((2, 4)), 0.1, nothing), np.zeros((2, 4)))
    grads = jax.jit(jax.grad(lambda r, v: jnp.sum(gae(r, v, nothing, 1.0, 0.95)[0]), (0, 1)))(
        np.ones((2, 4)), np.ones((2, 4))
    )
    np.testing.assert_array_equal(grads, np.zeros((2, 2, 4)))


def test_rewards_by_hand():
    """The score stands at the last token of each answer; −β·kl at every token."""
    mask = np.array([[True, True, True], [True, False, False]])
    kl = np.array([[1.0, -2.0, 3.0], [4.0, np.nan, np.nan]])
    rewards = token_rewards(np.array([0.7, -0.3]), kl, 0.5, mask)
    np.testing.assert_allclose(rewards, [[-0.5, 1.0, -1.5 + 0.7], [-2.0 - 0.3, 0, 0]], rtol=1e-6)
    assert rewards.dtype == jnp.float32


def test_rewards_sum_to_score_minus_beta_kl():
    """InstructGPT, Eq. 2: r(x, y) − β log(π(y|x)/π_SFT(y|x)), and log π(y|x) is the sum over tokens."""
    score = np.array([0.7, -1.25, 3.0])
    rewards = token_rewards(score, REWARDS, 0.02, MASK)
    for row, n in enumerate(LENGTHS):
        expected = float(score[row]) - 0.02 * float(REWARDS[row, :n].sum())
        assert float(row_sums(rewards, MASK)[row]) == pytest.approx(expected, abs=1e-6)


# Rows with gaps: between two turns of an episode an environment speaks.


def test_a_step_of_gae_is_a_token_of_the_policy_s_own():
    """The two tokens of `test_by_hand`, two columns of somebody else's before, between and after them."""
    mask = np.array([[False, False, True, False, False, True, False]])
    rewards, values = (np.where(mask, 0.0, np.nan) for _ in range(2))
    rewards[mask], values[mask] = [1.0, 4.0], [3.0, 2.0]
    advantages, returns = gae(rewards, values, mask, 0.5, 0.5)
    np.testing.assert_array_equal(advantages, [[0, 0, -0.5, 0, 0, 2.0, 0]])
    np.testing.assert_array_equal(returns, [[0, 0, 2.5, 0, 0, 4.0, 0]])


def test_the_definition_over_gaps_for_a_lambda_between():
    """Aₜ = Σₗ (discount·λ)ˡ δₜ₊ₗ over the policy's own tokens, whose values follow one another."""
    discount, lam = 0.97, 0.8
    mask = np.array([[1, 1, 0, 0, 1], [0, 1, 0, 1, 0], [0, 0, 1, 0, 0]], bool)
    advantages, returns = gae(REWARDS, VALUES, mask, discount, lam)
    for row, own in enumerate(mask):
        r, v = REWARDS[row, own].astype(float), [*VALUES[row, own].astype(float), 0.0]
        delta = [r[t] + discount * v[t + 1] - v[t] for t in range(len(r))]
        expected = [sum((discount * lam) ** (s - t) * delta[s] for s in range(t, len(r))) for t in range(len(r))]
        np.testing.assert_allclose(advantages[row, own], expected, atol=1e-6)
        np.testing.assert_allclose(returns[row, own], np.add(expected, v[:-1]), atol=1e-6)
        np.testing.assert_array_equal(np.stack([advantages, returns])[:, row, ~own], 0.0)


EPISODES = np.array([[1, 1, 0, 1, 0, 1, 1], [0, 1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0, 0]], bool)


def test_the_score_of_a_row_with_gaps_stands_at_its_last_token():
    rewards = token_rewards(np.array([0.7, -0.3, 5.0]), np.full(EPISODES.shape, 2.0), 0.5, EPISODES)
    np.testing.assert_allclose(rewards, [[-1, -1, 0, -1, 0, -1, -0.3], [0, -1.3, 0, 0, 0, 0, 0], [0] * 7], rtol=1e-6)


def test_what_a_turn_earned_stands_at_its_last_token():
    """Of a score of 6 the first turn earned 1 and the second 2, which leaves 3 for the third; what is written down for the
    last turn, and for turns that there were not, is not read."""
    earned = np.array([[1.0, 2.0, 7.0], [np.nan, np.nan, np.nan], [np.nan] * 3])
    rewards = token_rewards(np.array([6.0, -0.3, 5.0]), np.full(EPISODES.shape, 2.0), 0.5, EPISODES, earned)
    np.testing.assert_allclose(rewards, [[-1, 0, 0, 1, 0, -1, 2], [0, -1.3, 0, 0, 0, 0, 0], [0] * 7], rtol=1e-6)
    whole = token_rewards(np.array([6.0, -0.3, 5.0]), np.full(EPISODES.shape, 2.0), 0.5, EPISODES)
    np.testing.assert_allclose(row_sums(rewards, EPISODES), row_sums(whole, EPISODES), rtol=1e-6)


@pytest.mark.parametrize("case", ["full_k1", "ragged_k1", "ragged_k3", "ragged_gamma99", "ragged_whiten_rewards"])
def test_golden_rollouts_of_trl(golden, golden_meta, case, agree):
    """TRL 1.12's PPOTrainer gives the score one step after the last token (where the row has room) and keeps a value
    there. That is our episode with one step more, whose KL is 0, so our functions get its mask of L + 1 steps; in
    "full_k1" no row has room and the two conventions are one. TRL's whitening divides by n − 1, over the answer's own
    tokens."""
    g = golden(f"ppo/rollout_{case}")
    meta = golden_meta("ppo")["rollout_cases"][case]
    answer, episode = ~g["padding_mask"], ~g["padding_mask_p1"]
    if case == "full_k1":
        assert (answer == episode).all()
    estimator = {"k1": kl_k1, "k3": kl_k3}[meta["kl_estimator"]]
    kl = estimator(jnp.asarray(g["logprobs"]), jnp.asarray(g["ref_logprobs"]))
    agree(kl, g["kl"])
    rewards = token_rewards(jnp.asarray(g["in_scores"]), kl, meta["kl_coef"], episode)
    if meta["whiten_rewards"]:
        rewards = whiten(rewards, episode, shift_mean=False, unbiased=True)
    agree(rewards, g["rewards"])
    advantages, returns = gae(rewards, jnp.asarray(g["values"]), episode, meta["gamma"], meta["lam"])
    agree(advantages, g["advantages_raw"])
    agree(returns, g["returns"])
    agree(whiten(advantages, answer, unbiased=True), g["advantages"])
