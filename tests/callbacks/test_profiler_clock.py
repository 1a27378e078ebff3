"""The phases of a clock add up to the time that has passed, on the host and on a device."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
import torch

from rrr_lightning.callbacks import profiler
from rrr_lightning.callbacks.ledger import OTHER, STUDENT, TEACHER, WAIT
from rrr_lightning.callbacks.profiler import DeviceClock, PhaseClock


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time of a host's clock that moves when told."""
    time = [100.0]
    monkeypatch.setattr(profiler.time, "perf_counter", lambda: time[0])
    return time


def test_every_moment_belongs_to_one_phase(now: list[float]) -> None:
    clock = PhaseClock()
    for phase, seconds in ((WAIT, 1.0), (STUDENT, 2.0), (OTHER, 4.0), (WAIT, 8.0)):
        clock.enter(phase)
        now[0] += seconds
    seconds = clock.seconds()
    assert (seconds[WAIT], seconds[STUDENT], seconds[OTHER]) == (9.0, 2.0, 4.0)
    assert sum(seconds.values()) == clock.elapsed() == 15.0
    assert (clock.counts[WAIT], clock.counts[STUDENT]) == (2, 1)


def test_a_phase_is_interrupted_and_goes_on(now: list[float]) -> None:
    clock = PhaseClock()
    clock.enter(STUDENT)
    now[0] += 1.0
    with suppress(ArithmeticError), clock.within(TEACHER):
        now[0] += 2.0
        raise ArithmeticError
    now[0] += 4.0
    assert (clock.seconds()[STUDENT], clock.seconds()[TEACHER]) == (5.0, 2.0)
    assert clock.counts[STUDENT] == 1


def test_a_step_is_the_students_and_teachers_time_alone(now: list[float]) -> None:
    clock = PhaseClock()
    for extra in (0.0, 4.0, 1.0):
        for micro_batch in range(2):
            clock.enter(WAIT)
            now[0] += 100.0
            clock.enter(STUDENT)
            now[0] += 1.0 + extra
            with clock.within(TEACHER):
                now[0] += 0.5
            clock.enter(OTHER, step="distilled" if micro_batch else None)
    assert clock.step_seconds("distilled") == 2 * 2.5
    assert clock.step_seconds("plain") is None


class Device:
    """A device that works off a queue, behind the host: its events pass when it gets to them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.queued = 0.0  # when all that was queued will be done
        self.now = 0.0
        self.made = 0
        device = self

        class Event:
            def __init__(self, enable_timing: bool) -> None:
                assert enable_timing
                device.made += 1

            def record(self) -> None:
                self.at = device.queued

            def query(self) -> bool:
                return self.at <= device.now

            def synchronize(self) -> None:
                device.now = max(device.now, self.at)

            def elapsed_time(self, other: Any) -> float:
                return 1000 * (other.at - self.at)

        monkeypatch.setattr(torch.cuda, "Event", Event)


def test_a_device_is_read_late_and_never_waited_for(
    monkeypatch: pytest.MonkeyPatch, now: list[float]
) -> None:
    device = Device(monkeypatch)
    host = PhaseClock()
    now[0] += 3.0
    clock = DeviceClock(host)
    for _ in range(10):
        clock.enter(STUDENT)
        device.queued += 2.0
        with clock.within(TEACHER):
            device.queued += 1.0
        clock.enter(OTHER, step="distilled")
    assert clock.step_seconds("distilled") is None  # nothing has passed, and nobody has waited
    assert device.now == 0.0
    device.now, now[0] = 15.5, 3.0 + 100.0 + 15.5
    seconds = clock.seconds()
    assert (seconds[STUDENT], seconds[TEACHER]) == (10.0, 5.0)
    assert sum(seconds.values()) == pytest.approx(clock.elapsed())
    now[0] = 3.0 + 100.0 + 30.0
    clock.finish()
    seconds = clock.seconds()
    assert (seconds["set_up"], seconds[STUDENT], seconds[TEACHER]) == (3.0, 20.0, 10.0)
    assert clock.step_seconds("distilled") == 3.0


def test_events_are_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    clock = DeviceClock(PhaseClock())
    for _ in range(5000):
        clock.enter(STUDENT)
        device.queued += 1.0
        device.now = device.queued - 20.0
    assert device.made < 400


@pytest.mark.gpu
def test_a_real_device_agrees_with_the_wall_clock() -> None:
    clock = DeviceClock(PhaseClock())
    matrix = torch.randn(4096, 4096, device="cuda")
    for _ in range(50):
        clock.enter(STUDENT)
        for _ in range(10):
            matrix = torch.nn.functional.normalize(matrix @ matrix)
        clock.enter(OTHER, step="plain")
    clock.finish()
    seconds = clock.seconds()
    assert sum(seconds.values()) == pytest.approx(clock.elapsed(), rel=0.02)
    assert seconds[STUDENT] > 0.5 * clock.elapsed()
