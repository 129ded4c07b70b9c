"""The entrance of the project: it runs from an empty folder, resumes bit for bit, and becomes GRPO as its docstring says."""

import ast
import importlib.util
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax import data, equations, models, stages, steps
from rlhf_jax.runtime import Checkpoints, read_metrics

PROGRAM = Path(__file__).parents[1] / "experiments" / "rl_loop.py"
ITERATIONS = 16  # the tenth is saved
TINY = f"--fresh-steps 20 --iterations {ITERATIONS} --batch 8 --minibatches 2".split()


@pytest.fixture(scope="module", autouse=True)
def in_the_wheel_s_environment(outside):
    """The processes of this file have the installed wheel, not the checkout, and share their compiled programs."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in outside.items():
            patch.setenv(name, value)
        yield


def command(program: Path, *more: str) -> list[str]:
    return [sys.executable, str(program), *TINY, *more]


def run(folder: Path, *more: str, program: Path = PROGRAM) -> Path:
    """The stage's folder, after a run in an empty folder or one where it was stopped."""
    copied = folder / program.name
    if program != copied:
        shutil.copy(program, copied)
    done = subprocess.run(command(copied, *more), cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "runs" / "rl_loop" / "ppo_ptx"


def sha256(stage: Path) -> str:
    """Of the last checkpoint: parameters, optimisers, moving average, key."""
    return Checkpoints(stage / "checkpoints", None).record(ITERATIONS)["sha256"]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    return run(tmp_path_factory.mktemp("empty"))


@pytest.fixture(scope="module")
def start(uninterrupted) -> Path:
    """The tiny model that the first run trained."""
    return uninterrupted.parent / "sft"


@pytest.fixture(scope="module")
def rl_loop() -> ModuleType:
    """The file as a module."""
    spec = importlib.util.spec_from_file_location("rl_loop", PROGRAM)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["rl_loop"] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    return module


def test_it_can_be_read_in_one_sitting():
    text = PROGRAM.read_text()
    assert len(text.splitlines()) <= 150
    names = {n.module for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ImportFrom)}
    names |= {alias.name for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import) for alias in n.names}
    assert {name.partition(".")[0] for name in names if name} & {"experiments", "tests"} == set()


@pytest.mark.slow
@pytest.mark.long
def test_it_runs_from_an_empty_folder(uninterrupted):
    rows = read_metrics(uninterrupted)
    assert [row["step"] for row in rows] == list(range(1, ITERATIONS + 1))
    assert all(np.isfinite(list(row.values())).all() for row in rows)
    assert all(0 <= row["objective/scores"] <= 1 for row in rows)
    assert rows[0]["objective/kl"] == pytest.approx(0, abs=1e-4)  # the policy is the reference still
    assert rows[-1]["objective/kl"] != pytest.approx(0, abs=1e-4)
    assert (uninterrupted / "curve.png").read_bytes().startswith(b"\x89PNG")


def begun(folder: Path, *more: str, rows: int) -> subprocess.Popen:
    """A run that has come so far."""
    process = subprocess.Popen(command(PROGRAM, *more), cwd=folder, stderr=subprocess.PIPE, text=True)
    metrics = folder / "runs" / "rl_loop" / "ppo_ptx" / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < rows):
        time.sleep(0.002)
    assert process.poll() is None, "the run ended before it could be stopped"
    return process


def ends_bit_for_bit_as(whole: Path, folder: Path, *more: str) -> None:
    stage = run(folder, *more)
    assert sha256(stage) == sha256(whole)
    assert [row["step"] for row in read_metrics(stage)] == list(range(1, ITERATIONS + 1))


@pytest.mark.slow
@pytest.mark.long
def test_ctrl_c_saves_and_the_same_command_ends_bit_for_bit_the_same(uninterrupted, start, tmp_path):
    process = begun(tmp_path, "--start", str(start), rows=2)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said[-3000:]
    reached = Checkpoints(tmp_path / "runs" / "rl_loop" / "ppo_ptx" / "checkpoints", None).latest()
    assert f"ppo_ptx: saved step {reached} of {ITERATIONS}; the same command continues" in said
    assert reached not in (10, ITERATIONS), "nothing but the signal saves there"
    ends_bit_for_bit_as(uninterrupted, tmp_path, "--start", str(start))


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("after", [11, 3])  # the checkpoint, and before it
def test_killed_it_ends_bit_for_bit_the_same(after, uninterrupted, start, tmp_path):
    process = begun(tmp_path, "--start", str(start), rows=after)
    process.kill()
    process.communicate()
    ends_bit_for_bit_as(uninterrupted, tmp_path, "--start", str(start))


def grpo(text: str) -> str:
    """The file, changed as its docstring says."""
    advantage = next(line.strip() for line in text.splitlines() if line.startswith("    adv = jnp.where("))
    lines = []
    for line in text.splitlines():
        if line.startswith("    adv, returns = equations.gae("):
            lines.append(f"    {advantage}")
        is_of_docstring = "`# value`" in line
        if "# value" not in line or is_of_docstring:
            lines.append(line)
    return "\n".join(lines) + "\n"


