"""Rollouts on disk: what a policy wrote in an iteration, what it earned and what was learned from it, a line an answer.

FOLDER/rollouts/000123.jsonl is iteration 123, row by row of its batch. Of a line, `learn` reads ids, logp, logp_ref, kl and
scores, and what is in `rollout`; the rest is for people and figures. Lists have a number a token, up to the answer's end.
Floats are the shortest text that gives back the same float32, so that a reader gets every bit. FOLDER/rollouts/origin.json
is what the iterations are made from.

Of an episode, ids are all that stands behind the words that its environment began with, which prompt_ids and messages are;
rewards has a number a turn, over says why it is, and row is the prompt that it is about.

A record is trusted: a person may edit it, and a replay learns from any numbers that a run could have written.
"""

import base64
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, PyTree
from numpy import ndarray

from rlhf_jax.data import Messages, Prompt, Tokenizer, by_role
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.evals import Browsed
from rlhf_jax.rewards import AnswerText
from rlhf_jax.runtime import disk_reason, file_sha256, info, write_atomically
from rlhf_jax.stages.answers import written
from rlhf_jax.stages.model import Trained
from rlhf_jax.stages.saved import read_model
from rlhf_jax.types import PerAnswer, PromptBatch

ROLLOUTS, ORIGIN = "rollouts", "origin.json"
# What `learn` reads, by its place in a steps.Rollout, and what a line calls it.
NAMES = {"y.logp": "logp", "logp_sft": "logp_ref", **{f"kl.{k}": f"kl.{k}" for k in ("k1", "k2", "k3", "exact")}}
# Settings and inputs on which it depends what is sampled: where they differ, rollouts are another run's.
SAMPLED = (
    "settings.seed",
    "settings.format",
    "settings.model",
    "settings.answers",
    "settings.order",
    "settings.episodes",
)
SAMPLED += ("inputs.tokenizer", "inputs.start", "inputs.reference", "inputs.prompts")
SAMPLED += tuple(f"settings.ppo.{name}" for name in ("batch", "temperature", "top_k", "top_p"))
LEARNED = ("settings.", "inputs.", "code.learn.")  # and so with what is learned
AGAIN = "copy the file anew, or record it again"
ROUNDING = 1e-3  # by which a log-probability may be above 0
SHOWN = 3  # answers at a look: those with the highest, the median and the lowest score


class Told(NamedTuple):
    """An episode as people read it."""

    begun: Prompt  # the row's prompt in the environment's words
    said: str  # all behind it
    rewards: tuple[float, ...]  # a turn
    over: str  # why it is


class Drawn(NamedTuple):
    """What was learned from in an iteration."""

    x: Any  # a steps.Rollout, or what another `sample` gives
    scores: Float[ndarray, "E B"]  # what `learn` is given beside it
    numbers: Mapping[str, PerAnswer]  # what `learn` made of them
    parts: Mapping[str, Float[ndarray, " B"]] = {}  # of functions and models, that the scores are the sum of
    told: Sequence[Told] = ()  # of episodes


Earned = Mapping[str, Float[ndarray, " B"]]  # what each answer earned, by part; NaN: the part has no opinion of it


def texts_of(drawn: tuple[Any, Any], model: Trained, iteration: int = 0) -> list[AnswerText]:
    """The text of each answer, from the tokens and the mask of a response."""
    rows = zip(*map(np.asarray, drawn), strict=True)
    return written([tokens[mask].tolist() for tokens, mask in rows], model, iteration)


def shown(prompts: Sequence[Prompt], drawn: Drawn, model: Trained) -> tuple[Sequence[Prompt], Sequence[str]]:
    """What was asked and what was said, as people read it: of an episode the whole dialogue."""
    if drawn.told:
        return [each.begun for each in drawn.told], [each.said for each in drawn.told]
    return prompts, texts_of((drawn.x.y.tokens, drawn.x.y.mask), model)


def ended(x: Any, model: Trained) -> list[str]:
    """Why each answer ended: "eos", or "length" where there was no room for it."""
    found = np.any(np.isin(x.y.tokens, model.tokenizer.ends) & np.asarray(x.y.mask), axis=1)
    return ["eos" if each else "length" for each in found]


