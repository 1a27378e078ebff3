"""How many students a teacher must serve until its own training has paid for itself."""

from __future__ import annotations

import math

from rrr_lightning.study.comparison import Bounded

MIRRORED = {"": "", ">=": "<=", "<=": ">="}
NOT_CHEAPER = "never: at the target a student costs no less than the baseline, teachers aside"


def break_even(free: Bounded, baseline_cost: float | None, teachers: float | None) -> Bounded:
    """Returns the number of students at which both ways cost the same.

    Without teachers N students cost N·B; with them they cost T + N·B/r for a speed-up r at which
    the teachers are free. Both are equal at N = T / (B·(1 - 1/r)).

    Args:
        free: The speed-up at the target with free teachers.
        baseline_cost: B, the baseline's cost at the target.
        teachers: T, the cost of training the teachers.
    """
    if teachers is None:
        return Bounded(why="the cost of training the teachers is not known")
    if free.value is None or baseline_cost is None:
        return Bounded(why=free.why)

    def students(speed_up: float | None) -> float | None:
        if speed_up is None or speed_up <= 1:
            return None
        return teachers / (baseline_cost * (1 - 1 / speed_up))

    value = students(free.value)
    if value is None:
        return Bounded(why=NOT_CHEAPER)
    # Where the speed-up is open above, the students cost nothing at best.
    least = teachers / baseline_cost if free.high is None else students(free.high)
    has_interval = free.low is not None or free.high is not None
    return Bounded(
        value,
        MIRRORED[free.sign],
        least if has_interval else None,
        students(free.low) if has_interval else None,
        why=free.why,
    )


def whole(students: float) -> int:
    """Returns the first whole number of students that pays."""
    return math.ceil(students - 1e-9)
