"""Rewards that are Python functions of the text, alone or beside reward models: how they are asked, and what they give
together."""

import asyncio
import copy
import inspect
import json
import re
import signal
import threading
import time
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, MappingView, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from decimal import Decimal
from functools import cache, partial
from itertools import product
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from rlhf_jax.data import Columns, Prompt
from rlhf_jax.errors import InputError, shortened
from rlhf_jax.runtime import first_process, of_first_process, write_atomically
from rlhf_jax.stages.functions import mismatch, raised
from rlhf_jax.stages.model import Trained

Given = tuple[list[Prompt], list[str], list[Columns]]  # what a function is asked about
Opinions = Sequence[float | None]  # of each answer; None: no opinion
RewardFunction = Callable[[list[Prompt], list[str], list[Columns]], Opinions | Awaitable[Opinions]]
FAILED = "reward_failed.json"  # says which answer a reward function went wrong at
SEARCH = 10.0  # seconds that the answer is searched for


@dataclass(frozen=True)
class Rewards:
    """What an answer is worth: Σ weight · part over the parts that have an opinion of it, the parts being what the reward
    models say, and each function. Several reward models are an ensemble (ppo.ensemble), which is one part.

    weights: of the reward models, where there are any, and then of each function; () is 1 each. names: of the functions, by
    which they are logged; () is the functions' own. InputError: a part that is none, weights that do not fit, a
    function that does not take three arguments.
    """

    models: Sequence[Trained] = ()
    functions: Sequence[RewardFunction] = ()
    weights: Sequence[float] = ()
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        for what, given in (("models", self.models), ("functions", self.functions)):
            if not isinstance(given, Sequence):
                raise InputError(f"the {what} of the rewards are {shortened(given)}; give a list of them")
        parts = bool(self.models) + len(self.functions)
        if len(self.names) not in (0, len(self.functions)):
            raise InputError(f"the rewards have {len(self.functions)} functions and {len(self.names)} names; name each")
        for model in self.models:
            if not model.scalar:
                raise InputError(f"{model.folder} is {model.kind}; give a reward model, or a function, as the reward")
        for function, name in zip(self.functions, self.named, strict=True):
            require_arguments(function, name)
        listed = list(self.weights) if isinstance(self.weights, Sequence | ndarray) and np.ndim(self.weights) else None
        weights = None if listed is None or isinstance(self.weights, str | bytes) else [number_of(w) for w in listed]
        if weights is None or (weights and (len(weights) != parts or not np.isfinite(weights).all())):
            of = [*(["the reward models"] if self.models else []), *self.named]
            raise InputError(
                f"the weights of the rewards are {shortened(self.weights if listed is None else listed)}; give a list "
                f"with a finite number for each of {', '.join(of)}"
            )

    @property
    def named(self) -> list[str]:
        """The functions' names, of which no two are alike."""
        taken = [self.models[0].folder.name] if self.models else []
        for name in self.names or map(function_name, self.functions):
            free = (each for i in range(1, len(self.functions) + 2) if (each := f"{name}_{i}" if i > 1 else name))
            taken.append(next(each for each in free if each not in taken))
        return taken[bool(self.models) :]

    @property
    def weighed(self) -> tuple[float, list[float]]:
        """The weights of the reward models and of each function."""
        weights = [float(weight) for weight in self.weights] or [1.0] * (bool(self.models) + len(self.functions))
        return (weights[0], weights[1:]) if self.models else (1.0, weights)

    @property
    def in_words(self) -> str:
        """The sum by its parts' names: reward_model + 0.5·exact."""
        of_models, weights = self.weighed
        parts = [
            *([(self.models[0].folder.name, of_models)] if self.models else []),
            *zip(self.named, weights, strict=True),
        ]
        return " + ".join(name if weight == 1 else f"{weight:g}·{name}" for name, weight in parts)

    @property
    def recorded(self) -> dict[str, Any]:
        """The models, then the functions, as a stage's record calls them: reward, reward_2 …"""
        return {
            "reward" if i == 0 else f"reward_{i + 1}": part for i, part in enumerate((*self.models, *self.functions))
        }

    def name_of(self, recorded: str) -> str:
        """The name of the function that a stage's record calls reward or reward_2 …; "" where there is none."""
        return dict(zip(list(self.recorded)[len(self.models) :], self.named, strict=True)).get(recorded, "")

    @property
    def inputs(self) -> dict[str, str]:
        """Of what is known by a sha256, as reward models are, that."""
        return {name: part.sha256 for name, part in self.recorded.items() if hasattr(part, "sha256")}

    @property
    def code(self) -> dict[str, RewardFunction]:
        """The functions that are known by their code."""
        return {name: part for name, part in self.recorded.items() if not hasattr(part, "sha256")}


