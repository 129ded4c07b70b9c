"""The transforms of logits, by hand and against Transformers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import Sampling, penalise, process_logits

PLAIN = Sampling(temperature=1.0, top_k=0, top_p=1.0)
GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0)


@pytest.mark.parametrize(
    "bad",
    [
        (-0.1, 0, 1.0),
        (1.0, -1, 1.0),
        (1.0, 0, 0.0),
        (1.0, 0, 1.1),
        (1.0, 0, 1.0, -0.1),
        (1.0, 0, 1.0, 1.1),
        (1.0, 0, 1.0, 0.0, 0.0),
    ],
)
def test_impossible_settings_are_refused(bad):
    with pytest.raises(ValueError, match="sampling needs"):
        Sampling(*bad)


def probabilities(logits, sampling):
    return np.asarray(jax.nn.softmax(process_logits(jnp.asarray(logits, jnp.float32), sampling), axis=-1))


def test_warp_by_hand():
    logits = np.log([0.4, 0.3, 0.2, 0.1])
    np.testing.assert_allclose(probabilities(logits, PLAIN), [0.4, 0.3, 0.2, 0.1], rtol=1e-6)
    np.testing.assert_allclose(probabilities(logits, GREEDY), [1, 0, 0, 0])
    np.testing.assert_allclose(probabilities(logits, Sampling(0.5, 0, 1.0)), np.array([16, 9, 4, 1]) / 30, rtol=1e-5)
    np.testing.assert_allclose(probabilities(logits, Sampling(1.0, 2, 1.0)), [4 / 7, 3 / 7, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(probabilities(logits, Sampling(1.0, 0, 0.65)), [4 / 7, 3 / 7, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(probabilities(logits, Sampling(1.0, 0, 0.01)), [1, 0, 0, 0])
    # at least 0.6 · 0.4 = 0.24
    np.testing.assert_allclose(probabilities(logits, Sampling(1.0, 0, 1.0, 0.6)), [4 / 7, 3 / 7, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(probabilities(logits, Sampling(1.0, 0, 1.0, 1.0)), [1, 0, 0, 0])


def test_warp_composes_temperature_then_top_k_then_top_p():
    """After temperature ½ the masses are 16, 9, 4, 1 of 30; of the best 3 they are 16, 9, 4 of 29: top-p 0.6 takes two
    (16/29 < 0.6). Top-p first, on 0.4, 0.3, 0.2, 0.1, would take two as well, but 0.56 would take two before and one
    … so 0.54 (16/30 < 0.54 < 16/29) tells top-k before top-p from after it."""
    logits = np.log([0.4, 0.3, 0.2, 0.1])
    assert 16 / 30 < 0.54 < 16 / 29
    np.testing.assert_allclose(probabilities(logits, Sampling(0.5, 3, 0.54)), [1, 0, 0, 0])
    np.testing.assert_allclose(probabilities(logits, Sampling(0.5, 0, 0.54)), [0.64, 0.36, 0, 0], rtol=1e-5)
    # 0.4 < 0.54: without the temperature before it, top-p would keep two
    np.testing.assert_allclose(probabilities(logits, Sampling(1.0, 3, 0.54)), [4 / 7, 3 / 7, 0, 0], rtol=1e-5)
    # 9/16 < 0.6 < 3/4: min-p comes after the temperature as well
    np.testing.assert_allclose(probabilities(logits, Sampling(0.5, 0, 1.0, 0.6)), [1, 0, 0, 0])


def test_penalty_by_hand():
    logits, seen = jnp.array([[2.0, -1.0, 0.0, 3.0, -4.0]]), jnp.array([[True, True, True, False, False]])
    np.testing.assert_array_equal(penalise(logits, seen, 2.0), [[1, -2, 0, 3, -4]])
    np.testing.assert_array_equal(penalise(logits, seen, 0.5), [[4, -0.5, 0, 3, -4]])
    np.testing.assert_array_equal(penalise(logits, seen, 1.0), logits)


@pytest.fixture(scope="module")
def golden(golden_folder):
    """Transformers 5.23."""
    return dict(np.load(golden_folder / "logits_processors" / "logits_processors.npz"))


SETTINGS = (
    [(f"temperature_{t}", Sampling(t, 0, 1.0)) for t in (0.1, 0.7, 1.5)]
    + [(f"top_k_{k}", Sampling(1.0, k, 1.0)) for k in (1, 5, 50, 200)]
    + [(f"top_p_{p}", Sampling(1.0, 0, p)) for p in (0.1, 0.5, 0.9, 0.99, 1.0)]
    + [(f"min_p_{p}", Sampling(1.0, 0, 1.0, min_p=p)) for p in (0.01, 0.05, 0.2, 1.0)]
    + [("chain_t0.7_minp0.05", Sampling(0.7, 0, 1.0, min_p=0.05))]
)


@pytest.mark.parametrize(("name", "sampling"), SETTINGS, ids=[name for name, _ in SETTINGS])
def test_warpers(golden, name, sampling):
    np.testing.assert_allclose(process_logits(jnp.asarray(golden["logits"]), sampling), golden[name], rtol=1e-6)


def penalised(golden, penalty, start=0):
    """The logits under the penalty on the tokens from column `start` on."""
    ids = golden["input_ids"][:, start:]
    seen = (ids[:, :, None] == np.arange(golden["logits"].shape[1])[None, None, :]).any(axis=1)
    return penalise(jnp.asarray(golden["logits"]), jnp.asarray(seen), penalty)


@pytest.mark.parametrize("penalty", [0.8, 1.2, 2.0])
def test_repetition_penalty(golden, penalty):
    np.testing.assert_allclose(penalised(golden, penalty), golden[f"repetition_{penalty}"], rtol=1e-6)


def test_repetition_penalty_on_the_answer_alone(golden):
    np.testing.assert_allclose(penalised(golden, 1.2, start=4), golden["repetition_1.2_ignore_prompt4"], rtol=1e-6)


def test_the_penalty_comes_before_temperature_top_k_and_top_p(golden):
    warped = process_logits(penalised(golden, 1.2), Sampling(0.7, 20, 0.9))
    np.testing.assert_allclose(warped, golden["chain_rep1.2_t0.7_k20_p0.9"], rtol=1e-6)
