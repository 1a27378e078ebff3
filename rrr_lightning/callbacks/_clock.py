"""Where the time of a run goes: every moment belongs to exactly one phase.

`PhaseClock` reads the host's clock. On a CUDA device the host runs ahead, so `DeviceClock` records
an event wherever a phase ends and reads the events later, when the device has long passed them:
nothing ever waits for the device. Either way the phases add up to the time since the clock started.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from rrr_lightning.callbacks._ledger import PHASES, SET_UP, STUDENT, TEACHER

KEPT_STEPS = 1024  # of which medians are taken; older ones are forgotten
_MANY_EVENTS = 256  # pending ones after which the clock looks which of them the device has passed


class PhaseClock:
    """Books the host's time to phases, and the time of steps to kinds of step.

    Attributes:
        counts: How often each phase was entered.
        phase: The phase that is open.
    """

    def __init__(self) -> None:
        self.counts = dict.fromkeys(PHASES, 0)
        self.counts[SET_UP] = 1
        self.phase = SET_UP
        self._seconds = dict.fromkeys(PHASES, 0.0)
        self._steps: dict[str, deque[float]] = {}
        self._step = 0.0
        self._started = self._since = time.perf_counter()

    def enter(self, phase: str, step: str | None = None) -> None:
        """Ends the open phase and begins another one."""
        self.counts[phase] += 1
        self._mark(step)
        self.phase = phase

    @contextmanager
    def within(self, phase: str, count: int = 1) -> Iterator[None]:
        """Interrupts the open phase by another one."""
        self._mark(None)
        interrupted, self.phase = self.phase, phase
        self.counts[phase] += count
        try:
            yield
        finally:
            self._mark(None)
            self.phase = interrupted

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of every phase up to now; they add up to `elapsed`."""
        self._mark(None)
        return dict(self._seconds)

    def elapsed(self) -> float:
        """Returns the seconds since the clock started."""
        return time.perf_counter() - self._started

    def step_seconds(self, kind: str) -> float | None:
        """Returns the median seconds of the latest steps of a kind, None where there was none."""
        steps = self._steps.get(kind)
        return statistics.median(steps) if steps else None

    def finish(self) -> None:
        """Waits for what the clock has not read yet."""

    def _mark(self, step: str | None) -> None:
        """Ends a stretch of time, and an optimizer step where its kind is given."""
        now = time.perf_counter()
        self._settle(now - self._since, self.phase, step)
        self._since = now

    def _settle(self, seconds: float, phase: str, step: str | None) -> None:
        self._seconds[phase] += seconds
        if phase in (STUDENT, TEACHER):
            self._step += seconds
        if step is not None:
            self._steps.setdefault(step, deque(maxlen=KEPT_STEPS)).append(self._step)
            self._step = 0.0


class DeviceClock(PhaseClock):
    """Books the time of a CUDA device, whose work the host has only queued when a phase ends.

    Args:
        host: The clock of the run up to now; the device takes over with the phase that is open.
    """

    def __init__(self, host: PhaseClock) -> None:
        super().__init__()
        self._seconds, self.counts, self.phase = host.seconds(), host.counts, host.phase
        self._started = host._started
        self._free: list[Any] = []
        self._marks: deque[tuple[Any, str, str | None]] = deque()
        self._last = self._record()

    def seconds(self) -> dict[str, float]:
        """Returns the seconds of every phase; what the device has not passed yet counts as open."""
        self._collect()
        passed = dict(self._seconds)
        passed[self.phase] += max(0.0, self.elapsed() - sum(passed.values()))
        return passed

    def finish(self) -> None:
        """Waits until the device has passed all that was recorded."""
        self._mark(None)
        self._marks[-1][0].synchronize()
        self._collect()

    def _mark(self, step: str | None) -> None:
        self._marks.append((self._record(), self.phase, step))
        if len(self._marks) >= _MANY_EVENTS:
            self._collect()

    def _record(self) -> Any:
        new: Any = torch.cuda.Event
        event = self._free.pop() if self._free else new(enable_timing=True)
        event.record()
        return event

    def _collect(self) -> None:
        """Settles the marks that the device has passed; asks, and never waits."""
        while self._marks and self._marks[0][0].query():
            event, phase, step = self._marks.popleft()
            self._settle(self._last.elapsed_time(event) / 1000, phase, step)
            self._free.append(self._last)
            self._last = event
