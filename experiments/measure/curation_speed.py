"""How many prompts a second each step of curation reads, and in how much memory, as their number grows.

    python experiments/measure/curation_speed.py --counts 62500,125000,250000,500000,1000000
    python experiments/measure/curation_speed.py --source prompts.jsonl --counts 10000,20000,40000

Prompts are made of made-up words by Zipf's law: 90 % are new, 4 % near copies of earlier ones, 4 % begin with the first 300
characters of an earlier one, 2 % have a telephone number or an e-mail address. Each is by one of a hundredth as many users
as prompts, who write much or little by Zipf's law too. Or they are a file's, with such users. Each count is measured in
a process of its own, whose peak of memory is the program's: the prompts in memory, and what the step adds to them.
"""

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate
from random import Random
from typing import NamedTuple

import tyro

from rlhf_jax.data import Prompt, prompt_text, read_prompts
from rlhf_jax.data.curation import Curated
from rlhf_jax.runtime import info, run
from rlhf_jax.stages import Curation, audit_of, curate

OFF = Curation(once=False, per_user=0, shared_prefix=0)
STEPS = {
    "repeats": Curation(once=True, per_user=0, shared_prefix=0),
    "languages": Curation(once=False, per_user=0, shared_prefix=0, languages="en"),
    "personal data": Curation(once=False, per_user=0, shared_prefix=0, pii=True),
    "prefixes": Curation(once=False, per_user=0, shared_prefix=200),
    "near duplicates": Curation(once=False, per_user=0, shared_prefix=0, similarity=0.8),
    "users": Curation(once=False, per_user=200, shared_prefix=0),
    "use-cases": Curation(once=False, per_user=0, shared_prefix=0, use_cases=True),
}
DEFAULT = "the steps of a run"
ALL = "all steps"


@dataclass(frozen=True)
class Options:
    counts: str = "10000,20000"
    steps: str = ""  # names with commas between; "" is every step, the defaults together and all together
    source: str = ""  # a file of prompts in the place of made-up ones


class Measured(NamedTuple):
    seconds: float
    kept: int
    before: float  # MB: the peak of memory with the prompts alone, and after the step
    after: float


def made_up(count: int) -> list[Prompt]:
    """So many prompts, the same every time."""
    rng = Random(0)
    words = ["".join(rng.choices("abcdefghiklmnoprstuvy", k=rng.randint(1, 9))) for _ in range(20_000)]
    weights = list(accumulate(1 / rank for rank in range(1, len(words) + 1)))
    users = with_users(count, rng)
    texts: list[str] = []
    while len(texts) < count:
        text, kind = " ".join(rng.choices(words, cum_weights=weights, k=rng.randint(8, 80))), rng.random()
        if texts and kind < 0.04:
            earlier = rng.choice(texts).split(" ")
            earlier[rng.randrange(len(earlier))] = rng.choice(words)
            text = " ".join(earlier)
        elif texts and kind < 0.08:
            text = f"{rng.choice(texts)[:300]} {text}"
        elif kind < 0.09:
            text = f"{text} (212) 664-{rng.randrange(10_000):04}"
        elif kind < 0.10:
            text = f"{text} {rng.choice(words)}@{rng.choice(words)}.org"
        texts.append(text)
    return [Prompt(prompt_text(text), user=user) for text, user in zip(texts, users, strict=True)]


def with_users(count: int, rng: Random) -> list[str]:
    """Names of a hundredth as many users."""
    there = max(count // 100, 1)
    weights = list(accumulate(1 / rank for rank in range(1, there + 1)))
    return [f"user {number}" for number in rng.choices(range(there), cum_weights=weights, k=count)]


def prompts_of(source: str, count: int) -> list[Prompt]:
    """The first so many of a file, each with a user, or made-up ones."""
    if not source:
        return made_up(count)
    rows = read_prompts(source, "drop")[:count]
    return [p._replace(user=user) for p, user in zip(rows, with_users(len(rows), Random(0)), strict=True)]


def peak_megabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def measured(step: Callable[[list[Prompt]], Curated], source: str, count: int) -> Measured:
    """What one process does."""
    prompts = prompts_of(source, count)
    before, start = peak_megabytes(), time.process_time()
    found = step(prompts)
    return Measured(time.process_time() - start, len(found.kept), before, peak_megabytes())


def in_a_process(results, name: str, source: str, count: int) -> None:
    settings = {DEFAULT: Curation(), ALL: Curation(similarity=0.8, pii=True, languages="en", use_cases=True)} | STEPS
    if name == "audit":
        results.put(measured(lambda prompts: _audited(prompts), source, count))
    else:
        results.put(measured(lambda prompts: curate(prompts, settings[name]), source, count))


def _audited(prompts: list[Prompt]) -> Curated:
    whole = Curated(prompts, [])
    audit_of({"train": whole}, OFF)
    return whole


def measure(options: Options) -> None:
    names = options.steps.split(",") if options.steps else [*STEPS, DEFAULT, ALL, "audit"]
    context = multiprocessing.get_context("spawn")
    for name in names:
        for count in map(int, options.counts.split(",")):
            results = context.Queue()
            process = context.Process(target=in_a_process, args=(results, name, options.source, count))
            process.start()
            found = results.get()
            process.join()
            info(
                f"{name}: {count:,} prompts in {found.seconds:.1f} s of the processor, {count / found.seconds:,.0f} a "
                f"second; {found.kept:,} stay; "
                f"peak memory {found.after:,.0f} MB ({found.before:,.0f} MB with the prompts alone)"
            )


if __name__ == "__main__":
    run(lambda: measure(tyro.cli(Options, description=__doc__)))
