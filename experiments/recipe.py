"""The values of a run of the recipe, and what its stages share: their material, their tokenizer, their folders.

Every value stands in the config file; configs/tiny.toml explains each.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Literal, TypeVar

import jax
import numpy as np

from experiments.material import Files, Material, Part, World, material_from_files, material_from_world
from rlhf_jax.config import load_config
from rlhf_jax.data import (
    Demonstration,
    Prompt,
    Ranking,
    Tokenizer,
    load_tokenizer,
    prompt_fits,
    train_tokenizer,
)
from rlhf_jax.errors import InputError
from rlhf_jax.runtime import Stage, join_processes, require_writable, say
from rlhf_jax.steps import Estimator


@dataclass(frozen=True)
class TokenizerConfig:
    path: str
    vocab_size: int | None  # of one that is trained on the run's text


@dataclass(frozen=True)
class Model:
    """Of the decoder either all of these or none, where it is imported."""

    width: int | None
    layers: int | None
    heads: int | None
    kv_heads: int | None
    hidden: int | None
    norm: Literal["layernorm", "rmsnorm"] | None
    position: Literal["learned", "rope"] | None
    mlp: Literal["gelu", "swiglu"] | None
    bias: bool | None
    tied: bool | None
    prompt_tokens: int
    answer_tokens: int
    too_long: Literal["error", "drop"]

    @property
    def context(self) -> int:
        return self.prompt_tokens + self.answer_tokens

    @property
    def decoder(self) -> dict:
        return {k: v for k, v in asdict(self).items() if k not in ("prompt_tokens", "answer_tokens", "too_long")}


@dataclass(frozen=True)
class Imported:
    folder: str


@dataclass(frozen=True)
class Lora:
    rank: int
    alpha: float
    matrices: str


@dataclass(frozen=True)
class Memory:
    compute: Literal["float32", "bfloat16", "float16"]
    cache: Literal["float32", "bfloat16", "float16"]
    remat: bool
    scan: bool
    logit_rows: int


@dataclass(frozen=True)
class Optimiser:
    eps: float
    clip_norm: float


@dataclass(frozen=True)
class Pretrain:
    objective: Literal["next_token", "masked"]
    steps: int
    batch: int
    lr: float
    floor: float
    warmup: int


@dataclass(frozen=True)
class Stream:
    """[stream]: pretraining rows from files of any size, in the place of the material's own text."""

    sources: str  # as rlhf_jax.data.weighted_sources takes them
    field: str
    index: str  # a folder, which runs may share


@dataclass(frozen=True)
class SFT:
    epochs: int
    batch: int
    lr: float
    floor: float
    dropout: float
    pretrain_share: float


@dataclass(frozen=True)
class Reward:
    prompts: int
    fewest: int
    most: int
    epochs: int
    batch: int
    lr: float
    floor: float


@dataclass(frozen=True)
class PPO:
    iterations: int
    batch: int
    minibatches: int
    epochs: int
    temperature: float
    top_k: int
    top_p: float
    beta: float
    kl_reward: Estimator
    beta_loss: float
    kl_loss: Estimator
    beta_end: float
    beta_steps: int
    kl_target: float
    kl_horizon: float
    gamma: float
    pretrain_examples: int
    pretrain_mean: Literal["token", "example"]
    policy_mean: Literal["token", "answer", "constant"]
    clip_low: float
    clip_high: float
    dual_clip: float
    entropy: float
    stop_kl: float
    value_clip: float
    value_coef: float
    value_warmup: int
    discount: float
    lam: float
    whiten: Literal["biased", "unbiased", "off"]
    whiten_rewards: bool
    lr: float
    value_lr: float
    warmup: int
    ema: float
    missing_eos_penalty: float
    score_norm: Literal["running", "fixed", "off"]
    score_clip: float
    reward_models: int
    ensemble: Literal["mean", "minimum"]
    uncertainty: float


Advantage = Literal["reinforce", "rloo", "grpo", "grpo_batch", "dr_grpo", "best"]


@dataclass(frozen=True)
class Group:
    answers: int
    advantage: Advantage


@dataclass(frozen=True)
class Preference:
    objective: Literal["dpo", "ipo", "slic", "simpo", "orpo", "kto"]
    beta: float
    smoothing: float
    margin: float
    sft: float
    desirable: float
    undesirable: float
    epochs: int
    batch: int
    lr: float
    floor: float


@dataclass(frozen=True)
class Sweep:
    table: str
    seeds: int
    together: int
    devices: int


@dataclass(frozen=True)
class Evaluate:
    prompts: int
    batch: int
    temperature: float
    top_k: int
    top_p: float
    shown: int
    best_of: int


@dataclass(frozen=True)
class MeshConfig:
    data: int
    fsdp: int
    tensor: int
    pmap: bool
    micro_batches: int
    policy: Literal["cut", "whole"]
    value: Literal["cut", "whole"]
    reward: Literal["cut", "whole"]
    reference: Literal["cut", "whole"]


