"""How fast a student trains while the host runs ahead: images per second, share of the peak.

    python scripts/benchmarks/throughput.py --device cuda --json throughput_cuda.json

ResNet-50 at 224 pixels in bf16-mixed with `ImageClassifier`, and BERT-base on 128 tokens with
`MaskedLanguageModel`, on ready batches, through Lightning, without a teacher. BERT's operations per
second are held against the rate that a large matrix product in bf16 reaches on the same device. The
goals are those of an H200: 4,000 images per second, half of the matrix rate. Elsewhere the numbers
stand without. Two more rows hold distilled steps against loops by hand. A GPU is waited for at both
ends of the timed steps and not between them, as in a training run, so that a wait within a step
shows.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from _text_step import TEXT_WORKLOADS, TextWorkload, text_loop
from _timing import Arm, StepClock, Turns, be_quiet, describe_machine, parse, report, row_of
from step_cost import (
    TEMPERATURE,
    WARM_UP_STEPS,
    WEIGHT,
    WORKLOADS,
    Workload,
    distill,
    with_a_loop,
    with_lightning,
)
from torch.utils.flop_counter import FlopCounterMode

IMAGES_PER_SECOND, SHARE_OF_PEAK = 4000.0, 0.5
SIZES = {"cpu": 1024, "cuda": 8192}  # of the matrices


class SpanClock(StepClock):
    """Times the steps after the warm-up as one, so that the host can run ahead of a GPU."""

    def __init__(self, device: str, steps: int) -> None:
        super().__init__(device, WARM_UP_STEPS + steps, Turns(), 0)
        self.ends: list[float] = []
        self._done = 0

    def tick(self) -> None:
        """Notes the time at the end of the warm-up and of the last step."""
        self._done += 1
        if self._done in (WARM_UP_STEPS, self.total):
            if self.device == "cuda":
                torch.cuda.synchronize()
            self.ends.append(time.perf_counter())


def seconds_per_step(run: Arm, device: str, steps: int) -> float:
    """Returns the mean seconds of the steps that are run."""
    clock = SpanClock(device, steps)
    run(clock)
    start, end = clock.ends
    return (end - start) / steps


def distilled(name: str, ours: Arm, by_hand: Arm, size: tuple[str, int, int]) -> dict[str, Any]:
    """Returns the row on distilled steps, against a loop by hand that runs ahead as well."""
    device, repeats, steps = size
    ratios = []
    for repeat in range(repeats):
        arms = (by_hand, ours) if repeat % 2 else (ours, by_hand)
        timed = [seconds_per_step(arm, device, steps) for arm in arms]
        mine, other = reversed(timed) if repeat % 2 else timed
        ratios.append(mine / other)
    return row_of(f"{name}: distilled steps in a row / hand-written loop", ratios, None)


def matrix_rate(device: str, repeats: int = 10) -> float:
    """Returns the operations per second of a product of two square matrices in bf16."""
    size = SIZES[device]
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds[3:])


def step_operations(work: TextWorkload) -> float:
    """Returns the operations of a step of BERT, counted on one."""
    student = work.student().to(work.device)
    batch = next(iter(work.batches(1)))
    counter: Any = FlopCounterMode(display=False)
    with counter:
        student.network(
            {name: each.to(work.device) for name, each in batch.items()}
        ).sum().backward()
    return float(counter.get_total_flops())


def main() -> int:
    """Runs the benchmark; the exit status is 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments = parse(parser, repeats=5, steps=20)
    be_quiet()
    device = arguments.device
    judged = "H200" in describe_machine(device)["hardware"]
    work = WORKLOADS[device]
    text = replace(TEXT_WORKLOADS[device], precision="bf16-mixed")
    if device == "cuda":  # the head padded to a multiple of 64, as by the recipes
        text = replace(text, samples=256, vocabulary=30528)
    size = device, arguments.repeats, arguments.steps

    def plain(each: Workload | TextWorkload) -> float:
        return seconds_per_step(lambda clock: with_lightning(each, clock), device, arguments.steps)

    def rows() -> Iterator[dict[str, Any]]:
        rates = [work.batch_size / plain(work) for _ in range(arguments.repeats)]
        goal = IMAGES_PER_SECOND if judged else None
        yield row_of(f"{work.network}: images per second", rates, goal, "at least")
        operations = step_operations(text)
        shares = [operations / plain(text) / matrix_rate(device) for _ in range(arguments.repeats)]
        goal = SHARE_OF_PEAK if judged else None
        yield row_of("BERT: share of the measured bf16 matrix rate", shares, goal, "at least")
        taught, by_loop = (work.build(0).to(device) for _ in range(2))
        yield distilled(
            "ResNet",
            lambda clock: with_lightning(work, clock, [distill([taught])]),
            lambda clock: with_a_loop(work, clock, by_loop),
            size,
        )
        text_taught, text_by_loop = (text.build(0).to(device) for _ in range(2))
        yield distilled(
            "BERT",
            lambda clock: with_lightning(text, clock, [distill([text_taught])]),
            lambda clock: text_loop(text, clock, text_by_loop, TEMPERATURE, WEIGHT),
            size,
        )

    return report(rows(), arguments.json, device)


if __name__ == "__main__":
    sys.exit(main())
