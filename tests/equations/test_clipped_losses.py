import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import equations
from rlhf_jax.equations import entropy, states_before, token_logps


def policy_loss(logp, logp_old, advantages, mask, clip, dual_clip=np.inf):
    """The mean over tokens."""
    losses, metrics = equations.clipped_policy_loss(logp, logp_old, advantages, mask, clip, clip, dual_clip)
    return equations.averaged(losses, mask, "token"), metrics


# Compiled: an operation at a time would be slower than what it computes. test_variants.py compares the two.
clipped_policy_loss = jax.jit(policy_loss)
clipped_value_loss = jax.jit(equations.clipped_value_loss)

ONE = np.ones((1, 1), bool)


def loss_and_grad(loss):
    """(loss, metrics), gradient with respect to the first argument."""

    def scalar(*arguments):
        mean, metrics = loss(*arguments)
        return mean.value, equations.values(metrics)

    return jax.jit(jax.value_and_grad(scalar, has_aux=True))


policy_loss_and_grad = loss_and_grad(policy_loss)
value_loss_and_grad = loss_and_grad(equations.clipped_value_loss)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.0, 2.0, -2.0, 0),  # no change yet: −A
        (1.1, 2.0, -2.2, 0),  # inside 1 ± 0.2
        (1.5, 2.0, -2.4, 1),  # a good token has gained enough: −A·1.2
        (0.5, 2.0, -1.0, 0),  # a good token has lost: the unclipped branch is the pessimistic one
        (0.5, -2.0, 1.6, 1),  # a bad token has lost enough: −A·0.8
        (1.5, -2.0, 3.0, 0),  # a bad token has gained
    ],
)
def test_policy_loss_in_each_of_its_regions(ratio, advantage, loss, clipped):
    old = np.full((1, 1), -1.0)
    (got, metrics), slope = policy_loss_and_grad(old + np.log(ratio), old, np.full((1, 1), advantage), ONE, 0.2)
    assert float(got) == pytest.approx(loss, rel=1e-5)
    assert float(metrics["policy/clipfrac_avg"]) == clipped
    assert float(metrics["val/ratio"]) == pytest.approx(ratio, rel=1e-5)
    assert float(metrics["policy/approxkl_avg"]) == pytest.approx(0.5 * np.log(ratio) ** 2, abs=1e-6)
    # d(−Aρ)/d log π = −Aρ where the ratio acts, 0 where it is clipped
    assert slope.item() == pytest.approx(0.0 if clipped else -advantage * ratio, rel=1e-5)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss"),
    [(1.25, 1.0, -1.25), (1.5, 1.0, -1.3), (0.95, -1.0, 0.95), (0.8, -1.0, 0.9), (2.5, -1.0, 2.5), (4.0, -1.0, 3.0)],
)
def test_an_asymmetric_clip_and_a_dual_clip(ratio, advantage, loss):
    """0.1 below, 0.3 above; the loss of a token with a negative advantage is bounded by 3·|A|."""
    one = np.ones((1, 1))
    run = jax.jit(equations.clipped_policy_loss)
    losses, _ = run(one * np.log(ratio), 0 * one, advantage * one, ONE, 0.1, 0.3, 3.0)
    assert losses.item() == pytest.approx(loss, rel=1e-5)


def test_at_a_ratio_of_1_it_has_the_gradient_of_reinforce():
    """−A·∇ log π (Williams 1992): of each token −A with respect to its log-probability, 0 outside the mask."""
    x, _, a, mask = map(jnp.asarray, random_batch())
    grad = jax.jit(jax.grad(lambda logp: jnp.sum(equations.clipped_policy_loss(logp, x, a, mask, 0.2, 0.2)[0])))
    np.testing.assert_allclose(grad(x), np.where(mask, -np.asarray(a), 0.0), rtol=1e-5)


def test_explained_variance():
    returns = jnp.asarray([[1.0, 2.0, 3.0, 99.0]])
    mask = jnp.asarray([[True, True, True, False]])
    assert float(equations.explained_variance(returns, returns, mask)) == pytest.approx(1.0)
    assert float(equations.explained_variance(returns * 0 + 7, returns, mask)) == pytest.approx(0.0, abs=1e-6)
    assert float(equations.explained_variance(-returns, returns, mask)) == pytest.approx(-3.0)  # Var(2R) = 4 Var(R)


@pytest.mark.parametrize(
    ("value", "loss", "clipped"),
    [
        (1.1, 0.5 * 0.9**2, 0),  # inside 1 ± 0.2
        (1.6, 0.5 * 0.8**2, 1),  # towards the return by more than the clip: as if it stood at 1.2
        (0.5, 0.5 * 1.5**2, 0),  # away from the return: the error as it is
    ],
)
def test_value_loss_in_each_of_its_regions(value, loss, clipped):
    """V_old = 1, R = 2, clip 0.2."""
    one = np.ones((1, 1))
    got, metrics = clipped_value_loss(value * one, one, 2 * one, ONE, 0.2)
    assert float(got.value) == pytest.approx(loss, rel=1e-5)
    assert float(metrics["val/clipfrac_avg"].value) == clipped


