"""docs/from_trl: each script does its trainer's work, here with few tokens and few steps."""

import importlib.util
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rlhf_jax.models import LanguageModel, TransformerConfig, load_pretrained, save_pretrained
from rlhf_jax.stages import Format, trained
from tests.small_run import ROOT, rows_of

pytestmark = pytest.mark.usefixtures("types_are_not_checked")

QUESTIONS = ("Name a fruit.", "Where is the cat?", "Name a pear.", "Where is the dog?")
ANSWERS = ("An apple is a fruit.", "The cat sat on the mat.", "A pear is a fruit.", "The dog sat on the cat.")
DEMONSTRATIONS = [{"prompt": q, "completion": a} for q, a in zip(QUESTIONS, ANSWERS, strict=True)]
PAIRS = [
    {"prompt": q, "chosen": a, "rejected": ANSWERS[i - 1]}
    for i, (q, a) in enumerate(zip(QUESTIONS, ANSWERS, strict=True))
]
PROMPTS = [{"prompt": q} for q in QUESTIONS]
FORMAT = Format(prompt_tokens=24, answer_tokens=16)
FEW = {"epochs": 1, "batch": 4, "lr": 1e-3}
TWICE = {"iterations": 2, "batch": 8, "lr": 1e-3, "value_lr": 1e-3, "lr_steps": 2}


@pytest.fixture(scope="module")
def given(tmp_path_factory, tokenizer) -> Path:
    """A Hugging Face folder and files of rows."""
    folder = tmp_path_factory.mktemp("from_trl")
    shape = {"width": 16, "layers": 1, "heads": 2, "kv_heads": 2, "hidden": 32, "context": 40, "dropout": 0.0}
    block = {"norm": "rmsnorm", "position": "rope", "mlp": "swiglu", "bias": False, "tied": True}
    config, row = TransformerConfig(vocab_size=tokenizer.size, **shape, **block), jnp.ones((1, 4), jnp.int32)
    save_pretrained(folder / "model", config, LanguageModel(config).init(jax.random.key(0), row, row > 0)["params"])
    shutil.copy(tokenizer.path, folder / "model" / "tokenizer.model")
    for name, rows in (("demonstrations", DEMONSTRATIONS), ("pairs", PAIRS), ("prompts", PROMPTS)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"from_trl_{name}", ROOT / "docs" / "from_trl" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # by which the hash of a function finds what it names
    spec.loader.exec_module(module)
    return module


def ran(name: str, settings: dict, *arguments: str) -> Path:
    """The stage's folder that the script writes, with its settings but for these."""
    module = script(name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{name}.py", *arguments])
        patch.setattr(module, "SETTINGS", replace(module.SETTINGS, **settings))
        patch.setattr(module, "FORMAT", FORMAT, raising=False)
        module.main()
    return Path(arguments[-1])


@pytest.fixture(scope="module")
def sft(given) -> Path:
    return ran("sft", FEW, str(given / "model"), str(given / "demonstrations.jsonl"), str(given / "sft"))


@pytest.fixture(scope="module")
def reward(given, sft) -> Path:
    return ran("reward", FEW, str(sft), str(given / "pairs.jsonl"), str(given / "reward"))


def test_sft(sft):
    assert [row["step"] for row in rows_of(sft)] == [1]
    exported = load_pretrained(Path(f"{sft}-exported"))
    for ours, theirs in zip(jax.tree.leaves(trained(sft).params()), jax.tree.leaves(exported.params), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_reward(reward):
    (row,) = rows_of(reward)
    assert row["made_up/loss"] == 0 and 0 < row["loss/train"] < 2
    load_pretrained(Path(f"{reward}-exported"), scalar=True)


@pytest.mark.long
def test_dpo(given, sft):
    """At the first step the policy is the reference: −log σ(0)."""
    dpo = ran("dpo", FEW, str(sft), str(given / "pairs.jsonl"), str(given / "dpo"))
    assert rows_of(dpo)[0]["loss/train"] == pytest.approx(np.log(2), abs=1e-6)


@pytest.mark.long
def test_ppo(given, sft, reward):
    ppo = ran("ppo", TWICE, str(sft), str(reward), str(given / "prompts.jsonl"), str(given / "ppo"))
    first, second = rows_of(ppo)
    assert first["objective/kl"] == pytest.approx(0, abs=1e-5) and second["objective/kl"] != first["objective/kl"]
    assert first["lr"] == pytest.approx(1e-3) and "loss/pretrain" not in first


@pytest.mark.long
@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_groups(given, sft, name):
    group = ran(name, TWICE, str(sft), str(given / "prompts.jsonl"), str(given / name))
    first, _ = rows_of(group)
    assert first["objective/scores"] > 1 and first["group/deviation"] > 0 and "loss/value_avg" not in first
