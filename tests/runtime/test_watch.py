import math

import jax.numpy as jnp
import pytest

from rlhf_jax.errors import DivergenceError
from rlhf_jax.runtime import Watch, check_finite


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


def test_a_loss_warns_above_a_multiple_of_its_median(watch, capsys):
    for step, loss in enumerate([1.0, 2.0, 100.0, 2.0, 3.0], start=1):  # the median is 2, the mean 21.6
        watch.look(step, {"loss/train": loss})
    watch.look(6, {"loss/train": 6.0})  # the window's median is still 2, so that 6 is not above 3 × 2
    assert capsys.readouterr().err == ""
    watch.look(7, {"loss/train": 9.5})  # 2, 100, 2, 3, 6: the median is 3, so that 9.5 is
    watch.look(8, {"loss/train": 50.0})
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("step 7: loss/train is 9.5, above 3 × its median 3;")


def test_the_policy_loss_is_left_alone(watch, capsys):
    for step, loss in enumerate([0.001] * 5 + [1.0], start=1):
        watch.look(step, {"loss/policy_avg": loss})
    assert capsys.readouterr().err == ""