class RewardError(InputError):
    """A reward function went wrong. code: what the stage's record calls it. about: what there is to look at, as JSON."""

    def __init__(self, sentence: str, code: str = "reward", about: Mapping[str, Any] | None = None):
        super().__init__(sentence)
        self.code, self.about = code, dict(about or {})


class TooSlowError(BaseException):
    """The time is over; no Exception, so that no function takes it for one of its own."""


def rewards_of(reward: Any, needed: bool = True) -> Rewards:
    """A reward model, a function, or several of both, as Rewards. needed: nothing, None, is none. InputError: see `Rewards`;
    nothing where it is needed, or something else."""
    reward = Rewards() if reward is None and not needed else reward
    if isinstance(reward, Rewards):
        if needed and not reward.recorded:
            raise InputError("there is no reward; give a reward model, several, or a function")
        return reward
    several = isinstance(reward, Iterable) and not isinstance(reward, str | Mapping) and not callable(reward)
    parts: list[Any] = list(reward) if several else [reward]
    if not parts or not all(isinstance(part, Trained) or callable(part) for part in parts):
        raise InputError(f"the reward is {shortened(reward)}; give a reward model, several, or a function")
    models = tuple(part for part in parts if isinstance(part, Trained))
    return Rewards(models, tuple(part for part in parts if not isinstance(part, Trained)))


def function_name(function: Any) -> str:
    """As it is logged: its name, or of an object that can be called the class's."""
    if isinstance(function, partial):
        return function_name(function.func)
    name = getattr(function, "__name__", type(function).__name__)
    return re.sub(r"[^\w.-]+", "", name) or "reward"


def require_arguments(function: Any, name: str) -> None:
    """InputError: it cannot be called, or not with prompts, answers and rows."""
    if not callable(function):
        raise InputError(f"the reward {name} is {shortened(function)}; give a function")
    if found := mismatch(function, 3):
        signature, error = found
        trl = "completions" in signature.parameters
        hint = "it looks like one for TRL: wrap it in rewards.from_trl, or write trl: before its name in a config"
        wanted = hint if trl else "let it take (prompts, answers, rows) and nothing else without a default"
        raise InputError(f"the reward function {name} takes {signature}, not three arguments ({error}); {wanted}")


