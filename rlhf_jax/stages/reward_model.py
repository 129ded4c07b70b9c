"""The reward model: K = 4..9 ranked answers to each prompt, all pairs of a prompt at once (InstructGPT, §3.5, App. C.2)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import PyTree

from rlhf_jax.config import Checked, Count, Natural, Positive, Share
from rlhf_jax.data import (
    Demonstration,
    Ranking,
    content_sha256,
    encode_demonstrations,
    encode_rankings,
    fits,
    take,
    without_padding,
)
from rlhf_jax.equations import pair_accuracy, ranking_loss, values
from rlhf_jax.models import ScalarModel, scalar_from_language_model, scalar_head
from rlhf_jax.runtime import mapped, place, shard_rows
from rlhf_jax.stages.answers import scores_of
from rlhf_jax.stages.model import Trained, whole
from rlhf_jax.stages.run import RUN, Run
from rlhf_jax.stages.training import (
    Epochs,
    checked_rankings,
    open_stage,
    parents,
    rankings_that_fit,
    rankings_to_learn,
    require_belonging,
    result,
    schedule_ends,
    settings_without,
    supervised_watch,
)
from rlhf_jax.steps import TextCoef, centred, reward_step, text_coef
from rlhf_jax.types import RankingBatch, TrainState


@dataclass(frozen=True)
class Reward(Checked):
    """The reward model's values (App. C.2)."""

    epochs: Count = 1  # more overfit (App. C.2)
    batch: Count = 64  # prompts, each with all its answers (App. C.2)
    lr: Positive = 9e-6  # at the peak (App. C.2)
    floor: Share = 0.1  # share of lr that the schedule ends at (App. C.2)
    warmup: Natural = 0  # steps; not printed
    schedule: Literal["constant", "linear", "cosine"] = "cosine"  # of the learning rate (App. C.2)
    cut_off: bool = True  # beside a prompt's answers stands one without its end, below them all; the paper has none
    off_topic: bool = False  # and an answer to another prompt, below them all (Liu et al. 2024); the paper has none


def reward_model(
    folder: Path | str,
    start: Trained,
    rankings: Sequence[Ranking],
    settings: Reward = Reward(),
    run: Run = RUN,
    *,
    valid: Sequence[Ranking] = (),
    centre_on: Sequence[Demonstration] = (),
    step: Callable = reward_step,
) -> Trained:
    """Trains a reward model on rankings, from a language model whose unembedding becomes a projection to one number.

    The folder's name deals out that projection and the order of the rows, so that several calls are an ensemble. valid: other
    rankings, on which loss and accuracy are taken after each epoch; nothing is learned from them. centre_on:
    demonstrations whose mean reward is made 0 at the end (App. C.2). step: one update, as rlhf_jax.steps.reward_step.
    Rankings with nothing but ties are left out. InputError: the folder was made from something else; a ranking is broken, or
    none fits; a reward model to start from.
    """
    c, folder = settings, Path(folder)
    require_belonging(start)
    rankings = rankings_to_learn(rankings)
    fit = rankings_that_fit(rankings, start)
    passes = Epochs(c.epochs, len(fit), c.batch)
    content = {"rankings": content_sha256(rankings), "centre_on": content_sha256(centre_on)}
    stage = open_stage(
        folder,
        passes.steps,
        start,
        {"reward": settings_without(c, "epochs"), "batch": run.runtime.batch},
        {**parents(start=start), **content},
        {"step": step},
        run,
        scalar=True,
        fixed_length=schedule_ends(c.schedule, folder)
        or passes.filled_up(folder)
        or (f"its rewards were centred at its end: --anew {folder.name} starts it again" if centre_on else ""),
    )
    if stage.done():
        return result(stage, start)
    held = rankings_that_fit(checked_rankings(valid), start, "valid rankings")
    mesh, role = run.mesh.mesh(), folder.name
    cut_off, off_topic = (np.random.default_rng(run.numpy_seed(f"{role} {kind}")) for kind in ("cut off", "off topic"))
    held_out = encoded(held, start) if held else None
    rows = encoded(fit, start, cut_off if c.cut_off else None, off_topic if c.off_topic else None)
    model, optimiser = ScalarModel(start.training(run.mesh)), run.optimiser.make()

    def one(state: TrainState, batch: RankingBatch, coef: TextCoef, base: PyTree):
        return step(state, batch, coef, model=start.on_base(model, base), optimiser=optimiser, schedule=c.schedule)

    program = mapped(one, mesh, run.mesh.pmap)
    coef = place(text_coef(c.lr, stage.total, c.floor, c.warmup), mesh)
    first, base = first_params(start, run, mesh, role)
    state = TrainState(step=jnp.int32(0), params=first, opt_state=optimiser.init(first), key=run.key(role))
    state = stage.resume(place(state, mesh, run.mesh.rule("reward")))
    number = run.numpy_seed(role)
    for i in stage.steps(int(state.step), supervised_watch()):
        batch, counts = take(rows, passes.indices(number, i)), passes.counts(i)
        batch = replace(batch, mask=batch.mask & counts[:, None, None], ranks=batch.ranks * counts[:, None])
        state, metrics = program(state, shard_rows(without_padding(batch), mesh), coef, base)
        figures = dict(values(metrics))
        if held_out is not None and passes.end_in(i):
            figures |= on_held_out(held_out, start, state.params, base, mesh, run)
        stage.log(i, figures)
        if i + 1 == stage.total and centre_on:
            state = replace(state, params=centred_on(centre_on, start, state.params, base, mesh, run))
        stage.save(i, state, run.runtime.save_every)
    return result(stage, start)


