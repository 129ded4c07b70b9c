"""The moderation classifier: a language model with a head for each category, trained on texts of which some labels are
unknown (Markov et al. 2022, "A Holistic Approach to Undesired Content Detection", arXiv:2208.03274)."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Float, PyTree
from numpy import ndarray

from rlhf_jax.config import Checked, Count, Natural, Positive, SettingError, Share, ShareBelowOne
from rlhf_jax.data import (
    CATEGORIES,
    LabelledText,
    content_sha256,
    encode_labelled,
    encode_text,
    take,
    without_padding,
)
from rlhf_jax.equations import label_loss, values
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.evals import scores, width_of
from rlhf_jax.models import LabelModel, TransformerConfig, label_head, scalar_from_language_model
from rlhf_jax.moderation import (
    Calibrated,
    Classifier,
    Method,
    Wanted,
    as_json,
    average_precision,
    calibration_of,
    fit_category,
)
from rlhf_jax.runtime import info, mapped, place, shard_rows, write_atomically
from rlhf_jax.stages.datasets import Parts, parts_of
from rlhf_jax.stages.model import Trained, whole
from rlhf_jax.stages.run import RUN, Run
from rlhf_jax.stages.training import (
    Epochs,
    context_of,
    open_stage,
    parents,
    require_belonging,
    require_rows,
    result,
    schedule_ends,
    settings_without,
    supervised_watch,
)
from rlhf_jax.steps import TextCoef, classifier_logits, classifier_step, text_coef
from rlhf_jax.types import LabelBatch, TrainState

CALIBRATION = "calibration.json"


@dataclass(frozen=True)
class Classify(Checked):
    """The classifier's values. The paper prints none of these; they are those of fine-tuning a small model."""

    categories: str = ", ".join(CATEGORIES)  # a head for each; names that the texts' labels have
    epochs: Count = 4  # over the texts; of these the one with the least loss on held-out texts is `best_epoch`
    batch: Count = 32  # texts
    lr: Positive = 1e-4  # at the peak
    floor: Share = 0.1  # share of lr that the schedule ends at
    warmup: Natural = 0  # steps
    schedule: Literal["constant", "linear", "cosine"] = "cosine"  # of the learning rate
    dropout: ShareBelowOne = 0.1  # of the residual branches

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.names or len(set(self.names)) < len(self.names):
            raise SettingError(f"categories is {self.categories!r}; name each category once", "categories")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name.strip() for name in self.categories.split(",") if name.strip())


def classifier(
    folder: Path | str,
    start: Trained,
    rows: Parts[LabelledText] | Sequence[LabelledText],
    settings: Classify = Classify(),
    run: Run = RUN,
    *,
    step: Callable = classifier_step,
) -> Trained:
    """Trains a classifier, from a language model whose unembedding becomes a projection to a logit a category, and keeps
    every epoch.

    Labels that a text does not have are in no loss; texts without any are left out. rows: on .valid the loss and each
    category's average precision are taken after each epoch; without parts all are trained on. Texts that are longer than the
    context are left out, lose their end or are an error (format.too_long), which is said. The folder's name deals out the
    heads and the order of the rows. step: one update, as rlhf_jax.steps.classifier_step. It returns the last epoch; see
    `best_epoch`. InputError: the folder was made from something else; a label of no category; no text fits; a start that is
    no language model.
    """
    c, folder, rows = settings, Path(folder), parts_of(rows)
    require_belonging(start)
    train, valid = (
        texts_to_learn(part, start, c.names, what) for part, what in ((rows.train, "train"), (rows.valid, "valid"))
    )
    passes = Epochs(c.epochs, len(train), c.batch)
    stage = open_stage(
        folder,
        passes.steps,
        start,
        {"classifier": settings_without(c, "epochs"), "batch": run.runtime.batch},
        {
            **parents(start=start),
            "texts": content_sha256(rows.train),
            "valid texts": content_sha256(rows.valid),
        },
        {"step": step},
        run,
        categories=c.names,
        marked="epoch",
        fixed_length=schedule_ends(c.schedule, folder) or passes.filled_up(folder),
    )
    if stage.done():
        return result(stage, start)
    mesh, role = run.mesh.mesh(), folder.name
    encoded, held = (encode_labelled(part, start.tokenizer, start.format.context, c.names) for part in (train, valid))
    model, optimiser = LabelModel(start.training(run.mesh, c.dropout), len(c.names)), run.optimiser.make()

    def one(state: TrainState, batch: LabelBatch, coef: TextCoef, base: PyTree):
        return step(state, batch, coef, model=start.on_base(model, base), optimiser=optimiser, schedule=c.schedule)

    program = mapped(one, mesh, run.mesh.pmap)
    coef = place(text_coef(c.lr, stage.total, c.floor, c.warmup), mesh)
    first, base = first_params(start, len(c.names), run, mesh, role)
    state = TrainState(step=jnp.int32(0), params=first, opt_state=optimiser.init(first), key=run.key(role))
    state = stage.resume(place(state, mesh, run.mesh.rule("policy")))
    number = run.numpy_seed(role)
    for i in stage.steps(int(state.step), supervised_watch()):
        batch, counts = take(encoded, passes.indices(number, i)), passes.counts(i)
        batch = without_padding(replace(batch, known=batch.known & counts[:, None]))
        state, metrics = program(state, shard_rows(batch, mesh), coef, base)
        metrics = values(metrics)
        if passes.end_in(i) and valid:
            with jax.set_mesh(mesh):
                params = whole(state.params, base, start.lora)
                metrics |= look(start.decoder, params, held, c.names, run.runtime.batch)
        stage.log(i, metrics)
        every = 1 if passes.end_in(i) else run.runtime.save_every
        stage.save(i, state, every, partial(passes.record, metrics, i))
    return result(stage, start)


