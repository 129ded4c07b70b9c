import sys
import time

import pytest

from rlhf_jax.runtime import info, progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when the test says so."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_a_log_gets_a_line_every_15_seconds_and_one_at_the_end(clock, capsys):
    with progress("ppo", total=100) as advance:
        for step in range(1, 41):
            clock(1.0)
            advance(loss=step / 10)
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.splitlines() == [
        "ppo 15/100 · 1 steps/s · 0:00:15 elapsed · 0:01:25 left · loss 1.5",
        "ppo 30/100 · 1 steps/s · 0:00:30 elapsed · 0:01:10 left · loss 3",
        "ppo 40/100 · 1 steps/s · 0:00:40 elapsed · 0:01:00 left · loss 4",
    ]


def test_the_rate_and_the_time_left_come_from_this_run_only(clock, capsys):
    with progress("sft", total=100, start=90) as advance:
        clock(10.0)
        advance(**{"loss/train": 2.3149})
        clock(10.0)
        advance(**{"loss/train": 2.3149})
    # 2 steps in 20 s, and 8 more to do
    assert capsys.readouterr().err.splitlines()[-1] == (
        "sft 92/100 · 0.1 steps/s · 0:00:20 elapsed · 0:01:20 left · loss/train 2.31"
    )


def test_figures_are_not_read_until_they_are_shown(clock, capsys):
    class Pending:
        def __float__(self):
            pytest.fail("an array that is still being computed was waited for")

    with progress("sft", total=3) as advance:
        clock(1.0)
        advance(loss=Pending())
        clock(1.0)
        advance(loss=1.0)
    assert "2/3" in capsys.readouterr().err


def test_a_run_that_fails_shows_where_it_stopped(clock, capsys):
    with pytest.raises(ZeroDivisionError), progress("sft", total=3) as advance:  # noqa: PT012
        clock(1.0)
        advance()
        raise ZeroDivisionError
    assert "sft 1/3" in capsys.readouterr().err


def test_a_terminal_gets_a_bar(clock, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    with progress("sft", total=4, start=1) as advance:
        clock(1.0)
        advance(loss=0.5)
    shown = capsys.readouterr().err
    assert "━" in shown
    assert "2/4" in shown
    assert "loss 0.5" in shown


def test_say_keeps_a_long_sentence_with_brackets_on_one_line(capsys):
    sentence = "a [bold]sentence[/bold] " * 20
    info(sentence)
    assert capsys.readouterr().err == sentence + "\n"
