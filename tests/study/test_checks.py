"""Designs and runs that cannot be judged are refused with a line that says why."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.study.checks import (
    check_design,
    check_durations,
    check_points,
    missing_runs,
    readable,
)
from tests.study.made import DESIGN, study


def test_fewer_than_four_durations() -> None:
    with pytest.raises(InputError, match=r"plain: .*at least 4 durations; missing: 12, 20; found"):
        check_durations((3, 6), "plain", (3, 6, 12, 20))
    with pytest.raises(InputError, match=r"missing: 1 more; found \[3, 6, 12\]"):
        check_design(replace(DESIGN, durations={"plain": (3, 6, 12)}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "plian"}, "baseline: is no arm.*did you mean 'plain'"),
        ({"direction": "up"}, "direction: is not known; found 'up'; accepted: min, max"),
        ({"clock": "sundial"}, "clock: is not known; found 'sundial'; accepted: wall, "),
        ({"charge": "half"}, "charge: is not known; found 'half'; accepted: free, amortized, full"),
        ({"seeds": ()}, "seeds: names no seed"),
        ({"amortized_over": 0}, "amortized_over: cannot share"),
        ({"level": 95}, "level: out of range"),
        ({"target": 1.0}, "target: quality: has no logarithm"),
        ({"contrasts": (("taught", "plein"),)}, "contrasts: is no arm.*did you mean 'plain'"),
    ],
)
def test_designs(changes: dict[str, Any], message: str) -> None:
    check_design(DESIGN)
    with pytest.raises(InputError, match=message):
        check_design(replace(DESIGN, **changes))


def test_runs_of_something_else() -> None:
    points = study()
    check_points(points, DESIGN)
    with pytest.raises(InputError, match=r"taught, 3 steps, seed 1: this run is there twice"):
        check_points([*points, points[-9]], DESIGN)
    for changes in ({"arm": "other"}, {"steps": 4}, {"seed": 9}):
        with pytest.raises(InputError, match="is not part of the study"):
            check_points([replace(points[0], **changes)], DESIGN)


def test_wall_clock_on_two_machines() -> None:
    points, wall = study(), replace(DESIGN, clock="wall")
    assert readable(points, wall) is wall
    mixed = [replace(points[0], hardware="another machine"), *points[1:]]
    assert readable(mixed, wall) == DESIGN
    taught = [replace(point, teacher_machines=("another machine",)) for point in points]
    assert readable(taught, wall) is wall
    assert readable(taught, replace(wall, charge="full")).clock == "flops"


def test_missing_runs() -> None:
    points = study()
    assert missing_runs(points, DESIGN) == {}
    assert missing_runs(points[1:-3], DESIGN) == {"plain": {3: [1]}, "taught": {12: [1, 2, 3]}}