def few(prompts: Sequence[Prompt], drawn: Drawn, earned: Earned, model: Trained) -> list[dict[str, Any]]:
    """The answers with the highest, the median and the lowest score, for a log."""
    order = np.argsort(-np.mean(drawn.scores, axis=0), kind="stable")
    rows = dict.fromkeys(int(order[at]) for at in np.linspace(0, len(order) - 1, SHOWN).round().astype(int))
    (prompts, texts), why = shown(prompts, drawn, model), ended(drawn.x, model)
    return [
        {name: float(part[row]) for name, part in earned.items()}
        | {"prompt": by_role(prompts[row].conversation), "answer": texts[row], "ended": why[row]}
        for row in rows
    ]


def say(name: str, step: int, answers: Sequence[Mapping[str, Any]]) -> None:
    """Prints what `few` gives, a line an answer."""
    for each in answers:
        scores = ", ".join(f"{part} {value:.3g}" for part, value in each.items() if isinstance(value, float))
        text = f"{shortened(each['prompt'])} → {shortened(each['answer'])} ({each['ended']})"
        info(f"{name} {step} · {scores} · {text}")


# Writing.


def write_rollouts(
    folder: Path, step: int, prompts: Sequence[Prompt], given: PromptBatch, drawn: Drawn, earned: Earned, model: Trained
) -> Path:
    """folder/000123.jsonl of iteration 123, whole or not at all. given: the prompts as the policy read them. drawn: NumPy
    arrays. InputError: the disk takes no more."""
    rows = rows_of(step, prompts, given, drawn, earned, model)
    path = path_of(folder, step)
    _write(path, "".join(json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows))
    return path


def write_origin(folder: Path, name: str, record: Mapping[str, Any]) -> None:
    """Says what the rollouts in the folder are made from: a stage's record, and its name, which deals out the draws."""
    _write(folder / ORIGIN, json.dumps({"name": name, **record}, indent=1) + "\n")


def path_of(folder: Path, step: int) -> Path:
    """Where an iteration's rollouts are."""
    return folder / f"{step:06d}.jsonl"


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode("utf-8", "backslashreplace"))
    except OSError as error:
        reason = disk_reason(error)
        if reason is None:
            raise
        raise InputError(f"cannot write {path}: {reason} and run the same command again, it continues") from error


def rows_of(
    step: int, prompts: Sequence[Prompt], given: PromptBatch, drawn: Drawn, earned: Earned, model: Trained
) -> Iterator[dict[str, Any]]:
    """The lines of an iteration."""
    t, x = model.tokenizer, drawn.x
    tokens, mask = np.asarray(x.y.tokens), np.asarray(x.y.mask)
    about, (prompts, texts), why = prompts, shown(prompts, drawn, model), ended(x, model)
    lengths = [int(np.flatnonzero(row)[-1]) + 1 if row.any() else 0 for row in mask]
    ids = [row[:n].tolist() for row, n in zip(tokens, lengths, strict=True)]
    implied, leaves = implied_by(given, ids, tokens.shape[1], t), named(x)
    asked = zip(np.asarray(given.tokens), np.asarray(given.mask), strict=True)
    numbers = {name: np.asarray(each.numbers) for name, each in drawn.numbers.items()}
    numbers = dict(sorted(numbers.items(), key=lambda item: item[1].ndim))
    for i, (prompt, (prompt_tokens, counts), n) in enumerate(zip(prompts, asked, lengths, strict=True)):
        row: dict[str, Any] = {"step": step, "prompt": prompt.text}
        if isinstance(prompt.conversation, Messages):
            row["messages"] = list(prompt.conversation)
        if drawn.told:
            row |= {"row": about[i].text, "rewards": drawn.told[i].rewards, "over": drawn.told[i].over}
        row |= {"answer": texts[i], "ended": why[i]}
        row["reward"] = {name: None if np.isnan(part[i]) else _plain(part[i]) for name, part in earned.items()}
        row["scores"] = [_plain(score) for score in drawn.scores[:, i]]
        row |= {name: _said(each[i][:n] if each.ndim > 1 else each[i], n) for name, each in numbers.items()}
        row |= {"ids": ids[i], "kl": {}, "prompt_ids": prompt_tokens[counts].tolist(), "rollout": {}}
        for name, leaf in leaves.items():
            if name not in implied or not _same(leaf[i], implied[name][i]):
                where, key = _place(name)
                (row[where] if where else row)[key] = _said(leaf[i], n)
        yield {name: value for name, value in row.items() if value != {}}


