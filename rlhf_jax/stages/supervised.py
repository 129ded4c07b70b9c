"""Supervised fine-tuning on demonstrations: the SFT baseline, and the model that RL starts from."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from rlhf_jax.config import Checked, Count, Natural, Positive, SettingError, Share, ShareBelowOne
from rlhf_jax.data import (
    Demonstration,
    Prompt,
    Turns,
    batch_indices,
    content_sha256,
    encode_demonstrations,
    encode_prompts,
    take,
    without_padding,
)
from rlhf_jax.equations import values
from rlhf_jax.errors import InputError
from rlhf_jax.evals import Task, per_row
from rlhf_jax.models import LanguageModel, Sampling
from rlhf_jax.runtime import Checkpoints, info, mapped, place, shard_rows, write_atomically
from rlhf_jax.stages.answers import answers_of, scores_of
from rlhf_jax.stages.datasets import Parts, parts_of
from rlhf_jax.stages.measuring import looked
from rlhf_jax.stages.model import Trained, whole
from rlhf_jax.stages.run import RUN, Run
from rlhf_jax.stages.saved import chosen_step, trained
from rlhf_jax.stages.training import (
    Epochs,
    demonstrations_that_fit,
    open_stage,
    packed,
    parents,
    prompts_that_fit,
    require_belonging,
    require_prompts,
    result,
    schedule_ends,
    settings_without,
    supervised_watch,
)
from rlhf_jax.steps import TextCoef, text_coef, text_step
from rlhf_jax.types import TextBatch, TrainState


@dataclass(frozen=True)
class Supervised(Checked):
    """The SFT baseline's values at 1.3 B (App. C.1)."""

    epochs: Count = 16  # over the demonstrations (App. C.1)
    batch: Count = 32  # rows (App. C.1)
    lr: Positive = 9.65e-6  # at the peak (App. C.1)
    floor: Share = 0.1  # share of lr that the schedule ends at (App. C.1)
    warmup: Natural = 0  # steps (App. C.1: none)
    schedule: Literal["constant", "linear", "cosine"] = "cosine"  # of the learning rate (App. C.1)
    dropout: ShareBelowOne = 0.2  # of the residual branches (App. C.1)
    turns: Turns = (
        "last"  # of the assistant's, that are learned: the demonstration's answer; "all" takes earlier ones too
    )
    pretrain_share: ShareBelowOne = 0.0  # of the rows of a batch that are pretraining text

    def __post_init__(self) -> None:
        super().__post_init__()
        if round(self.batch * self.pretrain_share) == self.batch:
            sentence = f"pretrain_share is {self.pretrain_share} and batch {self.batch}, which leaves no demonstrations"
            raise SettingError(f"{sentence}; lower the share or raise batch", "pretrain_share", "batch")


# Where RL starts, and its KL reference: 2 epochs with 10 % pretraining rows; dropout is not printed (App. C.3, 1.3 B).
RL_INIT = Supervised(epochs=2, lr=5e-6, dropout=0.0, pretrain_share=0.1)


