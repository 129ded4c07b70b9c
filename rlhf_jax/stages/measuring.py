"""A task asked of a model, whichever it is: rows and figures in a folder, gone on with where it stopped."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jaxtyping import PyTree

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
    continued,
    differences,
    figures_of,
    likelihood,
    row_of,
)
from rlhf_jax.models import LanguageModel
from rlhf_jax.runtime import Made, Origin, first_process, info, meet, progress, write_atomically
from rlhf_jax.stages.evaluation import Loaded
from rlhf_jax.stages.model import Model, Trained
from rlhf_jax.stages.run import RUN, Run
from rlhf_jax.stages.training import parents

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
        rows = rows_in(folder / ROWS)
        return Measured(rows, _figures(task, rows), task.scales)
    rows = rows_in(folder / ROWS) if made.begun else []
    rows = rows[: len(rows) - len(rows) % run.runtime.batch]
    if first_process():
        made.start()
        write_atomically(folder / ROWS, "".join(map(line_of, rows)))
    else:
        folder.mkdir(parents=True, exist_ok=True)
    meet("the rows are read")
    params = model.params if isinstance(model, Loaded) else trained.params()
    for new in _in_parts(trained, params, task, run, len(rows)):
        rows += new
        if first_process():
            with (folder / ROWS).open("a", encoding="utf-8") as file:
                file.write("".join(map(line_of, new)))
    found = _figures(task, rows)
    write_atomically(folder / FIGURES, json.dumps({k: e._asdict() for k, e in found.items()}, indent=1))
    made.finish(ROWS, FIGURES)
    return Measured(rows, found, task.scales)


def measured_now(model: Model, params: PyTree, task: Task, run: Run = RUN) -> Measured:
    """The same of parameters in memory, which may lie on a mesh (jax.set_mesh), without a folder."""
    _require_items(task)
    rows = [row for part in _in_parts(model, params, task, run, 0) for row in part]
    return Measured(rows, _figures(task, rows), task.scales)


def looked(tasks: Sequence[Task], model: Model, params: PyTree, run: Run = RUN) -> dict[str, float]:
    """What a stage logs of tasks while it trains: task/figure → its mean."""
    each = ((task.name, measured_now(model, params, task, run).figures) for task in tasks)
    return {f"{name}/{figure}": estimate.mean for name, figures in each for figure, estimate in figures.items()}


def that_fit(task: Task, model: Model) -> Task:
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


def _in_parts(model: Model, params: PyTree, task: Task, run: Run, start: int) -> Iterator[list[Row]]:
    """The rows of so many items at a time as a batch has, behind the first `start`. A part's random numbers are its own."""
    batch, items = run.runtime.batch, task.items
    cut: list[int] = []
    with progress(task.name, -(-len(items) // batch), start // batch) as advance:
        for at in range(start, len(items), batch):
            part = items[at : at + batch]
            asked = [list(task.asks(item)) for item in part]
            key = jax.random.fold_in(run.key(task.name), at)
            found = iter(_replies(model, params, task, [ask for asks in asked for ask in asks], key, batch, cut))
            replies = [[next(found) for _ in asks] for asks in asked]
            rows = list(task.rows(part, replies))
            if len(rows) != len(part):
                raise InputError(
                    f"{task.name}: {len(part)} items made {len(rows)} rows; let task.rows give one for each"
                )
            yield rows
            advance()
    if cut:
        room = model.decoder.context
        info(f"{task.name}: {len(cut)} documents are longer than the {room} tokens of the model's context, and cut off")


def _replies(
    model: Model,
    params: PyTree,
    task: Task,
    asks: Sequence[Likely | Write],
    key: jax.Array,
    batch: int,
    cut: list[int],
) -> list[Reply]:
    """In the order of the questions."""
    found = dict[int, Reply]()
    likely = {i: ask for i, ask in enumerate(asks) if isinstance(ask, Likely)}
    if likely:
        pairs = [continuation(ask, model) for ask in likely.values()]
        room = model.decoder.context
        for ask, pair in zip(likely.values(), pairs, strict=True):
            _require_room(ask.context, len(pair.context) + len(pair.target), len(pair.target) + 1, room, cut)
        rows = likelihood(LanguageModel(model.decoder), params, pairs, batch=batch, length=room)
        each = zip(rows.total.tolist(), rows.tokens.tolist(), rows.greedy.tolist(), strict=True)
        found |= {i: LogProb(total, int(n), greedy) for i, (total, n, greedy) in zip(likely, each, strict=True)}
    write = {i: ask for i, ask in enumerate(asks) if isinstance(ask, Write)}
    if write:
        texts = _written([ask.context for ask in write.values()], model, params, task, key, batch, cut)
        found |= dict(zip(write, texts, strict=True))
    return [found[i] for i in range(len(asks))]


def continuation(ask: Likely, model: Model) -> Continuation:
    """The tokens of a context and of the text behind it.

    Behind a document's beginning both are encoded as one text and cut where the beginning's own tokens end, spaces at its
    end going to the text, as lm-evaluation-harness has it: a tokenizer may join what stands on either side. In a
    conversation it is the assistant's answer, set off as the form has it and without its end.
    """
    t = model.tokenizer
    if isinstance(ask.context, Prompt):
        with located(shortened(ask.context.text)):
            context, target = encode_turn(ask.context.conversation, ask.text.lstrip(), t)
        end = max((i for i, token in enumerate(target) if token in t.ends), default=len(target))
        return Continuation(context, target[:end])
    blanks = len(ask.context) - len(ask.context.rstrip())
    context = ask.context[: len(ask.context) - blanks]
    whole, begun = t.encode(ask.context + ask.text), t.encode(context)
    return Continuation([*t.begins, *whole[: len(begun)]], whole[len(begun) :])


def _encoded(context: Context, model: Model) -> list[int]:
    if isinstance(context, Prompt):
        with located(shortened(context.text)):
            return encode_prompt(context.conversation, model.tokenizer)
    return [*model.tokenizer.begins, *model.tokenizer.encode(context)]


def _written(
    contexts: Sequence[Context],
    model: Model,
    params: PyTree,
    task: Task,
    key: jax.Array,
    batch: int,
    cut: list[int],
) -> list[Said]:
    t = model.tokenizer
    most = _max_tokens(task, model)
    room = model.decoder.context - most
    ids = [_encoded(context, model) for context in contexts]
    for context, row in zip(contexts, ids, strict=True):
        _require_room(context, len(row), 1, room, cut)
    about = {"batch": batch, "max_tokens": most, "sampling": task.sampling, "eos": t.ends, "pad": t.pad}
    found = continued(LanguageModel(model.decoder), params, ids, key, room=room, **about)
    return [cut_off(t.decode(row), task.stops, ended) for row, ended in found]


def cut_off(text: str, stops: Sequence[str], ended: bool) -> Said:
    """The text up to the first of the stops."""
    first = min((at for stop in stops if (at := text.find(stop)) >= 0), default=-1)
    return Said(text, ended) if first < 0 else Said(text[:first], True)


def _max_tokens(task: Task, model: Model) -> int:
    most = task.max_tokens or model.format.answer_tokens
    if most >= model.decoder.context:
        raise InputError(
            f"{task.name} writes {most} tokens and the model's context is {model.decoder.context}: lower max_tokens"
        )
    return most


def _length(ask: Likely | Write, task: Task, model: Model) -> int:
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


def line_of(row: Row) -> str:
    """Of rows.jsonl."""
    return json.dumps(row.as_json()) + "\n"


def rows_in(path: Path) -> list[Row]:
    """The rows of a file, up to the first that is torn; none where there is no file."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else ():
        try:
            row = row_of(json.loads(line))
        except (ValueError, LookupError, AttributeError, TypeError):
            break
        if not line.endswith("\n"):
            break
        rows.append(row)
    return rows
