"""The weight of the distillation loss over a training run: loss = (1 - w) task + w distillation.

One number anneals from its first value to exactly zero at a fraction `until` of the run. From there
on a step can cost what it costs without distillation, because `is_over` says that the weight stays
zero for good.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from rrr_lightning.errors import InputError, check_types

Shape = Literal["linear", "cosine", "constant"]


@dataclass(frozen=True)
class DistillationSchedule:
    """Weight of the distillation loss as a function of progress.

    The weight is `weight` at `start`, falls to zero at `until`, and is exactly 0.0 outside of them.
    Progress is the fraction of optimizer steps that are done.

    Args:
        weight: First value of the weight, in [0, 1].
        start: Fraction of training at which distillation starts, in [0, 1).
        until: Fraction of training at which the weight is zero, in (start, 1].
        shape: `linear` and `cosine` reach zero at `until`; `constant` keeps the weight and stops
            there, as the code of the authors of the method does.
        every_n_steps: Distil only on the optimizer steps that are multiples of this number; the
            others are plain steps.

    >>> schedule = DistillationSchedule(weight=0.8, until=0.5)
    >>> [schedule(progress) for progress in (0.0, 0.25, 0.5, 1.0)]
    [0.8, 0.4, 0.0, 0.0]
    """

    weight: float = 0.9
    start: float = 0.0
    until: float = 0.5
    shape: Shape = "linear"
    every_n_steps: int = 1

    def __post_init__(self) -> None:
        check_types(type(self), vars(self), "distillation.schedule.")
        if not 0 <= self.weight <= 1:
            raise _refuse("weight", self.weight, "a number in [0, 1]")
        if not 0 < self.until <= 1:
            raise _refuse("until", self.until, "a fraction of training in (0, 1]")
        if not 0 <= self.start < self.until:
            raise _refuse("start", self.start, f"a fraction of training in [0, until={self.until})")
        if self.every_n_steps < 1:
            raise _refuse("every_n_steps", self.every_n_steps, "a whole number from 1")

    def __call__(self, progress: float) -> float:
        """Returns the weight at a progress in [0, 1], whatever `every_n_steps`."""
        if not self.start <= progress < self.until:
            return 0.0
        done = (progress - self.start) / (self.until - self.start)
        if self.shape == "linear":
            return self.weight * (1.0 - done)
        if self.shape == "cosine":
            return self.weight * 0.5 * (1.0 + math.cos(math.pi * done))
        return self.weight

    def at_step(self, step: int, total_steps: int) -> float:
        """Returns the weight of an optimizer step, counted from 0; 0.0 on the steps it skips."""
        progress = _progress(step, total_steps)
        return 0.0 if step % self.every_n_steps else self(progress)

    def is_over(self, step: int, total_steps: int) -> bool:
        """Whether the weight is zero at this step and at all that follow."""
        next_distilled = -(-step // self.every_n_steps) * self.every_n_steps
        return self.weight == 0 or _progress(next_distilled, total_steps) >= self.until


def _progress(step: int, total_steps: int) -> float:
    """Returns the fraction of steps done."""
    if total_steps < 1:
        raise InputError(
            "annealing needs a bounded run",
            key="trainer.max_steps",
            found=total_steps,
            accepted="a whole number from 1",
        )
    return step / total_steps


def _refuse(name: str, found: object, accepted: str) -> InputError:
    """Returns the error for a bad argument of the schedule."""
    return InputError(
        "out of range", key=f"distillation.schedule.{name}", found=found, accepted=accepted
    )