def opinions(
    rewards: Rewards, prompts: Sequence[Prompt], answers: Sequence[str], seconds: float = np.inf
) -> Float[ndarray, "F B"]:
    """What each of F functions gives the answers; NaN is no opinion. seconds: that they may take together.

    Async functions run together in one loop, beside the others, which are called one after the other in this thread: alarms,
    which many a checker sets, are the main thread's. In another thread the limit is of async functions alone.

    RewardError: one raises, takes too long, or gives something else than a finite number or None for each; where a function
    has an opinion of nothing else, none has one of an answer.
    """
    ends, names, codes = time.monotonic() + seconds, rewards.named, list(rewards.recorded)[len(rewards.models) :]
    given = list(prompts), list(answers), [prompt.columns for prompt in prompts]
    async_first = sorted(range(len(names)), key=lambda i: not is_async(rewards.functions[i]))
    said: dict[int, Any] = {}
    try:
        for wait, i in product((False, True), async_first):
            with said_of(f"the reward function {names[i]}", codes[i], rewards.functions[i], given, ends, seconds):
                said[i] = waited(said[i], ends) if wait else call(rewards.functions[i], given)
    finally:
        for each in said.values():
            if isinstance(each, Begun):
                each.future.cancel()
    found = [numbers(said[i], f"the reward function {names[i]}", codes[i], given) for i in range(len(names))]
    table = np.stack(found) if found else np.zeros((0, len(answers)), np.float32)
    silent = [] if rewards.models else np.flatnonzero(np.isnan(table).all(axis=0)).tolist()
    if silent:
        columns = ", ".join(given[2][silent[0]]) or "none"
        sentence = f"no reward function has an opinion{at_row(given, silent[0])}; its row's other columns: {columns}"
        raise RewardError(
            sentence, codes[0], about(f"the reward functions {', '.join(names)}", sentence, given, silent[0])
        )
    return table


def opinions_for_all(
    rewards: Rewards, prompts: Sequence[Prompt], answers: Sequence[str], seconds: float = np.inf
) -> Float[ndarray, "F B"]:
    """The same on every process: those of the first, which alone calls the functions. InputError, on every process, as for
    `opinions`."""
    given, error = np.full((len(rewards.functions), len(answers)), np.inf, np.float32), None
    if first_process():
        try:
            given = opinions(rewards, prompts, answers, seconds)
        except InputError as found:
            error = found
    given = of_first_process(given)
    if np.isinf(given).any():
        raise error or RewardError("the reward function went wrong on the first process, which says how")
    return given


def scores_by(reward: RewardFunction, prompts: Sequence[Prompt], answers: Sequence[str]) -> Float[ndarray, " B"]:
    """What one function gives the answers. InputError: see `opinions`."""
    return opinions(Rewards(functions=(reward,)), prompts, answers)[0]


def together(
    rewards: Rewards, said: Float[ndarray, "F B"], of_models: Float[ndarray, "E B"] | None = None
) -> Float[ndarray, "N B"]:
    """Σ weight · part, for each reward model of the ensemble, to which all functions are added; one row without models.
    RewardError: it is too large for float32."""
    of_model, weights = rewards.weighed
    functions = np.nansum(np.array(weights)[:, None] * said.astype(np.float64), axis=0)
    if of_models is None:
        return in_float32(functions[None])
    return in_float32(of_model * of_models.astype(np.float64) + functions)


def in_float32(sums: Float[ndarray, "N B"]) -> Float[ndarray, "N B"]:
    """What rewards add up to. RewardError: a finite sum is none in float32."""
    with np.errstate(over="ignore"):
        found = sums.astype(np.float32)
    if (lost := np.isinf(found) & np.isfinite(sums)).any():
        raise RewardError(
            f"the rewards add up to {sums[lost][0]:g}, too large for float32; give smaller ones or weights"
        )
    return found


def parts_earned(
    rewards: Rewards, said: Float[ndarray, "F B"], of_models: Float[ndarray, "E B"] | None
) -> dict[str, Float[ndarray, " B"]]:
    """What each answer earned, by part: the mean of the reward models, and each function; NaN is no opinion."""
    models = {} if of_models is None else {rewards.models[0].folder.name: of_models.mean(axis=0)}
    return models | dict(zip(rewards.named, said, strict=True))


def part_metrics(parts: Mapping[str, Float[ndarray, " B"]], answers: int) -> dict[str, float]:
    """The mean of each part over the answers that it has an opinion of; where a prompt has several answers, the share of
    prompts between whose answers the part makes no difference."""
    metrics = {f"reward/{name}": float(np.nanmean(part)) for name, part in parts.items() if not np.isnan(part).all()}
    if answers > 1:
        for name, part in parts.items():
            groups = part.reshape(-1, answers)
            known = np.where(np.isnan(groups), -np.inf, groups).max(axis=1), np.where(np.isnan(groups), np.inf, groups)
            metrics[f"group/no_difference/{name}"] = float(np.mean(known[0] <= known[1].min(axis=1)))
    return metrics


