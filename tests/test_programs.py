"""The programs beside the recipe, on the models that it has trained: one small run of each."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments import best_of_n, dpo, export, grpo, inspect_tokens, instructgpt, ppo_ptx
from experiments import reward_model as reward_model_program
from rlhf_jax.config import load_config
from rlhf_jax.data import load_tokenizer
from rlhf_jax.errors import InputError
from rlhf_jax.models import (
    LanguageModel,
    TransformerConfig,
    hidden_states,
    load_pretrained,
    logits,
    save_pretrained,
)
from rlhf_jax.runtime import Checkpoints, tree_hash
from rlhf_jax.stages import begin, trained
from tests.small_run import (
    PPO,
    ROOT,
    SMALL,
    argv,
    begun,
    copy_before,
    done,
    final_hash,
    rows_of,
    stopped,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled_once", "shapes_are_not_checked")]


def exported(monkeypatch, *arguments: str) -> Path:
    """The folder that export.py writes."""
    monkeypatch.setattr(sys, "argv", ["export.py", *arguments])
    export.main()
    return Path(arguments[1])


def flat(params) -> dict[tuple[str, ...], np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {tuple(key.key for key in path): np.asarray(leaf) for path, leaf in leaves}


GPT2 = {"norm": "layernorm", "position": "learned", "mlp": "gelu", "bias": True, "kv_heads": 2}
LLAMA = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu", "bias": False, "kv_heads": 1}


@pytest.mark.long
@pytest.mark.parametrize(
    ("decoder", "lora"),
    [pytest.param(GPT2, False, id="gpt2"), pytest.param(LLAMA, True, id="llama with LoRA, cut over two devices")],
)
def test_from_a_folder_to_a_folder(uninterrupted, tmp_path, monkeypatch, decoder, lora):
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
    text = text if lora else re.sub(r"(?ms)^\[lora\].*", "", text)
    text = text.replace('base = "tiny.toml"', f'base = "{ROOT / "configs" / "tiny.toml"}"')
    (tmp_path / "imported.toml").write_text(text)
    options = [
        "--out",
        str(out),
        *SMALL,
        "--ppo.lr",
        "1e-3",
        "--runtime.best",
        "",
        *(["--mesh.fsdp", "2"] if lora else []),
    ]
    c = load_config(instructgpt.Config, [str(tmp_path / "imported.toml"), *options]).config
    instructgpt.recipe(c)
    assert json.loads((out / "evaluation.json").read_text())["ppo_ptx"]["rating"]["n"] > 0
    assert not (out / "pretrain").exists()  # the folder's model is the base
    exported(monkeypatch, str(out / "ppo_ptx"), str(tmp_path / "exported"))
    exported(monkeypatch, str(out / "reward_model"), str(tmp_path / "score"))

    of_folder, params, _ = load_pretrained(tmp_path / "exported")
    assert (
        of_folder == load_pretrained(folder).config
        and load_tokenizer(tmp_path / "exported").sha256 == vocabulary.sha256
    )
    moved = {path for path, leaf in flat(params).items() if not np.array_equal(leaf, flat(base)[path])}
    corrected = {path for path in flat(base) if path[-2:] in (("query", "kernel"), ("value", "kernel"))}
    assert moved == (corrected if lora else set(flat(base)))
    assert rows_of(out / "ppo_ptx")[0]["objective/kl"] == pytest.approx(0, abs=1e-4)
    load_pretrained(tmp_path / "score", scalar=True)
    transformers = pytest.importorskip("transformers", reason="Transformers is not installed")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "exported").eval()
    tokens = np.array([[5, 9, 300, 41, 7]])
    hidden, _ = hidden_states(LanguageModel(of_folder), params, jnp.asarray(tokens), jnp.asarray(tokens > 0))
    import torch

    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    np.testing.assert_allclose(logits(LanguageModel(of_folder), params, hidden), expected, atol=1e-4)


@pytest.mark.long
def test_the_tokens_of_answers_as_a_page(uninterrupted, tmp_path):
    given = ["--given.policy", str(uninterrupted / "ppo_ptx")]
    page = inspect_tokens.inspect_tokens(begun(inspect_tokens, uninterrupted, tmp_path, *given)).read_text()
    for quantity in ("KL", "exact KL", "reward", "value", "advantage", "ratio"):
        assert page.count(f'<span class="name">{quantity}</span>') == 4  # evaluate.shown


@pytest.mark.long
def test_best_of_n(uninterrupted, tmp_path):
    best_of_n.main(begun(best_of_n, uninterrupted, tmp_path, "--best-of", "4"))
    found = json.loads((tmp_path / "best_of_n.json").read_text())
    assert list(found) == ["1", "2", "4"] and found["1"]["kl"] == 0
    rewards = [found[n]["reward"]["mean"] for n in found]
    assert rewards[0] < rewards[1] < rewards[2]  # of more answers the best is at least as good, and here better
    assert {"verdict", "verdict/minus_another", "win_rate/vs_another"} < set(found["4"])


@pytest.mark.long
@pytest.mark.parametrize("objective", ["ipo", "kto"])
def test_rankings_without_a_reward_model(uninterrupted, tmp_path, objective):
    given = ["--given.rankings", str(uninterrupted / "rankings" / "rankings.jsonl")]
    given += ["--given.against", str(uninterrupted / "sft"), "--preference.batch", "8"]
    dpo.main(
        begun(dpo, uninterrupted, tmp_path, *given, "--preference.objective", objective, "--preference.lr", "1e-3")
    )
    rows = rows_of(tmp_path / "preference")
    assert rows[0]["rewards/chosen"] == pytest.approx(0, abs=1e-5)  # it starts as its own reference
    assert rows[0]["rewards/rejected"] == pytest.approx(0, abs=1e-5)
    assert rows[-1]["rewards/chosen"] != 0
    figures = json.loads((tmp_path / "preference.json").read_text())
    assert {"win_rate/vs_sft", "rating", "rating/minus_sft", "pretrain/loss", "kl/from_rl_init"} <= set(figures)


@pytest.mark.long
def test_without_a_value_network(uninterrupted, tmp_path):
    given = ["--given.against", str(uninterrupted / "sft"), *PPO]
    more = ["--group.advantage", "grpo", "--ppo.policy-mean", "answer"]
    grpo.main(begun(grpo, uninterrupted, tmp_path, *given, *more))
    rows = rows_of(tmp_path / "group")
    assert len(rows) == 6 and rows[0]["objective/kl"] == pytest.approx(0, abs=1e-4) and "loss/value_avg" not in rows[0]
    assert "win_rate/vs_sft" in json.loads((tmp_path / "group.json").read_text())


AS_ASKED = "tests/studies/as_asked.py:as_asked"


@pytest.mark.long
def test_a_reward_of_one_s_own_is_ten_lines_and_one_of_a_config(uninterrupted, tmp_path, monkeypatch):
    """With no reward model at all, by DAPO's loss and over-length penalty."""
    assert len((ROOT / AS_ASKED.partition(":")[0]).read_text().splitlines()) <= 10
    monkeypatch.chdir(ROOT)
    given = ["--given.reward", AS_ASKED, "--given.against", str(uninterrupted / "sft"), *PPO]
    whole = ["--ppo.missing-eos-penalty", "0"]  # the score is the function's alone
    grpo.main(
        begun(grpo, uninterrupted, tmp_path, *given, "--group.advantage", "grpo", "--ppo.clip-high", "0.28", *whole)
    )
    for row in rows_of(tmp_path / "group"):
        assert 0 <= row["reward/as_asked"] <= 1 and row["time/reward"] > 0
        assert row["objective/reward_model"] == pytest.approx(row["reward/as_asked"])
        assert row["group/no_difference/as_asked"] == pytest.approx(row["group/no_difference"])
    figures = json.loads((tmp_path / "group.json").read_text())
    assert 0 <= figures["reward"]["mean"] <= 1 and "win_rate/vs_sft" in figures


