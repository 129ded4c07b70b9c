"""The recipe end to end on a tiny config: it resumes bit for bit, runs again in no time, and says what is wrong."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.data import load_tokenizer
from rlhf_jax.models import (
    LanguageModel,
    TransformerConfig,
    hidden_states,
    load_pretrained,
    logits,
    save_pretrained,
)

ROOT = Path(__file__).parents[1]
STAGES = ("pretrain", "sft", "reward_model", "rl_init", "ppo", "ppo_ptx")
SMALL = """
--world.documents 600 --world.prompts 400 --world.demonstrations 100 --world.labelers 3 --world.heldout-labelers 2
--tokenizer.vocab-size 700 --model.prompt-tokens 26 --model.answer-tokens 20
--model.width 32 --model.layers 2 --model.heads 2 --model.kv-heads 2 --model.hidden 64
--pretrain.steps 60 --pretrain.batch 16 --pretrain.warmup 2 --sft.epochs 10 --sft.batch 8 --sft.lr 5e-3
--rl-init.epochs 1 --rl-init.batch 10 --reward.prompts 80 --reward.batch 4
--ppo.iterations 6 --ppo.batch 16 --ppo.minibatches 2 --ppo.warmup 2
--evaluate.prompts 24 --evaluate.batch 16 --evaluate.shown 4 --runtime.save-every 3 --runtime.look-every 3
"""


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "experiments/instructgpt.py", "configs/tiny.toml", "--out", str(out), *SMALL.split(), *more]


@pytest.fixture(scope="module", autouse=True)
def compiled_once(tmp_path_factory):
    """The runs of this file share their compiled programs: they differ in where they are interrupted, not in what."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(tmp_path_factory.mktemp("compiled"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    yield
    del os.environ["JAX_COMPILATION_CACHE_DIR"], os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"]


TWO_DEVICES = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PJRT_NPROC": "16"}


def environment() -> dict[str, str]:
    return {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}


def run(out: Path, *more: str) -> subprocess.CompletedProcess:
    return subprocess.run(command(out, *more), cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)


def final_hash(stage: Path) -> str:
    """sha256 of a stage's last checkpoint: parameters, optimiser, moving average, keys."""
    steps = [int(p.name) for p in (stage / "checkpoints").iterdir() if p.name.isdigit()]
    return json.loads((stage / "checkpoints" / str(max(steps)) / "record" / "metadata").read_text())["sha256"]


def final_hashes(out: Path) -> dict[str, str]:
    return {stage: final_hash(out / stage) for stage in STAGES}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "whole"
    done = run(out)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


@pytest.mark.slow
def test_a_whole_run_leaves_a_report_and_every_figure(uninterrupted):
    evaluation = json.loads((uninterrupted / "evaluation.json").read_text())
    assert list(evaluation) == ["base", "sft", "ppo", "ppo_ptx", "rl_init", "reward_model"]
    for model in ("base", "sft", "ppo", "ppo_ptx"):
        for figure in evaluation[model].values():
            assert set(figure) == {"mean", "low", "high", "n"}
        assert {"rating", "truth/multiple_choice", "rudeness/rude", "bias/entropy_bits", "pretrain/loss"} <= set(
            evaluation[model]
        )
    assert "win_rate/vs_sft" in evaluation["ppo_ptx"]
    page = (uninterrupted / "report.html").read_text()
    assert "PPO-ptx" in page and len(json.loads((uninterrupted / "samples.json").read_text())) == 4


@pytest.mark.slow
def test_metrics_have_the_names_that_trl_users_know(uninterrupted):
    rows = [json.loads(line) for line in (uninterrupted / "ppo_ptx" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, 7))
    known = "objective/kl objective/scores objective/rlhf_reward objective/entropy policy/approxkl_avg lr episode"
    known += " policy/clipfrac_avg loss/policy_avg loss/value_avg val/ratio loss/pretrain"
    assert set(known.split()) <= set(rows[0])
    assert rows[-1]["episode"] == 6 * 16


@pytest.mark.slow
def test_the_same_command_again_does_nothing(uninterrupted):
    before = {p: p.stat().st_mtime_ns for p in uninterrupted.rglob("*") if p.is_file()}
    done = run(uninterrupted)
    assert done.returncode == 0
    assert {p: p.stat().st_mtime_ns for p in uninterrupted.rglob("*") if p.is_file()} == before


