"""How the cost of a distilled step grows: teachers, classes, sequence length, ranks.

    python scripts/benchmarks/scaling.py --device cpu --json scaling_cpu.json

Ratios of seconds per step, each against the same step in its plainest form; none has a goal.

- teachers: 1 to 8 in the pool, one drawn at random or all averaged, against one teacher;
- classes: masked language models with vocabularies of 2,000 to 32,000, distilled against plain;
- length: sequences of 32 to 256 tokens, as many tokens per batch, distilled against plain;
- ranks: two processes with half of the batch each, which reduce gradients over gloo (nccl on GPUs),
  against one process with the whole batch, one thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from _text_step import TEXT_WORKLOADS, TextWorkload
from _timing import Comparison, StepClock, alone, be_quiet, not_measured, parse, report, row_of
from step_cost import (
    WARM_UP_STEPS,
    WORKLOADS,
    TimeSteps,
    Workload,
    distill,
    quiet_trainer,
    with_lightning,
)
from torch import distributed

TEACHERS = (2, 4, 8)
VOCABULARIES = (2000, 8000, 32000)
LENGTHS = (32, 64, 128, 256)
RANKS = 2


def by_teachers(work: Workload) -> list[Comparison]:
    """Returns the comparisons of pools with a single teacher."""
    spare, *pool = [work.build(number).to(work.device) for number in range(max(TEACHERS) + 1)]

    def one(clock: StepClock) -> None:
        with_lightning(work, clock, [distill([spare])])

    def drawn(count: int) -> Comparison:
        def arm(clock: StepClock) -> None:
            with_lightning(work, clock, [distill(pool[:count])])

        return Comparison(f"teachers: one of {count} at random / one teacher", arm, one, None)

    def averaged(count: int) -> Comparison:
        def arm(clock: StepClock) -> None:
            with_lightning(work, clock, [distill(pool[:count], per_step="all")])

        return Comparison(f"teachers: average of {count} / one teacher", arm, one, None)

    return [make(count) for count in TEACHERS for make in (drawn, averaged)]


def distilled(name: str, work: TextWorkload) -> Comparison:
    """Returns the comparison of a distilled step with a plain one."""

    def taught(clock: StepClock) -> None:
        with_lightning(work, clock, [distill([work.build(0).to(work.device)])])

    def plain(clock: StepClock) -> None:
        with_lightning(work, clock)

    return Comparison(f"{name}: distilled / plain", taught, plain, None)


def by_classes(work: TextWorkload) -> list[Comparison]:
    """Returns the comparisons over vocabularies."""
    return [
        distilled(f"vocabulary of {size:,}", replace(work, vocabulary=size))
        for size in VOCABULARIES
    ]


def by_length(work: TextWorkload) -> list[Comparison]:
    """Returns the comparisons over lengths of sequences, with as many tokens in every batch."""
    tokens = work.samples * work.tokens
    return [
        distilled(f"{length} tokens", replace(work, tokens=length, samples=tokens // length))
        for length in LENGTHS
    ]


def print_rank_seconds(work: Workload, ranks: int, steps: int) -> None:
    """Trains on some ranks and prints the seconds of every step of the first one."""
    torch.set_num_threads(1)
    share = replace(work, batch_size=work.batch_size // ranks)
    clock = alone(work.device, WARM_UP_STEPS + steps)
    callbacks = [distill([share.build(0)]), TimeSteps(clock)]
    strategy = "ddp" if ranks > 1 else "auto"
    trainer = quiet_trainer(
        work.device, work.precision, clock.total, callbacks, devices=ranks, strategy=strategy
    )
    trainer.fit(share.student(), share.batches(clock.total))
    if trainer.is_global_zero:
        print(json.dumps(clock.seconds[WARM_UP_STEPS:]), flush=True)
    if distributed.is_initialized():
        distributed.destroy_process_group()  # or a thread of gloo may abort the process at its end


def rank_row(device: str, repeats: int, steps: int) -> dict[str, Any]:
    """Returns the row on ranks, from processes that take turns."""
    name = f"ranks: {RANKS} with half of the batch each / 1 with the whole"
    if device == "cuda" and torch.cuda.device_count() < RANKS:
        return not_measured(name, f"it needs {RANKS} GPUs")

    def seconds(ranks: int) -> float:
        command = [sys.executable, __file__, "--device", device, "--steps", str(steps)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [*command, "--ranks", str(ranks)],
            stdout=subprocess.PIPE, text=True, check=True, env=environment,
        )  # fmt: skip
        return statistics.median(json.loads(done.stdout.splitlines()[-1]))

    pairs = [(seconds(RANKS), seconds(1)) for _ in range(repeats)]
    return row_of(name, [mine / other for mine, other in pairs], None) | {
        "steps": steps,
        "seconds": statistics.median(pair[0] for pair in pairs),
        "reference_seconds": statistics.median(pair[1] for pair in pairs),
    }


def main() -> int:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="run the comparisons with this in their names")
    parser.add_argument("--ranks", type=int, help=argparse.SUPPRESS)
    arguments = parse(parser, repeats=9, steps=15)
    be_quiet()
    device = arguments.device
    work, text = WORKLOADS[device], TEXT_WORKLOADS[device]
    if arguments.ranks is not None:
        print_rank_seconds(work, arguments.ranks, arguments.steps)
        return 0

    def rows() -> Iterator[dict[str, Any]]:
        for compared in (*by_teachers(work), *by_classes(text), *by_length(text)):
            if arguments.only in compared.name:
                yield compared.run(device, arguments.repeats, WARM_UP_STEPS, arguments.steps)
        if arguments.only in "ranks":
            yield rank_row(device, min(5, arguments.repeats), arguments.steps)

    return report(rows(), arguments.json, device)


if __name__ == "__main__":
    sys.exit(main())