@pytest.mark.long
def test_functions_beside_the_reward_model_with_weights(uninterrupted, tmp_path, monkeypatch):
    """In PPO-ptx and in best-of-n, whose reward is the one that the policy was trained on."""
    monkeypatch.chdir(ROOT)
    names = f"{uninterrupted / 'reward_model'}, gold:rudeness, {AS_ASKED}"
    given = ["--given.reward", names, "--given.weights", "1, -0.5, 2"]
    ppo_ptx.main(begun(ppo_ptx, uninterrupted, tmp_path, *given, "--given.against", str(uninterrupted / "sft"), *PPO))
    for row in rows_of(tmp_path / "ppo_ptx"):
        parts = row["reward/reward_model"] - 0.5 * row["reward/gold_rudeness"] + 2 * row["reward/as_asked"]
        assert row["objective/reward_model"] == pytest.approx(parts, rel=1e-4, abs=1e-5)
    best_of_n.main(begun(best_of_n, uninterrupted, tmp_path, *given, "--best-of", "2"))
    found = json.loads((tmp_path / "best_of_n.json").read_text())
    assert found["1"]["reward"]["mean"] < found["2"]["reward"]["mean"]


@pytest.mark.long
def test_ppo_alone_on_models_from_elsewhere(uninterrupted, tmp_path, monkeypatch):
    """Policy and reward model as Hugging Face folders: one command, and the scores of the stages that they came from."""
    for name in ("rl_init", "reward_model"):
        exported(monkeypatch, str(uninterrupted / name), str(tmp_path / name))
    format = trained(uninterrupted / "rl_init").format
    given = ["--given.start", str(tmp_path / "rl_init"), "--given.reward", str(tmp_path / "reward_model")]
    given += ["--format.prompt-tokens", str(format.prompt_tokens), "--format.answer-tokens", str(format.answer_tokens)]
    ppo_ptx.main(
        begun(ppo_ptx, uninterrupted, tmp_path / "out", *PPO, *given, "--given.against", str(tmp_path / "rl_init"))
    )
    ppo_ptx.main(begun(ppo_ptx, uninterrupted, tmp_path / "same", *PPO, "--given.against", str(uninterrupted / "sft")))
    ours, theirs = (rows_of(tmp_path / name / "ppo_ptx") for name in ("out", "same"))
    assert ours[0]["objective/kl"] == pytest.approx(0, abs=1e-4)
    # A folder's reward model has its bias in the last norm, and rounds otherwise.
    assert ours[0]["objective/reward_model"] == pytest.approx(theirs[0]["objective/reward_model"], abs=0.02)