def first_params(start: Trained, run: Run, mesh: Mesh, role: str) -> tuple[PyTree, PyTree]:
    """The language model's transformer, or corrections of it, below a fresh projection; and the frozen base."""
    learned, base = start.start(run, mesh, "policy", run.key(f"{role} corrections"))
    head = scalar_head(start.decoder, run.key(role))
    if base is None:
        return scalar_from_language_model(learned, head), None
    return {"lora": learned["lora"], "head": head}, base


def encoded(
    rankings: Sequence[Ranking],
    model: Trained,
    cut_off: np.random.Generator | None = None,
    off_topic: np.random.Generator | None = None,
) -> RankingBatch:
    """Rankings in as many slots as the longest has answers; cut_off, off_topic: see `encode_rankings`."""
    slots = max(len(r.answers) for r in rankings)
    return encode_rankings(rankings, model.tokenizer, model.format.context, slots, cut_off, off_topic)


def on_held_out(
    rows: RankingBatch, model: Trained, params: PyTree, base: PyTree, mesh: Mesh, run: Run
) -> dict[str, float]:
    """Eq. 1 and the share of pairs ordered right, of rankings that nothing is learned from."""
    N, K, T = rows.tokens.shape
    with jax.set_mesh(mesh):
        merged = whole(params, base, model.lora)
        found = scores_of(
            model, rows.tokens.reshape(-1, T), rows.mask.reshape(-1, T), batch=run.runtime.batch, params=merged
        )
    scores, ranks = jnp.asarray(np.asarray(found).reshape(N, K)), jnp.asarray(rows.ranks)
    means = {"loss/valid": ranking_loss(scores, ranks), "accuracy/valid": pair_accuracy(scores, ranks)}
    return {name: float(mean.value) for name, mean in means.items()}


def centred_on(
    rows: Sequence[Demonstration], model: Trained, params: PyTree, base: PyTree, mesh: Mesh, run: Run
) -> PyTree:
    """The parameters with the bias at which demonstrations have the mean reward 0."""
    t, length = model.tokenizer, model.format.context
    text = encode_demonstrations([d for d in rows if fits(d, t, length)], t, length)
    with jax.set_mesh(mesh):
        merged = whole(params, base, model.lora)
        found = scores_of(model, text.tokens, text.tokens != t.pad, batch=run.runtime.batch, params=merged)
    these = jnp.asarray(np.asarray(found))
    return params | {"head": centred(params["head"], these)} if base is not None else centred(params, these)
