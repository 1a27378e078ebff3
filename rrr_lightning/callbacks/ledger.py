"""The ledger of a run as plain JSON: what earlier processes of the run paid, plus this one's part.

The file beside the run knows more than a checkpoint: it is written every few seconds, so the work
that a crash loses is in it, and is paid again when the run goes on from its checkpoint.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rrr_lightning.errors import InputError
from rrr_lightning.files import atomic_file, read_json

STUDENT, TEACHER, WAIT = "student_step", "teacher_forward", "data_wait"
VALIDATION, CHECKPOINT, SET_UP, OTHER = "validation", "checkpoint", "set_up", "other"
PHASES = (STUDENT, TEACHER, WAIT, VALIDATION, CHECKPOINT, SET_UP, OTHER)

VERSION = 1
FILE = "ledger.json"
_FLOPS = {STUDENT: "student", TEACHER: "teacher"}


@dataclass
class Part:
    """What one process has paid so far; `sum_of` adds up those of all ranks.

    Args:
        steps: Optimizer steps.
        samples: Samples of all its batches.
        tokens: Positions of all its batches of token ids, padding included; None without any.
        seconds: Seconds by phase.
        counts: How often each phase was entered.
        student_flops: Operations of the student's steps, None where they cannot be known.
        teacher_flops: Operations of the teachers' forwards, likewise.
        energy_joules: Energy of the device, None where it does not report it.
        peak_memory_bytes: The most that was held at once.
        world_size: Processes that did as much as this one, or whose sum this is.
    """

    steps: int = 0
    samples: float = 0
    tokens: float | None = None
    seconds: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    counts: Mapping[str, int] = field(default_factory=lambda: dict.fromkeys(PHASES, 0))
    student_flops: float | None = 0.0
    teacher_flops: float | None = 0.0
    energy_joules: float | None = None
    peak_memory_bytes: int = 0
    world_size: int = 1

    def summable(self) -> list[float]:
        """Returns the numbers that differ between ranks; NaN where there is none."""
        flops = (self.student_flops, self.teacher_flops)
        numbers = [self.samples, self.tokens, *flops, self.energy_joules, self.peak_memory_bytes]
        return [float("nan") if number is None else float(number) for number in numbers]

    def sum_of(self, ranks: Sequence[Sequence[float]]) -> Part:
        """Returns this part for all ranks: sums, the greatest memory, and this rank's own time.

        The ranks wait for each other in every step, so that the time of one is that of all.
        """
        columns = list(zip(*ranks, strict=True))
        samples, tokens, student, teacher, energy = (_sum(column) for column in columns[:5])
        return Part(
            steps=self.steps,
            samples=samples or 0,
            tokens=tokens,
            seconds=self.seconds,
            counts=self.counts,
            student_flops=student,
            teacher_flops=teacher,
            energy_joules=energy,
            peak_memory_bytes=int(max(columns[5])),
            world_size=len(ranks),
        )

    def times(self, world_size: int) -> Part:
        """Returns this part for all ranks, each taken to be like this one."""
        return self.sum_of([self.summable()] * world_size)


def new_ledger() -> dict[str, Any]:
    """Returns the ledger of a run that has not begun."""
    return {
        "version": VERSION,
        "run": uuid.uuid4().hex,
        "step": 0,
        "steps": 0,
        "redone_steps": 0,
        "samples": 0,
        "tokens": 0,
        "seconds": 0.0,
        "device_seconds": 0.0,
        "phases": {name: {"seconds": 0.0, "count": 0, "flops": None} for name in PHASES},
        "flops": {"student": 0.0, "teacher": 0.0},
        "step_seconds": {"plain": None, "distilled": None},
        "peak_memory_bytes": 0,
        "energy_joules": 0.0,
        "price_per_device_hour": None,
        "money": None,
        "world_size": 1,
        "hardware": None,
        "mixed_hardware": False,
        "versions": {},
        "git": None,
        "teachers": [],
    }


def add_part(ledger: Mapping[str, Any], part: Part, price: float | None) -> dict[str, Any]:
    """Returns a ledger with the part of all ranks of the running process added."""
    seconds = sum(part.seconds.values())
    device_seconds = ledger["device_seconds"] + seconds * part.world_size
    price = ledger["price_per_device_hour"] if price is None else price
    flops = {
        "student": _add(ledger["flops"]["student"], part.student_flops),
        "teacher": _add(ledger["flops"]["teacher"], part.teacher_flops),
    }
    phases = {}
    for name in PHASES:
        before = ledger["phases"][name]
        phases[name] = {
            "seconds": before["seconds"] + part.seconds[name],
            "count": before["count"] + part.counts[name],
            "flops": flops[_FLOPS[name]] if name in _FLOPS else None,
        }
    samples, tokens = (_add(ledger["samples"], part.samples), _add(ledger["tokens"], part.tokens))
    return {
        **ledger,
        "steps": ledger["steps"] + part.steps,
        "samples": round(samples or 0),
        "tokens": None if tokens is None else round(tokens),
        "seconds": ledger["seconds"] + seconds,
        "device_seconds": device_seconds,
        "phases": phases,
        "flops": flops,
        "peak_memory_bytes": max(ledger["peak_memory_bytes"], part.peak_memory_bytes),
        "energy_joules": _add(ledger["energy_joules"], part.energy_joules),
        "price_per_device_hour": price,
        "money": None if price is None else price * device_seconds / 3600,
    }


def continued(
    kept: Mapping[str, Any] | None,
    on_disk: Mapping[str, Any] | None,
    step: int,
    hardware: Any,
    world_size: int,
) -> dict[str, Any]:
    """Returns the ledger of a run that goes on at `step`, from either or both of two others.

    The one that knows more tells what was paid. Steps that are not in the checkpoint are done once
    more, and counted as redone.
    """
    known = [each for each in (on_disk, kept) if each is not None]
    paid = max(known, key=lambda each: (each["steps"], each["seconds"]))
    here = (hardware, world_size)
    return {
        **paid,
        "step": step,
        "redone_steps": paid["redone_steps"] + paid["step"] - step,
        "mixed_hardware": any(
            each["mixed_hardware"] or (each["hardware"], each["world_size"]) != here
            for each in known
        ),
    }


def check_ledger(ledger: Any, whose: str) -> dict[str, Any]:
    """Returns a ledger that was read from somewhere."""
    if not isinstance(ledger, dict) or ledger.get("version") != VERSION:
        raise InputError(
            f"{whose} is no cost ledger of this version",
            key="cost",
            found=ledger.get("version") if isinstance(ledger, dict) else type(ledger).__name__,
            accepted=f"version {VERSION}",
        )
    return ledger


def read_ledger(path: Path) -> dict[str, Any] | None:
    """Returns the ledger in a file, None where there is no file."""
    if not path.exists():
        return None
    return check_ledger(read_json(path, "cost.path"), str(path))


def write_ledger(path: Path, ledger: Mapping[str, Any]) -> None:
    """Writes a ledger so that `path` holds either the former one or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path) as file:
        file.write(f"{json.dumps(ledger, indent=1)}\n".encode())


def _sum(column: Sequence[float]) -> float | None:
    return None if any(math.isnan(number) for number in column) else sum(column)


def _add(before: float | None, now: float | None) -> float | None:
    return None if before is None or now is None else before + now
