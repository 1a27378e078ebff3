"""What the statistics of a study know: finished runs as points, and what was fixed beforehand.

No files and no trainers here: whoever keeps the records of runs makes these out of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Clock = Literal["wall", "wall_without_data", "flops"]
Charge = Literal["free", "amortized", "full"]
Direction = Literal["min", "max"]

CLOCKS: tuple[Clock, ...] = ("wall", "wall_without_data", "flops")
CHARGES: tuple[Charge, ...] = ("free", "amortized", "full")
WEIGHT = "train/distillation_weight"


@dataclass(frozen=True)
class Point:
    """One finished run of a student.

    Attributes:
        arm: The arm's name.
        steps: Its duration in optimizer steps.
        seed: Its seed; runs of one seed share initial weights and data.
        quality: The final value of the study's metric.
        costs: Cost of the run by clock, without the training of teachers: device-seconds
            (`wall`, `wall_without_data`), FLOPs (`flops`). A clock that is not known is left out.
        teacher_costs: What the training of all the teachers of this run has cost, by clock, in
            full; empty for a run without teachers. A clock that is not known is left out.
        phases: Device-seconds by phase of the ledger, for the picture of costs.
        curve: Rows of metrics by step, each with `step`; of them the pictures draw `WEIGHT`,
            and the study's metric, `val/loss` and `train/loss` where they are there.
        hardware: The machine in words. Runs with different words are on different machines.
        teacher_machines: The machines of all its teachers in words, of each as far as it is known.
        has_teachers: Whether the arm has teachers; without it, whether `teacher_costs` has any.
    """

    arm: str
    steps: int
    seed: int
    quality: float
    costs: Mapping[str, float]
    teacher_costs: Mapping[str, float] = field(default_factory=dict)
    phases: Mapping[str, float] = field(default_factory=dict)
    curve: Sequence[Mapping[str, float]] = ()
    hardware: str = ""
    teacher_machines: Sequence[str] = ()
    has_teachers: bool | None = None

    @property
    def taught(self) -> bool:
        """Whether teachers took part, whose training may be charged."""
        return bool(self.teacher_costs) if self.has_teachers is None else self.has_teachers


@dataclass(frozen=True)
class StudyDesign:
    """What a study has fixed before its runs.

    Attributes:
        name: The study's name.
        metric: The name of the metric of quality.
        direction: Whether less (`min`, a loss) or more (`max`, an accuracy) is better.
        baseline: The name of the arm that the others are held against.
        durations: Durations in steps by arm, the baseline among them, in the order of reports.
        seeds: The seeds of every arm and duration.
        target: The quality at which the headline compares costs; None where none was fixed.
        clock: The clock of the headline cell.
        charge: How the headline cell charges the training of teachers.
        amortized_over: The number of students among whom `amortized` shares that cost.
        settings_tried: How many settings were tried before the runs, by arm.
        ceiling: The best value that a metric to maximise can have; its error is what is missing.
        level: Nominal coverage of the intervals.
        demonstration: Whether the study shows the tool at work and is no evidence for a claim.
        contrasts: Pairs of arms to hold against each other at equal steps.
    """

    name: str
    metric: str
    direction: Direction
    baseline: str
    durations: Mapping[str, tuple[int, ...]]
    seeds: tuple[int, ...]
    target: float | None = None
    clock: Clock = "flops"
    charge: Charge = "free"
    amortized_over: int = 10
    settings_tried: Mapping[str, int] = field(default_factory=dict)
    ceiling: float = 1.0
    level: float = 0.95
    demonstration: bool = False
    contrasts: Sequence[tuple[str, str]] = ()

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that are held against the baseline."""
        return tuple(arm for arm in self.durations if arm != self.baseline)
