"""PPO-ptx on many devices, in micro-batches or behind more padding is PPO-ptx on one: same answers, same parameters."""

import os
import socket
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.multihost_utils import process_allgather

from rlhf_jax.equations import values
from rlhf_jax.models import LanguageModel, Sampling, ScalarModel, mesh_axes
from rlhf_jax.runtime import (
    first_process,
    join_processes,
    make_mesh,
    mapped,
    place,
    replicated,
    shard_rows,
)
from rlhf_jax.steps import Frozen, Models, Optimisers, Plan, PPOCoef, adam, initial_state, iteration
from rlhf_jax.types import PPOBatch, PromptBatch, TextBatch
from tests.compiler import QUICK
from tests.steps.conftest import COEF, FORM
from tests.steps.conftest import CONFIG as SMALL

pytestmark = [pytest.mark.slow, pytest.mark.long]
ITERATIONS, B, P, T = 5, 32, 8, 6
CONFIG = replace(
    SMALL,
    vocab_size=48,
    context=32,
    width=32,
    layers=2,
    heads=4,
    kv_heads=4,
    hidden=64,
    position="rope",
    mlp="swiglu",
    bias=True,
    tied=False,
)
PLAN = Plan(max_tokens=T, sampling=Sampling(0.7, 0, 0.95), epochs=2, minibatches=2, eos=1, pad=0)


def batches(padding: float) -> list[PPOBatch]:
    """Prompts of 1 to P tokens, and two pretraining rows for each, both longer by a share of padding, in front and behind."""
    rng, found = np.random.default_rng(0), []
    for _ in range(ITERATIONS):
        mask = np.arange(P) >= P - rng.integers(1, P + 1, B)[:, None]
        tokens = np.where(mask, rng.integers(2, 48, (B, P)), 0).astype(np.int32)
        text = rng.integers(2, 48, (B, 2, 12)).astype(np.int32)
        predict = np.broadcast_to(np.arange(12) > 0, text.shape)
        tokens, mask = (np.pad(x, ((0, 0), (round(padding * P), 0))) for x in (tokens, mask))
        text, predict = (np.pad(x, ((0, 0), (0, 0), (0, round(padding * 12)))) for x in (text, predict))
        found.append(PPOBatch(PromptBatch(tokens, mask), TextBatch(text, predict)))
    return found


WHITENED = FORM._replace(kl_loss="exact", whiten_rewards=True, score_norm="running")
# The demo's learning rates: Adam turns a gradient that is only rounding, such as a key's bias has, into a share of a step.
RATES = COEF._replace(beta_loss=0.05, entropy=0.01, missing_eos_penalty=0.1, lr=2e-4, value_lr=1e-3)


def trained(*, mesh=(1, 1, 1), pmap=False, micro_batches=1, padding=0.0):
    """The state and the metrics after five iterations."""
    config = replace(CONFIG, micro_batches=micro_batches, axis_name="data" if pmap else None)
    policy, value = LanguageModel(config), ScalarModel(config)
    models, optimisers = Models(policy, value), Optimisers(adam(1e-8, 1.0), adam(1e-8, 1.0))
    row = jnp.ones((1, 2), jnp.int32)
    each = [m.init(jax.random.key(i), row, row > 0)["params"] for i, m in enumerate((policy, value, policy, value))]
    state = initial_state(each[0], each[1], optimisers, jax.random.key(7))
    frozen = Frozen(sft=each[2], reward=(each[3],))
    over, coef = make_mesh(*mesh), PPOCoef(*map(np.float32, RATES))
    step = mapped(partial(iteration, models=models, optimisers=optimisers, plan=PLAN, form=WHITENED), over, pmap)
    rule = replicated if pmap else mesh_axes
    state, frozen, coef = place(state, over, rule), place(frozen, over, rule), place(coef, over)
    for batch in batches(padding):
        state, metrics = step(state, shard_rows(batch, over), coef, frozen)
    return state, {name: float(x) for name, x in values(metrics).items()}


@pytest.fixture(scope="module")
def alone():
    state, metrics = trained()
    policy, average = (np.asarray(jax.tree.leaves(x)[0]) for x in (state.policy, state.ema))
    assert np.abs(policy - average).max() > 1e-4  # something was learned
    return parameters(state), metrics


CASES = {
    "pmap × 8": {"mesh": (8, 1, 1), "pmap": True},
    "data × 8": {"mesh": (8, 1, 1)},
    "fsdp × 8": {"mesh": (1, 8, 1)},
    "tensor × 4": {"mesh": (1, 1, 4)},
    "data × 2, fsdp × 2, tensor × 2": {"mesh": (2, 2, 2)},
    "4 micro-batches": {"micro_batches": 4},
    "pmap × 2, 4 micro-batches": {"mesh": (2, 1, 1), "pmap": True, "micro_batches": 4},
    "fsdp × 2, 2 micro-batches": {"mesh": (1, 2, 1), "micro_batches": 2},
    "padding 25 % longer": {"padding": 0.25},
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_parameters_after_five_iterations(alone, name):
    state, metrics = trained(**CASES[name])
    compare(name, alone, parameters(state), metrics)


def parameters(state) -> list[np.ndarray]:
    """Policy, moving average and value, leaf by leaf; those of other processes too."""
    leaves = jax.tree.leaves((state.policy, state.ema, state.value))
    return [np.asarray(x if x.is_fully_addressable else process_allgather(x, tiled=True)) for x in leaves]


def compare(name, alone, leaves, metrics):
    one, of_one = alone
    apart = max(float(np.abs(a - b).max()) for a, b in zip(leaves, one, strict=True))
    print(f"{name}: largest difference of a parameter {apart:.1e}")
    assert apart <= 1e-5
    assert metrics == pytest.approx(of_one, rel=1e-3, abs=1e-5)


def test_two_processes_of_four_devices(alone, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    root = Path(__file__).parents[2]
    flags = f"--xla_force_host_platform_device_count=4 {QUICK}"
    environment = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": str(root)}
    command = [sys.executable, __file__, address, str(tmp_path / "end.npz")]
    processes = [
        subprocess.Popen(
            [*command, str(i)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for i in (0, 1)
    ]
    try:
        said = [process.communicate(timeout=400)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said
    end = dict(np.load(tmp_path / "end.npz"))
    metrics = {name.removeprefix("metric "): float(x) for name, x in end.items() if name.startswith("metric ")}
    leaves = [end[str(i)] for i in range(len(end) - len(metrics))]
    compare("2 processes × 4 devices (data × 4, fsdp × 2)", alone, leaves, metrics)


def main(address: str, path: str, process: str) -> None:
    """One of two processes; the first writes the end."""
    join_processes(address, 2, int(process))
    state, metrics = trained(mesh=(4, 2, 1))
    leaves = parameters(state)
    if first_process():
        arrays: dict[str, Any] = {str(i): leaf for i, leaf in enumerate(leaves)}
        arrays.update({f"metric {name}": x for name, x in metrics.items()})
        np.savez(path, **arrays)


if __name__ == "__main__":
    main(*sys.argv[1:])
