"""What the training stages share: how a folder records what it is made from, and the rows that fit a model's format."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rlhf_jax.data import (
    Demonstration,
    Prompt,
    Ranking,
    as_text_batch,
    fits,
    pack,
    prompt_fits,
    ranking_fits,
)
from rlhf_jax.runtime import Origin, Stage, Watch
from rlhf_jax.stages.datasets import Parts, kept_by_length
from rlhf_jax.stages.model import Model, Trained
from rlhf_jax.stages.run import Run
from rlhf_jax.stages.saved import model_record, read_model
from rlhf_jax.types import TextBatch


def supervised_watch() -> Watch:
    """Warns of a loss that runs away."""
    return Watch(kl=np.inf, entropy=-np.inf, factor=4.0, window=50)


def open_stage(
    folder: Path | str,
    steps: int,
    model: Model,
    settings: Mapping[str, Any],
    inputs: Mapping[str, str],
    code: Mapping[str, Callable],
    run: Run,
    *,
    part: str = "params",
    scalar: bool = False,
    keep_all: bool = False,
    best: str = "",
    fixed_length: str = "",
) -> Stage:
    """The stage in a folder. Its record has the seed, the optimiser's constants, the model and its format, the stage's own
    settings, and of each input its sha256; a folder that was made from something else is an InputError that names it."""
    folder = Path(folder)
    said = model_record(model, folder, part, scalar, best)
    common = {
        "seed": run.seed,
        "optimiser": asdict(run.optimiser),
        "model": said["decoder"],
        "format": said["format"],
        "lora": said["lora"],
    }
    origin = Origin(
        settings={**common, **settings}, inputs={"tokenizer": model.tokenizer.sha256, **inputs}, code=code, model=said
    )
    keep = None if keep_all else run.runtime.keep
    wandb = dict(origin.settings) if run.runtime.wandb else False  # by which runs can be filtered there
    return Stage(folder, steps, origin, keep=keep, best=best, wandb=wandb, fixed_length=fixed_length)


def settings_without(settings: Any, length: str) -> dict[str, Any]:
    """What of a stage's settings its record compares: all but the one that says how long it runs."""
    return {name: value for name, value in asdict(settings).items() if name != length}


def schedule_ends(schedule: str, steps: int, folder: Path) -> str:
    """Why a stage with this schedule cannot go on beyond its steps; "" where it can."""
    if schedule == "constant":
        return ""
    return (
        f"its {schedule} schedule is made for its length: --anew {folder.name} starts it again, or train from its end"
    )


def result(stage: Stage, start: Model, step: int | None = None) -> Trained:
    """The model that a finished stage leaves, at its end or at one of its checkpoints."""
    at = stage.total if step is None else step
    said: Any = stage.record["model"]
    return read_model(stage.folder, said, at, stage.checkpoints.record(at)["sha256"])


def parents(**models: Trained) -> dict[str, str]:
    """What a record says of the models that a stage is made from."""
    return {name: model.sha256 for name, model in models.items()}


def packed(documents: Sequence[str], model: Model) -> TextBatch:
    """Pretraining text as rows of a whole context."""
    return as_text_batch(pack(documents, model.tokenizer, model.format.context)[0])


def prompts_that_fit(prompts: Sequence[Prompt], model: Model, what: str) -> list[Prompt]:
    """The prompts of at most format.prompt_tokens; see `kept_by_length` for the others."""
    t, format = model.tokenizer, model.format
    return kept_by_length(
        prompts, lambda p: prompt_fits(p, t, format.prompt_tokens), format.too_long, f"{what} prompts"
    )


def prompts_that_fit_all(prompts: Parts[Prompt], model: Model) -> Parts[Prompt]:
    """The same of each part."""
    return Parts(*(prompts_that_fit(part, model, name) for name, part in prompts.each().items()))


def demonstrations_that_fit(rows: Sequence[Demonstration], model: Model, what: str) -> list[Demonstration]:
    """The demonstrations of at most format.context tokens; see `kept_by_length` for the others."""
    t, format = model.tokenizer, model.format
    return kept_by_length(rows, lambda d: fits(d, t, format.context), format.too_long, f"{what} demonstrations")


def rankings_that_fit(rows: Sequence[Ranking], model: Model) -> list[Ranking]:
    """The rankings of whose answers each has at most format.context tokens; see `kept_by_length` for the others."""
    t, format = model.tokenizer, model.format
    return kept_by_length(rows, lambda r: ranking_fits(r, t, format.context), format.too_long, "rankings")
