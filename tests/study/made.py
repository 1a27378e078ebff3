"""Studies made of numbers: a smooth baseline, arms of known speed-up, and normal noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from rrr_lightning.study.calibration import PowerLaw
from rrr_lightning.study.config import Arm, Charge, CostMetric, Headline, Quality, Study
from rrr_lightning.study.results import Result

LAW = PowerLaw(0.05, math.log(0.35), 0.5)
"""Errors of 25 % at a cost of 3, 13 % at 20, as of a small network on CIFAR-10."""

DURATIONS = (3, 6, 12, 20)
STUDY = Study(
    base=("base.yaml",),
    arms={"plain": Arm(), "taught": Arm(durations=(3, 6, 12))},
    durations=DURATIONS,
    seeds=(1, 2, 3),
    quality=Quality("val/accuracy", "max", target=0.84),
    headline=Headline("flops", "free"),
    amortize_over=10,
    settings_tried={"plain": 6, "taught": 6},
)


def judged_by(clock: CostMetric = "flops", charge: Charge = "free") -> Study:
    """Returns `STUDY` with another headline."""
    return replace(STUDY, headline=Headline(clock, charge))


def aimed_at(target: float | None) -> Study:
    """Returns `STUDY` with another target."""
    return replace(STUDY, quality=replace(STUDY.quality, target=target))


def runs(
    arm: str,
    durations: Sequence[int],
    seeds: Sequence[int] = (1, 2, 3),
    speed_up: float = 1.0,
    noise: float = 0.02,
    step_cost: float = 1.0,
    teacher: float = 0.0,
    law: PowerLaw = LAW,
    key: int = 0,
) -> list[Result]:
    """Runs of an arm whose cost at equal quality is the law's over `speed_up`, teachers free.

    Args:
        arm: Its name; also part of the key of its noise.
        durations: Steps; a step costs `step_cost`.
        seeds: Seeds.
        speed_up: The true speed-up.
        noise: Standard deviation of log errors.
        step_cost: Cost of a step.
        teacher: Cost of training its teachers.
        law: The baseline's curve.
        key: Another key, other noise.
    """
    random = np.random.default_rng([key, *arm.encode()])
    curve = law.moved(math.log(speed_up))
    results = []
    for steps in durations:
        for seed in seeds:
            cost = steps * step_cost
            error = float(curve.log_error(np.array(math.log(cost)))) + noise * random.normal()
            results.append(
                Result(
                    arm=arm,
                    steps=steps,
                    seed=seed,
                    quality=1 - math.exp(error),
                    costs=_costs(cost),
                    teacher_costs=_costs(teacher) if teacher else {},
                    phases=_phases(cost, teacher),
                    curve=_curve(steps, 1 - math.exp(error), teacher > 0),
                    machine="a machine",
                    has_teachers=teacher > 0,
                )
            )
    return results


def study(speed_up: float = 1.4, noise: float = 0.02, **changes: object) -> list[Result]:
    """Runs of both arms of `STUDY`."""
    taught = runs(
        "taught", (3, 6, 12), speed_up=speed_up, noise=noise, step_cost=4 / 3, teacher=20.0
    )
    plain = runs("plain", DURATIONS, noise=noise)
    return [replace(result, **changes) for result in [*plain, *taught]]  # type: ignore[arg-type]


def _costs(cost: float) -> dict[str, float]:
    return {"wall": 12 * cost, "wall_without_data": 10 * cost, "flops": 1e9 * cost}


def _phases(cost: float, teacher: float) -> dict[str, float]:
    forward = 2.5 * cost if teacher else 0.0
    return {
        "student_step": 10 * cost - forward,
        "teacher_forward": forward,
        "data_wait": 2 * cost,
        "validation": 1.0,
        "set_up": 3.0,
    }


def _curve(steps: int, quality: float, taught: bool) -> list[Mapping[str, float]]:
    rows = []
    for part in np.linspace(0.1, 1.0, 10):
        loss = (1 - quality) * 3 / float(part) ** 0.5
        row = {"step": part * steps, "val/loss": loss, "val/accuracy": quality * part**0.3}
        if taught:
            row["train/distillation_weight"] = max(0.0, 0.9 * (1 - part / 0.5))
        rows.append(row)
    return rows
