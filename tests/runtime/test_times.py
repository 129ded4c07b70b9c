"""When a stage was at work."""

import pytest
from tensorboardX import SummaryWriter

from rlhf_jax.runtime import Session, sessions


def write(folder, suffix, times):
    """A TensorBoard file whose first event has the clock of now, as all of them do, and the others these."""
    board = SummaryWriter(str(folder / "tensorboard"), filename_suffix=suffix)
    for step, time in enumerate(times):
        board.add_scalar("loss", 0.5, step, walltime=time)
    board.close()


@pytest.fixture
def clock(monkeypatch):
    """The time at which files are opened."""
    now = [0.0]
    monkeypatch.setattr("time.time", lambda: now[0])
    return now


def test_each_session_is_from_its_file_s_beginning_to_its_last_row(tmp_path, clock):
    assert sessions(tmp_path) == []
    for began, times in ((5000.0, [5010.0, 5030.0]), (1000.0, [1002.0, 1003.5])):
        clock[0] = began
        write(tmp_path, f".from{began:.0f}", times)
    assert sessions(tmp_path) == [Session(1000.0, 1003.5), Session(5000.0, 5030.0)]
    assert [session.seconds for session in sessions(tmp_path)] == [3.5, 30.0]


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_torn_file_is_read_up_to_there(tmp_path, clock, cut):
    clock[0] = 1000.0
    write(tmp_path, "", [1002.0, 1003.5])
    (path,) = (tmp_path / "tensorboard").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    assert sessions(tmp_path) == [Session(1000.0, 1002.0 if cut > 4 else 1003.5)]
    path.write_bytes(whole[:10])
    assert sessions(tmp_path) == []
    path.write_bytes(b"\xff" * 300)
    assert sessions(tmp_path) == []
