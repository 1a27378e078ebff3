"""Costs by clock and charge, as the ledgers tell them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.study.clocks import (
    are_mixed,
    cells_of,
    charged,
    machines,
    phase_seconds,
    run_costs,
    usable_clocks,
)
from rrr_lightning.study.points import CLOCKS
from tests.study.made import DESIGN, runs, study


def ledger(**changes: Any) -> dict[str, Any]:
    seconds = {
        "student_step": 10.0,
        "teacher_forward": 3.0,
        "data_wait": 2.0,
        "validation": 5.0,
        "checkpoint": 1.0,
        "set_up": 4.0,
        "other": 0.5,
    }
    return {
        "steps": 100,
        "redone_steps": 0,
        "world_size": 2,
        "phases": {name: {"seconds": value} for name, value in seconds.items()},
        "flops": {"student": 6e9, "teacher": 2e9},
        **changes,
    }


def test_clocks() -> None:
    assert run_costs(ledger()) == {"wall": 31.0, "wall_without_data": 27.0, "flops": 8e9}
    assert phase_seconds(ledger())["validation"] == 10.0


def test_redone_steps_are_no_cost_of_an_arm() -> None:
    found = run_costs(ledger(redone_steps=20))
    assert found == pytest.approx({"wall": 24.8, "wall_without_data": 21.6, "flops": 6.4e9})


@pytest.mark.parametrize("unknown", ["student", "teacher"])
def test_unknown_clocks_are_left_out(unknown: str) -> None:
    flops = {"student": 6e9, "teacher": 2e9, unknown: None}
    assert set(run_costs(ledger(flops=flops))) == {"wall", "wall_without_data"}


def test_charges() -> None:
    point = runs("taught", (6,), teacher=20.0)[0]
    assert charged(point, "wall", "free", 10) == 72
    assert charged(point, "wall", "full", 10) == 72 + 240
    assert charged(point, "wall", "amortized", 10) == 72 + 24
    unknown = replace(point, teacher_costs={"flops": 1e9})
    assert charged(unknown, "wall", "full", 10) is None
    assert charged(replace(unknown, has_teachers=False), "wall", "full", 10) == 72
    never_known = replace(point, teacher_costs={}, has_teachers=True)
    assert charged(never_known, "flops", "full", 10) is None
    assert charged(never_known, "flops", "free", 10) == 6e9


def test_seconds_of_other_machines_are_not_added() -> None:
    point = replace(runs("taught", (6,), teacher=20.0)[0], teacher_machines=("a big machine",))
    for clock in ("wall", "wall_without_data"):
        assert charged(point, clock, "full", 10) is None
        assert charged(point, clock, "amortized", 10) is None
        assert charged(point, clock, "free", 10) == point.costs[clock]
    assert charged(point, "flops", "full", 10) == 26e9
    assert are_mixed([point], "full")
    assert not are_mixed([point], "free")
    here = replace(point, teacher_machines=("a machine",))
    assert charged(here, "wall", "full", 10) == 72 + 240
    assert not are_mixed([here], "full")


def test_cells_in_the_order_of_costs() -> None:
    cells = cells_of(study(), DESIGN, "taught", "wall", "free")
    assert [cell.steps for cell in cells] == [3, 6, 12]
    assert cells[0].seeds == (1, 2, 3)
    assert np.allclose(np.exp(cells[1].log_costs), 96)
    assert cells_of(study(), DESIGN, "missing", "wall", "free") == []


def test_cells_that_cannot_be_made() -> None:
    unknown = study(teacher_costs={}, has_teachers=True)
    with pytest.raises(InputError, match="taught: the cost of the training of its teachers is not"):
        cells_of(unknown, DESIGN, "taught", "flops", "full")
    elsewhere = study(teacher_machines=("a big machine",))
    with pytest.raises(InputError, match="by the clock wall, for it took place on a big machine"):
        cells_of(elsewhere, DESIGN, "taught", "wall", "full")
    with pytest.raises(InputError, match="the cost of its runs is not known by the clock wall"):
        cells_of(study(costs={"flops": 1.0}), DESIGN, "plain", "wall", "free")
    with pytest.raises(InputError, match=r"taught, 3 steps: .*no logarithm.*found 1\.0"):
        cells_of(study(quality=1.0), DESIGN, "taught", "flops", "free")


def test_machines_and_the_clocks_they_allow() -> None:
    points = study()
    assert usable_clocks(points, CLOCKS) == list(CLOCKS)
    mixed = [replace(points[0], hardware="another"), *points[1:]]
    assert machines(mixed) == {"another": 1, "a machine": len(points) - 1}
    assert usable_clocks(mixed, CLOCKS) == ["flops"]
    lost = [replace(points[0], costs={"wall": 1.0}), *points[1:]]
    assert usable_clocks(lost, CLOCKS) == ["wall"]
