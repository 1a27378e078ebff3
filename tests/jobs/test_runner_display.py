"""Plain lines in a file, a moving line on a terminal, and a time left that learns."""

from __future__ import annotations

import io

import pytest

from rrr_lightning.jobs import runner as module
from rrr_lightning.jobs.runner import Display, duration


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_the_time_left_learns_from_finished_jobs(clock: list[float]) -> None:
    display = Display({"a": 10.0, "b": 10.0, "c": 20.0}, known=1, places=2, stream=io.StringIO())
    assert display.seconds_left() == 20.0
    display.started("a")
    display.started("c")
    clock[0] = 5.0
    display.ended("a", "finished")  # twice as fast as expected, so 5 s for b and 5 more for c
    assert display.seconds_left() == 5.0
    clock[0] = 10.0
    display.ended("c", "finished")
    assert display.seconds_left() == 5.0


def test_failures_tell_nothing_about_the_time_left(clock: list[float]) -> None:
    display = Display({"a": 600.0, "b": 600.0}, known=0, places=1, stream=io.StringIO())
    display.started("a")
    clock[0] = 3.0
    display.ended("a", "failed")
    assert display.seconds_left() == 600.0


def test_a_file_gets_one_plain_line_for_each_event(clock: list[float]) -> None:
    stream = io.StringIO()
    display = Display({"a": 4.0, "b": 4.0, "c": 4.0}, known=1, places=1, stream=stream)
    display.started("a")
    display.tick()
    clock[0] = 4.0
    display.ended("a", "finished")
    display.started("b")
    display.again("b", "ValueError: no")
    display.started("b")
    display.ended("b", "failed")
    display.skipped("c", "not run: needs b")
    display.close()
    assert stream.getvalue().splitlines() == [
        "[1/4] a started",
        "[2/4] a finished in 4 s; about 8 s left",
        "[2/4] b started",
        "b crashed and will be tried once more: ValueError: no",
        "[2/4] b started",
        "[3/4] b failed in 0 s; about 4 s left",
        "[4/4] c not run: needs b",
    ]


def test_a_terminal_gets_a_moving_line(clock: list[float]) -> None:
    stream = Terminal()
    display = Display({"a": 60.0, "b": 60.0}, known=0, places=1, stream=stream)
    display.started("a")
    drawn = stream.getvalue()
    assert drawn == f"\r\x1b[K{'░' * 20} [0/2] a; about 2 min 0 s left"
    display.tick()
    assert stream.getvalue() == drawn
    clock[0] = 60.0
    display.ended("a", "finished")
    assert "[1/2] a finished in 1 min 0 s; about 1 min 0 s left\n" in stream.getvalue()
    assert stream.getvalue().endswith(f"{'█' * 10}{'░' * 10} [1/2]; about 1 min 0 s left")
    display.close()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_durations_in_words() -> None:
    assert [duration(each) for each in (0.4, 59.4, 60, 3599, 3600, 90061)] == [
        "0 s",
        "59 s",
        "1 min 0 s",
        "59 min 59 s",
        "1 h 0 min",
        "25 h 1 min",
    ]
