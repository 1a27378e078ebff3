"""How many students a teacher must serve until its own training has paid for itself."""

from __future__ import annotations

import math

from rrr_lightning.study.comparison import Bounded

MIRRORED = {"": "", ">=": "<=", "<=": ">="}
NOT_CHEAPER = "never: at the target a student costs no less than the baseline, teachers aside"


def break_even(saved: Bounded, teachers: float | None) -> Bounded:
    """Returns the number of students at which both ways cost the same.

    Without teachers N students cost N · B; with them they cost T + N · A, for the costs B and A of
    the baseline and of a student at the target. Both are equal at N = T / (B - A).

    Args:
        saved: B - A, teachers free.
        teachers: T, the cost of training the teachers.
    """
    if teachers is None:
        return Bounded(why="the cost of training the teachers is not known")
    if saved.value is None:
        return Bounded(why=saved.why)
    value = _students(teachers, saved.value)
    if value is None:
        return Bounded(why=NOT_CHEAPER if saved.sign != ">=" else saved.why)
    return Bounded(
        value,
        MIRRORED[saved.sign],
        _students(teachers, saved.high),
        _students(teachers, saved.low),
        saved.coverage,
        saved.why,
    )


def _students(teachers: float, saved: float | None) -> float | None:
    return None if saved is None or saved <= 0 else teachers / saved


def whole(students: float) -> int:
    """Returns the first whole number of students that pays."""
    return math.ceil(students - 1e-9)
