"""A task asked of a model, whichever it is: rows and figures in a folder, gone on with where it stopped."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from rlhf_jax.data import Prompt, content_sha256, encode_prompt, encode_turn, located
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.evals import (
    Context,
    Continuation,
    Estimate,
    Likely,
    LogProb,
    Reply,
    Row,
    Said,
    Scale,
    Task,
    Write,
    answer,
    differences,
    figures_of,
    likelihood,
    row_of,
    width_of,
)
from rlhf_jax.models import LanguageModel
from rlhf_jax.runtime import Made, Origin, first_process, info, meet, progress, write_atomically
from rlhf_jax.stages.evaluation import Loaded, loaded
from rlhf_jax.stages.model import Trained
from rlhf_jax.stages.run import RUN, Run
from rlhf_jax.stages.training import parents
from rlhf_jax.types import PromptBatch

ROWS, FIGURES = "rows.jsonl", "figures.json"


class Measured(NamedTuple):
    """What a task found of a model."""

    rows: list[Row]
    figures: dict[str, Estimate]
    scales: Mapping[str, Scale | None]

    def minus(self, other: "Measured") -> dict[str, Estimate]:
        """By how much each figure is above another model's, item by item (see `differences`). ValueError: other items."""
        return differences(self.rows, other.rows, self.scales)


def measure(folder: Path | str, model: Trained | Loaded, task: Task, run: Run = RUN) -> Measured:
    """Asks a model what the task asks of each item; rows.jsonl has a line an item, figures.json the figures.

    A call that was stopped goes on behind the last rows that it wrote, and what it finds does not depend on where that was.
    Documents that are longer than the model's context lose their beginning, which is said (`that_fit` leaves them out).

    InputError: the folder was made from something else; a conversation or a text that does not fit; no items.
    """
    folder, trained = Path(folder), model.model if isinstance(model, Loaded) else model
    _require_items(task)
    settings = {
        "task": task.name,
        "seed": run.seed,
        "batch": run.runtime.batch,
        "format": asdict(trained.format),
        "sampling": asdict(task.sampling),
        "max_tokens": task.max_tokens,
        "stops": task.stops,
    }
    inputs = {**parents(model=trained), "items": content_sha256(task.items)}
    code = {name: f for name in ("asks", "rows", "more") if (f := getattr(task, name)) is not None}
    made = Made(folder, Origin(settings, inputs, code, model={"scales": dict(task.scales)}))
    if made.complete:
        rows = _read(folder / ROWS)
        return Measured(rows, _figures(task, rows), task.scales)
    rows = _read(folder / ROWS) if made.begun else []
    rows = rows[: len(rows) - len(rows) % run.runtime.batch]
    if first_process():
        made.start()
        write_atomically(folder / ROWS, "".join(map(_line, rows)))
    else:
        folder.mkdir(parents=True, exist_ok=True)
    meet("the rows are read")
    for new in _in_parts(model if isinstance(model, Loaded) else loaded(model), task, run, len(rows)):
        rows += new
        if first_process():
            with (folder / ROWS).open("a", encoding="utf-8") as file:
                file.write("".join(map(_line, new)))
    found = _figures(task, rows)
    write_atomically(folder / FIGURES, json.dumps({k: e._asdict() for k, e in found.items()}, indent=1))
    made.finish(ROWS, FIGURES)
    return Measured(rows, found, task.scales)


def measured_now(this: Loaded, task: Task, run: Run = RUN) -> Measured:
    """The same of parameters in memory, without a folder: a look during training."""
    _require_items(task)
    rows = [row for part in _in_parts(this, task, run, 0) for row in part]
    return Measured(rows, _figures(task, rows), task.scales)


def that_fit(task: Task, model: Trained) -> Task:
    """The task with those items alone of which all fits the model's context; how many go is said. InputError: none fits."""

    def fits(item: Any) -> bool:
        return all(_length(ask, task, model) <= model.decoder.context for ask in task.asks(item))

    kept = [item for item in task.items if fits(item)]
    if len(kept) < len(task.items):
        info(f"{task.name}: {len(task.items) - len(kept)} of {len(task.items)} items do not fit and are left out")
    if not kept:
        raise InputError(f"{task.name}: no item fits the model's context of {model.decoder.context} tokens")
    return replace(task, items=kept)


def _require_items(task: Task) -> None:
    if not task.items:
        raise InputError(f"{task.name}: there are no items to ask about; give at least one")


