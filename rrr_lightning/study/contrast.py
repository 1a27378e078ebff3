"""Two arms at equal steps: the ratio of their errors, with an interval, and of their costs.

It answers whether an arm is as good as another at a fraction of its cost, as one teacher drawn at
random is claimed to be against the average of all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rrr_lightning.study.comparison import NO_SPREAD, ONE_SEED, Bounded
from rrr_lightning.study.interval import Cell, Spread, quantile


@dataclass(frozen=True)
class Contrast:
    """One arm over another, as geometric means over the durations that both have.

    Attributes:
        arms: The names of both.
        steps: The durations.
        error_ratio: Errors of the first over those of the second.
        cost_ratio: The same of costs.
    """

    arms: tuple[str, str]
    steps: tuple[int, ...]
    error_ratio: Bounded
    cost_ratio: float | None

    def as_json(self) -> dict[str, Any]:
        """Returns plain types."""
        return {
            "arms": list(self.arms),
            "steps": list(self.steps),
            "cost_ratio": self.cost_ratio,
            **self.error_ratio.as_json("error_ratio"),
        }


def contrast(
    arms: tuple[str, str],
    first: Sequence[Cell],
    second: Sequence[Cell],
    spread: Spread,
    level: float,
) -> Contrast:
    """Compares two arms duration by duration, and averages.

    Args:
        arms: Their names.
        first: Runs of the first.
        second: Runs of the second.
        spread: The pooled variance of runs.
        level: Nominal coverage of the interval.
    """
    others = {cell.steps: cell for cell in second}
    pairs = [(cell, others[cell.steps]) for cell in first if cell.steps in others]
    steps = tuple(cell.steps for cell, _ in pairs)
    if not pairs:
        return Contrast(arms, (), Bounded(why="they have no duration in common"), None)
    count = len(pairs)
    errors = sum(one.error - other.error for one, other in pairs) / count
    costs = sum(one.cost - other.cost for one, other in pairs) / count
    value = math.exp(errors)
    if spread.freedom == 0 or spread.quality == 0:
        why = ONE_SEED if spread.freedom == 0 else NO_SPREAD
        return Contrast(arms, steps, Bounded(value, why=why), math.exp(costs))
    seeds = [spread.effective(cell) for pair in pairs for cell in pair]
    shares = sum(1 / each for each in seeds) / count**2
    error = math.sqrt(spread.quality * spread.widening * shares)
    half = quantile(level, spread.freedom) * error
    bounded = Bounded(value, "", math.exp(errors - half), math.exp(errors + half))
    return Contrast(arms, steps, bounded, math.exp(costs))
