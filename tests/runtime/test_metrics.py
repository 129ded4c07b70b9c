import json
import math
import sys
from types import SimpleNamespace

import jax.numpy as jnp
import pytest
from tensorboardX.proto.event_pb2 import Event

from rlhf_jax.errors import InputError
from rlhf_jax.runtime import MetricsWriter, read_metrics


def write_steps(folder, start, steps, scale=1.0):
    writer = MetricsWriter(folder, start)
    for step in steps:
        writer.write(step, {"loss/train": scale * step})
    writer.close()


def events(folder):
    """TensorBoard's records: length (8 bytes), its checksum (4), the event, its checksum (4)."""
    for path in sorted((folder / "tensorboard").iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            length = int.from_bytes(data[at : at + 8], "little")
            yield Event.FromString(data[at + 12 : at + 12 + length])
            at += length + 16


def test_one_line_a_step_with_plain_floats(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    writer.write(1, {"loss/train": jnp.float32(0.5), "lr": 1e-3})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss/train": 0.5, "lr": 0.001}\n'  # flushed
    writer.close()


def test_figures_that_are_not_finite_are_strings_and_come_back(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    writer.write(1, {"a": math.nan, "b": math.inf, "c": -math.inf})
    writer.close()
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert line == {"step": 1, "a": "nan", "b": "inf", "c": "-inf"}
    (row,) = read_metrics(tmp_path)
    assert math.isnan(row["a"])
    assert (row["b"], row["c"]) == (math.inf, -math.inf)


def test_a_resumed_run_drops_the_steps_after_its_checkpoint(tmp_path):
    write_steps(tmp_path, 0, [1, 2, 3, 4])
    write_steps(tmp_path, 2, [3, 4, 5], scale=10.0)
    assert [(row["step"], row["loss/train"]) for row in read_metrics(tmp_path)] == [
        (1, 1.0),
        (2, 2.0),
        (3, 30.0),
        (4, 40.0),
        (5, 50.0),
    ]


def test_tensorboard_has_the_same_names_and_is_told_to_purge(tmp_path):
    write_steps(tmp_path, 0, [1, 2, 3])
    write_steps(tmp_path, 2, [3], scale=10.0)
    found = list(events(tmp_path))
    scalars = {(event.step, value.tag, value.simple_value) for event in found for value in event.summary.value}
    assert (2, "loss/train", 2.0) in scalars
    assert (3, "loss/train", 30.0) in scalars
    assert 3 in [event.step for event in found if event.session_log.status == event.session_log.START]


def test_a_torn_last_line_is_dropped(tmp_path):
    write_steps(tmp_path, 0, [1, 2])
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 3, "loss')
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    write_steps(tmp_path, 3, [4])
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2, 4]


@pytest.mark.parametrize("line", ["{", "3", '{"loss": 1}'])
def test_any_other_bad_line_is_named(tmp_path, line):
    (tmp_path / "metrics.jsonl").write_text(f'{{"step": 1}}\n{line}\n{{"step": 3}}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl, line 2 "):
        read_metrics(tmp_path)


def test_a_folder_without_metrics_has_none(tmp_path):
    assert read_metrics(tmp_path) == []


def test_wandb_that_is_not_installed_is_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InputError, match=r"rlhf_jax\[wandb\]"):
        MetricsWriter(tmp_path / "new", 0, wandb=True)
    assert not (tmp_path / "new").exists()


def test_wandb_gets_the_same_figures(tmp_path, monkeypatch):
    calls, given = [], []
    session = SimpleNamespace(
        log=lambda values, step: calls.append((step, values)), finish=lambda: calls.append("finished")
    )
    monkeypatch.setitem(
        sys.modules, "wandb", SimpleNamespace(init=lambda **settings: given.append(settings) or session)
    )
    writer = MetricsWriter(tmp_path, 0, wandb=True)
    writer.write(1, {"loss/train": 0.5})
    writer.close()
    assert calls == [(1, {"loss/train": 0.5}), "finished"]
    MetricsWriter(tmp_path, 3, wandb={"beta": 0.02}).close()
    assert [each["config"] for each in given] == [None, {"beta": 0.02}]
    assert given[1]["name"] == f"{tmp_path.name} from 3"


TABLE = [{"reward": 0.51234567, "answer": "a|b\n<b>*c*"}, {"reward": -2.0, "answer": "d"}]


def test_a_table_is_text_in_tensorboard_in_which_nothing_is_a_mark_up(tmp_path):
    writer = MetricsWriter(tmp_path, 0)
    writer.write(1, {"loss/train": 0.5}, {"answers": TABLE})
    writer.close()
    texts = {
        (event.step, value.tag): value.tensor.string_val[0].decode()
        for event in events(tmp_path)
        for value in event.summary.value
        if value.metadata.plugin_data.plugin_name == "text"
    }
    cell = "a&#124;b<br>&#60;b&#62;&#42;c&#42;"
    rows = ["| reward | answer |", "| --- | --- |", f"| 0.5123 | {cell} |", "| &#45;2 | d |".replace("&#45;", "-")]
    assert texts == {(1, "answers/text_summary"): "\n".join(rows)}
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "loss/train": 0.5}\n'


def test_wandb_gets_a_table_in_the_step_of_its_figures(tmp_path, monkeypatch):
    calls = []
    session = SimpleNamespace(log=lambda values, step: calls.append((step, values)), finish=lambda: None)
    wandb = SimpleNamespace(init=lambda **settings: session, Table=lambda columns, data: (columns, data))
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    writer = MetricsWriter(tmp_path, 0, wandb=True)
    writer.write(1, {"loss/train": 0.5}, {"answers": TABLE})
    writer.close()
    table = (["reward", "answer"], [[0.51234567, "a|b\n<b>*c*"], [-2.0, "d"]])
    assert calls == [(1, {"loss/train": 0.5, "answers": table})]
