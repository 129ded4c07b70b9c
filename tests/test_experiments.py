"""The recipe end to end on a tiny config: it resumes bit for bit, runs again in no time, and says what is wrong."""

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

from experiments import (
    best_of_n,
    curate,
    dpo,
    evaluate,
    grpo,
    inspect_tokens,
    instructgpt,
    look,
    moderation,
    ppo_ptx,
    reward_model,
    rounds,
    sweep,
)
from rlhf_jax.config import read_config
from rlhf_jax.data import train_tokenizer
from rlhf_jax.errors import InputError
from rlhf_jax.runtime import run
from rlhf_jax.stages import begin, data_sets, trained
from tests.small_run import (
    ROOT,
    TRAINED,
    argv,
    begun,
    call,
    command,
    copy_before,
    done,
    environment,
    final_hash,
    final_hashes,
    recipe,
    rows_of,
    stopped,
    until,
)

pytestmark = pytest.mark.usefixtures("compiled_once", "shapes_are_not_checked")


@pytest.mark.long
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


@pytest.mark.long
@pytest.mark.slow
def test_metrics_have_the_names_that_trl_users_know(uninterrupted):
    rows = rows_of(uninterrupted / "ppo_ptx")
    assert [row["step"] for row in rows] == list(range(1, 7))
    known = "objective/kl objective/scores objective/rlhf_reward objective/entropy policy/approxkl_avg lr episode"
    known += " policy/clipfrac_avg loss/policy_avg loss/value_avg val/ratio loss/pretrain"
    assert set(known.split()) <= set(rows[0])
    assert rows[-1]["episode"] == 6 * 16


@pytest.mark.long
@pytest.mark.slow
def test_the_same_command_again_does_nothing(uninterrupted):
    config = uninterrupted / "instructgpt.toml"  # says the same, and is written each time

    def files():
        return {p: p.stat().st_mtime_ns for p in uninterrupted.rglob("*") if p.is_file() and p != config}

    before, said = files(), config.read_bytes()
    done(command(uninterrupted))
    assert files() == before and config.read_bytes() == said


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("stage", TRAINED)
def test_killed_in_any_stage_it_ends_bit_for_bit_the_same(stage, uninterrupted, tmp_path):
    """SIGKILL somewhere between the stage's first metrics and its end; then the same command again."""
    out = tmp_path / "killed"
    copy_before(stage, uninterrupted, out)
    metrics = out / stage / "metrics.jsonl"
    stopped(command(out), signal.SIGKILL, metrics, random.Random(stage).randint(1, 4))
    assert_goes_on_to_the_same_end(uninterrupted, out, stage)


@pytest.mark.slow
@pytest.mark.long
def test_ctrl_c_and_then_a_kill_in_ppo_change_no_bit(uninterrupted, tmp_path):
    """Ctrl-C saves where no save is due, and there the killed run began."""
    out = tmp_path / "stopped"
    copy_before("ppo_ptx", uninterrupted, out)
    metrics, slower = out / "ppo_ptx" / "metrics.jsonl", ["--runtime.evaluate-every", "1"]
    ended = stopped(until("ppo_ptx", out, "--runtime.save-every", "100", *slower), signal.SIGINT, metrics, 1)
    assert ended.returncode == 130, ended.stderr[-3000:]
    said = re.search(r"ppo_ptx: saved step ([1-4]) of 6; the same command continues\n$", ended.stderr)
    assert said is not None, ended.stderr[-3000:]
    saved = [int(path.name) for path in (out / "ppo_ptx" / "checkpoints").iterdir()]  # beside it the best look's
    assert max(saved) == int(said[1]) and len(saved) <= 2
    stopped(command(out, "--runtime.save-every", "100", *slower), signal.SIGKILL, metrics, int(said[1]) + 1)
    assert_goes_on_to_the_same_end(uninterrupted, out, "ppo_ptx")


def assert_goes_on_to_the_same_end(whole: Path, out: Path, stage: str) -> None:
    """Of a run that was killed in the stage: all that it trains, and what is measured of it."""
    total = len(rows_of(whole / stage))
    assert not (out / stage / "checkpoints" / str(total)).exists(), "the stage ended before it could be killed"
    done(command(out))
    assert final_hashes(out) == final_hashes(whole)
    assert [row["step"] for row in rows_of(out / stage)] == list(range(1, total + 1))
    assert (out / "evaluation.json").read_text() == (whole / "evaluation.json").read_text()


