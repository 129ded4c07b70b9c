"""SIGKILL at random moments, inside saves too: the same command again ends with the same bits.

KILLS says how many moments are drawn for one process, and for two.
"""

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from jax.sharding import SingleDeviceSharding

from tests.small_run import ROOT, TWO_DEVICES, copy_before, environment, final_hash, last_step, until
from tests.test_processes import finish, two

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.usefixtures("compiled_once")]
KILLED = ("pretrain", "reward_model", "ppo_ptx")
KILLS = int(os.environ.get("KILLS", "20"))
OFTEN = ["--runtime.save-every", "1"]


def moments(count: int) -> list:
    """(stage, how much of it is done, inside a save or not, seconds to wait after that)"""
    rng = random.Random(20)
    drawn = [(KILLED[n % 3], rng.random(), n % 2 == 0, rng.uniform(0, 0.2)) for n in range(count)]
    return [pytest.param(*m, id=f"{m[0]}-{m[1]:.0%}-{'saving' if m[2] else 'anywhere'}") for m in drawn]


def kill(lines: list[list[str]], due: Callable[[], bool], while_it: Callable[[], bool]) -> None:
    """Runs the commands, one a process, and kills all as soon as both hold; the second is asked while they stand still."""
    devnull = subprocess.DEVNULL
    processes = [subprocess.Popen(l, cwd=ROOT, env=environment(), stdout=devnull, stderr=devnull) for l in lines]

    def send(number: int) -> None:
        for process in processes:
            assert process.poll() is None, "the run ended before it could be killed"
            os.kill(process.pid, number)

    try:
        while not due():
            assert all(process.poll() is None for process in processes), "the run ended before it could be killed"
            time.sleep(0.001)
        while True:
            send(signal.SIGSTOP)
            if while_it():
                break
            send(signal.SIGCONT)
            time.sleep(0.002)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def kill_in(stage: Path, lines: list[list[str]], total: int, share: float, saving: bool, seconds: float) -> None:
    """After a share of the steps but the last two, which are for the save to be met in."""
    metrics, wanted, since = stage / "metrics.jsonl", int(share * (total - 2)), []

    def due() -> bool:
        if not since and metrics.exists() and metrics.read_text().count("\n") >= wanted:
            since.append(time.monotonic())
        return bool(since) and (saving or time.monotonic() - since[0] >= seconds)

    kill(lines, due, lambda: not saving or any((stage / "checkpoints").glob("*.orbax-checkpoint-tmp*")))


@pytest.mark.parametrize(("stage", "share", "saving", "seconds"), moments(KILLS))
def test_killed_at_a_random_moment_it_ends_bit_for_bit_the_same(uninterrupted, tmp_path, stage, share, saving, seconds):
    out = tmp_path / "killed"
    copy_before(stage, uninterrupted, out)
    lines = [until(stage, out, *OFTEN)]
    kill_in(out / stage, lines, last_step(uninterrupted / stage), share, saving, seconds)
    finish(lines)
    assert final_hash(out / stage) == final_hash(uninterrupted / stage)


@pytest.fixture(scope="module")
def by_two(uninterrupted, tmp_path_factory):
    """Stage → the hash of its end where two processes ran it without interruption."""

    @cache
    def end(stage: str) -> str:
        out = tmp_path_factory.mktemp("two") / "whole"
        copy_before(stage, uninterrupted, out)
        finish(two(stage, out, *OFTEN))
        return final_hash(out / stage)

    return end


@pytest.mark.parametrize(("stage", "share", "saving", "seconds"), moments(KILLS))
def test_two_processes_killed_at_a_random_moment(uninterrupted, by_two, tmp_path, stage, share, saving, seconds):
    out = tmp_path / "killed"
    copy_before(stage, uninterrupted, out)
    kill_in(out / stage, two(stage, out, *OFTEN), last_step(uninterrupted / stage), share, saving, seconds)
    finish(two(stage, out, *OFTEN))
    assert final_hash(out / stage) == by_two(stage)


@pytest.mark.parametrize("stage", KILLED)
def test_killed_and_resumed_on_another_mesh_it_ends_the_same_to_1e_5(uninterrupted, tmp_path, stage):
    out, total = tmp_path / "killed", last_step(uninterrupted / stage)
    copy_before(stage, uninterrupted, out)
    kill_in(out / stage, [until(stage, out, *OFTEN)], total, 0.5, saving=True, seconds=0)
    finish([until(stage, out, *OFTEN, "--mesh.data", "2")], TWO_DEVICES)
    one, other = (arrays(each / stage / "checkpoints" / str(total) / "state") for each in (uninterrupted, out))
    if stage == "reward_model":
        one, other = with_one_constant(one), with_one_constant(other)
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for (path, leaf), there in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(there, leaf, rtol=0, atol=1e-5, err_msg=jax.tree_util.keystr(path))


def with_one_constant(state: dict) -> dict:
    """Rankings do not see a constant in the reward, so the last norm's bias b has no gradient along the head's kernel but
    rounding, which Adam scales up; the reward is k·norm(x) + (k·b + c), and centring sets c."""
    params = state["params"]
    norm, head = params["transformer"].pop("final_norm"), {name: params.pop(name) for name in ("kernel", "bias")}
    constant = norm.pop("bias") @ head["kernel"] + head["bias"]
    return state | {"constant": constant, "norm": norm, "kernel": head["kernel"]}


def arrays(state: Path) -> dict:
    here = SingleDeviceSharding(jax.local_devices()[0])
    with ocp.StandardCheckpointer() as reader:
        saved = reader.metadata(state).item_metadata
        assert saved is not None
        target = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), saved.tree)
        tree = reader.restore(state, target)

    def as_numpy(leaf) -> np.ndarray:
        return np.asarray(jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf)

    return jax.tree.map(as_numpy, tree)
