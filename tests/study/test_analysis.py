"""A whole study: every cell, as far as the runs allow, and reasons for the rest."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rrr_lightning.study.analysis import Analysis, analyse
from rrr_lightning.study.points import CHARGES, CLOCKS
from tests.study.made import DESIGN, study


def test_every_cell(whole_study: Analysis) -> None:
    assert whole_study.clocks == ["flops", "wall", "wall_without_data"]
    assert whole_study.charges == CHARGES
    for arm, true in (("taught", 1.4), ("averaged", 1.2)):
        for clock in CLOCKS:
            targets = [whole_study.comparisons[arm, clock, charge].target for charge in CHARGES]
            assert targets[0].low is not None
            assert targets[0].high is not None
            assert targets[0].low < true < targets[0].high
            values = [target.value or 0.0 for target in targets]
            assert values == sorted(values, reverse=True)
            assert values[-1] < 1 < values[0]
        assert whole_study.taught(arm)
        students = whole_study.break_even[arm].value
        assert students is not None
        assert students > 1
    assert not whole_study.taught("plain")
    # At the break-even number of students the amortized cost equals the baseline's.
    share = round(whole_study.break_even["taught"].value or 0)
    again = analyse(
        [point for point in whole_study.points if point.arm != "averaged"],
        replace(DESIGN, amortized_over=share, clock="flops", charge="amortized"),
    )
    assert again.headline("taught").target.value == pytest.approx(1, rel=0.05)
    assert whole_study.contrasts[0].cost_ratio == pytest.approx(2 / 3)


def test_half_finished() -> None:
    points = [point for point in study() if (point.arm, point.steps) not in {("plain", 20)}]
    found = analyse(points, DESIGN)
    assert found.frontier is None
    assert "at least 4 durations; missing: 20" in str(found.why)
    assert found.headline("taught").target.why == found.why
    nothing = analyse([], DESIGN)
    assert "missing: 3, 6, 12, 20" in str(nothing.why)
    assert nothing.break_even == {}
    lone = analyse([point for point in study() if point.arm == "plain"], DESIGN)
    assert lone.frontier is not None
    assert lone.headline("taught").target.why == "none of its runs has finished"


def test_one_bad_run_spoils_its_arm_alone() -> None:
    points = [replace(p, quality=1.0) if p.arm == "taught" and p.steps == 12 else p
              for p in study()]  # fmt: skip
    found = analyse(points, DESIGN)
    assert found.frontier is not None
    assert "taught, 12 steps: " in str(found.headline("taught").target.why)


def test_unknown_teachers_leave_what_is_free() -> None:
    points = [replace(p, teacher_costs={}, has_teachers=p.arm == "taught") for p in study()]
    found = analyse(points, DESIGN)
    assert found.headline("taught").target.value is not None
    assert "training of its teachers is not known" in str(
        found.headline("taught", "full").target.why
    )
    assert "not known" in str(found.break_even["taught"].why)


def test_an_arm_without_teachers_costs_the_same_under_every_charge() -> None:
    points = [replace(p, teacher_costs={}) for p in study()]
    found = analyse(points, DESIGN)
    values = {found.headline("taught", charge).target.value for charge in CHARGES}
    assert len(values) == 1
    assert found.break_even == {}


def test_mixed_machines() -> None:
    points = study()
    points = [replace(points[0], hardware="another"), *points[1:]]
    assert analyse(points, DESIGN).clocks == ["flops"]
    found = analyse(points, replace(DESIGN, clock="wall"))
    assert (found.design.clock, found.clocks) == ("flops", ["flops"])
    assert found.headline("taught").target.value is not None


def test_teachers_of_another_machine() -> None:
    points = [replace(point, teacher_machines=("another",)) for point in study()]
    found = analyse(points, replace(DESIGN, clock="wall"))
    assert found.design.clock == "wall"
    assert found.headline("taught").target.value is not None
    assert "took place on another" in str(found.headline("taught", "full").target.why)
    assert found.comparisons["taught", "flops", "full"].target.value is not None
    assert found.break_even["taught"].value is None


def test_a_clock_that_some_runs_do_not_know() -> None:
    points = study()
    points = [replace(points[0], costs={"wall": 36.0, "wall_without_data": 30.0}), *points[1:]]
    found = analyse(points, DESIGN)
    assert found.clocks == ["wall", "wall_without_data"]
    assert "not known by the clock flops" in str(found.headline("taught").target.why)
    assert found.comparisons["taught", "wall", "free"].target.value is not None