@pytest.mark.slow
@pytest.mark.long
def test_sigterm_between_two_epochs_of_sft_changes_nothing(uninterrupted, tmp_path):
    """Neither the bits nor the choice among the epochs, though there is one checkpoint more."""
    out = tmp_path / "stopped"
    copy_before("sft", uninterrupted, out)
    ended = stopped(until("sft", out), signal.SIGTERM, out / "sft" / "metrics.jsonl", 3)
    assert ended.returncode == 0, ended.stderr[-3000:]
    sentence = re.search(r"sft: saved step (\d+) of \d+; the same command continues\n$", ended.stderr)
    assert sentence is not None, ended.stderr[-3000:]
    assert (out / "sft" / "checkpoints" / sentence[1]).exists()
    assert not (uninterrupted / "sft" / "checkpoints" / sentence[1]).exists()
    done(until("rl_init", out))
    for name in ("sft", "reward_model", "rl_init"):
        assert final_hash(out / name) == final_hash(uninterrupted / name)
    assert (out / "sft" / "chosen.json").read_text() == (uninterrupted / "sft" / "chosen.json").read_text()


@pytest.mark.slow
@pytest.mark.long
def test_sigterm_before_the_first_step_exits_at_once(tmp_path):
    process = subprocess.Popen(command(tmp_path), cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True)
    while process.poll() is None and not (tmp_path / "tokenizer.model").exists():
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0
    assert said.splitlines()[-1] == "stopped; the same command continues from the last checkpoint"
    assert "Traceback" not in said and not (tmp_path / "pretrain" / "checkpoints").exists()


@pytest.mark.slow
@pytest.mark.long
def test_two_reward_models_normalised_scores_and_top_p(uninterrupted, tmp_path):
    """The options of PPO that reach outside its iteration."""
    out = tmp_path / "options"
    copy_before("ppo", uninterrupted, out)
    more = ["--reward-models", "2", "--ppo.score-norm", "fixed", "--ppo.top-p", "0.9", "--ppo.kl-loss", "exact"]
    done(command(out, *more))
    assert trained(out / "reward_model_2").scalar
    assert final_hash(out / "reward_model_2") != final_hash(out / "reward_model")
    first = rows_of(out / "ppo_ptx")[0]
    assert first["objective/kl"] == pytest.approx(0, abs=1e-4)  # the policy is still the reference, under top-p as well
    assert abs(first["objective/reward_model"] - first["objective/scores"]) > 1e-3


# What is refused.


@pytest.mark.long
@pytest.mark.slow
def test_greedy_sampling_is_refused(uninterrupted, tmp_path):
    out = tmp_path / "greedy"
    copy_before("ppo", uninterrupted, out)
    with pytest.raises(InputError, match=r"ppo\.temperature is 0: greedy answers"):
        instructgpt.recipe(recipe(out, "--ppo.temperature", "0"))


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (["--pretrain.lr", "0.5"], r"pretrain: it was made with another pretrain\.lr \(0\.003, not 0\.5\)"),
        (["--model.layers", "2"], r"pretrain: it was made with another model\.layers \(1, not 2\)"),
    ],
)
def test_another_config_in_the_same_folder_is_refused_by_its_key(uninterrupted, change, words):
    with pytest.raises(InputError, match=words):
        instructgpt.recipe(recipe(uninterrupted, *change))


@pytest.mark.long
@pytest.mark.slow
def test_another_tokenizer_is_refused(uninterrupted, tmp_path):
    other, c = tmp_path / "other.model", recipe(uninterrupted, "--tokenizer.path", str(tmp_path / "other.model"))
    train_tokenizer(data_sets(c.world, c.seed).tokenizer_text(), 699, other)
    with pytest.raises(InputError, match="pretrain: it was trained with another tokenizer"):
        instructgpt.recipe(c)


@pytest.mark.slow
def test_a_prompt_longer_than_the_context_is_said_before_anything_is_trained(tmp_path):
    with pytest.raises(InputError, match=r"longer than format\.prompt_tokens = "):
        instructgpt.recipe(recipe(tmp_path / "run", "--format.prompt-tokens", "8"))
    assert not (tmp_path / "run" / "pretrain").exists()


