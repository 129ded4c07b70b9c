"""Pretraining on a stream of files: it resumes bit for bit, and notices when the files are others."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jaxtyping
import pyarrow
import pyarrow.parquet
import pytest

from experiments.pretrain import pretrain, pretrain_stage
from experiments.recipe import Config, Stream
from rlhf_jax.config import read_config
from rlhf_jax.errors import InputError
from rlhf_jax.runtime import Stage

ROOT = Path(__file__).parents[1]
TEXTS = [f"Number {i} is {'not ' * (i % 7)}a colour." for i in range(40)]
STEPS = 6


@pytest.fixture(autouse=True)
def shapes_are_not_checked():
    """Orbax builds a state of Nones on its way to the restored one."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.fixture
def config(tmp_path) -> Config:
    (tmp_path / "web.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS[:30]))
    pyarrow.parquet.write_table(pyarrow.table({"body": TEXTS[30:]}), tmp_path / "books.parquet")
    whole = read_config(Config, ROOT / "configs" / "tiny.toml")
    assert whole.world is not None
    return replace(
        whole,
        out=str(tmp_path / "whole"),
        world=replace(whole.world, documents=300, prompts=100, demonstrations=20),
        tokenizer=replace(whole.tokenizer, vocab_size=400),
        model=replace(whole.model, width=16, layers=1, heads=2, kv_heads=2, hidden=16),
        pretrain=replace(whole.pretrain, steps=STEPS, batch=4, warmup=1),
        stream=Stream(f"{tmp_path}/web.jsonl 0.7, {tmp_path}/*.parquet 0.3", "body", str(tmp_path / "index")),
        runtime=replace(whole.runtime, save_every=2),
    )


def pretrain_until(config, step):
    """Ctrl-C behind the metrics of a step, before it is saved."""
    log = Stage.log

    def stopping(self, i, metrics):
        log(self, i, metrics)
        if i == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "log", stopping)
        pretrain(config)


@pytest.mark.slow
def test_a_run_on_a_stream_resumes_bit_for_bit(config, tmp_path):
    pretrain(config)
    other = replace(config, out=str(tmp_path / "stopped"))
    with pytest.raises(KeyboardInterrupt):
        pretrain_until(other, 4)
    assert not pretrain_stage(other).finished
    pretrain(other)
    whole, stopped = (pretrain_stage(c).checkpoints.record(STEPS) for c in (config, other))
    assert whole["sha256"] == stopped["sha256"]
    assert whole["stream"] == stopped["stream"]
    assert whole["stream"]["step"] == STEPS
    assert whole["config"]["stream"]["field"] == "body"
    without = replace(config, out=str(tmp_path / "without"), stream=None)
    pretrain(without)
    assert pretrain_stage(without).sha256 != whole["sha256"]  # the stream is what was read
    assert "stream" not in pretrain_stage(without).checkpoints.record(STEPS)


@pytest.mark.slow
def test_files_that_have_changed_since_are_noticed(config, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        pretrain_until(config, 4)
    path = tmp_path / "web.jsonl"
    path.write_text(path.read_text().replace("Number 3 ", "Number 4 "))
    os.utime(path, (1, 1))
    with pytest.raises(InputError, match=r"source 1 of the stream has 30 texts .* put its files back"):
        pretrain(config)


@pytest.mark.long
def test_the_speed_of_a_stream_is_measured(tmp_path):
    line = [sys.executable, "experiments/stream_speed.py", "--gigabytes", "0.002", "--seconds", "1"]
    line += ["--processes", "1,2", "--folder", str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.findall(r"(\d) processes: [\d,]+ tokens/s", done.stderr) == ["1", "2"]
    assert list(tmp_path.iterdir()) == []