def _in_parts(this: Loaded, task: Task, run: Run, start: int) -> Iterator[list[Row]]:
    """The rows of so many items at a time as a batch has, behind the first `start`. A part's random numbers are its own."""
    batch, items = run.runtime.batch, task.items
    cut: list[int] = []
    with progress(task.name, -(-len(items) // batch), start // batch) as advance:
        for at in range(start, len(items), batch):
            part = items[at : at + batch]
            asked = [list(task.asks(item)) for item in part]
            key = jax.random.fold_in(run.key(task.name), at)
            found = iter(_replies(this, task, [ask for asks in asked for ask in asks], key, batch, cut))
            replies = [[next(found) for _ in asks] for asks in asked]
            rows = list(task.rows(part, replies))
            if len(rows) != len(part):
                raise InputError(
                    f"{task.name}: {len(part)} items made {len(rows)} rows; let task.rows give one for each"
                )
            yield rows
            advance()
    if cut:
        room = this.model.decoder.context
        info(f"{task.name}: {len(cut)} documents are longer than the {room} tokens of the model's context, and cut off")


def _replies(
    this: Loaded, task: Task, asks: Sequence[Likely | Write], key: jax.Array, batch: int, cut: list[int]
) -> list[Reply]:
    """In the order of the questions."""
    model, found = this.model, dict[int, Reply]()
    likely = {i: ask for i, ask in enumerate(asks) if isinstance(ask, Likely)}
    if likely:
        pairs = [continuation(ask, model) for ask in likely.values()]
        room = model.decoder.context
        for ask, pair in zip(likely.values(), pairs, strict=True):
            _require_room(ask.context, len(pair.context) + len(pair.target), len(pair.target) + 1, room, cut)
        rows = likelihood(LanguageModel(model.decoder), this.params, pairs, batch=batch, length=room)
        each = zip(rows.total.tolist(), rows.tokens.tolist(), rows.greedy.tolist(), strict=True)
        found |= {i: LogProb(total, int(n), greedy) for i, (total, n, greedy) in zip(likely, each, strict=True)}
    write = {i: ask for i, ask in enumerate(asks) if isinstance(ask, Write)}
    if write:
        texts = _written([ask.context for ask in write.values()], this, task, key, batch, cut)
        found |= dict(zip(write, texts, strict=True))
    return [found[i] for i in range(len(asks))]


def continuation(ask: Likely, model: Trained) -> Continuation:
    """The tokens of a context and of the text behind it.

    Behind a document's beginning both are encoded as one text and cut where the beginning's own tokens end, spaces at its
    end going to the text, as lm-evaluation-harness has it: a tokenizer may join what stands on either side. In a
    conversation it is the assistant's answer, without its end.
    """
    t = model.tokenizer
    if isinstance(ask.context, Prompt):
        with located(shortened(ask.context.text)):
            context, target = encode_turn(ask.context.conversation, ask.text, t)
        return Continuation(context, target[:-1] if target and target[-1] in t.ends else target)
    blanks = len(ask.context) - len(ask.context.rstrip())
    context = ask.context[: len(ask.context) - blanks]
    whole, begun = t.encode(ask.context + ask.text), t.encode(context)
    return Continuation([*t.begins, *whole[: len(begun)]], whole[len(begun) :])


def _encoded(context: Context, model: Trained) -> list[int]:
    if isinstance(context, Prompt):
        with located(shortened(context.text)):
            return encode_prompt(context.conversation, model.tokenizer)
    return [*model.tokenizer.begins, *model.tokenizer.encode(context)]


def _written(
    contexts: Sequence[Context], this: Loaded, task: Task, key: jax.Array, batch: int, cut: list[int]
) -> list[Said]:
    """Prompts of about one length share a batch."""
    model, t = this.model, this.model.tokenizer
    most = _max_tokens(task, model)
    room = model.decoder.context - most
    ids = [_encoded(context, model) for context in contexts]
    for context, row in zip(contexts, ids, strict=True):
        _require_room(context, len(row), 1, room, cut)
    ids = [row[-room:] for row in ids]
    order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
    found = [Said("", False)] * len(ids)
    for start in range(0, len(ids), batch):
        here = order[start : start + batch]
        width = width_of(len(ids[here[0]]), room)
        tokens = np.full((len(here), width), t.pad, np.int32)
        for row, i in zip(tokens, here, strict=True):
            row[width - len(ids[i]) :] = ids[i]
        mask = np.arange(width) >= width - np.array([len(ids[i]) for i in here])[:, None]
        said = answer(
            LanguageModel(model.decoder),
            this.params,
            PromptBatch(tokens, mask),
            jax.random.fold_in(key, start),
            batch=batch,
            max_tokens=most,
            sampling=task.sampling,
            eos=t.ends,
            pad=t.pad,
        )
        for i, row, ended in zip(here, said.ids(t.ends), said.ended(t.ends).tolist(), strict=True):
            found[i] = cut_off(t.decode(row), task.stops, ended)
    return found


def cut_off(text: str, stops: Sequence[str], ended: bool) -> Said:
    """The text up to the first of the stops."""
    first = min((at for stop in stops if (at := text.find(stop)) >= 0), default=-1)
    return Said(text, ended) if first < 0 else Said(text[:first], True)


def _max_tokens(task: Task, model: Trained) -> int:
    most = task.max_tokens or model.format.answer_tokens
    if most >= model.decoder.context:
        raise InputError(
            f"{task.name} writes {most} tokens and the model's context is {model.decoder.context}: lower max_tokens"
        )
    return most


def _length(ask: Likely | Write, task: Task, model: Trained) -> int:
    if isinstance(ask, Likely):
        return sum(map(len, continuation(ask, model)))
    return len(_encoded(ask.context, model)) + _max_tokens(task, model)


def _require_room(context: Context, tokens: int, least: int, room: int, cut: list[int]) -> None:
    """InputError: a conversation does not fit, or a text leaves no room for its context. Documents are counted."""
    if least > room or (tokens > room and isinstance(context, Prompt)):
        text = context.text if isinstance(context, Prompt) else context
        raise InputError(
            f"{shortened(text)} takes {tokens} tokens and the model's context has room for {room}: leave it out "
            "(`that_fit` does), or shorten it"
        )
    if tokens > room:
        cut.append(tokens)


def _figures(task: Task, rows: Sequence[Row]) -> dict[str, Estimate]:
    return figures_of(rows, task.scales) | (task.more(rows) if task.more else {})


def _line(row: Row) -> str:
    return json.dumps(row.as_json()) + "\n"


def _read(path: Path) -> list[Row]:
    """Rows up to the first that is torn."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else ():
        try:
            rows.append(row_of(json.loads(line)))
        except (ValueError, KeyError, AttributeError):
            break
        if not line.endswith("\n"):
            rows.pop()
            break
    return rows