@pytest.mark.long
def test_no_config_file_is_one_sentence_of_the_program():
    ended = call([sys.executable, "experiments/instructgpt.py", "missing.toml"])
    assert ended.returncode == 2
    assert "missing.toml" in ended.stderr and "Traceback" not in ended.stderr and ended.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["missing.toml"], "missing.toml"),
        ([], "config file"),
        (["--seed", "1"], "config file"),
    ],
)
def test_no_config_file_is_one_sentence(arguments, words, capfd):
    assert words in sentence(capfd, arguments)


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, capfd):
    (tmp_path / "file").write_text("not a folder")
    assert str(tmp_path / "file") in sentence(capfd, argv(tmp_path / "file"))


def sentence(capfd, arguments: list[str]) -> str:
    """What the program says that ends with 2."""
    with pytest.raises(SystemExit) as ended:
        run(lambda: instructgpt.recipe(begin(instructgpt.Config, instructgpt.__file__, "", arguments)))
    assert ended.value.code == 2
    said = capfd.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1
    return said


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "names"),
    [
        (ppo_ptx.main, ("start", "reward")),
        (grpo.main, ("start", "reward")),
        (dpo.main, ("start",)),
        (best_of_n.main, ("start", "reward")),
        (inspect_tokens.inspect_tokens, ("start", "reward", "policy")),
    ],
    ids=lambda each: getattr(each, "__module__", ""),
)
def test_a_later_program_says_which_of_its_models_is_missing_or_unfinished(program, names, uninterrupted, tmp_path):
    half = tmp_path / "half" / "ppo_ptx"
    shutil.copytree(uninterrupted / "ppo_ptx", half, ignore=shutil.ignore_patterns("6"))
    missing = "(holds no trained model|is no folder of a reward model)"
    tried = [(name, tmp_path / "nowhere", missing) for name in names]
    for name, folder, words in [*tried, ("start", half, "the stage ppo_ptx stopped at step 3 of 6; finish it")]:
        config = begun(sys.modules[program.__module__], uninterrupted, tmp_path / "out", f"--given.{name}", str(folder))
        with pytest.raises(InputError, match=f"{folder}.*{words}"):
            program(config)
        assert [path.name for path in (tmp_path / "out").iterdir() if path.is_dir()] == []


# The configs.


def test_an_unknown_key_is_named_with_the_nearest_one(tmp_path):
    text = (ROOT / "configs" / "tiny.toml").read_text()
    broken = tmp_path / "broken.toml"
    for pattern, instead, words in (
        (r"\ngamma = ", "\ngama = ", r"unknown key ppo.gama; did you mean gamma"),
        (r"\nout = .*\n", "\n", r"out is missing"),
        (r"iterations = \d+", 'iterations = "sixty"', r"ppo.iterations is 'sixty' and must be of type int"),
        (r'position = "\w+"', 'position = "relu"', r"model.position is 'relu' and must be one of learned, rope"),
    ):
        changed, count = re.subn(pattern, instead, text, count=1)
        assert count == 1
        broken.write_text(changed)
        with pytest.raises(InputError, match=words):
            read_config(instructgpt.Config, broken)


PROGRAM_OF = {
    "tiny": instructgpt,
    "hh": instructgpt,
    "imported": instructgpt,
    "ablation": sweep,
    **{
        each.__name__.rpartition(".")[2]: each
        for each in (
            ppo_ptx,
            grpo,
            dpo,
            best_of_n,
            curate,
            evaluate,
            inspect_tokens,
            look,
            moderation,
            reward_model,
            rounds,
        )
    },
}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_every_config_in_configs_is_whole(path):
    read_config(PROGRAM_OF[path.stem].Config, path)


def test_the_ablation_shares_with_the_demo_all_that_comes_before_ppo():
    tiny = read_config(instructgpt.Config, ROOT / "configs" / "tiny.toml")
    ablation = read_config(sweep.Config, ROOT / "configs" / "ablation.toml")
    one, other = ({**asdict(config), **{"ppo": 0, "evaluate": 0}} for config in (tiny, ablation))
    del other["sweep"]
    assert one == other and tiny.ppo != ablation.ppo