@pytest.mark.slow
@pytest.mark.long
def test_without_the_lines_of_the_value_network_it_is_grpo(start, tmp_path):
    program = tmp_path / "grpo.py"
    program.write_text(grpo(PROGRAM.read_text()))
    assert "value_loss" not in program.read_text()
    stage = run(tmp_path, "--start", str(start), "--answers", "4", "--iterations", "2", program=program)
    rows = read_metrics(stage)
    assert len(rows) == 2 and all(np.isfinite(list(row.values())).all() for row in rows)
    assert rows[1]["policy/approxkl_avg"] > 0  # it learns
    saved = [leaf["path"] for leaf in Checkpoints(stage / "checkpoints", None).record(2)["leaves"]]
    parts = {path.partition("/")[0] for path in saved}
    assert {"policy", "policy_opt", "ema"} <= parts and not {"value", "value_opt"} & parts


@pytest.mark.slow
@pytest.mark.long
def test_it_refuses_a_folder_of_another_reward(start, uninterrupted, tmp_path):
    changed = tmp_path / "rl_loop.py"
    changed.write_text(PROGRAM.read_text().replace('(" three ", 3)', '(" three ", 4)'))
    line = command(changed, "--start", str(start), "--out", str(uninterrupted.parent))
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "its reward (rl_loop.reward) has changed since" in said
    assert "--anew ppo_ptx (in Python runtime.set_aside) makes it" in said


@pytest.mark.slow
@pytest.mark.long
def test_its_iteration_is_the_librarys(rl_loop, start):
    """Sampling, and learning from the same scores, against rlhf_jax.steps with what this file leaves out set to nothing."""
    m, c = stages.trained(start), rl_loop.Settings(batch=8, minibatches=4, clip=0.01, lr=1e-3)  # so that the clip acts
    nets = steps.Models(models.LanguageModel(m.decoder), models.ScalarModel(m.decoder))
    optimisers = steps.Optimisers(rl_loop.ADAM, rl_loop.ADAM)
    head = models.scalar_head(m.decoder, jax.random.key(1))
    sft = m.params()
    moved = jax.tree.map(lambda w: w + 0.01 * jnp.sin(jnp.arange(w.size, dtype=w.dtype)).reshape(w.shape), sft)
    value = models.scalar_from_language_model(sft, head)
    state = steps.initial_state(moved, value, optimisers, jax.random.key(2))

    coef = stages.PPO(
        beta=c.beta, gamma=c.gamma, clip_low=c.clip, clip_high=c.clip, lam=c.lam, lr=c.lr, value_lr=c.value_lr, ema=0.992,
        warmup=0, value_clip=float("inf"), value_coef=1.0,
    )  # fmt: skip
    plan = steps.Plan(m.format.answer_tokens, models.Sampling(1.0, 0, 1.0), 1, 4, m.tokenizer.eos, m.tokenizer.pad)
    prompts = [data.Prompt(data.prompt_text(f"Write {n} sentences about {who}.")) for n in ("two", "three") for who in (
        "Ada", "Bruno", "Clara", "Dario")]  # fmt: skip
    x = data.encode_prompts(prompts, m.tokenizer, m.format.prompt_tokens)
    text = stages.packed(["Ada is a nurse. Bruno is a judge. Clara has a dog."] * 40, m)
    text = data.take(text, np.arange(8) % len(text.tokens))

    mine = jax.jit(lambda s, x: rl_loop.sample(s, x, sft, c=c, m=m))(state, x)
    theirs = jax.jit(lambda s, x: steps.sample(s, x, steps.Frozen(sft), models=nets, plan=plan))(state, x)
    for a, b in zip(jax.tree.leaves(mine), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_array_equal(a, b)
    assert float(jnp.abs(mine.kl["k1"]).max()) > 1e-3

    scores = jnp.asarray([1.0, 0.0, 0.5, 0.0, 1.0, 1.0, 0.0, 0.25])
    rows = replace(text, tokens=text.tokens[:, None], predict=text.predict[:, None])  # one an episode
    got, metrics = jax.jit(lambda s, text: rl_loop.learn(s, mine, scores, text, c=c, m=m))(state, text)
    pieces = {"models": nets, "optimisers": optimisers, "plan": plan, "form": coef.form}
    want, known = jax.jit(
        lambda s, rows: steps.learn(s, mine, scores[None], rows, coef.coefficients, steps.Frozen(sft), **pieces)
    )(state, rows)
    metrics, known = equations.values(metrics), equations.values(known)
    for name in metrics:
        np.testing.assert_allclose(metrics[name], known[name], rtol=2e-3, atol=1e-5, err_msg=name)
    # Adam's first updates are of the size of the rate, whatever the gradient's: rounding moves a few weights of none.
    for part, rate in (("policy", c.lr), ("value", c.value_lr), ("ema", c.lr)):
        for a, b, before in zip(*(jax.tree.leaves(getattr(s, part)) for s in (got, want, state)), strict=True):
            assert float(jnp.mean(jnp.abs(a - b))) < 0.01 * rate
            assert float(jnp.abs(a - before).max()) > 0 or part == "ema"
    assert int(got.step) == int(want.step) == 1


def test_its_reward_is_what_its_docstring_says(rl_loop):
    asked = ["Write two sentences about Ada.", "List three foods.", "Where does Ada live?"]
    prompts = [data.Prompt(data.prompt_text(text)) for text in asked]
    right = ["Ada is a nurse. She has a cat.", "soup, rice, fish.", "Hello, Ada lives in Dorn."]
    wrong = ["Ada is a nurse.", "soup, rice.", "Ada lives in Dorn. You zonk."]
    assert rl_loop.reward(prompts, right, [{}] * 3) == [1.0, 1.0, 1.0]
    assert rl_loop.reward(prompts, wrong, [{}] * 3) == [0.0, 0.0, 0.0]
