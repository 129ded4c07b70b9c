"""The wheel is enough: an experiment in an empty folder needs the installed package and nothing of the checkout. So runs the
entrance in test_rl_loop.py."""

import json
import os
import subprocess
import sys
import tomllib

import pytest

from tests.small_run import ROOT

pytestmark = pytest.mark.slow


@pytest.fixture
def python(outside, tmp_path):
    """Runs a Python command in an empty folder, in which the checkout cannot be imported."""
    (tmp_path / "empty").mkdir()

    def call(*line: str) -> str:
        done = subprocess.run(
            [sys.executable, *line],
            cwd=tmp_path / "empty",
            env={**os.environ, **outside},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    return call


def test_the_checkout_is_out_of_reach(python, installed):
    found = python("-c", "import rlhf_jax, sys; print(rlhf_jax.__file__); print(sys.path)")
    assert found.startswith(str(installed / "rlhf_jax"))
    assert repr(str(ROOT)) not in found


def test_it_has_what_a_package_has(installed):
    assert (installed / "rlhf_jax" / "py.typed").exists()
    shipped = {path.name for path in (installed / "rlhf_jax" / "configs").iterdir()}
    assert shipped == {path.name for path in (ROOT / "configs").glob("*.toml")}
    assert {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")} <= {"rlhf_jax", "bin"}


def test_it_has_the_page_for_labelers_and_its_command(installed):
    shipped = {path.name for path in (installed / "rlhf_jax" / "labeling" / "static").iterdir()}
    assert shipped == {path.name for path in (ROOT / "rlhf_jax" / "labeling" / "static").iterdir()} >= {"label.html"}
    (entries,) = installed.glob("rlhf_jax-*.dist-info/entry_points.txt")
    assert "rlhf-label = rlhf_jax.labeling.__main__:main" in entries.read_text()


def test_it_says_what_it_is(python, installed):
    version = python("-m", "rlhf_jax", "--version").split()[1]
    assert f'version = "{version}"' in (ROOT / "pyproject.toml").read_text()
    assert str(installed / "rlhf_jax" / "configs") in python("-m", "rlhf_jax")


PROGRAM = """
import sys
from dataclasses import dataclass

from rlhf_jax import stages
from rlhf_jax.config import read_config


@dataclass(frozen=True)
class Config(stages.Program):
    world: stages.World = stages.World()
    tokenizer: stages.TokenizerSettings = stages.TokenizerSettings()
    model: stages.Decoder = stages.Decoder()
    format: stages.Format = stages.Format()
    pretrain: stages.Pretrain = stages.Pretrain()
    sft: stages.Supervised = stages.Supervised()
    rl_init: stages.Supervised = stages.RL_INIT
    answers: stages.AnswersToRank = stages.AnswersToRank()
    reward: stages.Reward = stages.Reward()
    ppo: stages.PPO = stages.PPO()
    evaluate: stages.Evaluate = stages.Evaluate()


config = read_config(Config, sys.argv[1])
print(config.out, config.ppo.beta, config.ppo.gamma)
"""


@pytest.mark.long
def test_a_config_builds_on_one_that_ships(python, tmp_path):
    (tmp_path / "empty" / "program.py").write_text(PROGRAM)
    (tmp_path / "empty" / "mine.toml").write_text('base = "tiny.toml"\nout = "mine"\n[ppo]\nbeta = 0.125\n')
    gamma = tomllib.loads((ROOT / "configs" / "tiny.toml").read_text())["ppo"]["gamma"]
    assert python("program.py", "mine.toml").split() == ["mine", "0.125", str(gamma)]


CHANGES = """
import json, logging, os, pkgutil, signal, sys
import jax, flax, optax, orbax.checkpoint, datasets, matplotlib, tensorboardX, tyro, tokenizers, sentencepiece, pyarrow

def world():
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in sorted(before_names))]
    return {
        "loggers": {each.name: [each.level, each.disabled, [repr(h) for h in each.handlers]] for each in loggers},
        "environment": dict(os.environ),
        "signals": {s.name: repr(signal.getsignal(s)) for s in signal.Signals},
        "excepthook": repr(sys.excepthook),
        "jax": {k: repr(v) for k, v in jax.config.values.items()},
    }

before_names = [n for n in logging.root.manager.loggerDict]
before = world()
import rlhf_jax
apart = ("__main__", "harness_adapter")  # the second needs lm_eval, and is imported where that is there
rooms = [m.name for m in pkgutil.walk_packages(rlhf_jax.__path__, "rlhf_jax.") if not m.name.endswith(apart)]
for room in rooms:
    __import__(room)
after = world()
print(json.dumps({"rooms": rooms, "changed": [k for k in before if before[k] != after[k]], "before": before, "after": after}))
"""


def test_importing_every_room_changes_nothing(python):
    found = json.loads(python("-c", CHANGES))
    assert {"rlhf_jax.stages.policy", "rlhf_jax.runtime.stage", "rlhf_jax.config"} <= set(found["rooms"])
    assert not found["changed"], {name: (found["before"][name], found["after"][name]) for name in found["changed"]}
