"""How fast a .jsonl of any size is streamed, in how much memory, and by how many processes.

python experiments/measure/stream_speed.py --gigabytes 10 --seconds 120 --processes 1,2

Writes documents of made-up words into a temporary folder, notes where each begins, and then, for each number of processes,
streams rows from all over the file for so many seconds. Each process has its own lanes of the batch and a clock that starts
when all are ready. Weak scaling: tokens/s grow like the number of processes, as long as each has a core of its own;
tokens per second of processor time say the same where other programs keep the cores busy.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from random import Random
from typing import NamedTuple

import tyro

from rlhf_jax.data import Records, TextStream, load_tokenizer, train_tokenizer
from rlhf_jax.runtime import info, run

LENGTH = 1024  # tokens of a row
LANES = 8  # of each process
VOCABULARY = 2_000


@dataclass(frozen=True)
class Options:
    gigabytes: float = 0.1
    seconds: float = 10.0
    processes: str = "1,2"
    folder: str = tempfile.gettempdir()  # where there is space for the file and its index


def documents(seed: int) -> Iterator[str]:
    """Documents of 1 to 12 paragraphs, 2 kB on average, without end. No two are the same."""
    rng = Random(seed)
    words = ["".join(rng.choices("abcdefghiklmnoprstuvy", k=rng.randint(1, 9))) for _ in range(5_000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]  # Zipf's law
    paragraphs = [" ".join(rng.choices(words, weights, k=60)) for _ in range(5_000)]
    number = 0
    while True:
        yield f"Number {number}. " + "\\n".join(rng.choices(paragraphs, k=rng.randint(1, 12)))
        number += 1


def write(path: Path, size: int) -> int:
    """So many bytes of JSONL, and how many documents they are."""
    count = written = 0
    texts = documents(seed=0)
    with open(path, "w", buffering=1 << 20) as file:
        while written < size:
            written += file.write(f'{{"text": "{next(texts)}"}}\n')
            count += 1
    return count


def peak_megabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def index(path: Path) -> tuple[float, float, float]:
    """Seconds, and the peak of memory before and after."""
    before, start = peak_megabytes(), time.perf_counter()
    Records(str(path), "text", path.parent)
    return time.perf_counter() - start, before, peak_megabytes()


class Speed(NamedTuple):
    tokens: float  # a second
    tokens_cpu: float  # a second of the processor's time, which other programs do not take a part of
    documents: int
    before: float  # MB: the peak of memory before the first row, and after the last
    after: float


def stream(path: Path, tokenizer_path: Path, process: int, processes: int, seconds: float, ready) -> Speed:
    """What one of the processes does."""
    tokenizer = load_tokenizer(tokenizer_path)
    lanes = range(process * LANES, (process + 1) * LANES)
    source = Records(str(path), "text", path.parent)
    rows = TextStream([source], [1.0], tokenizer, LENGTH, processes * LANES, 0, lanes)
    before, tokens = peak_megabytes(), 0
    ready.wait()
    start, start_cpu = time.perf_counter(), time.process_time()
    while (passed := time.perf_counter() - start) < seconds:
        tokens += next(rows).tokens.size
    cpu = time.process_time() - start_cpu
    return Speed(tokens / passed, tokens / cpu, int(rows.taken[:, 0].sum()), before, peak_megabytes())


def _put(results, function, *arguments) -> None:
    results.put(function(*arguments))


def in_processes(function, arguments: list[tuple]) -> list:
    """function(*arguments[i]) in a fresh process each, whose peak of memory is its own."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    started = [context.Process(target=_put, args=(results, function, *each)) for each in arguments]
    for process in started:
        process.start()
    found = [results.get() for _ in started]
    for process in started:
        process.join()
    return found


def measure(options: Options) -> None:
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path, tokenizer_path = Path(folder) / "synthetic.jsonl", Path(folder) / "tokenizer.model"
        start = time.perf_counter()
        count = write(path, int(options.gigabytes * 1e9))
        train_tokenizer(islice(documents(seed=0), 500), VOCABULARY, tokenizer_path)
        info(f"{path.stat().st_size / 1e9:.2f} GB, {count} documents, written in {time.perf_counter() - start:.0f} s")
        ((seconds, before, after),) = in_processes(index, [(path,)])
        info(f"index: {seconds:.1f} s, peak memory {after:.0f} MB ({before:.0f} MB before it)")
        first = None
        for processes in map(int, options.processes.split(",")):
            ready = multiprocessing.get_context("spawn").Barrier(processes)
            arguments = [(path, tokenizer_path, i, processes, options.seconds, ready) for i in range(processes)]
            found = in_processes(stream, arguments)
            each = [sum(of) / processes for of in list(zip(*found, strict=True))[:2]]  # of one process
            first = first or each
            info(
                f"{processes} processes: {each[0] * processes:,.0f} tokens/s, a process {each[0] / first[0]:.2f} of the "
                f"first line's; {each[1] * processes:,.0f} tokens per second of processor time, {each[1] / first[1]:.2f}; "
                f"{sum(f.documents for f in found)} documents; peak memory of a process {max(f.after for f in found):.0f} MB "
                f"({max(f.before for f in found):.0f} MB before the first row)"
            )


if __name__ == "__main__":
    run(lambda: measure(tyro.cli(Options, description=__doc__)))
