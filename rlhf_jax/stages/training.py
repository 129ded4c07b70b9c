"""What the training stages share: how a folder records what it is made from, and the rows that fit a model's format."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int
from numpy import ndarray

from rlhf_jax.data import (
    Demonstration,
    Judged,
    NoPairError,
    Prompt,
    Ranking,
    Turns,
    as_text_batch,
    batch_indices,
    checked_ranking,
    content_sha256,
    fits,
    pack,
    place_of,
    prompt_fits,
    ranking_fits,
    read_rankings,
)
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.runtime import Checkpoints, Origin, Stage, Watch, info
from rlhf_jax.stages.datasets import DataSets, Files, Parts, World, data_sets, is_kept, kept_by_length
from rlhf_jax.stages.model import Format, Model, Trained
from rlhf_jax.stages.run import Run
from rlhf_jax.stages.saved import model_record, read_model
from rlhf_jax.types import TextBatch

NO_RANKING = "no ranking is left to learn from; train the SFT model longer, or read rankings from a file"


def require_belonging(start: Trained, rewards: Sequence[Trained] = (), value: Trained | None = None) -> None:
    """InputError: `start` is no language model; a reward model or the value network is none of its kind, or has
    another tokenizer; a model has positions for fewer tokens than start's texts have."""
    others = [*((model, "reward") for model in rewards), *([(value, "value network")] if value is not None else [])]
    for model in (start, *(model for model, _ in others)):
        if not isinstance(model, Trained):
            raise InputError(f"{shortened(model)} is no trained model; give one, such as stages.trained(folder)")
    if start.scalar or start.categories:
        raise InputError(f"{start.folder} is {start.kind}; start from a language model")
    for model, role in others:
        if not model.scalar:
            raise InputError(f"{model.folder} is {model.kind}; give a reward model as the {role}")
        if model.tokenizer.sha256 != start.tokenizer.sha256:
            raise InputError(f"{model.folder} and {start.folder} have different tokenizers; train them from one")
        if model.tokenizer.chat != start.tokenizer.chat:
            raise InputError(
                f"{model.folder} and {start.folder} read conversations in different chat templates; train them with one "
                "format.chat"
            )
    for model in (start, *(model for model, _ in others)):
        if model.decoder.position == "learned" and model.decoder.context < start.format.context:
            raise InputError(
                f"{model.folder} has positions for {model.decoder.context} tokens and {start.folder} has texts of "
                f"{start.format.context}; train it with a longer format, or lower format.prompt_tokens and "
                "format.answer_tokens"
            )


def require_prompts(prompts: Sequence[Prompt], model: Model) -> None:
    """InputError: there is no prompt that fits."""
    t, length = model.tokenizer, model.format.prompt_tokens
    if not any(is_kept(prompt, lambda each: prompt_fits(each, t, length)) for prompt in prompts):
        raise InputError(
            f"none of {len(prompts)} prompts has at most format.prompt_tokens = {model.format.prompt_tokens} tokens; give "
            "some that do, or raise it"
        )


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
    categories: tuple[str, ...] = (),
    marked: str = "",
    best: str = "",
    fixed_length: str = "",
) -> Stage:
    """The stage in a folder. Its record has the seed, the optimiser's constants, the model and its format, the stage's own
    settings, and of each input its sha256; a folder that was made from something else is an InputError that names it. So is a
    reward model or a classifier where the stage makes none (scalar, categories)."""
    folder = Path(folder)
    if isinstance(model, Trained) and not scalar and not categories:
        require_belonging(model)
    said = model_record(model, folder, part, scalar, best, categories)
    common = {
        "seed": run.seed,
        "optimiser": asdict(run.optimiser),
        "chat": said["chat"],
        "format": said["format"],  # before the decoder, whose context it is
        "model": said["decoder"],
        "lora": said["lora"],
    }
    # A stage's own settings go by the name of its folder.
    if taken := [name for name in common if name in settings and settings[name] != common[name]]:
        raise InputError(
            f"{folder}: neither a setting nor a stage's folder can be called {taken[0]}; name it otherwise"
        )
    origin = Origin(
        settings={**common, **settings}, inputs={"tokenizer": model.tokenizer.sha256, **inputs}, code=code, model=said
    )
    wandb = dict(origin.settings) if run.runtime.wandb else False  # by which runs can be filtered there
    more = {"best": best, "marked": marked, "wandb": wandb, "fixed_length": fixed_length}
    return Stage(folder, steps, origin, keep=run.runtime.keep, **more)


def settings_without(settings: Any, length: str) -> dict[str, Any]:
    """What of a stage's settings its record compares: all but the one that says how long it runs."""
    return {name: value for name, value in asdict(settings).items() if name != length}


def schedule_ends(schedule: str, folder: Path) -> str:
    """Why a stage with this schedule cannot go on beyond its steps; "" where it can."""
    if schedule == "constant":
        return ""
    return (
        f"its {schedule} schedule is made for its length: --anew {folder.name} starts it again, or train from its end"
    )


