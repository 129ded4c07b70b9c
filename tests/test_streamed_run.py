"""Pretraining on a stream of files: it resumes bit for bit, and notices when the files are others."""

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from rlhf_jax.data import load_tokenizer, train_tokenizer
from rlhf_jax.errors import InputError
from rlhf_jax.runtime import Checkpoints, Stage
from rlhf_jax.stages import Decoder, Format, Pretrain, Run, Runtime, Stream, described, pretrain

ROOT = Path(__file__).parents[1]
TEXTS = [f"Number {i} is {'not ' * (i % 7)}a colour." for i in range(40)]
STEPS = 6

pytestmark = pytest.mark.usefixtures("shapes_are_not_checked")


@pytest.fixture
def stream(tmp_path) -> Stream:
    (tmp_path / "web.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in TEXTS[:30]))
    pyarrow.parquet.write_table(pyarrow.table({"body": TEXTS[30:]}), tmp_path / "books.parquet")
    return Stream(f"{tmp_path}/web.jsonl 0.7, {tmp_path}/*.parquet 0.3", "body", str(tmp_path / "index"))


@pytest.fixture
def pretrained(tmp_path):
    """The stage as a function of its folder and its text."""
    train_tokenizer(TEXTS * 10, 300, tmp_path / "tokenizer.model")
    shape = Decoder(width=16, layers=1, heads=2, kv_heads=2, hidden=16, position="rope")
    model = described(shape, load_tokenizer(tmp_path / "tokenizer.model"), Format(20, 18))
    c = Pretrain(steps=STEPS, batch=4, lr=3e-3, warmup=1)
    return partial(pretrain, start=model, settings=c, run=Run(runtime=Runtime(save_every=2)))


def until(step: int, call) -> None:
    """Ctrl-C behind the metrics of a step, before it is saved."""
    log = Stage.log

    def stopping(self, i, metrics):
        log(self, i, metrics)
        if i == step:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stage, "log", stopping)
        with pytest.raises(KeyboardInterrupt):
            call()


@pytest.mark.slow
@pytest.mark.long
def test_a_run_on_a_stream_resumes_bit_for_bit(pretrained, stream, tmp_path):
    def record(name: str) -> dict:
        return Checkpoints(tmp_path / name / "checkpoints", None).record(STEPS)

    pretrained(tmp_path / "whole" / "pretrain", text=stream)
    other = partial(pretrained, tmp_path / "stopped" / "pretrain", text=stream)
    until(4, other)
    assert Checkpoints(tmp_path / "stopped" / "pretrain" / "checkpoints", None).latest() == 4
    other()
    whole, stopped = record("whole/pretrain"), record("stopped/pretrain")
    assert whole["sha256"] == stopped["sha256"]
    assert whole["stream"] == stopped["stream"]
    assert whole["stream"]["step"] == STEPS
    assert whole["settings"]["stream"]["field"] == "body"
    without = pretrained(tmp_path / "without" / "pretrain", text=TEXTS * 10)
    assert without.sha256 != whole["sha256"]  # the stream is what was read
    assert "stream" not in record("without/pretrain")


@pytest.mark.slow
def test_files_that_have_changed_since_are_noticed(pretrained, stream, tmp_path):
    """In a run that goes on and in one that is done; one changed text, and one more."""
    again = partial(pretrained, tmp_path / "pretrain", text=stream)
    path = tmp_path / "web.jsonl"
    ours = path.read_text()
    changed, more = ours.replace("Number 3 ", "Number 4 "), ours + json.dumps({"body": "Another."}) + "\n"

    def refused(content: str, time: int) -> None:
        path.write_text(content)
        os.utime(path, (time, time))
        with pytest.raises(
            InputError, match=r"pretrain: it was made from another source 1 of the stream; choose another"
        ):
            again()
        path.write_text(ours)  # where it is put back, all goes on

    until(4, again)
    refused(changed, 1)
    refused(more, 2)
    made = again()
    refused(changed, 3)
    refused(more, 4)
    assert again().sha256 == made.sha256


@pytest.mark.long
def test_the_speed_of_a_stream_is_measured(tmp_path):
    line = [sys.executable, "experiments/measure/stream_speed.py", "--gigabytes", "0.002", "--seconds", "1"]
    line += ["--processes", "1,2", "--folder", str(tmp_path)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert re.findall(r"(\d) processes: [\d,]+ tokens/s", done.stderr) == ["1", "2"]
    assert list(tmp_path.iterdir()) == []