@pytest.mark.slow
@pytest.mark.parametrize("stage", [pytest.param(s, marks=[] if s == "ppo_ptx" else pytest.mark.long) for s in STAGES])
def test_killed_in_any_stage_it_ends_bit_for_bit_the_same(stage, uninterrupted, tmp_path):
    """SIGKILL somewhere between the stage's first metrics and its end; then the same command again."""
    out = tmp_path / "killed"
    _copy_stages_before(stage, uninterrupted, out)
    rng = random.Random(stage)
    process = subprocess.Popen(command(out), cwd=ROOT, env=environment(), stderr=subprocess.DEVNULL)
    metrics, wanted = out / stage / "metrics.jsonl", rng.randint(1, 5)
    while process.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < wanted):
        time.sleep(0.005)
    assert process.poll() is None, "the run ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    done = run(out)
    assert done.returncode == 0, done.stderr[-3000:]
    assert final_hashes(out) == final_hashes(uninterrupted)
    rows = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert rows == list(range(1, len(rows) + 1))


def stopped(line: list[str], metrics: Path, number: int) -> subprocess.CompletedProcess:
    """The command with a signal sent after the third row of its metrics."""
    process = subprocess.Popen(line, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
    while process.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < 3):
        time.sleep(0.005)
    assert process.poll() is None, "the run ended before it could be stopped"
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    return subprocess.CompletedProcess(line, process.returncode, stderr=said)


@pytest.mark.long
def test_sigterm_between_two_epochs_of_sft_changes_nothing(uninterrupted, tmp_path):
    """Neither the bits nor the choice among the epochs, though there is one checkpoint more."""
    out = tmp_path / "stopped"
    _copy_stages_before("sft", uninterrupted, out)
    done = stopped(program_line("sft", out), out / "sft" / "metrics.jsonl", signal.SIGTERM)
    assert done.returncode == 0, done.stderr[-3000:]
    sentence = re.search(r"sft: saved step (\d+) of \d+; the same command continues\n$", done.stderr)
    assert sentence is not None, done.stderr[-3000:]
    assert (out / "sft" / "checkpoints" / sentence[1]).exists()
    assert not (uninterrupted / "sft" / "checkpoints" / sentence[1]).exists()
    shutil.copytree(uninterrupted / "reward_model", out / "reward_model")
    for name in ("sft", "choose_sft"):
        done = program(name, out)
        assert done.returncode == 0, done.stderr[-3000:]
    for name in ("sft", "rl_init"):
        assert final_hash(out / name) == final_hash(uninterrupted / name)
    assert (out / "sft" / "chosen.json").read_text() == (uninterrupted / "sft" / "chosen.json").read_text()


@pytest.mark.slow
def test_ctrl_c_in_ppo_changes_no_bit(uninterrupted, tmp_path):
    out = tmp_path / "stopped"
    _copy_stages_before("ppo_ptx", uninterrupted, out)
    line = program_line("ppo_ptx", out, "--runtime.save-every", "100")
    done = stopped(line, out / "ppo_ptx" / "metrics.jsonl", signal.SIGINT)
    assert done.returncode == 130, done.stderr[-3000:]
    assert re.search(r"ppo_ptx: saved step [45] of 6; the same command continues\n$", done.stderr), done.stderr[-3000:]
    assert program("ppo_ptx", out).returncode == 0
    assert final_hash(out / "ppo_ptx") == final_hash(uninterrupted / "ppo_ptx")


@pytest.mark.slow
def test_sigterm_before_the_first_step_exits_at_once(tmp_path):
    process = subprocess.Popen(command(tmp_path), cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "tokenizer.model").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0
    assert said.splitlines()[-1] == "stopped; the same command continues from the last checkpoint"
    assert "Traceback" not in said and not (tmp_path / "pretrain" / "checkpoints").exists()


def _copy_stages_before(stage: str, source: Path, out: Path) -> None:
    """The stages that were done before, so that the test spends its time on the one that is killed."""
    import shutil

    out.mkdir()
    shutil.copy(source / "tokenizer.model", out)
    for earlier in STAGES[: STAGES.index(stage)]:
        shutil.copytree(source / earlier, out / earlier)


@pytest.mark.long
def test_two_reward_models_normalised_scores_and_top_p(uninterrupted, tmp_path):
    """The options of PPO that reach outside its iteration."""
    out = tmp_path / "options"
    _copy_stages_before("ppo", uninterrupted, out)
    done = run(
        out, *["--ppo.reward-models", "2", "--ppo.score-norm", "fixed", "--ppo.top-p", "0.9", "--ppo.kl-loss", "exact"]
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (out / "reward_model_2" / "accuracy.json").exists()
    first = json.loads((out / "ppo_ptx" / "metrics.jsonl").read_text().splitlines()[0])
    assert first["objective/kl"] == pytest.approx(0, abs=1e-4)  # the policy is still the reference, under top-p as well
    assert abs(first["objective/reward_model"] - first["objective/scores"]) > 1e-3


def program_line(name: str, out: Path, *more: str) -> list[str]:
    """Another experiment than the whole recipe. ablation.toml differs from tiny.toml in no stage before PPO."""
    config = "configs/ablation.toml" if name == "ablate_beta_gamma" else "configs/tiny.toml"
    return [sys.executable, f"experiments/{name}.py", config, *command(out, *more)[3:]]


def program(name: str, out: Path, *more: str) -> subprocess.CompletedProcess:
    line = program_line(name, out, *more)
    return subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)


