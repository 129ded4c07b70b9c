"""An iteration of RL as programs: answers are drawn and scored, then learned from; what goes from one to the other can be
recorded, and learned from again."""

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jax
from jax.sharding import Mesh, NamedSharding

from rlhf_jax.data import Prompt
from rlhf_jax.equations import values
from rlhf_jax.errors import InputError
from rlhf_jax.models import LanguageModel, ScalarModel, replicate_rows
from rlhf_jax.runtime import ROWS, first_process, info, mapped, place, shard_rows
from rlhf_jax.stages.model import Trained
from rlhf_jax.stages.rewards import Rewards, opinions_for_all, part_metrics, parts_earned, together
from rlhf_jax.stages.rollouts import Drawn, Reading, Recorded, read_drawn, texts_of, write_origin, write_rollouts
from rlhf_jax.stages.run import Run
from rlhf_jax.steps import Frozen, Iteration, Models, Plan, PPOCoef, ema_lag, reward_scores
from rlhf_jax.types import PerAnswer, PPOBatch, PPOState, PromptBatch

T = TypeVar("T")
Program = Callable[
    [PPOState, list[Prompt], PPOBatch, PPOCoef, Frozen], tuple[PPOState, dict[str, Any], Drawn]
]  # the iteration's metrics as numbers, and on the devices what was learned from


def by_models(halves: Iteration, pieces: dict[str, Any], mesh: Mesh, run: Run) -> Program:
    """Sampling with the reward models' scores, and learning."""
    draw, learn = drawing(halves, pieces, mesh, run), learning(halves, pieces, mesh, run)

    def call(state: PPOState, prompts: list[Prompt], batch: PPOBatch, coef: PPOCoef, frozen: Frozen):
        x, scores = draw(state, batch.prompts, frozen)
        return learn(state, x, scores, batch, coef, frozen)

    return call


def around(
    halves: Iteration, pieces: dict[str, Any], mesh: Mesh, run: Run, model: Trained, rewards: Rewards, answers: int
) -> Program:
    """Sampling and the reward models' scores, Python functions of the text, and learning from what they give together. Of
    several processes the first calls the functions, with all answers."""
    if run.mesh.pmap:
        raise InputError("mesh.pmap needs a reward model, and the reward is a function; leave it out")
    draw, learn = drawing(halves, pieces, mesh, run), learning(halves, pieces, mesh, run)

    def call(state: PPOState, prompts: list[Prompt], batch: PPOBatch, coef: PPOCoef, frozen: Frozen):
        x, given = draw(state, batch.prompts, frozen)
        tokens, mask, of_models = on_host((x.y.tokens, x.y.mask, given), mesh)
        texts = texts_of((tokens, mask), model, int(state.step))
        began = time.monotonic()
        said = opinions_for_all(rewards, prompts, texts, run.runtime.reward_seconds)
        took = {"time/reward": time.monotonic() - began}
        scores = together(rewards, said, of_models)
        state, metrics, drawn = learn(state, x, place(scores, mesh), batch, coef, frozen)
        earned = parts_earned(rewards, said, of_models)
        return state, metrics | part_metrics(earned, answers) | took, drawn._replace(parts=earned)

    return call


def replayed(
    halves: Iteration,
    pieces: dict[str, Any],
    mesh: Mesh,
    run: Run,
    rollouts: Recorded,
    how: Reading,
    figures: Callable[[Drawn], dict[str, float]],
) -> Program:
    """Learning from what was recorded. figures: what else is logged of it."""
    learn = learning(halves, pieces, mesh, run)

    def call(state: PPOState, prompts: list[Prompt], batch: PPOBatch, coef: PPOCoef, frozen: Frozen):
        old = read_drawn(rollouts, int(state.step) + 1, prompts, on_host(batch.prompts, mesh), how)
        lie = place if run.mesh.pmap else shard_rows  # as `drawing` leaves them
        state, metrics, drawn = learn(state, lie(old.x, mesh), place(old.scores, mesh), batch, coef, frozen)
        return state, metrics | figures(old), drawn._replace(parts=old.parts, told=old.told)

    return call


def drawing(halves: Iteration, pieces: dict[str, Any], mesh: Mesh, run: Run) -> Callable[..., tuple[Any, Any]]:
    """The first half and the scores of the reward models, if any, as one program. Rows lie as `shard_rows` lays those of a
    record."""
    models, plan, rows = pieces["models"], pieces["plan"], NamedSharding(mesh, ROWS)

    def one(state: PPOState, prompts: PromptBatch, frozen: Frozen):
        x = halves.sample(state, prompts, frozen, models=models, plan=plan)
        scores = reward_scores(x, frozen, model=frozen.adapt(models).value) if frozen.reward else None
        if not run.mesh.pmap:
            x = jax.tree.map(lambda leaf: jax.lax.with_sharding_constraint(leaf, rows), x)
        return x, replicate_rows(scores)

    return mapped(one, mesh, run.mesh.pmap, reads_only=True)


def learning(halves: Iteration, pieces: dict[str, Any], mesh: Mesh, run: Run) -> Callable[..., Any]:
    """The second half as one program, which a replay runs too."""

    def one(state: PPOState, batch: PPOBatch, x, scores, coef: PPOCoef, frozen: Frozen):
        state, metrics = halves.learn(state, x, scores, batch.pretrain, coef, frozen, **pieces)
        return state, metrics | {"policy/ema_lag": ema_lag(state, frozen.sft)}

    program = mapped(one, mesh, run.mesh.pmap)

    def call(state: PPOState, x, scores, batch: PPOBatch, coef: PPOCoef, frozen: Frozen):
        state, metrics = program(state, batch, x, scores, coef, frozen)
        numbers = {name: each for name, each in metrics.items() if isinstance(each, PerAnswer)}
        return state, values(metrics), Drawn(x, scores, numbers)

    return call


def reading_of(
    halves: Iteration, model: Trained, plan: Plan, state: PPOState, frozen: Frozen, prompts: PromptBatch, scores: int
) -> Reading:
    """What a record has to hold for these to learn from it."""
    models = Models(LanguageModel(model.decoder), ScalarModel(model.decoder))
    shapes = jax.eval_shape(partial(halves.sample, models=models, plan=plan), state, prompts, frozen)
    return Reading(shapes, model.tokenizer, model.decoder.vocab_size, scores)


def on_host(tree: T, mesh: Mesh) -> T:
    """What lies on the devices, as NumPy arrays. With several processes each has to call it, and all get all rows."""
    if jax.process_count() > 1:
        with jax.set_mesh(mesh):
            tree = jax.jit(replicate_rows)(tree)
    return jax.device_get(tree)


def recording(folder: Path, name: str, record: Mapping[str, Any], steps: int, every: int) -> Callable[..., None]:
    """Writes an iteration's rollouts, by the first process; with the first it says how much they are."""
    said = False

    def write(step: int, prompts: list[Prompt], *about: Any) -> None:
        nonlocal said
        if not first_process():
            return
        if not said:
            write_origin(folder, name, record)
        path = write_rollouts(folder, step, prompts, *about)
        if not said:
            said, each = True, path.stat().st_size / 1e6
            times = len({1, steps, *range(every, steps + 1, every)})
            info(f"{folder}: {len(prompts)} answers are {each:.3g} MB, {times} iterations about {times * each:.3g} MB")

    return write
