"""A reward of one answer as a reward of many: all of them at once, in threads or in one loop."""

import asyncio
import inspect
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from rlhf_jax.data import Columns, Prompt


@dataclass(frozen=True)
class Each:
    """See `each`."""

    function: Callable[[Prompt, str, Columns], Any]
    threads: int

    @property
    def __name__(self) -> str:
        return getattr(self.function, "__name__", type(self.function).__name__)

    async def __call__(self, prompts: list[Prompt], answers: list[str], rows: list[Columns]) -> list[Any]:
        given = list(zip(prompts, answers, rows, strict=True))
        if inspect.iscoroutinefunction(self.function):
            return await asyncio.gather(*(self.function(*each) for each in given))
        waiting = deque((Future(), each) for each in given)
        results = [asyncio.wrap_future(future) for future, _ in waiting]
        for _ in range(min(self.threads, len(given))):
            threading.Thread(target=_work, args=(self.function, waiting), daemon=True).start()
        try:
            return await asyncio.gather(*results)
        finally:
            waiting.clear()  # after one that raised, or too long a time, no more are asked


def each(function: Callable[[Prompt, str, Columns], Any], threads: int = 16) -> Each:
    """A reward function that asks function(prompt, answer, row) → number or None of every answer: as many at a time as there
    are threads, or all together where it is async. For what waits: a server, another program, a person. As a decorator @each,
    or @partial(each, threads=4)."""
    return Each(function, threads)


def _work(function: Callable, waiting: deque) -> None:
    while True:
        try:
            future, given = waiting.popleft()
        except IndexError:
            return
        if not future.set_running_or_notify_cancel():  # nobody waits any more
            continue
        try:
            future.set_result(function(*given))
        except BaseException as error:  # it goes to whoever waits
            future.set_exception(error)
