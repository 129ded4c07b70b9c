"""What all stages of a run have in common: its seed, its optimiser's constants, its devices, and when it saves."""

import zlib
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from rlhf_jax.config import Checked, Count, Natural, NotNegative, Positive, PositiveOrInf, Seed, ShareBelowOne
from rlhf_jax.models import mesh_axes
from rlhf_jax.runtime import Rule, make_mesh, replicated
from rlhf_jax.steps import Optimisers, adam


@dataclass(frozen=True)
class Optimiser(Checked):
    """Adam's constants (InstructGPT, App. C: β₁ = 0.9 and β₂ = 0.95 for all models)."""

    b1: ShareBelowOne = 0.9  # decay of the mean of gradients (App. C)
    b2: ShareBelowOne = 0.95  # decay of the mean of their squares (App. C)
    eps: Positive = 1e-8  # not printed; Adam's own (Kingma and Ba 2014)
    clip_norm: PositiveOrInf = 1.0  # of the whole gradient; inf is off; not printed, GPT-3's (Brown et al. 2020)
    weight_decay: NotNegative = 0.0  # AdamW's, of all but norms and biases; not printed
    frozen: str = ""  # a regular expression of paths of parameters that stay as they are (not the value network's)

    def make(self) -> optax.GradientTransformation:
        """The optimiser, without a learning rate."""
        return adam(self.eps, self.clip_norm, self.b1, self.b2, self.weight_decay, self.frozen)


@dataclass(frozen=True)
class Devices(Checked):
    """Over how many devices a run is spread. Batches are global, whatever is set here, and the numbers do not change."""

    data: Count = 1  # rows of a batch spread over so many devices, which must divide it
    fsdp: Count = 1  # so too, and parameters, moments and averages cut into as many pieces
    tensor: Count = 1  # matrices and vocabulary cut into as many pieces
    pmap: bool = False  # over data through jax.pmap
    micro_batches: Count = 1  # parts of a training batch whose activations are in memory one after the other
    policy: Literal["sharded", "replicated"] = "sharded"  # over fsdp and tensor, or replicated on each device
    value: Literal["sharded", "replicated"] = "sharded"  # so too the value network
    reward: Literal["sharded", "replicated"] = "sharded"  # so too the reward models
    reference: Literal["sharded", "replicated"] = "sharded"  # so too the model that the KL is taken from

    def mesh(self) -> Mesh:
        """InputError: there are not so many devices."""
        return make_mesh(self.data, self.fsdp, self.tensor)

    def rule(self, role: str = "") -> Rule:
        """How a tree lies: as is said of its role, or where none is given of the one that the first name in a leaf's path
        tells."""
        policy, value, reward, reference = (
            replicated if how == "replicated" or self.pmap else mesh_axes
            for how in (self.policy, self.value, self.reward, self.reference)
        )
        of_role = {
            **dict.fromkeys(("policy", "policy_opt", "ema", "base"), policy),
            **dict.fromkeys(("value", "value_opt"), value),
            "reward": reward,
            **dict.fromkeys(("reference", "sft"), reference),
        }

        def axes(path: tuple[Any, ...], ndim: int) -> tuple[str | None, ...]:
            return of_role.get(role or getattr(path[0], "name", ""), replicated)(path, ndim)

        return axes


@dataclass(frozen=True)
class Runtime(Checked):
    """When a run saves, evaluates and where it logs."""

    save_every: Count = 50  # steps or iterations between checkpoints
    keep: Count = 2  # how many of a stage's newest checkpoints stay (of supervised stages every epoch's does)
    best: str = ""  # RL's look with the largest of this figure in metrics.jsonl is saved, and stays; "" is none
    evaluate_every: Count = 10  # RL iterations between looks, at held-out prompts, pretraining text and a few answers
    record_every: Natural = 0  # RL iterations between records of all answers in rollouts/; 0 is none, 1 can be replayed
    batch: Count = 128  # rows at a time where nothing is trained; it deals out the draws of sampled answers
    reward_seconds: PositiveOrInf = 600.0  # that reward functions may take for an iteration's answers; inf is no limit
    wandb: bool = False  # log to Weights & Biases too; needs the extra


@dataclass(frozen=True)
class Run(Checked):
    """What a program hands to each of its stages."""

    seed: Seed = 0
    optimiser: Optimiser = Optimiser()
    mesh: Devices = Devices()
    runtime: Runtime = Runtime()

    def optimisers(self) -> Optimisers:
        """Of RL: the policy's and the value network's, of which all parameters learn."""
        return Optimisers(self.optimiser.make(), replace(self.optimiser, frozen="").make())

    def numpy_seed(self, role: str) -> int:
        """A seed of its own for every use of chance outside JAX."""
        return self.seed * 1_000_003 + zlib.crc32(role.encode()) % 1_000_003

    def key(self, role: str) -> jax.Array:
        """A root key of its own for every use of chance inside JAX."""
        return jax.random.fold_in(jax.random.key(self.seed), np.uint32(zlib.crc32(role.encode())))


RUN = Run()