def first_params(start: Trained, categories: int, run: Run, mesh: Mesh, role: str) -> tuple[PyTree, PyTree]:
    """The language model's transformer, or corrections of it, below fresh heads; and the frozen base."""
    learned, base = start.start(run, mesh, "policy", run.key(f"{role} corrections"))
    head = label_head(start.decoder, categories, run.key(role))
    if base is None:
        return scalar_from_language_model(learned, head), None
    return {"lora": learned["lora"], "head": head}, base


def look(
    decoder: TransformerConfig, params: PyTree, held: LabelBatch, names: Sequence[str], batch: int
) -> dict[str, Any]:
    """The loss on held-out texts, and the average precision of each category that has a positive one."""
    logits = scores(logit_rows(decoder, len(names)), params, held.tokens, held.mask, batch=batch)
    found: dict[str, Any] = {"loss/valid": label_loss(*map(jnp.asarray, (logits, held.labels, held.known))).value}
    for i, name in enumerate(names):
        known, labels = held.known[:, i], held.labels[:, i]
        if labels[known].any():
            found[f"auprc/{name}"] = average_precision(logits[known, i], labels[known])
    return found


def texts_to_learn(rows: Sequence[LabelledText], model: Trained, names: Sequence[str], what: str) -> list[LabelledText]:
    """Those of which a label is known, and which fit the context, or lose their end; how many do not is said.

    InputError, with the row's number: one that is no text with labels, or has a label of another name; one that does not fit,
    where format.too_long is "error"; none is left of those to train on.
    """
    require_rows(rows, LabelledText, "a text with labels", "LabelledText(text, {category: True or False})")
    for number, row in enumerate(rows, 1):
        if other := next((name for name in row.labels if name not in names), None):
            raise InputError(
                f"{what} text {number}, {shortened(row.text)}, has a label of {other!r}; these are the categories: "
                f"{', '.join(names)}"
            )
    known = [row for row in rows if row.labels]
    if len(known) < len(rows):
        info(f"{len(rows) - len(known)} of {len(rows)} {what} texts have no label and are left out")
    length, how = model.format.context, model.format.too_long
    fit = [row for row in known if len(encode_text(row.text, model.tokenizer)) <= length]
    if len(fit) < len(known):
        sentence = f"{len(known) - len(fit)} of {len(known)} {what} texts are longer than {context_of(model.format)}"
        if how == "error":
            raise InputError(f'{sentence}; raise format.prompt_tokens, or set format.too_long = "drop" or "cut"')
        info(f"{sentence} and {'lose their end' if how == 'cut' else 'left out'}")
    kept = known if how == "cut" else fit
    if what == "train" and not kept:
        raise InputError("no text is left to learn from; give texts with labels, or raise format.prompt_tokens")
    return kept