def keep_failure(folder: Path, iteration: int, error: RewardError) -> str:
    """Writes what a function went wrong at into the stage's folder, and says where, as the end of a sentence."""
    path = folder / FAILED
    if first_process() and error.about:
        text = json.dumps({"iteration": iteration + 1, **error.about}, indent=1, default=str, ensure_ascii=False)
        write_atomically(path, text.encode("utf-8", "backslashreplace"))
        return f"; {path} has it"
    return ""


def forget_failure(folder: Path) -> None:
    """Takes that away: the iteration has gone well."""
    if first_process():
        (folder / FAILED).unlink(missing_ok=True)


# How one function is asked.


@contextmanager
def said_of(who: str, code: str, function: RewardFunction, given: Given, ends: float, seconds: float) -> Iterator[None]:
    """Makes a RewardError of what a function raises, and of a time that is over."""
    try:
        with limited(ends - time.monotonic()):
            yield
    except TooSlowError:
        sentence = f"{who} and those before it took more than {seconds:g} s for {len(given[1])} answers"
        hint = "make it faster, or raise runtime.reward_seconds"
        raise RewardError(f"{sentence}; {hint}", code, about(who, sentence, given)) from None
    except InputError as error:
        raise RewardError(f"{who}: {error}", code, about(who, str(error), given)) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        sentence, at = raised(who, error), culprit(function, error, given, ends)
        raise RewardError(f"{sentence}{at_row(given, at)}", code, about(who, sentence, given, at)) from error


def is_async(function: Any) -> bool:
    """Whether calling it only begins it."""
    if isinstance(function, partial):
        return is_async(function.func)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(function.__call__)


class Begun:
    """What an async function gives, some time."""

    def __init__(self, awaitable: Awaitable):
        async def wait() -> Any:
            with no_end("it raised KeyboardInterrupt"):
                return await awaitable

        self.future = asyncio.run_coroutine_threadsafe(wait(), loop())


@cache
def loop() -> asyncio.AbstractEventLoop:
    """The loop of async functions, one for the whole program: what they keep of connections belongs to it."""
    made = asyncio.new_event_loop()

    def run() -> None:
        while not made.is_closed():
            with suppress(
                SystemExit, KeyboardInterrupt
            ):  # of a task that a function began: whoever awaits it gets it too
                made.run_forever()

    threading.Thread(target=run, daemon=True).start()
    return made


@contextmanager
def no_end(interrupted: str | None = None) -> Iterator[None]:
    """Makes a RuntimeError of sys.exit, and of a KeyboardInterrupt where no keyboard is, in a loop's thread."""
    try:
        yield
    except SystemExit as error:
        raise RuntimeError(f"it called sys.exit({error.code!r})") from error
    except KeyboardInterrupt as error:
        if interrupted is None:
            raise
        raise RuntimeError(interrupted) from error


def call(function: Callable, given: Given) -> Any:
    """What it gives, or of an async function what `waited` waits for. Lists, rows and messages are its own, so that what it
    writes into them is in no other iteration's; sys.exit ends nothing."""
    prompts = [copy.deepcopy(prompt) for prompt in given[0]]
    with no_end():
        said = function(prompts, list(given[1]), [prompt.columns for prompt in prompts])
        if inspect.isawaitable(said):
            return Begun(said)
        return list(said) if isinstance(said, Iterator) else said  # what a generator raises is the function's


