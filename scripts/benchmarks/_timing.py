"""Compares seconds per step and peak memory of two ways to train, on a busy machine.

Both ways run within one process, in two threads that take turns: one step here, one step there. So
whatever slows the machine down for longer than a step meets both. A repeat is a pair of short runs
and gives one number, the median of the ratios of neighbouring steps; the result is the median of
the repeats with its order-statistic interval, which assumes nothing about their distribution.

Peak memory is measured in processes of their own. What counts is what the steps need on top of what
the process held before the first one: libraries, networks and batches are needed either way.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import math
import os
import platform
import resource
import statistics
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

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


def alone(device: str, total: int) -> StepClock:
    """Returns a clock for steps that take turns with no others."""
    turns = Turns()
    turns.leave(1)
    return StepClock(device, total, turns, 0)


Arm = Callable[[StepClock], None]
Rule = Literal["at most", "at least", "contains"]


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
    """What is compared with what, and the ratio that is aimed at; None stands for contrast.

    `at most` and `at least` bound the median; `contains`: the interval contains the goal.
    """

    name: str
    arm: Arm
    reference: Arm
    goal: float | None
    rule: Rule = "at most"

    def run(self, device: str, repeats: int, warm_up: int, steps: int) -> dict[str, Any]:
        """Returns the row of the result of some pairs of runs; who goes first alternates."""
        ratios, seconds, reference_seconds = [], [], []
        for repeat in range(repeats):
            arms = (self.reference, self.arm) if repeat % 2 else (self.arm, self.reference)
            timed = [times[warm_up:] for times in time_in_turns(arms, device, warm_up + steps)]
            mine, other = reversed(timed) if repeat % 2 else timed
            ratios.append(statistics.median(a / b for a, b in zip(mine, other, strict=True)))
            seconds.append(statistics.median(mine))
            reference_seconds.append(statistics.median(other))
        return row_of(self.name, ratios, self.goal, self.rule) | {
            "steps": steps,
            "seconds": statistics.median(seconds),
            "reference_seconds": statistics.median(reference_seconds),
        }


@dataclass(frozen=True)
class Median:
    """A median, its order-statistic interval, and the probability that it covers the true one.

    Where the values are too few for 95 %, the ends are the least and the greatest.
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


def row_of(
    name: str, ratios: Sequence[float], goal: float | None, rule: Rule = "at most"
) -> dict[str, Any]:
    """Returns the row of a result from independent ratios."""
    middle = Median.of(ratios)
    return {
        "name": name,
        "ratio": middle.value,
        "low": middle.low,
        "high": middle.high,
        "goal": goal,
        "rule": rule,
        "met": is_met(middle, goal, rule),
        "n": len(ratios),
        "coverage": middle.coverage,
        "ratios": list(ratios),
    }


def not_measured(name: str, why: str) -> dict[str, Any]:
    """Returns a row without numbers."""
    empty = dict.fromkeys(("ratio", "low", "high", "goal", "met"))
    return {"name": name, **empty, "rule": "at most", "n": 0, "note": why}


def is_met(middle: Median, goal: float | None, rule: Rule) -> bool | None:
    """Returns whether a ratio meets its goal; None where it has none."""
    if goal is None:
        return None
    if rule == "contains":
        return middle.low <= goal <= middle.high
    return middle.value <= goal if rule == "at most" else middle.value >= goal


def _coverage(n: int, cut: int) -> float:
    """Probability that the median lies within n values after `cut` are cut off at either end."""
    return 1 - 2 * sum(math.comb(n, k) for k in range(cut + 1)) / (1 << n)


def describe_machine(device: str) -> dict[str, Any]:
    """Returns hardware and versions, in plain types."""
    return {
        "hardware": torch.cuda.get_device_name() if device == "cuda" else _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "lightning", "torchvision")},
    }


def _cpu_name() -> str:
    """Returns the model name that Linux gives, or what Python knows."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def report(rows: Iterable[dict[str, Any]], file: Path | None, device: str = "cpu") -> int:
    """Prints rows as they come, writes them as JSON, and returns 1 if a goal is missed, else 0."""
    about = {"device": device, "machine": describe_machine(device)}
    measured = []
    for row in rows:
        measured.append(row | about)
        if file is not None:
            file.write_text(json.dumps(measured, separators=(",", ":")) + "\n")
        if row["ratio"] is None:
            print(f"{row['name']}: not measured: {row['note']}", flush=True)
            continue
        aim = "interval contains" if row["rule"] == "contains" else row["rule"]
        verdict = "for contrast"
        if row["goal"] is not None:
            verdict = f"goal {aim} {row['goal']:.4g}: {'met' if row['met'] else 'missed'}"
        print(
            f"{row['name']}: {row['ratio']:.3f} [{row['low']:.3f}, {row['high']:.3f}], "
            f"n = {row['n']}, {verdict}",
            flush=True,
        )
    judged = [row["met"] for row in measured if row["goal"] is not None]
    print(f"{sum(judged)} of {len(judged)} goals met")
    return 0 if all(judged) else 1


def parse(parser: argparse.ArgumentParser, repeats: int, steps: int) -> argparse.Namespace:
    """Adds the options that all benchmarks share, reads the command line and checks it."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=repeats, help="pairs of runs per ratio")
    parser.add_argument("--steps", type=int, default=steps, help="timed steps per run")
    parser.add_argument("--json", type=Path, help="file for the rows")
    arguments = parser.parse_args()
    if arguments.repeats < 1 or arguments.steps < 1:
        parser.error("--repeats and --steps must be at least 1")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: there is no CUDA device")
    return arguments


def be_quiet() -> None:
    """Keeps quiet about what is on purpose: no validation, no workers, teachers at chance."""
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "rrr_lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)


Held = dict[str, float]


def most_bytes(device: str) -> float:
    """Returns the most bytes that this process has held so far, on a GPU its tensors'."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    if sys.platform == "linux":  # ru_maxrss would count the parent: it outlives exec
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on a Mac


def allocated(device: str) -> float:
    """Returns the bytes of live tensors, those of a GPU as its allocator counts them."""
    gc.collect()
    if device == "cuda":
        return float(torch.cuda.memory_allocated())
    tensors = [each for each in gc.get_objects() if issubclass(type(each), Tensor)]
    storages = {each.untyped_storage()._cdata: each.untyped_storage() for each in tensors}
    return float(sum(storage.nbytes() for storage in storages.values()))


def print_memory(device: str, prepare: Callable[[], None], steps: Callable[[], None]) -> None:
    """Runs what both ways need, then the steps, and prints the bytes held after each."""
    prepare()
    before = most_bytes(device)
    steps()
    print(json.dumps({"before": before, "peak": most_bytes(device)}))


def memory_of(script: str, *arguments: str) -> Held:
    """Returns what `print_memory` printed in a new process that runs a script."""
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    held: Held = json.loads(done.stdout.splitlines()[-1])
    return held


def memory_row(
    name: str, arms: Sequence[Held], references: Sequence[Held], goal: float | None
) -> dict[str, Any]:
    """Returns the row of a result, as `Comparison.run` does for seconds."""
    needed = [[held["peak"] - held["before"] for held in arm] for arm in (arms, references)]
    ratios = [mine / other for mine, other in zip(*needed, strict=True)]
    return row_of(name, ratios, goal) | {
        "bytes": list(arms),
        "reference_bytes": list(references),
    }