@dataclass(frozen=True)
class Runtime:
    wandb: bool
    save_every: int
    keep: int
    best: str
    look_every: int


@dataclass(frozen=True)
class Config:
    seed: int
    out: str
    world: World | None
    files: Files | None
    tokenizer: TokenizerConfig
    model: Model
    imported: Imported | None
    lora: Lora | None
    memory: Memory | None
    optimiser: Optimiser
    pretrain: Pretrain
    stream: Stream | None
    sft: SFT
    rl_init: SFT
    reward: Reward
    ppo: PPO
    group: Group | None
    preference: Preference | None
    sweep: Sweep | None
    evaluate: Evaluate
    mesh: MeshConfig
    runtime: Runtime
    coordinator: str | None  # host:port of the first of several processes, or "auto" where the cluster says it
    processes: int | None
    process: int | None  # this one, from 0

    def sections(self, *names: str) -> dict:
        """What the result of a stage depends on: the common sections and its own."""
        every = asdict(self)
        usual = ("seed", "world", "files", "tokenizer", "model", "imported", "lora", "memory", "optimiser")
        return {k: every[k] for k in (*usual, *names)}


def configured(argv: Sequence[str] | None = None) -> Config:
    """The config of the command line, in a process that has joined the others where there are several."""
    config = load_config(Config, argv)
    if config.coordinator is not None:
        join_processes(config.coordinator, config.processes, config.process)
    return config


@cache
def material(config: Config) -> Material:
    return material_from_world(config.world, config.seed) if config.world else material_from_files(config)


@cache
def tokenizer(config: Config) -> Tokenizer:
    """The tokenizer named in the config, or one trained on the run's own text."""
    if config.tokenizer.path:
        return load_tokenizer(Path(config.tokenizer.path))
    if config.imported:
        return load_tokenizer(Path(config.imported.folder))
    path = Path(config.out) / "tokenizer.model"
    if not path.exists():
        require_writable(Path(config.out))
        if config.tokenizer.vocab_size is None:
            raise InputError("tokenizer.vocab_size is missing; add it, see configs/tiny.toml, or set tokenizer.path")
        train_tokenizer(material(config).tokenizer_text(), config.tokenizer.vocab_size, path)
    return load_tokenizer(path)


Text = TypeVar("Text", Prompt, Demonstration, Ranking)


@cache
def prompts_that_fit(config: Config, part: Part) -> list[int]:
    """Which prompts of a part fit into model.prompt_tokens."""
    given = material(config).prompts[part]
    kept = kept_by_length(config, given, lambda p, t: prompt_fits(p, t, config.model.prompt_tokens), f"{part} prompts")
    fits = set(kept)
    return [i for i, p in enumerate(given) if p in fits]


def kept_by_length(
    config: Config, given: Sequence[Text], fit: Callable[[Text, Tokenizer], bool], what: str
) -> list[Text]:
    """Those that fit; the others are an InputError, or left out, which is said (model.too_long)."""
    t = tokenizer(config)
    kept = [row for row in given if fit(row, t)]
    if len(kept) == len(given):
        return kept
    sentence = f"{len(given) - len(kept)} of {len(given)} {what} are longer than the context"
    if config.model.too_long == "error":
        first = repr(next(row for row in given if not fit(row, t))[0][:60])
        raise InputError(
            f"{sentence}, the first being {first}; raise model.prompt_tokens or model.answer_tokens, "
            'or set model.too_long = "drop"'
        )
    say(f"{sentence} and left out")
    return kept


# Which program runs a stage, where it is not called as the stage is.
PROGRAMS = {"rl_init": "sft", "ppo": "ppo_ptx", "group": "grpo", "preference": "dpo"}


def stage(
    config: Config,
    name: str,
    steps: int,
    sections: dict,
    parents: dict[str, str],
    keep_all: bool = False,
    best: str = "",
) -> Stage:
    c = config.runtime
    if c.keep < 1:
        raise InputError(f"runtime.keep is {c.keep}; keep at least 1 checkpoint, a run continues from the newest")
    kind = name.rstrip("_0123456789")  # reward_model_2 is of an ensemble
    program = f"experiments/{PROGRAMS.get(kind, kind)}.py"
    keep = None if keep_all else c.keep
    folder, sha256 = Path(config.out) / name, tokenizer(config).sha256
    return Stage(folder, steps, sections, sha256, parents, program=program, keep=keep, best=best, wandb=c.wandb)


def role_seed(config: Config, role: str) -> int:
    """A seed of its own for every use of chance outside JAX."""
    return config.seed * 1_000_003 + zlib.crc32(role.encode()) % 1_000_003


def role_key(config: Config, role: str) -> jax.Array:
    """A root key of its own for every use of chance inside JAX."""
    return jax.random.fold_in(jax.random.key(config.seed), np.uint32(zlib.crc32(role.encode())))
