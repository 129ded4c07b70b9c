"""PPO-ptx on many devices, in micro-batches or behind more padding is PPO-ptx on one: same answers, same parameters."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.ppo_ptx import Frozen, Plan, iteration
from rlhf_jax.models import LanguageModel, Sampling, ScalarModel, TransformerConfig, mesh_axes
from rlhf_jax.runtime import everywhere, make_mesh, mapped, place, shard_rows
from rlhf_jax.steps import Models, Optimisers, adam, initial_state
from rlhf_jax.types import PPOBatch, PromptBatch, TextBatch

ITERATIONS, B, P, T = 5, 32, 8, 6
CONFIG = TransformerConfig(
    vocab_size=48,
    context=32,
    width=32,
    layers=2,
    heads=4,
    kv_heads=4,
    hidden=64,
    norm="rmsnorm",
    position="rope",
    mlp="swiglu",
    bias=True,
    tied=False,
    dropout=0.0,
)
PLAN = Plan(max_tokens=T, sampling=Sampling(0.7, 0, 0.95), epochs=2, minibatches=2, eos=1, pad=0)


def batches(padding: int) -> list[PPOBatch]:
    """Prompts of 1 to P tokens, and two pretraining rows for each, with more padding in front and behind."""
    rng, found = np.random.default_rng(0), []
    for _ in range(ITERATIONS):
        mask = np.arange(P) >= P - rng.integers(1, P + 1, B)[:, None]
        tokens = np.where(mask, rng.integers(2, 48, (B, P)), 0).astype(np.int32)
        text = rng.integers(2, 48, (B, 2, 12)).astype(np.int32)
        predict = np.broadcast_to(np.arange(12) > 0, text.shape)
        tokens, mask = (np.pad(x, ((0, 0), (padding, 0))) for x in (tokens, mask))
        text, predict = (np.pad(x, ((0, 0), (0, 0), (0, padding))) for x in (text, predict))
        found.append(PPOBatch(PromptBatch(tokens, mask), TextBatch(text, predict)))
    return found


def trained(tiny, *, mesh=(1, 1, 1), pmap=False, micro_batches=1, padding=0, rule=mesh_axes):
    """The state and the metrics after five iterations."""
    config = replace(CONFIG, micro_batches=micro_batches, axis_name="data" if pmap else None)
    models, optimisers = (
        Models(LanguageModel(config), ScalarModel(config)),
        Optimisers(adam(1e-8, 1.0), adam(1e-8, 1.0)),
    )
    row = jnp.ones((1, 2), jnp.int32)
    each = [m.init(jax.random.key(i), row, row > 0)["params"] for i, m in enumerate((*models, *models))]
    state = initial_state(each[0], each[1], optimisers, jax.random.key(7))
    frozen = Frozen(sft=each[2], reward=(each[3],))
    over, form = make_mesh(*mesh), tiny.form._replace(kl_loss="exact", score_norm="running", whiten_rewards=True)
    step = mapped(partial(iteration, models=models, optimisers=optimisers, plan=PLAN, form=form), over, pmap)
    rule = everywhere if pmap else rule
    state, frozen, coef = place(state, over, rule), place(frozen, over, rule), place(tiny.coef, over)
    for batch in batches(padding):
        state, metrics = step(state, shard_rows(batch, over), coef, frozen)
    return state, {name: float(m.value) for name, m in metrics.items()}


@pytest.fixture(scope="module")
def alone(tiny):
    return trained(tiny)


CASES = {
    "pmap × 8": {"mesh": (8, 1, 1), "pmap": True},
    "data × 8": {"mesh": (8, 1, 1)},
    "fsdp × 8": {"mesh": (1, 8, 1)},
    "tensor × 4": {"mesh": (1, 1, 4)},
    "data × 2, fsdp × 2, tensor × 2": {"mesh": (2, 2, 2)},
    "4 micro-batches": {"micro_batches": 4},
    "pmap × 2, 4 micro-batches": {"mesh": (2, 1, 1), "pmap": True, "micro_batches": 4},
    "fsdp × 2, 2 micro-batches": {"mesh": (1, 2, 1), "micro_batches": 2},
    "padding 25 % longer": {"padding": 4},
}


USUAL = ("pmap × 8", "data × 2, fsdp × 2, tensor × 2", "4 micro-batches", "padding 25 % longer")


@pytest.mark.slow
@pytest.mark.parametrize("name", [n if n in USUAL else pytest.param(n, marks=pytest.mark.long) for n in CASES])
def test_the_same_parameters_after_five_iterations(tiny, alone, name):
    state, metrics = trained(tiny, **CASES[name])
    (one, of_one), leaves = alone, ("policy", "value", "ema")
    apart = max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max())
        for leaf in leaves
        for a, b in zip(jax.tree.leaves(getattr(state, leaf)), jax.tree.leaves(getattr(one, leaf)), strict=True)
    )
    moved = max(
        float(np.abs(np.asarray(a) - np.asarray(b)).max())
        for a, b in zip(jax.tree.leaves(one.policy), jax.tree.leaves(one.ema), strict=True)
    )
    print(f"{name}: largest difference of a parameter {apart:.1e}; training moved one by {moved:.1e} from its average")
    assert moved > 1e-3 and apart <= 1e-5
    assert metrics == pytest.approx(of_one, rel=1e-3, abs=1e-5)
