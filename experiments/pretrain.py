"""Pretraining: next-token prediction on packed rows, or masked language modelling (pretrain.objective = "masked").

python experiments/pretrain.py configs/tiny.toml
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from experiments.decoder import digest, imported_params, language_model
from experiments.devices import mesh_of, rule, to_load
from experiments.material import Part
from experiments.recipe import Config, configured, material, role_key, role_seed, stage, tokenizer
from rlhf_jax.data import (
    Records,
    TextStream,
    as_text_batch,
    batch_indices,
    mask_tokens,
    pack,
    take,
    weighted_sources,
)
from rlhf_jax.equations import values
from rlhf_jax.errors import InputError
from rlhf_jax.runtime import Stage, Watch, gather_rows, join_rows, mapped, place, rows_here, run, shard_rows
from rlhf_jax.steps import adam, text_coef, text_step
from rlhf_jax.types import MaskedTextBatch, TextBatch, TrainState


def packed(config: Config, part: Part) -> TextBatch:
    """The pretraining text of a part as rows of a whole context."""
    return as_text_batch(pack(material(config).documents[part], tokenizer(config), config.model.context)[0])


def streamed(config: Config, mesh: Mesh) -> TextStream | None:
    """The rows of [stream], where there is one."""
    if config.stream is None:
        return None
    names, weights = weighted_sources(config.stream.sources)
    sources = [Records(name, config.stream.field, Path(config.stream.index)) for name in names]
    c, seed = config.pretrain, role_seed(config, "pretrain")
    lanes = rows_here(c.batch, mesh)
    return TextStream(sources, weights, tokenizer(config), config.model.context, c.batch, seed, lanes)


def batches(config: Config, stream: TextStream | None, mesh: Mesh) -> Callable[[int], TextBatch | MaskedTextBatch]:
    """Step → its batch: the stream's next, of which a process reads its own rows, or rows of the material by the step's
    number."""
    if stream:
        return lambda i: join_rows(hidden(config, next(stream), i), mesh)
    rows, seed = packed(config, "train"), role_seed(config, "pretrain")

    def batch(i: int) -> TextBatch | MaskedTextBatch:
        chosen = take(rows, batch_indices(len(rows.tokens), config.pretrain.batch, seed, i))
        return shard_rows(hidden(config, chosen, i), mesh)

    return batch


def random_params(config: Config) -> PyTree:
    row = jnp.zeros((1, config.model.context), jnp.int32)
    return language_model(config).init(role_key(config, "pretrain"), row, jnp.ones(row.shape, bool))["params"]


def first_params(config: Config, mesh: Mesh) -> PyTree:
    if config.imported:
        return imported_params(config, mesh)
    return place(random_params(config), mesh, rule(config, "policy"))


def first_state(config: Config, params: PyTree) -> TrainState:
    optimiser, key = adam(config.optimiser.eps, config.optimiser.clip_norm), role_key(config, "pretrain")
    return TrainState(step=jnp.int32(0), params=params, opt_state=optimiser.init(params), key=key)


def pretrain_stage(config: Config) -> Stage:
    parents = {"imported": digest(config.imported.folder)} if config.imported else {}
    return stage(config, "pretrain", config.pretrain.steps, config.sections("pretrain", "stream"), parents)


def base_sha256(config: Config) -> str:
    """Of the base model, for its children's records."""
    return digest(config.imported.folder) if config.imported and as_imported(config) else pretrain_stage(config).sha256


def as_imported(config: Config) -> bool:
    """Whether the base model is the folder's as it is, without more pretraining."""
    return config.imported is not None and not config.pretrain.steps


def pretrained(config: Config, mesh: Mesh | None = None) -> dict:
    """The base model's parameters: an imported one's as they are where pretrain.steps is 0."""
    if as_imported(config):
        return imported_params(config, mesh)
    shapes = jax.eval_shape(lambda: first_state(config, random_params(config)))
    return pretrain_stage(config).load(to_load(config, shapes, "policy", mesh))[0].params


def pretrain(config: Config) -> None:
    c, this = config.pretrain, pretrain_stage(config)
    if as_imported(config) or this.finished:
        return
    mesh = mesh_of(config)
    stream = streamed(config, mesh)
    batch_of = batches(config, stream, mesh)
    optimiser = adam(config.optimiser.eps, config.optimiser.clip_norm)
    step = partial(text_step, model=language_model(config, training=True), optimiser=optimiser)
    step = mapped(step, mesh, config.mesh.pmap)
    coef = place(text_coef(c.lr, c.steps, c.floor, c.warmup), mesh)
    state = this.resume(place(first_state(config, first_params(config, mesh)), mesh, rule(config, "policy")))
    if stream and this.resumed:
        stream.seek(this.resumed["stream"])
    for i in this.steps(int(state.step), Watch(kl=np.inf, entropy=-np.inf, factor=4.0, window=50)):
        state, metrics = step(state, batch_of(i), coef)
        this.log(i, values(metrics))
        this.save(i, state, config.runtime.save_every, partial(position, stream, mesh))


def position(stream: TextStream | None, mesh: Mesh) -> dict:
    """What the record of a checkpoint says about the stream."""
    return {"stream": stream.position(gather_rows(stream.taken, mesh))} if stream else {}


def hidden(config: Config, batch: TextBatch, step: int) -> TextBatch | MaskedTextBatch:
    """The batch of a step as pretrain.objective has it."""
    if config.pretrain.objective == "next_token":
        return batch
    if len(batch.tokens) < config.pretrain.batch:
        raise InputError('pretrain.objective = "masked" hides tokens of whole batches; run its [stream] in one process')
    t, rng = tokenizer(config), np.random.default_rng([role_seed(config, "pretrain"), step])
    return mask_tokens(batch.tokens, t.mask, t.size, rng, keep=(t.pad, t.bos, t.eos))


if __name__ == "__main__":
    run(lambda: pretrain(configured()))
