import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlhf_jax.equations import ensemble_score, linear, normalised, seen
from rlhf_jax.types import Moments

NOTHING = Moments(jnp.float32(0.0), jnp.float32(0.0), jnp.float32(0.0))


def test_an_ensemble_by_hand():
    """Two models, three answers: means 2, 2, 0; variances 1, 0, 4."""
    scores = jnp.asarray([[1.0, 2.0, -2.0], [3.0, 2.0, 2.0]])
    np.testing.assert_allclose(ensemble_score(scores, "mean", 0.0), [2.0, 2.0, 0.0])
    np.testing.assert_allclose(ensemble_score(scores, "mean", 0.5), [1.5, 2.0, -2.0])
    np.testing.assert_allclose(ensemble_score(scores, "minimum", 0.5), [1.0, 2.0, -2.0])


@pytest.mark.parametrize("how", ["mean", "minimum"])
def test_one_model_is_its_own_ensemble(how):
    np.testing.assert_array_equal(ensemble_score(jnp.asarray([[0.7, -1.3]]), how, 5.0), jnp.asarray([0.7, -1.3]))


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-100, 100, width=32), min_size=3, max_size=12), st.data())
def test_moments_do_not_depend_on_how_the_stream_was_split(numbers, data):
    cut = data.draw(st.integers(1, len(numbers) - 1))
    x = np.array(numbers, np.float32)
    found = seen(seen(NOTHING, jnp.asarray(x[:cut])), jnp.asarray(x[cut:]))
    assert float(found.count) == len(x)
    np.testing.assert_allclose(found.mean, x.mean(), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(found.squares, ((x - x.mean()) ** 2).sum(), rtol=1e-3, atol=1e-2)


def test_normalised_scores_have_mean_0_and_deviation_1():
    x = jnp.asarray(np.random.default_rng(0).normal(3.0, 5.0, 400), jnp.float32)
    out = normalised(x, seen(NOTHING, x))
    assert float(out.mean()) == pytest.approx(0, abs=1e-5) and float(out.std()) == pytest.approx(1, rel=1e-5)


def test_nothing_seen_and_nothing_but_one_value_leave_the_scale_alone():
    x = jnp.asarray([0.5, -2.0])
    np.testing.assert_array_equal(normalised(x, NOTHING), x)
    np.testing.assert_allclose(normalised(x, seen(NOTHING, jnp.full(3, 2.0))), x - 2.0)


def test_the_linear_schedule():
    found = jax.vmap(lambda i: linear(i, 4.0, 0.2))(jnp.arange(6))
    np.testing.assert_allclose(found, [1.0, 0.8, 0.6, 0.4, 0.2, 0.2], rtol=1e-6)
    assert float(linear(jnp.int32(7), 0.0, 1.0)) == 1.0
