"""Bars of costs and curves of metrics, over runs that can be compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rrr_lightning.study.analysis import Analysis, analyse
from rrr_lightning.study.points import WEIGHT
from rrr_lightning.study.run_pictures import draw_costs, draw_curves, mean_curve, shared_runs
from tests.study.made import DESIGN, runs, study

pytestmark = pytest.mark.usefixtures("few_replicates")


def test_runs_of_the_longest_duration_that_all_arms_have(whole_study: Analysis) -> None:
    found = shared_runs(list(whole_study.points), whole_study)
    assert list(found) == ["plain", "taught", "averaged"]
    assert {point.steps for points in found.values() for point in points} == {12}
    assert shared_runs([], whole_study) == {}


def test_mean_curve() -> None:
    points = runs("taught", (10,), teacher=1.0)
    steps, values = mean_curve(points, "val/accuracy")
    assert steps[-1] == 10
    assert values[-1] == pytest.approx(sum(point.quality for point in points) / 3)
    assert mean_curve(points, "unknown") == ([], [])


def test_without_weights_there_is_one_panel(tmp_path: Path) -> None:
    points = [
        replace(p, curve=[{k: v for k, v in row.items() if k != WEIGHT} for row in p.curve])
        for p in study()
    ]
    analysis = analyse(points, DESIGN)
    assert draw_curves(analysis, tmp_path / "curves.png")
    assert draw_curves(analyse(study(), DESIGN), tmp_path / "both.png")
    sizes = [(tmp_path / name).stat().st_size for name in ("curves.png", "both.png")]
    assert min(sizes) > 0


def test_nothing_to_draw(tmp_path: Path) -> None:
    empty = analyse([replace(p, curve=(), phases={}) for p in study() if p.steps == 3], DESIGN)
    for function in (draw_costs, draw_curves):
        assert not function(empty, tmp_path / "none.png")
    zero = analyse([replace(p, phases={"other": 0.0}, teacher_costs={})
                    for p in study() if p.steps == 3], DESIGN)  # fmt: skip
    assert not draw_costs(zero, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
