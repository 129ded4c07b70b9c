"""A small run of the recipe, which end-to-end tests share, and how they start programs on it."""

import fcntl
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments import instructgpt
from rlhf_jax.config import load_config
from rlhf_jax.stages import begin
from tests.compiler import QUICK

ROOT = Path(__file__).parents[1]
# Each is a folder and made from those before it.
STAGES = ("pretrain", "sft", "comparisons", "rankings", "reward_model", "rl_init", "ppo", "ppo_ptx")
TRAINED = tuple(stage for stage in STAGES if stage not in ("comparisons", "rankings"))

# What every program reads, what those with PPO read, and what comes before.
EVERY = shlex.split("""
--world.documents 300 --world.prompts 200 --world.demonstrations 100 --world.labelers 3 --world.heldout-labelers 2
--evaluate.prompts 24 --evaluate.shown 4
--runtime.batch 16 --runtime.save-every 3 --runtime.evaluate-every 3
""")
PPO = shlex.split("--ppo.iterations 6 --ppo.batch 16 --ppo.minibatches 2")
SHAPE = shlex.split("""
--tokenizer.vocab-size 700
--model.width 32 --model.layers 1 --model.heads 2 --model.kv-heads 2 --model.hidden 64
--pretrain.steps 60 --pretrain.batch 16 --pretrain.warmup 2
""")
SMALL = [
    *EVERY,
    *PPO,
    *shlex.split("""
--format.prompt-tokens 26 --format.answer-tokens 18 --sft.epochs 5 --sft.batch 8 --sft.lr 5e-3
--rl-init.epochs 1 --rl-init.batch 10 --answers.prompts 60 --reward.batch 4
"""),
]
TWO_DEVICES = {"XLA_FLAGS": f"{QUICK} --xla_force_host_platform_device_count=2"}


def shared(factory: pytest.TempPathFactory) -> Path:
    """A folder of this session, one for all of xdist's workers."""
    own = factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder, which the first worker that asks makes."""
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not Path(f"{folder}.made").exists():
            make(folder)
            Path(f"{folder}.made").touch()
    return folder


def compiled_in(folder: Path) -> dict[str, str]:
    """What makes processes keep their compiled programs for each other."""
    return {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }


def wheel(target: Path) -> None:
    """Builds the wheel and installs it into a folder."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    with tempfile.TemporaryDirectory() as built:
        made = [*pip, "wheel", str(ROOT), "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", built]
        subprocess.run(made, check=True, cwd=built)
        (file,) = Path(built).glob("rlhf_jax-*.whl")
        subprocess.run([*pip, "install", str(file), "--no-deps", "--no-index", "--target", str(target)], check=True)


def environment() -> dict[str, str]:
    """Of the processes that tests start."""
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": QUICK}


def argv(out: Path, *more: str, config: str = "configs/tiny.toml") -> list[str]:
    """The small recipe's command line, behind the program's name."""
    return [str(ROOT / config), "--out", str(out), *SHAPE, *SMALL, *more]


def recipe(out: Path, *more: str) -> instructgpt.Config:
    """The same as a config, for calls in the tests' own process; nothing is written."""
    return load_config(instructgpt.Config, argv(out, *more)).config


def command(out: Path, *more: str) -> list[str]:
    """The whole recipe."""
    return [sys.executable, "experiments/instructgpt.py", *argv(out, *more)]


def until(stage: str, out: Path, *more: str) -> list[str]:
    """The recipe up to the end of a stage."""
    return [sys.executable, "tests/one_stage.py", stage, *argv(out, *more)]


def later(run: Path, out: Path, *more: str) -> list[str]:
    """The command line of a program that starts from the models of `run`, behind its config."""
    given = ["--given.start", str(run / "rl_init"), "--given.reward", str(run / "reward_model")]
    return ["--out", str(out), *EVERY, *given, *more]


def begun(program, run: Path, out: Path, *more: str):
    """Its config, for a call in the tests' own process."""
    name = Path(program.__file__).stem
    return begin(program.Config, program.__file__, "", [str(ROOT / f"configs/{name}.toml"), *later(run, out, *more)])


def call(line: list[str], **more: str) -> subprocess.CompletedProcess:
    env = environment() | more
    return subprocess.run(line, cwd=ROOT, env=env, capture_output=True, text=True, timeout=1200)


def done(line: list[str], **more: str) -> subprocess.CompletedProcess:
    """The same, and all went well."""
    ended = call(line, **more)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended


def stopped(line: list[str], number: int, metrics: Path, rows: int) -> subprocess.CompletedProcess:
    """The command with a signal sent after so many rows of a stage's metrics."""
    process = subprocess.Popen(
        line, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < rows):
        time.sleep(0.002)
    if process.poll() is not None:
        pytest.fail(f"the run ended before it could be stopped: {process.communicate()[1][-3000:]}")
    process.send_signal(number)
    said = process.communicate(timeout=1200)[1]
    assert number != signal.SIGKILL or process.returncode == -signal.SIGKILL, "the run ended before it could be killed"
    return subprocess.CompletedProcess(line, process.returncode, stderr=said)


def copy_before(stage: str, source: Path, out: Path) -> None:
    """What the recipe has made when the stage begins."""
    out.mkdir(parents=True)
    shutil.copy(source / "tokenizer.model", out)
    for earlier in STAGES[: STAGES.index(stage)]:
        shutil.copytree(source / earlier, out / earlier)


def last_step(stage: Path) -> int:
    return max(int(path.name) for path in (stage / "checkpoints").iterdir() if path.name.isdigit())


def final_hash(stage: Path) -> str:
    """sha256 of a stage's last checkpoint: parameters, optimiser, moving average, keys."""
    record = stage / "checkpoints" / str(last_step(stage)) / "record" / "metadata"
    return json.loads(record.read_text())["sha256"]


def final_hashes(out: Path) -> dict[str, str]:
    return {stage: final_hash(out / stage) for stage in TRAINED}


def rows_of(stage: Path) -> list[dict]:
    return [json.loads(line) for line in (stage / "metrics.jsonl").read_text().splitlines()]