def waited(said: Any, ends: float) -> Any:
    """The same once it is there. TooSlowError: by then it is not."""
    if not isinstance(said, Begun):
        return said
    seconds = min(max(ends - time.monotonic(), 0.0), threading.TIMEOUT_MAX)
    try:
        return said.future.result(seconds)
    except TimeoutError:
        if said.future.done():
            raise
        said.future.cancel()
        loop.cache_clear()  # one that never waits would hold it up
        raise TooSlowError from None


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raises TooSlowError in the main thread after so many seconds."""
    if threading.current_thread() is not threading.main_thread() or seconds > threading.TIMEOUT_MAX:
        yield
        return
    main, over = threading.get_ident(), False

    def end(number: int, frame: Any) -> None:
        if not over:
            raise TooSlowError

    before = signal.signal(signal.SIGVTALRM, end)
    timer = threading.Timer(max(seconds, 0.0), signal.pthread_kill, (main, signal.SIGVTALRM))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        over = True
        timer.cancel()
        timer.join()  # past it no signal is on its way
        signal.signal(signal.SIGVTALRM, signal.SIG_DFL if before is None else before)


def numbers(said: Any, who: str, code: str, given: Given) -> Float[ndarray, " B"]:
    """What a function gave as float32, None as NaN. RewardError: it is something else."""
    count = len(given[1])
    try:
        unordered = isinstance(said, str | bytes | bytearray | memoryview | Mapping | MappingView | Set)
        values = None if unordered else list(said)
    except Exception:  # it is no sequence, or one of the user's own that raises
        values = None
    if values is None or len(values) != count:
        wanted = "let it give a list with a finite number for each, or None where it has no opinion"
        sentence = f"{who} gave {shortened(said)} for {count} answers; {wanted}"
        raise RewardError(sentence, code, about(who, sentence, given))
    found = np.full(count, np.nan, np.float32)
    for i, value in enumerate(values):
        if value is None:
            continue
        number = number_of(value)
        if not np.isfinite(number):
            sentence = f"{who} gave {shortened(value)}"
            wanted = "let it give a finite number, or None where it has no opinion"
            raise RewardError(f"{sentence}{at_row(given, i)}; {wanted}", code, about(who, sentence, given, i))
        found[i] = number
    return found


def number_of(value: Any) -> np.float32:
    """A number of any kind as float32, ±inf where it is too large; NaN: it is none, or masked."""
    try:
        plain = value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value
        if isinstance(plain, Real | Decimal) and not np.ma.is_masked(value):
            with np.errstate(over="ignore"):
                return np.float32(float(plain))
    except Exception:  # 10**400, a signalling NaN, an object of the user's own
        pass
    return np.float32(np.nan)


def culprit(function: RewardFunction, error: BaseException, given: Given, ends: float) -> int | None:
    """The first row at which the function raises alike when it is asked for it alone; None where that takes more than a
    few seconds, or none is found."""
    until = min(ends, time.monotonic() + SEARCH)
    for i, (prompt, answer, row) in enumerate(zip(*given, strict=True)):
        try:
            with limited(until - time.monotonic()):
                waited(call(function, ([prompt], [answer], [row])), until)
        except TooSlowError:
            return None
        except KeyboardInterrupt:
            raise
        except BaseException as again:
            if alike(again, error):
                return i
    return None


def alike(one: BaseException, other: BaseException) -> bool:
    """Whether two exceptions are of one kind and from one line."""
    lines = [traceback.extract_tb(each.__traceback__)[-1] for each in (one, other)]
    return type(one) is type(other) and len({(line.filename, line.lineno) for line in lines}) == 1


def at_row(given: Given, i: int | None) -> str:
    """Which answer it was, in words; "" where that is not known."""
    return "" if i is None else f" at the answer {shortened(str(given[1][i]))} to {shortened(given[0][i].text)}"


def about(who: str, error: str, given: Given, i: int | None = None) -> dict[str, Any]:
    """What is written down: the answer where it is known, else all that were asked about."""
    rows = [
        {"prompt": prompt.conversation, "answer": str(answer), "row": columns}
        for prompt, answer, columns in zip(*given, strict=True)
    ]
    return {"who": who, "error": error, **({"answers": rows} if i is None else rows[i])}