GPT2 = {"norm": "layernorm", "position": "learned", "mlp": "gelu", "bias": True, "kv_heads": 2}
LLAMA = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu", "bias": False, "kv_heads": 1}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("decoder", "lora"),
    [
        pytest.param(GPT2, False, id="gpt2", marks=pytest.mark.long),
        pytest.param(LLAMA, True, id="llama with LoRA, cut over two devices"),
    ],
)
def test_from_a_folder_to_a_folder(uninterrupted, tmp_path, decoder, lora):
    """A Hugging Face folder, the whole recipe on it, and the policy as a folder again, equal to what was trained."""
    folder, out = tmp_path / "model", tmp_path / "run"
    vocabulary = load_tokenizer(uninterrupted / "tokenizer.model")
    sizes = {"vocab_size": vocabulary.size, "context": 64, "width": 32, "layers": 2, "heads": 2, "hidden": 64}
    config = TransformerConfig(**sizes, **decoder, tied=not lora, dropout=0.0)
    row = jnp.ones((1, 4), jnp.int32)
    base = LanguageModel(config).init(jax.random.key(0), row, row > 0)["params"]
    save_pretrained(folder, config, base)
    shutil.copy(uninterrupted / "tokenizer.model", folder / "tokenizer.model")
    text = (ROOT / "configs" / "imported.toml").read_text().replace("models/gpt2", str(folder))
    text = text if lora else re.sub(r"(?ms)^\[lora\].*?\n\n", "", text)
    (tmp_path / "imported.toml").write_text(text)
    options = re.sub(r"--(model\.(width|layers|heads|kv-heads|hidden)|tokenizer\S+|pretrain\S+) \S+", "", SMALL).split()
    options += ["--out", str(out), "--sft.lr", "5e-3", "--ppo.lr", "1e-3", *(["--mesh.fsdp", "2"] if lora else [])]
    env = environment() | (TWO_DEVICES if lora else {})
    for line in (
        ["instructgpt.py"],
        ["export.py", "ppo_ptx", str(tmp_path / "exported")],
        ["export.py", "reward_model", str(tmp_path / "score")],
    ):
        command = [sys.executable, f"experiments/{line[0]}", *line[1:], str(tmp_path / "imported.toml"), *options]
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr[-3000:]
    assert not (out / "pretrain" / "checkpoints").exists()  # the folder's model is the base

    of_folder, policy, _ = load_pretrained(tmp_path / "exported")
    assert (
        of_folder == load_pretrained(folder).config
        and load_tokenizer(tmp_path / "exported").sha256 == vocabulary.sha256
    )
    moved = {path for path, leaf in flat(policy).items() if not np.array_equal(leaf, flat(base)[path])}
    corrected = {path for path in flat(base) if path[-2:] in (("query", "kernel"), ("value", "kernel"))}
    assert moved == (corrected if lora else set(flat(base)))
    state = json.loads((out / "ppo_ptx" / "metrics.jsonl").read_text().splitlines()[0])
    assert state["objective/kl"] == pytest.approx(0, abs=1e-4)
    load_pretrained(tmp_path / "score", scalar=True)
    transformers = pytest.importorskip("transformers", reason="Transformers is not installed")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported").eval()
    tokens = np.array([[5, 9, 300, 41, 7]])
    hidden, _ = hidden_states(LanguageModel(of_folder), policy, jnp.asarray(tokens), jnp.asarray(tokens > 0))
    import torch

    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(logits(LanguageModel(of_folder), policy, hidden), expected, atol=1e-4)