@pytest.mark.long
def test_a_reward_model_alone(uninterrupted, tmp_path):
    given = ["--given.start", str(uninterrupted / "sft"), "--out", str(tmp_path)]
    given += ["--files.rankings", str(uninterrupted / "rankings" / "rankings.jsonl"), "--reward.epochs", "1"]
    program, config = reward_model_program, str(ROOT / "configs" / "reward_model.toml")
    program.main(begin(program.Config, program.__file__, "", [config, *given]))
    found = json.loads((tmp_path / "reward_model.json").read_text())
    assert all(0 <= figure["mean"] <= 1 for figure in found.values())  # of few rankings none is held out
    assert trained(tmp_path / "reward_model").scalar


@pytest.mark.long
@pytest.mark.parametrize(("program", "folder"), [(dpo, "preference"), (grpo, "group")], ids=["dpo", "grpo"])
def test_what_other_programs_train_is_exported(uninterrupted, tmp_path, monkeypatch, program, folder):
    more = ["--given.against", str(uninterrupted / "sft"), *(PPO if program is grpo else ["--preference.epochs", "1"])]
    if program is dpo:
        more += ["--given.rankings", str(uninterrupted / "rankings" / "rankings.jsonl")]
    program.main(begun(program, uninterrupted, tmp_path / "run", *more))
    exported(monkeypatch, str(tmp_path / "run" / folder), str(tmp_path / "exported"))
    params = load_pretrained(tmp_path / "exported").params
    for path, leaf in flat(trained(tmp_path / "run" / folder).params()).items():
        np.testing.assert_array_equal(flat(params)[path], leaf)


def test_groups_that_do_not_fill_a_batch_are_refused_first(tmp_path):
    with pytest.raises(InputError, match=r"group\.answers is 5"):
        grpo.main(begun(grpo, tmp_path / "nothing", tmp_path / "out", *PPO, "--group.answers", "5"))


