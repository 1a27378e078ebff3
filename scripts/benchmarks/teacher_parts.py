"""What each part of a cheaper teacher forward saves by itself, for contrast; none has a goal.

    python scripts/benchmarks/teacher_parts.py --device cpu --json teacher_parts_cpu.json

Seconds per forward of the networks of `teacher_forward.py` in eager float32 are held against: batch
norms folded; `channels_last`; both; bf16 by autocast with weights in float32, which casts them at
every forward; weights held in bf16; all of it, as by default; and all of it compiled, for which the
rows also tell the seconds of the first forward.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from _timing import Comparison, StepClock, be_quiet, parse, report
from teacher_forward import WARM_UP, Subject, subjects
from torch.utils._pytree import tree_map

from rrr_lightning.callbacks._teachers import device_precision
from rrr_lightning.distillation.folding import fold_batch_norms
from rrr_lightning.distillation.teacher import Teacher
from rrr_lightning.models.masked_rows import MaskedRows


def fold(teacher: Teacher, device: str) -> None:
    """Folds batch norms."""
    fold_batch_norms(teacher.network)


def lay_out(teacher: Teacher, device: str) -> None:
    """Sets the memory layout; the networks here bring their images into it themselves."""
    teacher.network.to(memory_format=torch.channels_last)


def fold_and_lay_out(teacher: Teacher, device: str) -> None:
    """Does both."""
    teacher.cheapen("32")


def autocast(teacher: Teacher, device: str) -> None:
    """Runs under autocast of bf16, with weights in float32."""
    teacher.place(device)
    plain = teacher.rows

    def rows(batch: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            return plain(batch)

    teacher.rows = rows  # type: ignore[method-assign]


def hold(teacher: Teacher, device: str) -> None:
    """Holds weights in bf16."""
    teacher.place(device, "bf16")


def everything(teacher: Teacher, device: str) -> None:
    """Does what is done by default."""
    teacher.cheapen(device_precision(torch.device(device)))


def compiled(teacher: Teacher, device: str) -> None:
    """Compiles on top."""
    everything(teacher, device)
    module: Any = teacher.network
    inner = module.network  # of an image classifier; around it are normalisation, or masked tokens
    (inner.network if isinstance(inner, MaskedRows) else inner).compile(dynamic=False)


PARTS: dict[str, Callable[[Teacher, str], None]] = {
    "batch norms folded": fold,
    "channels_last": lay_out,
    "folded, channels_last": fold_and_lay_out,
    "bf16 by autocast": autocast,
    "weights held in bf16": hold,
    "all, as by default": everything,
    "all, compiled": compiled,
}


LAID_OUT = ("channels_last", "folded, channels_last", "all, as by default", "all, compiled")


def part_row(subject: Subject, part: str, device: str, size: Any) -> dict[str, Any]:
    """Returns the row on one part."""
    plain, changed = (Teacher(subject.module(), name=subject.name) for _ in range(2))
    if hasattr(plain.network, "channels_last"):  # as peers and plain torch have it
        for teacher in (plain, changed):
            teacher.network.channels_last = part in LAID_OUT and teacher is changed
            teacher.network.to(memory_format=torch.contiguous_format)
    for teacher in (plain, changed):
        teacher.place(device, "32")
    PARTS[part](changed, device)
    batch = tree_map(lambda each: each.to(device), subject.batch())
    start = time.perf_counter()
    changed.rows(batch)
    first = time.perf_counter() - start

    def forwards(teacher: Teacher) -> Callable[[StepClock], None]:
        def arm(clock: StepClock) -> None:
            for _ in range(clock.total):
                teacher.rows(batch)
                clock.tick()

        return arm

    name = f"{subject.name}: {part} / eager float32"
    row = Comparison(name, forwards(changed), forwards(plain), None).run(*size)
    if part.endswith("compiled"):
        row["first_forward_seconds"] = first
    return row


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="run the comparisons with this in their names")
    arguments = parse(parser, repeats=7, steps=8)
    be_quiet()
    device = arguments.device
    size = device, arguments.repeats, WARM_UP, arguments.steps
    rows = (
        part_row(subject, part, device, size)
        for subject in subjects(device)
        for part in PARTS
        if arguments.only in f"{subject.name}: {part}"
    )
    return report(rows, arguments.json, device)


if __name__ == "__main__":
    sys.exit(main())