def named(tree: PyTree) -> dict[str, Any]:
    """The leaves of a rollout by their place in it: {"y.tokens": …}."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def implied_by(given: PromptBatch, ids: Sequence[Sequence[int]], T: int, tokenizer: Tokenizer) -> dict[str, ndarray]:
    """What of a rollout is not written down where it is this: the prompts, the answers' ids and padding say it."""
    y = np.full((len(ids), T), tokenizer.pad, np.int32)
    mask = np.zeros(y.shape, bool)
    for row, each in enumerate(ids):
        y[row, : len(each)], mask[row, : len(each)] = each, True
    return {
        "y.tokens": y,
        "y.mask": mask,
        "tokens": np.concatenate([np.asarray(given.tokens), y], axis=1),
        "mask": np.concatenate([np.asarray(given.mask), mask], axis=1),
        "ended": np.any(np.isin(y, tokenizer.ends) & mask, axis=1),
    }


def _place(name: str) -> tuple[str, str]:
    """Where a line has a leaf of the rollout: the name of an object, "" for the line itself, and the key."""
    key = NAMES.get(name, f"rollout.{name}")
    where, _, rest = key.partition(".")
    return (where, rest) if rest else ("", key)


def _same(one: ndarray, other: ndarray) -> bool:
    return _alike(one, other) and bool((one == other).all())


def _said(array: Any, length: int) -> Any:
    """A number, a list up to the answer's end where nothing stands behind it, or what has more dimensions, packed."""
    array = np.asarray(array)
    if array.ndim > 1:
        packed = np.packbits(array) if array.dtype == bool else array
        return base64.b64encode(zlib.compress(packed.tobytes())).decode()
    if array.ndim == 1 and not any(array[length:].tobytes()):
        array = array[:length]
    return [_plain(x) for x in array] if array.ndim else _plain(array[()])


def _plain(x: Any) -> Any:
    """As JSON has it: the shortest number that is this float32; what is not finite is a string."""
    if not jnp.issubdtype(x.dtype, jnp.floating):
        return x.item()
    return float(str(np.float32(x))) if np.isfinite(x) else str(float(x))


# Reading.


class Recorded(NamedTuple):
    """A folder of rollouts."""

    folder: Path
    origin: Mapping[str, Any]  # what they are made from: a stage's record, and its folder's `name`

    def steps(self) -> list[int]:
        """The iterations that are there, in order."""
        found = [path for path in self.folder.glob("*.jsonl") if path.stem.isascii() and path.stem.isdigit()]
        return sorted(int(path.stem) for path in found if path == path_of(self.folder, int(path.stem)))

    def rows(self, step: int) -> list[dict[str, Any]]:
        """An iteration's lines. InputError: it is missing, or a line is no JSON object."""
        return read_rows_of(path_of(self.folder, step))

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that reads their ids, which lies beside them."""
        said: Any = self.origin["model"]
        try:
            return read_model(self.folder.parent, said, 0, "").tokenizer
        except (LookupError, TypeError) as error:
            raise InputError(f"{self.folder / ORIGIN} is damaged, or another version's; {AGAIN}") from error

    def sha256(self) -> str:
        """Of all that is there, by which a run that learns from it notices another."""
        hashed = hashlib.sha256((self.folder / ORIGIN).read_bytes())
        for step in self.steps():
            hashed.update(f"{step} {file_sha256(path_of(self.folder, step))}\n".encode())
        return hashed.hexdigest()


def recorded(folder: Path | str) -> Recorded:
    """The rollouts of a stage's folder, which runtime.record_every writes and `sample_rollouts` makes. InputError: none."""
    folder = Path(folder)
    folder = folder if (folder / ORIGIN).is_file() else folder / ROLLOUTS
    try:
        origin = json.loads((folder / ORIGIN).read_text(encoding="utf-8"))
        if (
            not isinstance(origin["name"], str)
            or not origin["name"]
            or not {"settings", "inputs", "model"} <= origin.keys()
        ):
            raise ValueError
        flat(origin)  # nested no deeper than it can be read
    except FileNotFoundError:
        raise InputError(
            f"{folder} holds no rollouts; record them with runtime.record_every = 1, or with stages.sample_rollouts"
        ) from None
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(f"{folder / ORIGIN} is damaged; copy it anew, or record the rollouts again") from error
    return Recorded(folder, origin)


