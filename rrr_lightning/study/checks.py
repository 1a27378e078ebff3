"""Whether a study can be judged at all: its design, and the runs that are said to be its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from rrr_lightning.errors import InputError, did_you_mean
from rrr_lightning.study.clocks import are_mixed
from rrr_lightning.study.frontier import LEAST_DURATIONS, log_error
from rrr_lightning.study.points import CHARGES, CLOCKS, Point, StudyDesign


def check_durations(durations: Sequence[int], baseline: str, planned: Sequence[int] = ()) -> None:
    """Refuses too few durations of the baseline.

    Args:
        durations: The durations that there are.
        baseline: The name of the baseline.
        planned: The durations that there should be, of which the missing ones are named.

    Raises:
        InputError: There are fewer than 4.
    """
    there = sorted(set(durations))
    if len(there) >= LEAST_DURATIONS:
        return
    missing = [steps for steps in planned if steps not in there]
    named = ", ".join(map(str, missing)) or f"{LEAST_DURATIONS - len(there)} more"
    raise InputError(
        f"the frontier of the baseline needs at least {LEAST_DURATIONS} durations; "
        f"missing: {named}",
        key=baseline,
        found=there,
    )


def check_design(design: StudyDesign) -> None:
    """Refuses a design that no runs could ever satisfy.

    Raises:
        InputError: Names what has to change.
    """
    if design.baseline not in design.durations:
        raise InputError(
            f"is no arm of the study{did_you_mean(design.baseline, design.durations)}",
            key="baseline",
            found=design.baseline,
            accepted=", ".join(design.durations),
        )
    check_durations(design.durations[design.baseline], design.baseline)
    for key, value, accepted in (
        ("direction", design.direction, ("min", "max")),
        ("clock", design.clock, CLOCKS),
        ("charge", design.charge, CHARGES),
    ):
        if value not in accepted:
            raise InputError("is not known", key=key, found=value, accepted=", ".join(accepted))
    if not design.seeds:
        raise InputError("names no seed", key="seeds", accepted="at least one, 3 or more to judge")
    if design.amortized_over < 1:
        raise InputError(
            "cannot share the cost of teachers",
            key="amortized_over",
            found=design.amortized_over,
            accepted="a number of students, 1 or more",
        )
    if not 0.5 < design.level < 1:
        raise InputError("out of range", key="level", found=design.level, accepted="0.5 to 1")
    if design.target is not None:
        try:
            log_error(np.array([design.target]), design.direction, design.ceiling)
        except InputError as error:
            raise InputError(f"target: {error}") from error
    for pair in design.contrasts:
        for arm in pair:
            if arm not in design.durations:
                raise InputError(
                    f"is no arm of the study{did_you_mean(arm, design.durations)}",
                    key="contrasts",
                    found=arm,
                    accepted=", ".join(design.durations),
                )


def check_points(points: Sequence[Point], design: StudyDesign) -> None:
    """Refuses runs that do not belong to the study.

    Raises:
        InputError: A run is of no planned arm, duration and seed, or is there twice.
    """
    seen = set()
    for point in points:
        name = f"{point.arm}, {point.steps} steps, seed {point.seed}"
        planned = design.durations.get(point.arm, ())
        if point.steps not in planned or point.seed not in design.seeds:
            raise InputError("this run is not part of the study", key=name)
        if name in seen:
            raise InputError("this run is there twice", key=name)
        seen.add(name)


def readable(points: Sequence[Point], design: StudyDesign) -> StudyDesign:
    """Returns a design that can be read off the runs: by FLOPs where their machines differ."""
    if design.clock != "flops" and are_mixed(points, design.charge):
        return replace(design, clock="flops")
    return design


def missing_runs(points: Sequence[Point], design: StudyDesign) -> dict[str, dict[int, list[int]]]:
    """Returns the seeds that have not finished yet, by arm and duration."""
    done = {(point.arm, point.steps, point.seed) for point in points}
    missing: dict[str, dict[int, list[int]]] = {}
    for arm, durations in design.durations.items():
        for steps in durations:
            seeds = [seed for seed in design.seeds if (arm, steps, seed) not in done]
            if seeds:
                missing.setdefault(arm, {})[steps] = seeds
    return missing
