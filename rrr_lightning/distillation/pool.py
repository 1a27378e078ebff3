"""Which teachers of a pool are asked at an optimizer step.

Asking one teacher at random per step gives much of what an ensemble gives at the cost of one
teacher. A draw is a pure function of (seed, step): all micro-batches of an accumulated step, a
closure that runs again, a resumed run and all ranks get the same teachers, with nothing to save.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch

from rrr_lightning.errors import InputError, check_types
from rrr_lightning.keyed_rng import Part, check_seed, keyed_generator


@dataclass(frozen=True)
class TeacherPool:
    """Draws teachers without replacement, uniformly or by weights.

    Args:
        per_step: How many teachers are asked at a step; `all` asks the whole ensemble.
        combine: What is averaged over several teachers: `probabilities` or `logits`; by default
            what suits the loss, that is probabilities, and logits for `LogitMSE`.
        weights: Sampling weights, one per teacher, not negative; uniform by default. They say how
            often a teacher is drawn, not how much it counts when it is.
        per_rank: Whether every rank draws for itself, as the code of the authors of the method
            does. Then each step waits for the slowest teacher drawn.
        seed: Key of the draws.

    >>> pool = TeacherPool(per_step=2)
    >>> pool.draw(step=7, teachers=5) == pool.draw(step=7, teachers=5)
    True
    """

    per_step: int | Literal["all"] = 1
    combine: Literal["probabilities", "logits"] | None = None
    weights: list[float] | None = None
    per_rank: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(type(self), vars(self), "distillation.pool.")
        check_seed(self.seed, "distillation.pool.seed")
        whole = isinstance(self.per_step, int) and not isinstance(self.per_step, bool)
        if self.per_step != "all" and not (whole and self.per_step >= 1):
            raise _refuse("per_step", self.per_step, "a whole number from 1, or 'all'")
        if self.combine not in (None, "probabilities", "logits"):
            raise _refuse("combine", self.combine, "probabilities, logits, or null")
        if self.weights is None:
            return
        if self.per_step == "all":
            raise _refuse("weights", self.weights, "null where per_step is 'all': nothing is drawn")
        if not self.weights or not all(0 <= weight < math.inf for weight in self.weights):
            raise _refuse("weights", self.weights, "finite numbers, none below 0")
        if sum(weight > 0 for weight in self.weights) < self.per_step:
            raise _refuse("weights", self.weights, f"at least {self.per_step} above 0 (per_step)")

    def check(self, teachers: int) -> None:
        """Refuses a number of teachers that the pool cannot draw from."""
        if teachers < 1 or (self.per_step != "all" and self.per_step > teachers):
            raise _refuse("per_step", self.per_step, f"at most the number of teachers, {teachers}")
        if self.weights is not None and len(self.weights) != teachers:
            raise _refuse("weights", self.weights, f"one weight per teacher, {teachers} in all")

    def draw(self, step: int, teachers: int, rank: int = 0) -> tuple[int, ...]:
        """Returns the indices of the teachers of a step, ascending.

        Args:
            step: Optimizer step, counted from 0.
            teachers: Number of teachers in the pool.
            rank: Rank of this process; matters only where `per_rank` is set.

        Raises:
            InputError: If the pool cannot draw from so many teachers.
        """
        self.check(teachers)
        if self.per_step in ("all", teachers):
            return tuple(range(teachers))
        key: tuple[Part, ...] = (self.seed, "teachers", step)
        generator = keyed_generator(*key, rank) if self.per_rank else keyed_generator(*key)
        chances = torch.tensor(self.weights or [1.0] * teachers, dtype=torch.float64)
        drawn = torch.multinomial(chances, int(self.per_step), generator=generator)
        return tuple(sorted(drawn.tolist()))


def _refuse(name: str, found: object, accepted: str) -> InputError:
    """Returns the error for a bad argument of the pool."""
    return InputError(
        "out of range", key=f"distillation.pool.{name}", found=found, accepted=accepted
    )
