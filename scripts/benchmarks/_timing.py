"""Compares the seconds per step of two ways to train, on a machine that may be busy otherwise.

Both ways run within one process, in two threads that take turns: one step here, one step there. So
whatever slows the machine down for longer than a step meets both. A repeat is a pair of short runs
and gives one number, the median of the ratios of neighbouring steps; the result is the median of
the repeats with its order-statistic interval, which assumes nothing about their distribution.
"""

from __future__ import annotations

import json
import math
import os
import platform
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

LEVEL = 0.95


class Turns:
    """Lets two threads run in turn: one works while the other waits."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._whose = 0
        self._here = {0, 1}

    def wait(self, arm: int) -> None:
        """Returns when it is the turn of this arm, or when the other one has left."""
        with self._condition:
            self._condition.wait_for(lambda: self._whose == arm or 1 - arm not in self._here)

    def pass_on(self, arm: int) -> None:
        """Gives the turn to the other arm and waits for the next one."""
        with self._condition:
            self._whose = 1 - arm
            self._condition.notify_all()
        self.wait(arm)

    def leave(self, arm: int) -> None:
        """Ends the turns of this arm."""
        with self._condition:
            self._here.discard(arm)
            self._condition.notify_all()


class StepClock:
    """Times the steps of one arm; the arm calls `tick` at the end of every step.

    On a GPU every step is waited for, so that what the host does between steps is counted in full.

    Args:
        device: `cpu` or `cuda`.
        total: Steps that the arm has to run.
        turns: The turns to take with the other arm.
        arm: 0 or 1.
    """

    def __init__(self, device: str, total: int, turns: Turns, arm: int) -> None:
        self.device = device
        self.total = total
        self.seconds: list[float] = []
        self._turns = turns
        self._arm = arm
        self._start = 0.0

    def tick(self) -> None:
        """Notes the seconds since the last turn began, and gives the other arm its turn."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self._start)
        self._turns.pass_on(self._arm)
        self._start = time.perf_counter()


Arm = Callable[[StepClock], None]


def time_in_turns(arms: tuple[Arm, Arm], device: str, total: int) -> tuple[list[float], ...]:
    """Returns the seconds of every step of two arms whose steps alternate."""
    turns = Turns()
    clocks = [StepClock(device, total, turns, arm) for arm in (0, 1)]

    def run(arm: int) -> None:
        turns.wait(arm)
        try:
            arms[arm](clocks[arm])
        finally:
            turns.leave(arm)

    with ThreadPoolExecutor(2) as threads:
        for ended in [threads.submit(run, arm) for arm in (0, 1)]:
            ended.result()
    for clock in clocks:
        if len(clock.seconds) != total:
            raise RuntimeError(f"timed {len(clock.seconds)} steps instead of {total}")
    return tuple(clock.seconds for clock in clocks)


@dataclass(frozen=True)
class Comparison:
    """What is compared with what, and the ratio that is aimed at.

    Args:
        name: What the ratio says.
        arm: Runs the steps of the way in question, with a tick after each.
        reference: The same for the way that it is held against.
        goal: Bound of the ratio, or the value that its interval should contain.
        rule: `at most`: the median is at most the goal; `contains`: the interval contains it.
    """

    name: str
    arm: Arm
    reference: Arm
    goal: float
    rule: Literal["at most", "contains"] = "at most"

    def run(self, device: str, repeats: int, warm_up: int, steps: int) -> dict[str, Any]:
        """Returns the row of the result.

        Args:
            device: `cpu` or `cuda`.
            repeats: Pairs of short runs; which of the two goes first alternates.
            warm_up: Steps at the start of each run that do not count.
            steps: Steps that count.
        """
        ratios, seconds, reference_seconds = [], [], []
        for repeat in range(repeats):
            arms = (self.reference, self.arm) if repeat % 2 else (self.arm, self.reference)
            timed = [times[warm_up:] for times in time_in_turns(arms, device, warm_up + steps)]
            mine, other = reversed(timed) if repeat % 2 else timed
            ratios.append(statistics.median(a / b for a, b in zip(mine, other, strict=True)))
            seconds.append(statistics.median(mine))
            reference_seconds.append(statistics.median(other))
        middle = Median.of(ratios)
        met = middle.value <= self.goal
        if self.rule == "contains":
            met = middle.low <= self.goal <= middle.high
        return {
            "name": self.name,
            "ratio": middle.value,
            "low": middle.low,
            "high": middle.high,
            "goal": self.goal,
            "rule": self.rule,
            "met": met,
            "n": repeats,
            "coverage": middle.coverage,
            "steps": steps,
            "seconds": statistics.median(seconds),
            "reference_seconds": statistics.median(reference_seconds),
            "ratios": ratios,
        }


@dataclass(frozen=True)
class Median:
    """A median and its order-statistic interval.

    Args:
        value: The median.
        low: Lower end of the interval.
        high: Upper end.
        coverage: Probability that the interval covers the true median; under 0.95 where the values
            are too few, and then the ends are the least and the greatest.
    """

    value: float
    low: float
    high: float
    coverage: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Median:
        """Returns the median of independent values with the narrowest interval that covers 95 %."""
        ordered, n = sorted(values), len(values)
        inside, cut = _coverage(n, 0), 0
        while 2 * (cut + 1) < n and _coverage(n, cut + 1) >= LEVEL:
            cut += 1
            inside = _coverage(n, cut)
        return cls(statistics.median(ordered), ordered[cut], ordered[n - 1 - cut], inside)


def _coverage(n: int, cut: int) -> float:
    """Probability that the median lies within n values after `cut` are cut off at either end."""
    return 1 - 2 * sum(math.comb(n, k) for k in range(cut + 1)) / (1 << n)


def describe_machine(device: str) -> dict[str, Any]:
    """Returns hardware and versions, in plain types."""
    packages = ("torch", "lightning", "torchvision")
    return {
        "hardware": torch.cuda.get_device_name() if device == "cuda" else _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def _cpu_name() -> str:
    """Returns the model name that Linux gives, or what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def report(rows: list[dict[str, Any]], file: Path | None) -> int:
    """Prints the rows, writes them as JSON, and returns the exit status: 1 if a goal is missed."""
    for row in rows:
        aim = "interval contains" if row["rule"] == "contains" else "at most"
        print(
            f"{row['name']}: {row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}], "
            f"goal {aim} {row['goal']:.2f}, n = {row['n']}: {'met' if row['met'] else 'missed'}"
        )
    if file is not None:
        file.write_text(json.dumps(rows, indent=1) + "\n")
    met = sum(row["met"] for row in rows)
    print(f"{met} of {len(rows)} goals met")
    return 0 if met == len(rows) else 1
