"""Supervised fine-tuning on demonstrations, loss on the answers only: the SFT baseline, and the model RL starts from.

    python experiments/sft.py configs/tiny.toml

Both start from the pretrained model (InstructGPT, App. C.1 and C.3) and differ in their sections [sft] and [rl_init].
"""

import json
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from experiments.decoder import language_model
from experiments.devices import mesh_of, rule, to_load
from experiments.lora import corrections, frozen_base, lora_scale, on_base, whole
from experiments.material import Part
from experiments.pretrain import base_sha256, packed, pretrained, random_params
from experiments.recipe import SFT, Config, configured, kept_by_length, material, role_key, role_seed, stage, tokenizer
from rlhf_jax.data import batch_indices, encode_demonstrations, fits, take
from rlhf_jax.equations import values
from rlhf_jax.evals.likelihood import per_row
from rlhf_jax.runtime import Stage, Watch, mapped, place, run, shard_rows
from rlhf_jax.steps import TextCoef, adam, text_coef, text_step
from rlhf_jax.types import TextBatch, TrainState

Name = Literal["sft", "rl_init"]


def section(config: Config, name: Name) -> SFT:
    return config.sft if name == "sft" else config.rl_init


def encoded(config: Config, part: Part) -> TextBatch:
    length = config.model.context
    given = material(config).demonstrations[part]
    kept = kept_by_length(config, given, lambda d, t: fits(d, t, length), f"{part} demonstrations")
    return encode_demonstrations(kept, tokenizer(config), length)


def steps_per_epoch(config: Config, name: Name, rows: int) -> int:
    answers = section(config, name).batch - pretrain_rows(config, name)
    return max(rows // answers, 1)


def pretrain_rows(config: Config, name: Name) -> int:
    """How many rows of a batch are pretraining text: 10 % of 32 are 3."""
    c = section(config, name)
    return round(c.batch * c.pretrain_share)


def sft_stage(config: Config, name: Name) -> Stage:
    t, length = tokenizer(config), config.model.context
    rows = sum(fits(d, t, length) for d in material(config).demonstrations["train"])
    steps = section(config, name).epochs * steps_per_epoch(config, name, rows)
    parents = {"pretrain": base_sha256(config)}
    return stage(config, name, steps, config.sections("pretrain", name), parents, keep_all=True)


def first_state(config: Config, name: Name, base: dict) -> TrainState:
    params = corrections(config, base, role_key(config, f"{name} corrections"))
    optimiser = adam(config.optimiser.eps, config.optimiser.clip_norm)
    return TrainState(step=jnp.int32(0), params=params, opt_state=optimiser.init(params), key=role_key(config, name))


def fine_tuned(config: Config, name: Name, step: int | None = None) -> dict:
    """The whole parameters of a fine-tuned model, at its end or at one of its epochs."""
    return whole(config, trained(config, name, step), frozen_base(config))


def trained(config: Config, name: Name, step: int | None = None, mesh: Mesh | None = None) -> dict:
    """What was trained of it."""
    shapes = jax.eval_shape(lambda: untrained(config, name))
    return sft_stage(config, name).load(to_load(config, shapes, "policy", mesh), step)[0].params


def untrained(config: Config, name: Name) -> TrainState:
    """Of its shapes."""
    return first_state(config, name, random_params(config))


def sft(config: Config, name: Name) -> None:
    c, this = section(config, name), sft_stage(config, name)
    if this.finished:
        return
    mesh, rows, valid = mesh_of(config), encoded(config, "train"), encoded(config, "valid")
    text, mixed = packed(config, "train"), pretrain_rows(config, name)
    model = language_model(config, c.dropout, training=True)
    optimiser = adam(config.optimiser.eps, config.optimiser.clip_norm)

    def step(state: TrainState, batch: TextBatch, coef: TextCoef, base: dict):
        return text_step(state, batch, coef, model=on_base(model, base, lora_scale(config)), optimiser=optimiser)

    coef, step = place(text_coef(c.lr, this.total, c.floor), mesh), mapped(step, mesh, config.mesh.pmap)
    base = frozen_base(config, mesh)
    state = first_state(config, name, base or pretrained(config, mesh))
    state = this.resume(place(state, mesh, rule(config, "policy")))
    epoch, seed = this.total // c.epochs, role_seed(config, name)
    for i in this.steps(int(state.step), Watch(kl=np.inf, entropy=-np.inf, factor=4.0, window=50)):
        batch = take(rows, batch_indices(len(rows.tokens), c.batch - mixed, seed, i))
        if mixed:
            extra = take(text, batch_indices(len(text.tokens), mixed, seed, i))
            batch = jax.tree.map(lambda *parts: np.concatenate(parts), batch, extra)
        state, metrics = step(state, shard_rows(batch, mesh), coef, base)
        metrics = values(metrics)
        if (i + 1) % epoch == 0:
            with jax.set_mesh(mesh):
                params = whole(config, state.params, base)
                total, tokens, _ = per_row(language_model(config), params, valid, batch=c.batch)
            metrics["loss/valid"] = -total.sum() / tokens.sum()
        this.log(i, metrics)
        this.save(i, state, epoch, lambda metrics=metrics: {"valid": float(metrics.get("loss/valid", np.inf))})


def best_epoch(config: Config) -> int:
    """The step of the SFT baseline: of the best reward on validation prompts once that is known, else of the best loss."""
    chosen = Path(config.out) / "sft" / "chosen.json"
    if chosen.exists():
        return json.loads(chosen.read_text())["step"]
    return best_epoch_by_loss(config)


def best_epoch_by_loss(config: Config) -> int:
    this = sft_stage(config, "sft")
    this.require_finished()
    checkpoints = this.checkpoints
    return min(checkpoints.steps(), key=lambda step: checkpoints.record(step)["valid"])


def main() -> None:
    config = configured()
    sft(config, "sft")
    sft(config, "rl_init")


if __name__ == "__main__":
    run(main)
