"""Compares the seconds per step of two ways to train, on a machine that may be busy otherwise.

Both ways run within one process, in short blocks that alternate (A B, B A, A B, ...), so that a
drift of the machine meets both. Each pair of blocks gives one ratio; the result is the median of
the ratios with its order-statistic interval, which assumes nothing about their distribution.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

LEVEL = 0.95


@dataclass
class StepClock:
    """Times the steps of one block; `tick` goes at the end of every step.

    On a CPU a block's figure is the median of its steps, which a short disturbance does not move.
    On a GPU steps overlap with the host, so there it is the time between two synchronisations,
    divided by the steps between them.

    Args:
        device: `cpu` or `cuda`.
        warm_up: Steps at the start that do not count; at least one.
        steps: Steps that count.
    """

    device: str
    warm_up: int
    steps: int
    marks: list[float] = field(default_factory=list)

    @property
    def total(self) -> int:
        """Steps to run."""
        return self.warm_up + self.steps

    def tick(self) -> None:
        """Marks the end of a step."""
        done = len(self.marks) + 1
        if self.device == "cuda" and done in (self.warm_up, self.total):
            torch.cuda.synchronize()
        self.marks.append(time.perf_counter())

    def seconds(self) -> float:
        """Returns the seconds per step of the block."""
        if len(self.marks) != self.total:
            raise RuntimeError(f"timed {len(self.marks)} steps instead of {self.total}")
        counted = self.marks[self.warm_up - 1 :]
        if self.device == "cuda":
            return (counted[-1] - counted[0]) / self.steps
        return statistics.median(b - a for a, b in itertools.pairwise(counted))


@dataclass(frozen=True)
class Comparison:
    """What is compared with what, and the ratio that is aimed at.

    Args:
        name: What the ratio says.
        block: Runs a block of the way in question and returns its seconds per step.
        reference: The same for the way that it is held against.
        goal: Bound of the ratio, or the value that its interval should contain.
        rule: `at most`: the median is at most the goal; `contains`: the interval contains it.
    """

    name: str
    block: Callable[[], float]
    reference: Callable[[], float]
    goal: float
    rule: Literal["at most", "contains"] = "at most"

    def run(self, repeats: int) -> dict[str, Any]:
        """Returns the row of the result, after one pair of blocks that does not count."""
        self.block(), self.reference()
        pairs = []
        for repeat in range(repeats):
            if repeat % 2:
                reference, seconds = self.reference(), self.block()
            else:
                seconds, reference = self.block(), self.reference()
            pairs.append((seconds, reference))
        ratios = [seconds / reference for seconds, reference in pairs]
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
            "seconds": statistics.median(seconds for seconds, _ in pairs),
            "reference_seconds": statistics.median(reference for _, reference in pairs),
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
