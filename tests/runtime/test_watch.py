import math

import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.errors import DivergenceError
from rlhf_jax.runtime import Watch, check_finite
from rlhf_jax.stages.policy import rl_watch
from rlhf_jax.stages.training import supervised_watch


@pytest.mark.parametrize(("value", "text"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
def test_the_first_figure_that_is_not_finite_is_named(value, text):
    metrics = {"loss/policy_avg": 1.0, "loss/value_avg": jnp.float32(value), "objective/kl": math.nan}
    with pytest.raises(DivergenceError, match=f"ppo, step 7: loss/value_avg is {text}; lower"):
        check_finite("ppo", 7, metrics)


def test_finite_figures_pass():
    check_finite("ppo", 7, {"loss/value_avg": jnp.float32(3e38), "objective/kl": -2})


@pytest.fixture
def watch():
    return Watch(kl=10.0, entropy=0.5, factor=3.0, window=5)


def test_kl_and_entropy_warn_once_each_beyond_their_limit(watch, capsys):
    watch.look(1, {"objective/kl": 10.0, "objective/entropy": 0.5})
    assert capsys.readouterr().err == ""
    for step in (2, 3):
        watch.look(step, {"objective/kl": 12.5, "objective/entropy": 0.25})
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2
    assert warnings[0].startswith("step 2: objective/kl is 12.5 nats, above 10")
    assert warnings[1].startswith("step 2: objective/entropy is 0.25 nats, below 0.5")


def test_a_loss_warns_where_it_stays_above_a_multiple_of_the_median_that_it_came_down_to(watch, capsys):
    # The first five have the median 2, and the mean 21.6. 6 is not above 3 × 2, nor is anything five times in a row.
    losses = [1.0, 2.0, 100.0, 2.0, 3.0, 6.0, 9.5, 7.0, 7.0, 7.0, 5.0, 6.5, 50.0, 9.0, 8.0]
    for step, loss in enumerate(losses, start=1):
        watch.look(step, {"loss/train": loss})
    assert capsys.readouterr().err == ""
    watch.look(16, {"loss/train": 7.5})
    watch.look(17, {"loss/train": 90.0})
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith(
        "step 16: loss/train is 7.5, and was 5 times in a row above 6, which is 3 × the median that it had come down to;"
    )


@pytest.mark.parametrize("name", ["loss/policy_avg", "loss/kl_avg"])
def test_what_is_near_0_by_construction_is_left_alone(name, watch, capsys):
    for step, loss in enumerate([0.001] * 5 + [1.0] * 9, start=1):
        watch.look(step, {name: loss})
    assert capsys.readouterr().err == ""


WATCHES = {"rl": (rl_watch, 40), "supervised": (supervised_watch, 200)}


def warnings(watch, losses, capsys) -> int:
    """How many of the runs [runs, steps] of losses warn, each being a term of its own."""
    for step, row in enumerate(losses.T.tolist(), start=1):
        watch.look(step, {f"loss/{run}": loss for run, loss in enumerate(row)})
    return len(capsys.readouterr().err.splitlines())


@pytest.mark.parametrize("kind", WATCHES)
def test_noise_is_no_runaway(kind, capsys):
    """Independent figures about one level, whose logarithms deviate by 0.7: the demo's losses deviate by 0.2 (PPO's) to 0.45
    (the reward model's, of 4 rankings a batch). One run in a hundred may warn."""
    make, steps = WATCHES[kind]
    runs = 1000 if kind == "rl" else 200
    noise = np.exp(0.7 * np.random.default_rng(0).normal(size=(runs, steps)))
    assert warnings(make(), noise, capsys) <= 0.01 * runs


@pytest.mark.parametrize("kind", WATCHES)
@pytest.mark.parametrize("shape", ["jump", "growth"])
def test_a_runaway_is_found_in_the_noise(kind, shape, capsys):
    """Ten times the level of the first half from the second half on; or twentyfold from the half to the end, step by step."""
    make, steps = WATCHES[kind]
    late = np.arange(steps) - steps // 2
    level = np.where(late > 0, 10.0, 1.0) if shape == "jump" else 20.0 ** np.clip(2 * late / steps, 0, 1)
    noise = np.exp(0.3 * np.random.default_rng(1).normal(size=(100, steps)))
    assert warnings(make(), level * noise, capsys) >= 95
