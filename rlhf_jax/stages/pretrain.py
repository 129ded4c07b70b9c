"""Pretraining: next-token prediction on packed rows of text, or masked language modelling."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Key, PyTree

from rlhf_jax.config import Checked, Count, Natural, Positive, Share
from rlhf_jax.data import (
    Records,
    TextStream,
    batch_indices,
    content_sha256,
    mask_tokens,
    take,
    weighted_sources,
)
from rlhf_jax.equations import values
from rlhf_jax.errors import InputError
from rlhf_jax.evals import Task
from rlhf_jax.models import LanguageModel, TransformerConfig
from rlhf_jax.runtime import gather_rows, join_rows, mapped, place, rows_here, shard_rows
from rlhf_jax.stages.measuring import looked
from rlhf_jax.stages.model import Model, Trained
from rlhf_jax.stages.run import RUN, Run
from rlhf_jax.stages.training import (
    open_stage,
    packed,
    parents,
    result,
    schedule_ends,
    settings_without,
    supervised_watch,
)
from rlhf_jax.steps import text_coef, text_step
from rlhf_jax.types import MaskedTextBatch, TextBatch, TrainState


@dataclass(frozen=True)
class Pretrain(Checked):
    """GPT-3's values at 1.3 B (Brown et al. 2020, Table 2.1 and App. B)."""

    objective: Literal["next_token", "masked"] = "next_token"  # or masked language modelling (Devlin et al. 2018)
    steps: Natural = 300_000  # 300 B tokens (Table 2.1)
    batch: Count = 512  # rows: about 1 M tokens (Table 2.1)
    lr: Positive = 2e-4  # at the peak (Table 2.1)
    floor: Share = 0.1  # share of lr that the schedule ends at (App. B)
    warmup: Natural = 375  # steps: 375 M tokens (App. B)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"  # of the learning rate (App. B)


@dataclass(frozen=True)
class Stream:
    """Pretraining rows from files of any size, in the place of text that is held in memory."""

    sources: str  # files and their weights, "web/*.jsonl 0.7, books/*.parquet 0.3"; weights are shares of tokens
    field: str = "text"  # of each row
    index: str = "runs/index"  # a folder, which runs may share


def pretrain(
    folder: Path | str,
    start: Model,
    text: Sequence[str] | Stream,
    settings: Pretrain = Pretrain(),
    run: Run = RUN,
    *,
    step: Callable = text_step,
    looks: Sequence[Task] = (),
) -> Trained:
    """Trains a language model on text, from random parameters (a Model) or from a trained one.

    text: documents, or a Stream of files. step: one update, as rlhf_jax.steps.text_step. looks: tasks, whose figures are
    logged every runtime.save_every steps and at the end, as task/figure. A trained model comes back as it is
    where settings.steps is 0. InputError: the folder was made from something else; text that is shorter than a row.
    """
    c, folder = settings, Path(folder)
    if isinstance(start, Trained) and not c.steps:
        return start
    if isinstance(start, Trained) and start.lora:
        raise InputError("pretraining trains all parameters; give it the model before corrections are attached")
    inputs = parents(start=start) if isinstance(start, Trained) else {}
    stream_of = {"stream": asdict(text)} if isinstance(text, Stream) else {}
    sources = records(text) if isinstance(text, Stream) else []
    content = {
        f"source {number} of the stream": content_sha256([(len(source), source.checksum)])
        for number, source in enumerate(sources, 1)
    }
    if not isinstance(text, Stream):
        content = {"text": content_sha256(text)}
    stage = open_stage(
        folder,
        c.steps,
        start,
        {"pretrain": settings_without(c, "steps"), **stream_of},
        {**inputs, **content},
        {"step": step},
        run,
        fixed_length=schedule_ends(c.schedule, folder),
    )
    if stage.done():
        return result(stage, start)
    mesh = run.mesh.mesh()
    rows = stream_rows(text, sources, start, c, run, mesh) if isinstance(text, Stream) else None
    batch_of = batches(rows, text, start, c, run, mesh)
    optimiser = run.optimiser.make()
    one = partial(step, model=LanguageModel(start.training(run.mesh)), optimiser=optimiser, schedule=c.schedule)
    program, coef = mapped(one, mesh, run.mesh.pmap), place(text_coef(c.lr, c.steps, c.floor, c.warmup), mesh)
    first, key = first_params(start, run, mesh), run.key("pretrain")
    state = TrainState(step=jnp.int32(0), params=first, opt_state=optimiser.init(first), key=key)
    state = stage.resume(place(state, mesh, run.mesh.rule("policy")))
    if rows and stage.resumed:
        rows.seek(stage.resumed["stream"])
    for i in stage.steps(int(state.step), supervised_watch()):
        state, metrics = program(state, batch_of(i), coef)
        metrics = values(metrics)
        if looks and ((i + 1) % run.runtime.save_every == 0 or i + 1 == stage.total):
            with jax.set_mesh(mesh):
                metrics |= looked(looks, start, state.params, run)
        stage.log(i, metrics)
        stage.save(i, state, run.runtime.save_every, partial(position, rows, mesh))
    return result(stage, start)


