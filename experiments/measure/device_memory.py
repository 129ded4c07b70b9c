"""How much memory PPO-ptx takes on each device of a mesh, as the compiler says it: nothing is run, no such device is needed.

    python experiments/measure/device_memory.py --size 1.3B --topology v5p:2x2x2 --fsdp 8

The whole iteration is compiled for the topology (of TPUs, from the extra [tpu]; "cpu" for as many fake devices), with the
code that models have for that platform, which they ask the mesh for: sampling, rewards, advantages, and the updates of
policy and value, beside the reference, the reward model, Adam's moments and the moving average. Sizes are GPT-3's (Brown et
al. 2020, arXiv:2005.14165, Table 2.1), which InstructGPT has; beside 175B, value and reward model are of 6B (App. C.2).
"""

import os
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import tyro
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding
from jaxtyping import PyTree

from rlhf_jax.errors import InputError
from rlhf_jax.models import LanguageModel, Sampling, ScalarModel, TransformerConfig, mesh_axes
from rlhf_jax.runtime import ROWS, cores_as_devices, jitted, make_mesh, run, shapes_on
from rlhf_jax.steps import Form, Frozen, Models, Optimisers, Plan, PPOCoef, adam, initial_state, iteration
from rlhf_jax.types import PPOBatch, PromptBatch, TextBatch

SIZES = {"1.3B": (24, 2048, 16), "6B": (32, 4096, 32), "175B": (96, 12288, 96)}  # layers, width, heads


@dataclass(frozen=True)
class Case:
    """What is compiled."""

    size: str = "1.3B"
    topology: str = "v5p:2x2x2"
    data: int = 1
    fsdp: int = 8
    tensor: int = 1
    batch: int = 512  # episodes an iteration (InstructGPT, App. C.4)
    minibatches: int = 8
    micro_batches: int = 1
    pretrain_examples: int = 8
    prompt_tokens: int = 1024
    answer_tokens: int = 1024


def decoder(size: str, c: Case) -> TransformerConfig:
    """Half-precision products; blocks computed again for the gradient; logits of 8,192 tokens at a time."""
    if size not in SIZES:
        raise InputError(f"--size is {size!r}; name one of {', '.join(SIZES)}")
    layers, width, heads = SIZES[size]
    return TransformerConfig(
        vocab_size=50_304,  # 50,257 and padding to a multiple of 128
        context=c.prompt_tokens + c.answer_tokens,
        width=width,
        layers=layers,
        heads=heads,
        kv_heads=heads,
        hidden=4 * width,
        norm="layernorm",
        position="learned",
        mlp="gelu",
        bias=True,
        tied=True,
        dropout=0.0,
        compute="bfloat16",
        cache="bfloat16",
        remat=True,
        scan=True,
        logit_rows=8192,
        micro_batches=c.micro_batches,
    )


def mesh_of(c: Case) -> Mesh:
    if c.topology == "cpu":
        cores_as_devices(c.data * c.fsdp * c.tensor)
        return make_mesh(c.data, c.fsdp, c.tensor)
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is none here to be asked
    try:
        devices = topologies.get_topology_desc(platform="tpu", topology_name=c.topology).devices
    except Exception as error:
        raise InputError(
            f"--topology {c.topology}: {str(error).splitlines()[0]}; install the extra [tpu], or say cpu"
        ) from error
    return make_mesh(c.data, c.fsdp, c.tensor, devices)


def parameters(model: LanguageModel | ScalarModel) -> PyTree:
    row = jnp.ones((1, 2), jnp.int32)
    return model.init(jax.random.key(0), row, row > 0)["params"]


def compiled(c: Case) -> jax.stages.Compiled:
    policy, value = LanguageModel(decoder(c.size, c)), ScalarModel(decoder("6B" if c.size == "175B" else c.size, c))
    models, optimisers = Models(policy, value), Optimisers(adam(1e-8, 1.0), adam(1e-8, 1.0))
    plan = Plan(c.answer_tokens, Sampling(1.0, 0, 1.0), epochs=1, minibatches=c.minibatches, eos=1, pad=0)
    form = Form("k1", "k1", "token", "token", "biased", False, "off", "mean")

    def models_and_state():
        state = initial_state(parameters(policy), parameters(value), optimisers, jax.random.key(0))
        coef = PPOCoef(*(jnp.float32(0) for _ in PPOCoef._fields))
        return state, coef, Frozen(parameters(policy), (parameters(value),))

    def rows():
        prompts = jnp.zeros((c.batch, c.prompt_tokens), jnp.int32)
        text = jnp.zeros((c.batch, c.pretrain_examples, c.prompt_tokens + c.answer_tokens), jnp.int32)
        return PPOBatch(PromptBatch(prompts, prompts == 0), TextBatch(text, text == 0))

    mesh, given, batch = mesh_of(c), jax.eval_shape(models_and_state), jax.eval_shape(rows)
    state, coef, frozen = shapes_on(mesh, given, mesh_axes)
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, ROWS)), batch)
    step = partial(iteration, models=models, optimisers=optimisers, plan=plan, form=form)
    with jax.set_mesh(mesh):
        return jitted(step, state).lower(state, batch, coef, frozen).compile()


def main() -> None:
    c = tyro.cli(Case)
    m: Any = compiled(c).memory_analysis()
    # What is returned in the place of what was given takes no room.
    new = m.output_size_in_bytes - m.alias_size_in_bytes
    whole = m.argument_size_in_bytes + new + m.temp_size_in_bytes
    print(
        f"{c.size} on {c.topology}, data {c.data} × fsdp {c.fsdp} × tensor {c.tensor}, {c.batch} episodes in {c.minibatches} "
        f"minibatches of {c.micro_batches} micro-batches: {whole / 1e9:.1f} GB a device, of which models, moments and batch "
        f"{m.argument_size_in_bytes / 1e9:.1f} and what is at work {m.temp_size_in_bytes / 1e9:.1f}"
    )


if __name__ == "__main__":
    run(main)