def flat(params) -> dict[tuple[str, ...], np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {tuple(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}


@pytest.mark.slow
def test_the_tokens_of_answers_as_a_page(uninterrupted):
    done = program("inspect_tokens", uninterrupted)
    assert done.returncode == 0, done.stderr[-3000:]
    page = (uninterrupted / "tokens.html").read_text()
    for quantity in ("KL", "exact KL", "reward", "value", "advantage", "ratio"):
        assert page.count(f'<span class="name">{quantity}</span>') == 4  # evaluate.shown


@pytest.mark.long
def test_best_of_n(uninterrupted):
    done = program("best_of_n", uninterrupted, "--evaluate.best-of", "4")
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((uninterrupted / "best_of_n.json").read_text())
    assert list(found) == ["1", "2", "4"] and found["1"]["kl"] == 0
    rewards = [found[n]["reward"]["mean"] for n in found]
    assert rewards[0] < rewards[1] < rewards[2]  # of more answers the best is at least as good, and here better


@pytest.mark.slow
@pytest.mark.parametrize("objective", [pytest.param("ipo", marks=pytest.mark.long), "kto"])
def test_rankings_without_a_reward_model(uninterrupted, tmp_path, objective):
    out = tmp_path / "preference"
    _copy_stages_before("ppo", uninterrupted, out)
    done = program("dpo", out, "--preference.objective", objective, "--preference.lr", "1e-3")
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (out / "preference" / "metrics.jsonl").read_text().splitlines()]
    assert rows[0]["rewards/chosen"] == pytest.approx(0, abs=1e-5)  # it starts as its own reference
    assert rows[0]["rewards/rejected"] == pytest.approx(0, abs=1e-5)
    assert rows[-1]["rewards/chosen"] != 0
    figures = json.loads((out / "preference.json").read_text())
    assert {"win_rate/vs_sft", "rating", "pretrain/loss", "kl/from_sft"} <= set(figures)


@pytest.mark.slow
def test_without_a_value_network(uninterrupted, tmp_path):
    out = tmp_path / "group"
    _copy_stages_before("ppo", uninterrupted, out)
    done = program("grpo", out, "--group.advantage", "grpo", "--ppo.policy-mean", "answer")
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [json.loads(line) for line in (out / "group" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 6 and rows[0]["objective/kl"] == pytest.approx(0, abs=1e-4) and "loss/value_avg" not in rows[0]
    done = program("grpo", tmp_path / "other", "--group.answers", "5")
    assert done.returncode == 2 and "group.answers" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.long
def test_a_sweep_stops_resumes_and_has_the_figures_of_every_member(uninterrupted, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = ["--sweep.table", "prod beta=0,0.5 gamma=0,1", "--sweep.seeds", "2", "--sweep.together", "2"]
    options += ["--runtime.save-every", "2", "--ppo.beta", "0.5"]
    for out in (whole, killed):
        _copy_stages_before("ppo", uninterrupted, out)
    done = program("ablate_beta_gamma", whole, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    lines = (whole / "sweep.csv").read_text().splitlines()
    assert lines[0].startswith("beta,gamma,seed,") and len(lines) == 1 + 4 * 2
    settings = json.loads((whole / "sweep.json").read_text())
    assert len(settings) == 4 and all(setting["figures"]["pretrain/loss"]["n"] == 2 for setting in settings)
    page = (whole / "ablation.html").read_text()
    assert "β = 0.5, γ = 1" in page and "Figure 36" in page
    line, silent = program_line("ablate_beta_gamma", killed, *options), subprocess.DEVNULL
    process = subprocess.Popen(line, cwd=ROOT, env=environment(), stderr=silent, stdout=silent)
    metrics = killed / "sweep" / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or metrics.read_text().count("\n") < 3):
        time.sleep(0.005)
    assert process.poll() is None, "the run ended before it could be killed"
    process.kill()
    process.wait()
    done = program("ablate_beta_gamma", killed, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    one, other = (final_hash(out / "sweep") for out in (whole, killed))
    assert one == other
    assert (killed / "sweep.csv").read_text() == (whole / "sweep.csv").read_text()


@pytest.mark.long
def test_the_best_checkpoint_of_ppo_stays_and_is_exported(uninterrupted, tmp_path):
    rows = [json.loads(line) for line in (uninterrupted / "ppo_ptx" / "metrics.jsonl").read_text().splitlines()]
    saved = {row["step"]: row["gold/mean"] for row in rows if row["step"] in (3, 6)}
    best = max(saved, key=lambda step: (saved[step], -step))
    kept = tmp_path / "kept"
    _copy_stages_before("ppo_ptx", uninterrupted, kept)
    assert program("ppo_ptx", kept, "--runtime.keep", "1").returncode == 0
    steps = {int(path.name) for path in (kept / "ppo_ptx" / "checkpoints").iterdir()}
    assert steps == {best, 6}
    line = program_line("export", kept, "--runtime.keep", "1")
    line[2:2] = ["ppo_ptx_best", str(tmp_path / "best")]
    done = subprocess.run(line, cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    load_pretrained(tmp_path / "best")


def test_a_later_stage_says_which_earlier_one_is_missing_and_what_makes_it(tmp_path):
    from experiments.dpo import train
    from experiments.evaluate import evaluate
    from experiments.grpo import group
    from experiments.ppo_ptx import ppo
    from experiments.recipe import Config
    from experiments.reward_model import reward_models
    from experiments.sft import sft
    from rlhf_jax.config import load_config
    from rlhf_jax.errors import InputError

    config = load_config(Config, ["configs/tiny.toml", "--out", str(tmp_path), *SMALL.split()])
    missing = r"the stage pretrain is not there; run experiments/pretrain.py with the same config first"
    for later in (
        lambda: sft(config, "sft"),
        lambda: reward_models(config),
        lambda: ppo(config, "ppo"),
        lambda: group(config),
        lambda: train(config),
        lambda: evaluate(config),
    ):
        with pytest.raises(InputError, match=missing):
            later()


@pytest.mark.slow
def test_greedy_sampling_is_refused(uninterrupted, tmp_path):
    out = tmp_path / "greedy"
    _copy_stages_before("ppo", uninterrupted, out)
    done = run(out, "--ppo.temperature", "0")
    assert done.returncode == 2
    assert "ppo.temperature" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_another_config_in_the_same_folder_is_refused_by_its_key(uninterrupted):
    done = run(uninterrupted, "--pretrain.lr", "0.5")
    assert done.returncode == 2
    assert "pretrain.lr" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_another_shape_in_the_same_folder_is_refused(uninterrupted):
    done = run(uninterrupted, "--model.layers", "1")
    assert done.returncode == 2
    assert "model.layers" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_another_tokenizer_is_refused(uninterrupted, tmp_path):
    from rlhf_jax.data import train_tokenizer

    other = tmp_path / "other.model"
    train_tokenizer(["some other text"] * 50, 300, other)
    done = run(uninterrupted, "--tokenizer.path", str(other))
    assert done.returncode == 2
    assert "tokenizer" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.toml"], "missing.toml"),
        ([], "config file"),
        (["--seed", "1"], "config file"),
    ],
)
def test_no_config_file_is_one_sentence(arguments, words):
    done = subprocess.run(
        [sys.executable, "experiments/instructgpt.py", *arguments],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert words in done.stderr and "Traceback" not in done.stderr and done.stderr.count("\n") == 1


def test_an_unknown_key_is_named_with_the_nearest_one(tmp_path):
    from experiments.recipe import Config
    from rlhf_jax.config import read_config
    from rlhf_jax.errors import InputError

    text = (ROOT / "configs" / "tiny.toml").read_text()
    broken = tmp_path / "broken.toml"
    broken.write_text(re.sub(r"\ngamma = ", "\ngama = ", text, count=1))
    with pytest.raises(InputError, match=r"unknown key ppo.gama; did you mean gamma"):
        read_config(Config, broken)
    broken.write_text(re.sub(r"value_clip = .*\n", "", text, count=1))
    with pytest.raises(InputError, match=r"ppo.value_clip is missing"):
        read_config(Config, broken)
    broken.write_text(re.sub(r"iterations = \d+", 'iterations = "sixty"', text, count=1))
    with pytest.raises(InputError, match=r"ppo.iterations is 'sixty' and must be of type int"):
        read_config(Config, broken)
    broken.write_text(re.sub(r'mlp = "\w+"', 'mlp = "relu"', text, count=1))
    with pytest.raises(InputError, match=r"model.mlp is 'relu' and must be one of gelu, swiglu"):
        read_config(Config, broken)


def test_every_config_in_configs_is_whole():
    from experiments.recipe import Config
    from rlhf_jax.config import read_config

    for path in (ROOT / "configs").glob("*.toml"):
        read_config(Config, path)


def test_the_ablation_shares_with_the_demo_all_that_comes_before_ppo():
    from experiments.recipe import Config
    from rlhf_jax.config import read_config

    tiny, ablation = (read_config(Config, ROOT / "configs" / f"{name}.toml") for name in ("tiny", "ablation"))
    shared = "pretrain", "sft", "rl_init", "reward"
    assert ablation.out == tiny.out and ablation.sections(*shared) == tiny.sections(*shared)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    done = run(tmp_path / "file")
    assert done.returncode == 2
    assert str(tmp_path / "file") in done.stderr and "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_prompt_longer_than_the_context_is_said_before_anything_is_trained(tmp_path):
    done = run(tmp_path / "run", "--model.prompt-tokens", "8")
    assert done.returncode == 2
    assert "longer than the context" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run" / "pretrain").exists()