def random_params(decoder: TransformerConfig, length: int, key: Key[Array, ""]) -> PyTree:
    """Fresh parameters of a language model for rows of this length."""
    row = jnp.zeros((1, length), jnp.int32)
    return LanguageModel(decoder).init(key, row, jnp.ones(row.shape, bool))["params"]


def first_params(start: Model, run: Run, mesh: Mesh) -> PyTree:
    """Where training starts."""
    if isinstance(start, Trained):
        return start.learned(run.mesh, mesh)
    params = random_params(start.decoder, start.format.context, run.key("pretrain"))
    return place(params, mesh, run.mesh.rule("policy"))


def records(text: Stream) -> list[Records]:
    """The texts of each source; a file that has changed is passed over anew."""
    return [Records(name, text.field, Path(text.index)) for name in weighted_sources(text.sources)[0]]


def stream_rows(
    text: Stream, sources: Sequence[Records], start: Model, c: Pretrain, run: Run, mesh: Mesh
) -> TextStream:
    """The rows of a stream, of which each process reads its own."""
    _, weights = weighted_sources(text.sources)
    lanes = rows_here(c.batch, mesh)
    number, length = run.numpy_seed("pretrain"), start.format.context
    return TextStream(sources, weights, start.tokenizer, length, c.batch, number, lanes)


def batches(
    rows: TextStream | None, text: Sequence[str] | Stream, start: Model, c: Pretrain, run: Run, mesh: Mesh
) -> Callable[[int], TextBatch | MaskedTextBatch]:
    """Step → its batch: the stream's next, or rows of the documents by the step's number."""
    if rows:
        return lambda i: join_rows(hidden(next(rows), i, start, c, run), mesh)
    assert not isinstance(text, Stream)
    every, number = packed(text, start), run.numpy_seed("pretrain")

    def batch(i: int) -> TextBatch | MaskedTextBatch:
        chosen = take(every, batch_indices(len(every.tokens), c.batch, number, i))
        return shard_rows(hidden(chosen, i, start, c, run), mesh)

    return batch


def hidden(batch: TextBatch, i: int, start: Model, c: Pretrain, run: Run) -> TextBatch | MaskedTextBatch:
    """The batch of a step as the objective has it."""
    if c.objective == "next_token":
        return batch
    if len(batch.tokens) < c.batch:
        raise InputError('pretrain.objective = "masked" hides tokens of whole batches; run its stream in one process')
    t, rng = start.tokenizer, np.random.default_rng([run.numpy_seed("pretrain"), i])
    return mask_tokens(batch.tokens, t.mask, t.size, rng, keep=(t.pad, t.bos, t.eos))


def position(rows: TextStream | None, mesh: Mesh) -> dict:
    """What the record of a checkpoint says about the stream."""
    return {"stream": rows.position(gather_rows(rows.taken, mesh))} if rows else {}