def supervised(
    folder: Path | str,
    start: Trained,
    demonstrations: Parts[Demonstration] | Sequence[Demonstration],
    settings: Supervised = Supervised(),
    run: Run = RUN,
    *,
    text: Sequence[str] = (),
    step: Callable = text_step,
    looks: Sequence[Task] = (),
) -> Trained:
    """Trains a language model on the answers of demonstrations, and keeps every epoch.

    The folder's name deals out the order of the rows. demonstrations: of .valid the loss is taken after each epoch; without
    parts all are trained on. text: documents for settings.pretrain_share. step: one update, as rlhf_jax.steps.text_step.
    looks: tasks, whose figures are logged after each epoch, as task/figure. It returns the last epoch; see `best_epoch`
    and `choose_epoch` for others. InputError: the folder was made from something else; no demonstration fits; a share of
    pretraining text, and no text; a reward model.
    """
    demonstrations = parts_of(demonstrations)
    c, folder = settings, Path(folder)
    require_belonging(start)
    mixed = round(c.batch * c.pretrain_share)  # 10 % of 32 are 3
    if mixed and not text:
        raise InputError(
            f"{folder.name}.pretrain_share is {c.pretrain_share} and there is no pretraining text; give it some"
        )
    train = demonstrations_that_fit(demonstrations.train, start, "train", c.turns)
    passes = Epochs(c.epochs, len(train), c.batch - mixed)
    content = {
        "demonstrations": content_sha256(demonstrations.train),
        "valid demonstrations": content_sha256(demonstrations.valid),
    }
    stage = open_stage(
        folder,
        passes.steps,
        start,
        {folder.name: settings_without(c, "epochs")},
        {**parents(start=start), **content, **({"text": content_sha256(text)} if mixed else {})},
        {"step": step},
        run,
        marked="epoch",
        fixed_length=schedule_ends(c.schedule, folder) or passes.filled_up(folder),
    )
    if stage.done():
        return result(stage, start)
    mesh, role = run.mesh.mesh(), folder.name
    rows = encode_demonstrations(train, start.tokenizer, start.format.context, c.turns)
    held = demonstrations_that_fit(demonstrations.valid, start, "valid", c.turns)
    valid = encode_demonstrations(held, start.tokenizer, start.format.context, c.turns) if held else None
    extra = packed(text, start) if mixed else None
    model, optimiser = LanguageModel(start.training(run.mesh, c.dropout)), run.optimiser.make()

    def one(state: TrainState, batch: TextBatch, coef: TextCoef, base: PyTree):
        return step(state, batch, coef, model=start.on_base(model, base), optimiser=optimiser, schedule=c.schedule)

    program = mapped(one, mesh, run.mesh.pmap)
    coef = place(text_coef(c.lr, stage.total, c.floor, c.warmup), mesh)
    first, base = start.start(run, mesh, "policy", run.key(f"{role} corrections"))
    state = TrainState(step=jnp.int32(0), params=first, opt_state=optimiser.init(first), key=run.key(role))
    state = stage.resume(place(state, mesh, run.mesh.rule("policy")))
    number = run.numpy_seed(role)
    for i in stage.steps(int(state.step), supervised_watch()):
        batch = take(rows, passes.indices(number, i))
        batch = replace(batch, predict=batch.predict & passes.counts(i)[:, None])
        if extra is not None:
            more = take(extra, batch_indices(len(extra.tokens), mixed, number, i))
            batch = jax.tree.map(lambda *parts: np.concatenate(parts), batch, more)
        state, metrics = program(state, shard_rows(without_padding(batch), mesh), coef, base)
        metrics = values(metrics)
        if passes.end_in(i) and (valid is not None or looks):
            with jax.set_mesh(mesh):
                params = whole(state.params, base, start.lora)
                if valid is not None:
                    total, tokens, _ = per_row(LanguageModel(start.decoder), params, valid, batch=c.batch)
                    metrics["loss/valid"] = -total.sum() / tokens.sum()
                metrics |= looked(looks, start, params, run)
        stage.log(i, metrics)
        every = 1 if passes.end_in(i) else run.runtime.save_every
        stage.save(i, state, every, partial(passes.record, metrics, i))
    return result(stage, start)


def epochs(model: Trained) -> dict[int, float]:
    """Step → validation loss of each epoch of a supervised stage. InputError: none was taken."""
    checkpoints = Checkpoints(model.folder / "checkpoints", None)
    each = {step: checkpoints.record(step).get("valid", np.inf) for step in checkpoints.steps()}
    found = {step: loss for step, loss in each.items() if np.isfinite(loss)}
    if not found:
        raise InputError(f"{model.folder}: no epoch has a validation loss; train it with validation demonstrations")
    return found


def best_epoch(model: Trained) -> Trained:
    """The epoch with the least loss on validation demonstrations."""
    return trained(model.folder, _least(epochs(model)))


def _least(losses: dict[int, float]) -> int:
    return min(losses, key=lambda step: losses[step])


def choose_epoch(model: Trained, reward: Trained, prompts: Sequence[Prompt], run: Run = RUN) -> Trained:
    """The epoch whose answers to validation prompts have the highest mean reward (App. C.1); without prompts the one with the
    least validation loss.

    Writes chosen.json into the stage's folder, by which `trained` finds the choice: the step, every epoch's reward and loss,
    and what it was made from. It is made anew where one of those has changed. InputError: no prompt fits; models that do not
    belong together; no epoch has a validation loss.
    """
    require_belonging(model, [reward])
    if not prompts:
        losses = epochs(model)
        return _choose(model, _least(losses), {step: {"loss": loss} for step, loss in losses.items()}, {})
    require_prompts(prompts, model)
    given = prompts_that_fit(prompts, model, "valid")
    made_from = {
        "model": model.sha256,
        "reward_model": reward.sha256,
        "prompts": content_sha256(given),
        "seed": run.seed,
        "batch": run.runtime.batch,
    }
    path = model.folder / "chosen.json"
    if chosen_step(model.folder) is None or json.loads(path.read_text()).get("made_from") != made_from:
        encoded, found = encode_prompts(given, model.tokenizer, model.format.prompt_tokens), {}
        for step, loss in epochs(model).items():
            params = trained(model.folder, step).params()
            written = answers_of(
                model, params, encoded, run.key("choose_sft"), Sampling(1.0, 0, 1.0), run.runtime.batch
            )
            score = scores_of(reward, *written.concat(), batch=run.runtime.batch)
            found[step] = {"reward": float(score.mean()), "loss": loss}
        best = max(found, key=lambda step: found[step]["reward"])
        info(f"{model.folder.name}: step {best} has the best reward on validation prompts, {found[best]['reward']:.2f}")
        return _choose(model, best, found, made_from)
    return trained(model.folder)


def _choose(model: Trained, step: int, each: dict[int, dict[str, float]], made_from: dict) -> Trained:
    chosen = {"step": step, "epochs": each, "made_from": made_from}
    write_atomically(model.folder / "chosen.json", json.dumps(chosen))
    return trained(model.folder)