@cache
def logit_rows(decoder: TransformerConfig, categories: int):
    """The logits of rows of text, jitted."""
    return jax.jit(partial(classifier_logits, model=LabelModel(decoder, categories)))


def text_logits(model: Trained, params: PyTree, texts: Sequence[str], batch: int = 128) -> Float[ndarray, "N C"]:
    """The logits of texts of any length: a longer one than the context is read in pieces, and of each category the highest
    counts, so that nothing in a text goes unread. Texts of about one length share a batch."""
    t, length = model.tokenizer, model.format.context
    pieces: list[tuple[int, list[int]]] = []
    for number, text in enumerate(texts):
        ids = encode_text(text, t)[:-1] or [t.eos]
        pieces += [(number, [*ids[at : at + length - 1], t.eos]) for at in range(0, len(ids), length - 1)]
    pieces.sort(key=lambda piece: -len(piece[1]))
    found = np.full((len(texts), len(model.categories)), -np.inf, np.float32)
    for start in range(0, len(pieces), batch):
        here = pieces[start : start + batch]
        rows = min(batch, 1 << (len(here) - 1).bit_length())  # a program for each power of 2, not for each number
        tokens = np.full((len(here), width_of(len(here[0][1]), length)), t.pad, np.int32)
        mask = np.zeros(tokens.shape, bool)
        for row, (_, ids) in enumerate(here):
            tokens[row, : len(ids)] = ids
            mask[row, : len(ids)] = True
        logits = scores(logit_rows(model.decoder, len(model.categories)), params, tokens, mask, batch=rows)
        np.maximum.at(found, [number for number, _ in here], logits)
    return found


def calibrate(
    model: Trained,
    rows: Sequence[LabelledText],
    method: Method = "temperature",
    wanted: Wanted = "f1",
    at_least: float = 0.0,
    run: Run = RUN,
) -> dict[str, Calibrated]:
    """Fits what each category's logits mean, and from where on it flags, to texts that the model has not learned from; see
    `fit_category`. Writes calibration.json into the model's folder, which `moderator` reads. Of categories that are never
    flagged it is said. InputError: no classifier; a label of no category."""
    _require_classifier(model)
    require_rows(rows, LabelledText, "a text with labels", "LabelledText(text, {category: True or False})")
    logits, found = text_logits(model, model.params(), [row.text for row in rows], run.runtime.batch), {}
    for i, name in enumerate(model.categories):
        known = [k for k, row in enumerate(rows) if name in row.labels]
        labels = np.array([rows[k].labels[name] for k in known], bool)
        found[name] = fit_category(logits[known, i], labels, method, wanted, at_least)
        if found[name].threshold is None:
            why = f"{wanted} reaches {at_least:g} nowhere" if labels.any() else "n too small: no text of it"
            info(f"{name} is never flagged: {why} among {len(known)} labels")
    made_from = {"model": model.sha256, "texts": content_sha256(rows), "method": method, wanted: at_least}
    write_atomically(
        model.folder / CALIBRATION, json.dumps({"made_from": made_from, "categories": as_json(found)}, indent=1) + "\n"
    )
    return found


def moderator(model: Trained, run: Run = RUN) -> Classifier:
    """The classifier as a moderator, by the name of its folder, with the calibration that lies there; without one a logit's
    σ is its probability, and ½ flags. InputError: no classifier; a calibration of another model, or that is damaged."""
    _require_classifier(model)
    params = model.params()
    logits = partial(text_logits, model, params, batch=run.runtime.batch)
    return Classifier(model.folder.name, model.categories, logits, calibration_in(model))


def calibration_in(model: Trained) -> Mapping[str, Calibrated]:
    """What `calibrate` left beside a model; {} where it was not called. InputError: see `moderator`."""
    path = model.folder / CALIBRATION
    if not path.is_file():
        return {}
    try:
        said = json.loads(path.read_text())
        of, categories = said["made_from"]["model"], said["categories"]
    except (ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path} holds no calibration: delete it and calibrate again") from error
    if of != model.sha256:
        raise InputError(f"{path} is of another model or epoch than step {model.step}: calibrate again")
    return calibration_of(categories, str(path))


def _require_classifier(model: Trained) -> None:
    if not model.categories:
        raise InputError(f"{model.folder} is {model.kind}; give a classifier")
