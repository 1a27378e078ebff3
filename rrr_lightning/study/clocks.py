"""What a run costs: by three clocks, and with three ways to charge the training of its teachers.

`wall` is the device-seconds of training: student steps, teacher forwards, waiting for data and
whatever else the loop does between them. Validation, checkpoints and set-up are left out, for how
often they happen is a choice of the user, not of the method. `wall_without_data` leaves out the
waiting as well, as on a machine whose loader keeps up. `flops` counts the operations of the student
and of the teacher forwards, and is the same on every machine.

The work that a crash has lost is in the ledger, but is no cost of an arm: costs are scaled by the
share of steps that were not redone.

Seconds of different machines are never added up or held against each other, only operations are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rrr_lightning.errors import InputError
from rrr_lightning.study.frontier import log_error
from rrr_lightning.study.interval import Cell
from rrr_lightning.study.points import Charge, Clock, Point, StudyDesign

TRAINING = ("student_step", "teacher_forward", "data_wait", "other")


def phase_seconds(ledger: Mapping[str, Any]) -> dict[str, float]:
    """Returns the device-seconds of a run by phase, without the share of redone steps."""
    scale = (ledger.get("world_size") or 1) * _kept(ledger)
    return {name: scale * float(phase["seconds"]) for name, phase in ledger["phases"].items()}


def run_costs(ledger: Mapping[str, Any]) -> dict[str, float]:
    """Returns the cost of a run by clock, without the clocks that its ledger does not know."""
    seconds = phase_seconds(ledger)
    wall = sum(seconds.get(name, 0.0) for name in TRAINING)
    costs = {"wall": wall, "wall_without_data": wall - seconds.get("data_wait", 0.0)}
    student, teacher = ledger["flops"]["student"], ledger["flops"]["teacher"]
    if student is not None and teacher is not None:
        costs["flops"] = _kept(ledger) * (float(student) + float(teacher))
    return {clock: cost for clock, cost in costs.items() if cost > 0}


def _kept(ledger: Mapping[str, Any]) -> float:
    """Returns the share of a run's steps that were not redone."""
    steps, redone = ledger["steps"], ledger.get("redone_steps") or 0
    return float(steps - redone) / steps if steps else 1.0


def charged(point: Point, clock: Clock, charge: Charge, amortized_over: int) -> float | None:
    """Returns the cost of a run with its teachers' training charged; None where it is unknown."""
    own = point.costs.get(clock)
    if own is None or charge == "free" or not point.taught:
        return own
    teachers = teachers_cost(point, clock)
    if teachers is None:
        return None
    return own + (teachers if charge == "full" else teachers / amortized_over)


def teachers_cost(point: Point, clock: Clock) -> float | None:
    """Returns what the teachers of a run have cost; None where no clock of its machine tells."""
    return None if clock != "flops" and elsewhere(point) else point.teacher_costs.get(clock)


def elsewhere(point: Point) -> list[str]:
    """Returns the machines that trained teachers of a run, other than its own."""
    return sorted(set(point.teacher_machines) - {point.hardware})


def cells_of(
    points: Sequence[Point], design: StudyDesign, arm: str, clock: Clock, charge: Charge
) -> list[Cell]:
    """Returns the runs of an arm by duration, in the order of their costs.

    Raises:
        InputError: A cost is not known, or an error has no logarithm.
    """
    by_steps: dict[int, list[Point]] = {}
    for point in sorted(points, key=lambda point: (point.steps, point.seed)):
        if point.arm == arm:
            by_steps.setdefault(point.steps, []).append(point)
    cells = []
    for steps, runs in by_steps.items():
        costs = [charged(run, clock, charge, design.amortized_over) for run in runs]
        known = [cost for cost in costs if cost]
        if len(known) < len(runs):
            what = "the training of its teachers" if charge != "free" else "its runs"
            where = sorted({name for run in runs for name in elsewhere(run)})
            why = f", for it took place on {', '.join(where)}" if where and charge != "free" else ""
            raise InputError(f"the cost of {what} is not known by the clock {clock}{why}", key=arm)
        try:
            errors = log_error(
                np.array([run.quality for run in runs]), design.direction, design.ceiling
            )
        except InputError as error:
            raise InputError(f"{arm}, {steps} steps: {error}") from error
        cells.append(Cell(steps, tuple(run.seed for run in runs), np.log(known), errors))
    return sorted(cells, key=lambda cell: cell.cost)


def machines(points: Sequence[Point]) -> dict[str, int]:
    """Returns the number of runs by machine."""
    return dict(Counter(point.hardware for point in points))


def are_mixed(points: Sequence[Point], charge: Charge = "free") -> bool:
    """Whether runs, or runs and the teachers charged to them, are of more than one machine."""
    charges = charge != "free" and any(elsewhere(point) for point in points)
    return charges or len(machines(points)) > 1


def usable_clocks(points: Sequence[Point], clocks: Sequence[Clock]) -> list[Clock]:
    """Returns the clocks by which all runs can be compared."""
    mixed = are_mixed(points)
    return [
        clock
        for clock in clocks
        if all(clock in point.costs for point in points) and not (mixed and clock != "flops")
    ]