@pytest.mark.long
def test_ppo_alone_is_the_recipes_and_its_best_checkpoint_stays_and_is_exported(uninterrupted, tmp_path, monkeypatch):
    """experiments/ppo_ptx.py, whose algorithm stands in the file."""
    recipes = rows_of(uninterrupted / "ppo_ptx")
    looked = {row["step"]: row for row in recipes if "gold/mean" in row}
    assert set(looked) == {1, 3, 6}
    best_of = {name: max(looked, key=lambda step: (looked[step][name], -step)) for name in sorted(looked[1])}
    figure = next(name for name in ("gold/mean", *best_of) if best_of[name] == 3)  # the last one stays anyway
    given = ["--given.against", str(uninterrupted / "sft"), *PPO, "--runtime.keep", "1", "--runtime.best", figure]
    ppo_ptx.main(begun(ppo_ptx, uninterrupted, tmp_path, *given))
    rows, at = rows_of(tmp_path / "ppo_ptx"), best_of[figure]
    for one, other in zip(rows, recipes, strict=True):
        assert one == pytest.approx({name: other[name] for name in one}, rel=1e-3, abs=1e-4)
    assert "win_rate/vs_sft" in json.loads((tmp_path / "ppo_ptx.json").read_text())
    assert {int(path.name) for path in (tmp_path / "ppo_ptx" / "checkpoints").iterdir()} == {at, 6}
    best = exported(monkeypatch, str(tmp_path / "ppo_ptx"), str(tmp_path / "best"), "--best")
    last = exported(monkeypatch, str(tmp_path / "ppo_ptx"), str(tmp_path / "last"))
    for folder, step in ((best, at), (last, 6)):
        assert tree_hash(load_pretrained(folder).params) == tree_hash(trained(tmp_path / "ppo_ptx", step).params())
    assert tree_hash(load_pretrained(best).params) != tree_hash(load_pretrained(last).params)


@pytest.mark.long
def test_the_ablation_as_a_user_runs_it(uninterrupted, tmp_path):
    """README's command, small: on two cores as devices, past its saves to its end, without a variable that only tests set."""
    copy_before("ppo", uninterrupted, tmp_path / "out")
    program, table = "experiments/studies/ablate_beta_gamma.py", "prod beta=0.1,0.5 gamma=0,1"
    few = [
        "--sweep.table",
        table,
        "--sweep.seeds",
        "1",
        "--ppo.beta",
        "0.5",
        "--runtime.save-every",
        "1",
        "--runtime.keep",
        "9",
    ]
    line = [sys.executable, program, *argv(tmp_path / "out", *few, config="configs/ablation.toml")]
    mine = ("PJRT_NPROC", "XLA_FLAGS", "JAX_PLATFORMS")
    environment = {name: value for name, value in os.environ.items() if name not in mine}
    ended = subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert Checkpoints(tmp_path / "out" / "sweep" / "checkpoints", None).steps() == [1, 2, 3, 4, 5, 6]
    assert "β = 0.5, γ = 1" in (tmp_path / "out" / "ablation.html").read_text()


@pytest.mark.long
def test_a_sweep_stops_resumes_and_has_the_figures_of_every_member(uninterrupted, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    options = ["--sweep.table", "prod beta=0,0.5 gamma=0,1", "--sweep.seeds", "2", "--sweep.together", "2"]
    options += ["--runtime.save-every", "2", "--ppo.beta", "0.5"]
    for out in (whole, killed):
        copy_before("ppo", uninterrupted, out)

    def line(out: Path) -> list[str]:
        """ablation.toml differs from tiny.toml in no stage before PPO."""
        program = "experiments/studies/ablate_beta_gamma.py"
        return [sys.executable, program, *argv(out, *options, config="configs/ablation.toml")]

    done(line(whole))
    lines = (whole / "sweep.csv").read_text().splitlines()
    assert lines[0].startswith("beta,gamma,seed,") and len(lines) == 1 + 4 * 2
    settings = json.loads((whole / "sweep.json").read_text())
    assert len(settings) == 4 and all(setting["figures"]["pretrain/loss"]["n"] == 2 for setting in settings)
    page = (whole / "ablation.html").read_text()
    assert "β = 0.5, γ = 1" in page and "Figure 36" in page
    stopped(line(killed), signal.SIGKILL, killed / "sweep" / "metrics.jsonl", 3)
    assert not (killed / "sweep" / "checkpoints" / "6").exists()
    done(line(killed))
    assert final_hash(whole / "sweep") == final_hash(killed / "sweep")
    assert (killed / "sweep.csv").read_text() == (whole / "sweep.csv").read_text()