def test_without_a_value_clip_it_is_the_squared_error():
    rng = np.random.default_rng(0)
    v, old, returns = (rng.normal(size=(6, 7)).astype(np.float32) for _ in range(3))
    (loss, metrics), grad = value_loss_and_grad(v, old, returns, np.ones((6, 7), bool), np.inf)
    np.testing.assert_allclose(loss, 0.5 * np.mean((v - returns) ** 2), rtol=1e-6)
    assert float(metrics["val/clipfrac_avg"]) == 0  # exactly: nothing is clipped
    np.testing.assert_allclose(grad, (v - returns) / 42, atol=1e-6)


def random_batch():
    rng = np.random.default_rng(1)
    x, y, a = (rng.normal(size=(4, 6)).astype(np.float32) for _ in range(3))
    return -abs(x), -abs(y), a, np.arange(6) < np.array([6, 4, 1, 0])[:, None]


@pytest.mark.parametrize("loss", [policy_loss, equations.clipped_value_loss])
class TestBoth:
    def test_masked_is_dropped(self, loss):
        x, y, a, mask = random_batch()
        whole = jax.jit(loss)(x, y, a, mask, 0.2)
        dropped = jax.jit(loss)(*(z[mask][None] for z in (x, y, a, mask)), 0.2)
        chex.assert_trees_all_close(whole, dropped, rtol=1e-5)

    def test_nan_under_the_mask(self, loss):
        x, y, a, mask = random_batch()
        f = loss_and_grad(loss)
        clean = f(*(np.where(mask, z, 1.0) for z in (x, y, a)), mask, 0.2)
        dirty = f(*(np.where(mask, z, np.nan) for z in (x, y, a)), mask, 0.2)
        chex.assert_trees_all_equal(dirty, clean)

    def test_nothing_counts(self, loss):
        x, y, a, mask = random_batch()
        (value, metrics), grad = loss_and_grad(loss)(x, y, a, np.zeros_like(mask), 0.2)
        assert float(value) == 0
        assert all(float(m) == 0 for m in metrics.values())
        np.testing.assert_array_equal(grad, np.zeros((4, 6)))

    def test_micro_batches(self, loss):
        x, y, a, mask = random_batch()
        compiled = jax.jit(loss)
        whole = compiled(x, y, a, mask, 0.2)
        first = compiled(*(z[:1] for z in (x, y, a, mask)), 0.2)
        rest = compiled(*(z[1:] for z in (x, y, a, mask)), 0.2)
        np.testing.assert_allclose((first[0] + rest[0]).value, whole[0].value, rtol=1e-5)
        for name in whole[1]:
            np.testing.assert_allclose((first[1][name] + rest[1][name]).value, whole[1][name].value, rtol=1e-5)


@pytest.mark.parametrize("case", ["default", "wide_ratio", "temp07_vf05"])
def test_golden_losses_of_trl(golden, golden_meta, case, agree):
    """TRL 1.12's PPOTrainer, loss and gradient. Its value loss counts one step after the last token as well, so it
    gets that mask; its approximate KL averages over padding, where its log-ratio is 0, so it is ours times the share
    of real tokens; its temperature is 1e-7 higher."""
    g = golden(f"ppo/loss_{case}")
    meta = golden_meta("ppo")["loss_cases"][case]
    answer, with_next = jnp.asarray(~g["padding_mask"]), jnp.asarray(~g["padding_mask_p1"])
    responses = jnp.asarray(g["in_responses"], jnp.int32)
    T = responses.shape[1]

    def losses(logits, vpred):
        scaled = states_before(logits, T) / meta["temperature"]
        logp = token_logps(scaled, responses)
        old, advantages = jnp.asarray(g["in_old_logprobs"]), jnp.asarray(g["in_advantages"])
        pg, pg_metrics = clipped_policy_loss(logp, old, advantages, answer, meta["cliprange"])
        vf, vf_metrics = clipped_value_loss(
            states_before(vpred, T),
            jnp.asarray(g["in_old_values"]),
            jnp.asarray(g["in_returns"]),
            with_next,
            meta["cliprange_value"],
        )
        return pg.value + meta["vf_coef"] * vf.value, (logp, entropy(scaled), pg, vf, pg_metrics | vf_metrics)

    grad = jax.jit(jax.value_and_grad(losses, (0, 1), has_aux=True))
    (loss, (logp, entropies, pg, vf, metrics)), grads = grad(g["in_logits"], g["in_vpred"])
    agree(np.where(answer, logp, 1.0), g["new_logprobs"])
    agree(entropies, g["entropy"])
    agree(pg.value, g["pg_loss"])
    agree(vf.value, g["vf_loss"])
    agree(loss, g["loss"])
    agree(metrics["policy/clipfrac_avg"].value, g["pg_clipfrac"])
    agree(metrics["val/clipfrac_avg"].value, g["vf_clipfrac"])
    share = np.mean(~g["padding_mask"])
    agree(metrics["policy/approxkl_avg"].value * share, g["approxkl"])
    agree(grads[0], g["grad_logits"])
    agree(grads[1], g["grad_vpred"])