def browsed(rollouts: Recorded, most: int) -> tuple[list[Browsed], int]:
    """Answers for a page, and how many iterations are left out that there may be `most` of them: none of the first and the
    last. InputError: there is no iteration, or a line is damaged."""
    steps, t = rollouts.steps(), rollouts.tokenizer()
    if not steps:
        raise InputError(f"{rollouts.folder} holds no iteration yet; wait for the first")
    fit = max(most // max(len(rollouts.rows(steps[0])), 1), 2)
    kept = sorted({steps[at] for at in np.linspace(0, len(steps) - 1, min(fit, len(steps))).round().astype(int)})
    found = [_browsed(row, t, rollouts, step) for step in kept for row in rollouts.rows(step)]
    return found, len(steps) - len(kept)


def _browsed(row: Mapping[str, Any], t: Tokenizer, rollouts: Recorded, step: int) -> Browsed:
    try:
        columns = {
            "KL": row.get("kl", {}).get("k1"),
            "exact KL": row.get("kl", {}).get("exact"),
            "log π": row.get("logp"),
        }
        columns |= {name: row.get(name) for name in ("value", "advantage")}
        numbers = {name: [_finite(x) for x in said][: len(row["ids"])] for name, said in columns.items() if said}
        parts = {name: _finite(x) for name, x in row["reward"].items()}
        score = _finite(row.get("score", next((x for x in parts.values() if x is not None), 0.0)))
        tokens = [t.decode([token]) or "⏎" for token in row["ids"]]
        padded = {name: [*said, *[None] * (len(tokens) - len(said))] for name, said in numbers.items()}
        about = score or 0.0, parts, row["ended"]
        prompt = by_role(Messages(row["messages"]) if "messages" in row else row["prompt"])
        return Browsed(step, prompt, row["answer"], tokens, padded, *about)
    except (LookupError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise InputError(f"{path_of(rollouts.folder, step)} has a damaged line; {AGAIN}") from error


def _finite(x: Any) -> float | None:
    """A number as a page has it: None where it is none, or not finite."""
    return float(x) if x is not None and np.isfinite(float(x)) else None


def read_rows_of(path: Path) -> list[dict[str, Any]]:
    """The lines of an iteration. InputError: it is missing, or a line is no JSON object."""
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise InputError(f"{path} is missing; record every iteration with runtime.record_every = 1") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read; copy it anew, or record it again") from error
    rows = []
    for number, line in enumerate(lines, 1):
        if number == len(lines) and not line:
            break
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or number == len(lines):  # the last one ends with a line break
            raise InputError(f"{path}, line {number} is damaged; {AGAIN}")
        rows.append(row)
    return rows


class Reading(NamedTuple):
    """What the rollouts of an iteration have to be for a run to learn from them."""

    shapes: PyTree  # jax.ShapeDtypeStructs of what `sample` gives
    tokenizer: Tokenizer
    vocabulary: int  # ids below it have a row in the model's embedding
    scores: int  # for each answer: of so many reward models, or 1 of a function
    turns: int = 0  # of an episode at most; 0: an answer


def read_drawn(recorded: Recorded, step: int, prompts: Sequence[Prompt], given: PromptBatch, how: Reading) -> Drawn:
    """What `learn` was given in an iteration, to the bit. prompts, given: those that this run asks in it.

    InputError, with the line: other prompts, ids outside of the vocabulary, a number that is missing, too many or none, or
    that no run writes.
    """
    path, rows = path_of(recorded.folder, step), recorded.rows(step)
    B, T = how.shapes.y.tokens.shape
    if len(rows) != B:
        raise InputError(f"{path} holds {len(rows)} answers where {B} were recorded; {AGAIN}")
    asked = [tokens[mask].tolist() for tokens, mask in zip(*map(np.asarray, (given.tokens, given.mask)), strict=True)]
    places, told = named(how.shapes), []
    for number, (row, prompt, ids) in enumerate(zip(rows, prompts, asked, strict=True), 1):
        where = f"{path}, line {number}"
        if how.turns:  # its environment begins in words of its own
            told.append(_told(row, where, prompt, how))
            ids = row["prompt_ids"]
        _require_right(row, where, ids, T, how)
        if row.get("reward", {}).keys() != rows[0].get("reward", {}).keys():
            raise InputError(f"{where}: reward has other parts than in line 1; {AGAIN}")
        if other := [name for name in row.get("rollout", ()) if name not in places]:
            raise InputError(
                f"{path}, line {number} has {other[0]}, which this run's sample does not give; replay it with the sample "
                "that wrote it"
            )
    ids = [row["ids"] for row in rows]
    if told:
        each = [row["prompt_ids"] for row in rows]
        given = padded([(x, [True] * len(x)) for x in each], how.tokenizer.pad, given.tokens.shape[1])
    implied, leaves = implied_by(given, ids, T, how.tokenizer), []
    for name, shape in places.items():
        known = implied.get(name)
        known = known if known is not None and _alike(known, shape) else None
        leaf = np.zeros(shape.shape, shape.dtype)
        where, key = _place(name)
        for i, row in enumerate(rows):
            holder = row.get(where) if where else row
            said = holder.get(key) if isinstance(holder, dict) else None
            if said is None and known is not None:
                leaf[i] = known[i]
            elif not _put(said, leaf[i : i + 1], len(ids[i])):
                found = "is missing" if said is None else f"is {shortened(said)}"
                full = f"{where}.{key}" if where else key
                raise InputError(f"{path}, line {i + 1}: {full} {found}, of an answer of {len(ids[i])} tokens; {AGAIN}")
            elif name == "y.logp" and not (np.isfinite(leaf[i]) & (leaf[i] <= ROUNDING)).all():
                wrong = leaf[i][~(leaf[i] <= ROUNDING) | ~np.isfinite(leaf[i])][0]
                raise InputError(f"{path}, line {i + 1}: logp has {wrong:g}, which is no log-probability; {AGAIN}")
        leaves.append(leaf)
    scores = np.asarray([[np.float32(score) for score in row["scores"]] for row in rows], np.float32).T
    parts = {name: np.asarray([_opinion(row, name) for row in rows], np.float32) for name in rows[0].get("reward", {})}
    return Drawn(jax.tree.unflatten(jax.tree.structure(how.shapes), leaves), scores, {}, parts, told)


def padded(rows: Sequence[tuple[Sequence[int], Sequence[bool]]], pad: int, width: int) -> PromptBatch:
    """Tokens and their masks, on the right of rows of one width."""
    tokens, mask = np.full((len(rows), width), pad, np.int32), np.zeros((len(rows), width), bool)
    for i, (ids, seen) in enumerate(rows):
        tokens[i, width - len(ids) :], mask[i, width - len(ids) :] = ids, seen
    return PromptBatch(tokens, mask)


def _told(row: Mapping[str, Any], where: str, prompt: Prompt, how: Reading) -> Told:
    """The episode that a line tells, which is about the prompt."""
    if row.get("row") != prompt.text:
        raise InputError(f"{where} is about another row than this run's there; give it the prompts of that run")
    ids, most = row.get("prompt_ids"), how.shapes.tokens.shape[1] - how.shapes.y.tokens.shape[1]
    if not isinstance(ids, list) or not 0 < len(ids) <= most:
        raise InputError(f"{where}: prompt_ids is {shortened(ids)}, which are not 1 to {most} tokens; {AGAIN}")
    _require_tokens(ids, where, how)
    messages, said, rewards, over = (row.get(name) for name in ("messages", "answer", "rewards", "over"))
    if not isinstance(messages, list) or not isinstance(said, str) or not isinstance(over, str):
        raise InputError(f"{where}: messages, answer or over is missing, of an episode; {AGAIN}")
    if not all(isinstance(each, dict) and isinstance(each.get("role"), str) for each in messages):
        raise InputError(f"{where}: messages is {shortened(messages)}, not a list of objects with a role; {AGAIN}")
    if not isinstance(rewards, list) or not 0 < len(rewards) <= how.turns or not all(map(_is_finite, rewards)):
        raise InputError(
            f"{where}: rewards is {shortened(rewards)}, not a number for each of 1 to {how.turns} turns; {AGAIN}"
        )
    return Told(Prompt(Messages(messages)), said, tuple(rewards), over)


def _opinion(row: Mapping[str, Any], part: str) -> float:
    said = row["reward"][part]
    return float(said) if _is_number(said) else np.nan


def _require_right(row: Mapping[str, Any], where: str, prompt: list[int], T: int, how: Reading) -> None:
    ids, scores = row.get("ids"), row.get("scores")
    if row.get("prompt_ids") != prompt:
        raise InputError(f"{where} answers another prompt than this run asks there; give it the prompts of that run")
    if not isinstance(ids, list) or not 0 < len(ids) <= T or not all(type(each) is int for each in ids):
        raise InputError(f"{where}: ids is {shortened(ids)}, which are not 1 to {T} tokens; {AGAIN}")
    _require_tokens(ids, where, how)
    if not isinstance(scores, list) or len(scores) != how.scores or not all(map(_is_finite, scores)):
        raise InputError(
            f"{where}: scores is {shortened(scores)}, and this run has {how.scores} for each answer; replay it with the "
            "rewards that it was recorded with"
        )
    if not isinstance(row.get("rollout", {}), dict):
        raise InputError(f"{where}: rollout is {shortened(row['rollout'])}, which is no object; {AGAIN}")
    reward = row.get("reward", {})
    if not isinstance(reward, dict) or not all(said is None or _is_number(said) for said in reward.values()):
        raise InputError(f"{where}: reward is {shortened(reward)}, which is no object of numbers by part; {AGAIN}")


def _require_tokens(ids: list[Any], where: str, how: Reading) -> None:
    if out := [each for each in ids if type(each) is not int or not 0 <= each < how.vocabulary]:
        raise InputError(
            f"{where} has the token {shortened(out[0])}, and the model a vocabulary of {how.vocabulary}; replay it with the "
            "model that wrote it"
        )


def _alike(array: ndarray, shape: Any) -> bool:
    return array.shape == shape.shape and array.dtype == shape.dtype


def _put(said: Any, row: ndarray, length: int) -> bool:
    """Puts what a line says of an answer into its row [1, …], zeros behind it; whether it is such a thing."""
    width, whole = row.shape[1:], row.dtype == bool
    if len(width) > 1:
        try:
            flat = np.frombuffer(zlib.decompress(base64.b64decode(said)), np.uint8 if whole else row.dtype)
            row[0] = (np.unpackbits(flat, count=row.size) if whole else flat).reshape(width)
        except (TypeError, ValueError, zlib.error):
            return False
        return True
    numbers = said if width else [said]
    integers = jnp.issubdtype(row.dtype, jnp.integer)
    right = (lambda each: type(each) is bool) if whole else (lambda each: type(each) is int) if integers else _is_number
    if not isinstance(numbers, list) or len(numbers) not in (length, *width, *(() if width else (1,))):
        return False
    if not all(map(right, numbers)) or len(numbers) > row.size:
        return False
    row.reshape(-1)[: len(numbers)] = [row.dtype.type(each) for each in numbers]
    return True


def _is_number(each: Any) -> bool:
    return _is_finite(each) or (isinstance(each, str) and each in ("nan", "inf", "-inf"))


def _is_finite(each: Any) -> bool:
    return type(each) in (int, float) and abs(each) <= 3.4028235e38  # float32's largest, as it is written


# Replay.


def require_replayable(rollouts: Recorded, record: Mapping[str, Any], steps: int) -> None:
    """InputError: an iteration is missing, or the run that replays them would have sampled others. What it does otherwise in
    learning is said. record: the stage's that replays them."""
    there = set(rollouts.steps())
    if missing := [step for step in range(1, steps + 1) if step not in there]:
        fewer = f", or set ppo.iterations to {missing[0] - 1}" if missing[0] > 1 else ""
        raise InputError(
            f"{path_of(rollouts.folder, missing[0])} is missing; record every iteration with runtime.record_every = 1{fewer}"
        )
    old, new = flat(rollouts.origin), flat(record)
    was, is_now = ("episodes" in each["settings"] for each in (rollouts.origin, record))
    if was != is_now:
        what = "episodes with an environment; give it" if was else "single answers; leave the environment out"
        raise InputError(f"{rollouts.folder}: these rollouts are {what}, or replay others")
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    for key in changed:
        if key.startswith(SAMPLED):
            name = key.removeprefix("settings.").removeprefix("inputs.")
            values = "" if key.startswith("inputs.") else f" ({shortened(old.get(key))}, not {shortened(new.get(key))})"
            raise InputError(
                f"{rollouts.folder}: these rollouts were recorded with another {name}{values}; set it back, or replay others"
            )
    learned = [key.partition(".")[2] for key in changed if key.startswith(LEARNED) and key != "inputs.rollouts"]
    if learned:
        info(f"replays {rollouts.folder} and learns otherwise than that run: another {', '.join(sorted(learned))}")


def flat(record: Mapping[str, Any], at: str = "") -> dict[str, Any]:
    """The values of a nested object by their dotted keys."""
    found = {}
    for key, value in record.items():
        found |= flat(value, f"{at}{key}.") if isinstance(value, Mapping) and value else {f"{at}{key}": value}
    return found