@dataclass(frozen=True)
class Epochs:
    """So many passes over so many rows, each in a new order, cut into batches without regard to where a pass ends. What is
    left of the last batch is filled up with rows that do not count, so that each row counts once a pass."""

    count: int
    rows: int
    batch: int

    @property
    def steps(self) -> int:
        """At least 1, that a stage of no rows says so and not that it has no steps."""
        return max(-(-self.count * self.rows // self.batch), 1)

    def indices(self, seed: int, i: int) -> Int[ndarray, "batch"]:
        """The rows of step i."""
        return batch_indices(self.rows, self.batch, seed, i)

    def counts(self, i: int) -> Bool[ndarray, "batch"]:
        """Which of them count."""
        return i * self.batch + np.arange(self.batch) < self.count * self.rows

    def end_in(self, i: int) -> bool:
        """Whether step i has the last row of a pass."""
        return self.rows > 0 and i * self.batch // self.rows < min((i + 1) * self.batch // self.rows, self.count)

    def record(self, metrics: Mapping[str, Any], i: int) -> dict[str, float]:
        """What the record of a checkpoint says of the epoch that step i ends; nothing where it ends none."""
        if not self.end_in(i):
            return {}
        return {
            "epoch": min((i + 1) * self.batch // self.rows, self.count),
            "valid": float(metrics.get("loss/valid", np.inf)),
        }

    def filled_up(self, folder: Path) -> str:
        """Why a stage of these rows cannot go on beyond its passes, however many they were; "" where it can."""
        if self.rows % self.batch == 0:
            return ""
        return (
            f"its last batch was filled up with rows that do not count: --anew {folder.name} starts it again, or train "
            "from its end"
        )


def result(stage: Stage, start: Model, step: int | None = None) -> Trained:
    """The model that a finished stage leaves, at its end or at one of its checkpoints."""
    at = stage.total if step is None else step
    said: Any = stage.record["model"]
    made = read_model(stage.folder, said, at, stage.checkpoints.record(at)["sha256"])
    settings: Any = stage.record["settings"]
    return replace(made, seed=settings["seed"])


def data_of(
    model: Trained, settings: World | Files, seed: int, rankings: Callable[..., list[Any]] = read_rankings
) -> DataSets:
    """The data of the run that trained a model, by that run's seed, so that what they hold out was held out from the model
    too; of `seed` where the model is a Hugging Face folder's. rankings: see `from_files`.

    InputError: the model's epochs were looked at with other demonstrations than these hold for that, so that it may have
    learned from what these hold out."""
    data = data_sets(settings, seed if model.seed is None else model.seed, rankings)
    if model.seed is None or model.step is None:
        return data
    record, valid = Checkpoints(model.folder / "checkpoints", None).record(model.step), data.demonstrations.valid
    that_fit = [row for row in valid if is_kept(row, lambda row: fits(row, model.tokenizer, model.format.context))]
    same = {content_sha256(rows) for rows in (valid, that_fit, ())}
    if record["inputs"].get("valid demonstrations", content_sha256(())) not in same:
        section = "world" if isinstance(settings, World) else "files"
        raise InputError(
            f"{model.folder} was trained with other data than [{section}] says here, and may have learned from prompts that "
            f"these hold out; give [{section}] as the config in that run's folder has it"
        )
    return data


def require_figure(best: str, data: DataSets) -> None:
    """InputError: the figure that is to mark the best checkpoint is the built-in world's judge's, and the data are files; or
    it is taken on validation rows, and there are none."""
    if best.startswith("gold/") and data.truth is None:
        raise InputError(
            f"runtime.best is {best!r}, a figure of the built-in world, and the data are files; "
            'set it to "", or to one that RL logs, such as objective/scores'
        )
    for name, rows in (("gold/", data.prompts.valid), ("pretrain/", data.text.valid)):
        if best.startswith(name) and not rows:
            raise InputError(
                f"runtime.best is {best!r}, a figure on validation rows, of which there are none; "
                "give more data, or set it to one that RL logs, such as objective/scores"
            )


def parents(**models: Trained) -> dict[str, str]:
    """What a record says of the models that a stage is made from."""
    return {name: model.sha256 for name, model in models.items()}


def packed(documents: Sequence[str], model: Model) -> TextBatch:
    """Pretraining text as rows of a whole context."""
    return as_text_batch(pack(documents, model.tokenizer, model.format.context)[0])


def has_row(documents: Sequence[str], model: Model) -> bool:
    """True where the text fills a row of `packed`."""
    tokens = 0
    for document in documents:
        tokens += len(model.tokenizer.opening) + len(model.tokenizer.encode(document)) + 1  # EOS
        if tokens >= model.format.context:
            return True
    return False


def require_rows(rows: Sequence[Any], kind: type, what: str, form: str) -> None:
    """InputError, with the row's number: one that is of another kind."""
    for number, row in enumerate(rows, 1):
        if not isinstance(row, kind):
            raise InputError(f"row {number}, {shortened(row)}, is not {what}: give {form}, or read a file of them")


def prompts_that_fit(prompts: Sequence[Prompt], model: Model, what: str) -> list[Prompt]:
    """The prompts of at most format.prompt_tokens; see `kept_by_length` for the others. InputError: a row that is none."""
    require_rows(prompts, Prompt, "a prompt", "Prompt(text, columns=Columns(row))")
    t, format = model.tokenizer, model.format
    return kept_by_length(
        prompts,
        lambda p: prompt_fits(p, t, format.prompt_tokens),
        format.too_long,
        f"{what} prompts",
        f"format.prompt_tokens = {format.prompt_tokens}",
    )


def prompts_that_fit_all(prompts: Parts[Prompt], model: Model) -> Parts[Prompt]:
    """The same of each part. InputError: none to train on, or none to report on."""
    kept = Parts(*(prompts_that_fit(part, model, name) for name, part in prompts.each().items()))
    if not kept.test:
        raise InputError(
            f"none of the prompts to report on is left, beside {len(kept.train)} to train on; give more prompts, or another "
            "seed, by which others are held out"
        )
    return kept


def data_that_fit(data: DataSets, model: Model) -> DataSets:
    """The rows of all parts that fit the model's format. Of held-out parts that are empty it is said which figures there will
    not be. InputError: nothing to train on, or no prompt to report on."""
    data = replace(
        data,
        prompts=prompts_that_fit_all(data.prompts, model),
        demonstrations=Parts(*(demonstrations_that_fit(x, model, n) for n, x in data.demonstrations.each().items())),
    )
    if data.truth is None:
        rankings = Parts(*(rankings_that_fit(x, model, f"{n} rankings") for n, x in data.rankings.each().items()))
        data = replace(data, rankings=rankings)
    if not has_row(data.text.train, model):
        raise InputError(f"the training text is shorter than a row of {model.format.context} tokens; add text")
    if not has_row(data.text.valid, model):
        data = replace(data, text=Parts(data.text.train))
    needed = [
        (
            "validation prompts",
            data.prompts.valid,
            "the judge has no figures in the curves, and SFT's epoch has the least loss",
        ),
        ("validation demonstrations", data.demonstrations.valid, "SFT's epoch is the last"),
        ("validation text", data.text.valid, "there are no pretrain/loss and no closed/last_word"),
    ]
    if data.truth is None:
        needed.append(("validation rankings", data.rankings.valid, "there is no accuracy/valid"))
        needed.append(("test rankings", data.rankings.test, "there is no accuracy/test"))
    for what, rows, so in needed:
        if not rows:
            info(f"{what}: none, so that {so}")
    return data


def context_of(format: Format) -> str:
    """How long a prompt and its answer may be, in words."""
    return f"the context of {format.context} tokens"


def demonstrations_that_fit(
    rows: Sequence[Demonstration], model: Model, what: str, turns: Turns = "last"
) -> list[Demonstration]:
    """The demonstrations of at most format.context tokens; see `kept_by_length` for the others. InputError: a row that is
    none."""
    require_rows(rows, Demonstration, "a demonstration", "Demonstration(prompt, answer)")
    t, format = model.tokenizer, model.format
    return kept_by_length(
        rows, lambda d: fits(d, t, format.context, turns), format.too_long, f"{what} demonstrations", context_of(format)
    )


def checked_rankings(rows: Sequence[Ranking]) -> list[Ranking]:
    """The rankings in which one answer is above another; the others are left out, which is said. InputError, with the row's
    number: one that is broken (see `checked_ranking`)."""
    kept = []
    for number, row in enumerate(rows, 1):
        try:
            kept.append(checked_ranking(row))
        except NoPairError:
            continue
        except InputError as error:
            raise InputError(f"{place_of(getattr(row, 'prompt', '')) or f'ranking {number}'}: {error}") from None
    if len(kept) < len(rows):
        info(f"{len(rows) - len(kept)} of {len(rows)} rankings have no answer above another and are left out")
    return kept


def rankings_to_learn(rows: Sequence[Ranking]) -> list[Ranking]:
    """The same. InputError also: none is left."""
    kept = checked_rankings(rows)
    if not kept:
        raise InputError(NO_RANKING)
    return kept


def judged_that_fit(rows: Sequence[Judged], model: Model) -> list[Judged]:
    """The answers with labels of at most format.context tokens; see `kept_by_length` for the others. InputError: a row that
    is none."""
    require_rows(rows, Judged, "an answer with a label", "Judged(prompt, answer, liked)")
    for number, row in enumerate(rows, 1):
        if not isinstance(row.liked, (bool, np.bool_)):
            raise InputError(f"row {number}: liked is {shortened(row.liked)}; give True or False")
    t, format = model.tokenizer, model.format
    return kept_by_length(
        rows,
        lambda row: fits(Demonstration(row.prompt, row.answer), t, format.context),
        format.too_long,
        "answers with labels",
        context_of(format),
    )


def rankings_that_fit(rows: Sequence[Ranking], model: Model, what: str = "rankings") -> list[Ranking]:
    """The rankings of whose answers each has at most format.context tokens; see `kept_by_length` for the others."""
    t, format = model.tokenizer, model.format
    return kept_by_length(rows, lambda r: ranking_fits(r, t, format.context), format.too_long, what, context_of(format))
