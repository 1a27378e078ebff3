"""A whole study, computed: every arm under every clock and charge, as far as its runs allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from rrr_lightning.errors import InputError
from rrr_lightning.study.break_even import break_even
from rrr_lightning.study.checks import check_design, check_points, readable
from rrr_lightning.study.clocks import cells_of, teachers_cost, usable_clocks
from rrr_lightning.study.comparison import Bounded, Comparer, Comparison
from rrr_lightning.study.contrast import Contrast, contrast
from rrr_lightning.study.frontier import Frontier, log_error
from rrr_lightning.study.interval import Cell, Spread
from rrr_lightning.study.points import CHARGES, CLOCKS, Charge, Clock, Point, StudyDesign

Key = tuple[str, Clock, Charge]


@dataclass
class Analysis:
    """What the runs of a study say.

    Attributes:
        design: The study; by FLOPs where its runs are of several machines.
        points: Its finished runs, by arm, duration and seed.
        clocks: The clocks by which they can be compared, that of the headline first.
        charges: The charges, that of the headline first.
        comparisons: By arm, clock and charge.
        cells: The runs by arm, under the headline's clock, teachers free of charge.
        frontier: The baseline's curve under the headline's clock; None where it is not there yet.
        spread: What one run varies by, under the headline's clock and charge.
        break_even: The number of students at which the teachers have paid, by arm with teachers.
        contrasts: Pairs of arms at equal steps.
        why: Why there is no frontier.
    """

    design: StudyDesign
    points: Sequence[Point]
    clocks: Sequence[Clock]
    charges: Sequence[Charge]
    comparisons: dict[Key, Comparison] = field(default_factory=dict)
    cells: dict[str, list[Cell]] = field(default_factory=dict)
    frontier: Frontier | None = None
    spread: Spread | None = None
    break_even: dict[str, Bounded] = field(default_factory=dict)
    contrasts: list[Contrast] = field(default_factory=list)
    why: str | None = None

    def headline(self, arm: str, charge: Charge | None = None) -> Comparison:
        """Returns an arm in the headline cell, or beside it under another charge."""
        return self.comparisons[arm, self.design.clock, charge or self.design.charge]

    def taught(self, arm: str) -> bool:
        """Whether the training of teachers may be charged to an arm."""
        return any(point.taught for point in self.points if point.arm == arm)


def analyse(points: Sequence[Point], design: StudyDesign) -> Analysis:
    """Computes everything that reports show.

    Args:
        points: The finished runs.
        design: What was fixed beforehand.

    Raises:
        InputError: The design can never be judged, or a run is not part of it.
    """
    check_design(design)
    check_points(points, design)
    design = readable(points, design)
    clocks = usable_clocks(points, (design.clock, *(c for c in CLOCKS if c != design.clock)))
    charges = (design.charge, *(c for c in CHARGES if c != design.charge))
    order = list(design.durations)
    points = sorted(points, key=lambda point: (order.index(point.arm), point.steps, point.seed))
    analysis = Analysis(design, points, clocks, charges)
    target = None
    if design.target is not None:
        goal = log_error(np.array([design.target]), design.direction, design.ceiling)
        target = float(goal[0])
    for clock in dict.fromkeys((design.clock, *clocks)):
        for charge in charges:
            _compare(analysis, clock, charge, target)
    for arm in design.arms:
        if analysis.taught(arm):
            analysis.break_even[arm] = _break_even(analysis, arm)
    if analysis.spread is not None:
        for pair in design.contrasts:
            first, second = (analysis.cells.get(arm, []) for arm in pair)
            analysis.contrasts.append(contrast(pair, first, second, analysis.spread, design.level))
    return analysis


def _compare(analysis: Analysis, clock: Clock, charge: Charge, target: float | None) -> None:
    """Fills in one clock and charge for all arms."""
    design = analysis.design
    refused: dict[str, str] = {}
    cells: dict[str, list[Cell]] = {}
    for arm in design.durations:
        try:
            cells[arm] = cells_of(analysis.points, design, arm, clock, charge)
            if not cells[arm]:
                refused[arm] = "none of its runs has finished"
        except InputError as error:
            refused[arm] = str(error)
    comparer, problem = None, None
    try:
        if design.baseline not in cells:
            raise InputError(refused[design.baseline])
        there = [cells[arm] for arm in design.arms if arm in cells]
        planned = design.durations[design.baseline]
        baseline = cells[design.baseline]
        comparer = Comparer(baseline, there, design.level, design.baseline, planned)
    except InputError as error:
        problem = str(error)
    if clock == design.clock and charge == design.charge:
        analysis.why = problem
        if comparer is not None:
            analysis.frontier, analysis.spread = comparer.frontier, comparer.spread
    if clock == design.clock and charge == "free":
        analysis.cells = cells
    for arm in design.arms:
        key = (arm, clock, charge)
        if comparer is None or arm in refused:
            missing = Bounded(why=refused.get(arm) or problem)
            analysis.comparisons[key] = Comparison(missing, saved=missing)
        elif charge != analysis.charges[0] and not analysis.taught(arm):
            analysis.comparisons[key] = analysis.comparisons[arm, clock, analysis.charges[0]]
        else:
            analysis.comparisons[key] = comparer.compare(cells[arm], target)


def _break_even(analysis: Analysis, arm: str) -> Bounded:
    clock = analysis.design.clock
    costs = [teachers_cost(point, clock) for point in analysis.points if point.arm == arm]
    known = [cost for cost in costs if cost is not None]
    teachers = float(np.mean(known)) if len(known) == len(costs) else None
    return break_even(analysis.headline(arm, "free").saved, teachers)
