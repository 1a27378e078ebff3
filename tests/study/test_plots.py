"""Pictures are drawn of whole and of half-finished studies, at the width of a phone."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from PIL import Image

from rrr_lightning.study import plots
from rrr_lightning.study.comparison import Analysis, analyse
from rrr_lightning.study.config import Quality
from rrr_lightning.study.plots import (
    COLORS,
    COSTS,
    CURVES,
    FRONTIER,
    SPEED_UP,
    WEIGHT,
    arm_style,
    cost_parts,
    draw,
    draw_costs,
    draw_curves,
    draw_frontier,
    draw_speed_up,
    mean_curve,
    shared_runs,
)
from tests.study.made import DURATIONS, STUDY, judged_by, runs, study

pytestmark = pytest.mark.usefixtures("few_replicates")

DPI = 160


def grey(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("L"), np.float64)


def test_all_of_them(whole_study: Analysis, tmp_path: Path) -> None:
    drawn = draw(whole_study, tmp_path)
    assert [name for name, _ in drawn] == [SPEED_UP, FRONTIER, COSTS, CURVES]
    for name, caption in drawn:
        pixels = grey(tmp_path / name)
        assert caption
        assert pixels.std() > 10
        assert pixels.shape[1] <= 6 * DPI  # ten-result type is at least nine pixels on a phone


def test_what_is_not_there_yet_is_not_drawn(whole_study: Analysis, tmp_path: Path) -> None:
    draw(whole_study, tmp_path)
    some = [replace(p, curve=(), phases={}) for p in study() if p.steps == 3]
    assert [name for name, _ in draw(analyse(some, judged_by("wall")), tmp_path)] == [FRONTIER]
    assert [path.name for path in tmp_path.iterdir()] == [FRONTIER]
    assert draw(analyse([], STUDY), tmp_path) == []


@pytest.mark.parametrize("speed_up", [0.1, 20.0])
def test_bounds(speed_up: float, tmp_path: Path) -> None:
    results = [*runs("plain", DURATIONS), *runs("taught", (3, 6, 12), speed_up=speed_up)]
    analysis = analyse(results, STUDY)
    assert draw_speed_up(analysis, tmp_path / SPEED_UP)
    assert draw_frontier(analysis, tmp_path / FRONTIER)


def test_losses_one_seed_and_no_target(tmp_path: Path) -> None:
    results = [replace(p, quality=4 - 2 * p.quality) for p in study() if p.seed == 1]
    design = replace(STUDY, quality=Quality("val/loss", "min"), purpose="demonstration")
    analysis = analyse(results, design)
    assert draw_frontier(analysis, tmp_path / FRONTIER)
    assert not draw_speed_up(analysis, tmp_path / SPEED_UP)


def test_runs_of_the_longest_duration_that_all_arms_have(whole_study: Analysis) -> None:
    found = shared_runs(list(whole_study.results), whole_study)
    assert list(found) == ["plain", "taught", "averaged"]
    assert {result.steps for results in found.values() for result in results} == {12}
    assert shared_runs([], whole_study) == {}


def test_mean_curve() -> None:
    results = runs("taught", (10,), teacher=1.0)
    steps, values = mean_curve(results, "val/accuracy")
    assert steps[-1] == 10
    assert values[-1] == pytest.approx(sum(result.quality for result in results) / 3)
    assert mean_curve(results, "unknown") == ([], [])


def test_without_weights_there_is_one_panel(tmp_path: Path) -> None:
    results = [
        replace(p, curve=[{k: v for k, v in row.items() if k != WEIGHT} for row in p.curve])
        for p in study()
    ]
    analysis = analyse(results, STUDY)
    assert draw_curves(analysis, tmp_path / "curves.png")
    assert draw_curves(analyse(study(), STUDY), tmp_path / "both.png")
    sizes = [(tmp_path / name).stat().st_size for name in ("curves.png", "both.png")]
    assert min(sizes) > 0


def test_nothing_to_draw(tmp_path: Path) -> None:
    empty = analyse(
        [replace(p, curve=(), phases={}) for p in study() if p.steps == 3], judged_by("wall")
    )
    for function in (draw_costs, draw_curves):
        assert not function(empty, tmp_path / "none.png")
    zero = analyse([replace(p, phases={"other": 0.0}, teacher_costs={}, has_teachers=False)
                    for p in study() if p.steps == 3], judged_by("wall"))  # fmt: skip
    assert not draw_costs(zero, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()


def test_costs_are_in_the_unit_of_the_headline() -> None:
    results = study()
    by_flops = cost_parts(analyse(results, STUDY))["taught"]
    assert list(by_flops.values()) == pytest.approx([1e9 * 16, 1e9 * 20 / 10])
    by_seconds = cost_parts(analyse(results, judged_by("wall")))["taught"]
    assert by_seconds["teachers' forward", "0.62", "//"] == pytest.approx(2.5 * 16)
    assert sum(by_seconds.values()) == pytest.approx(12 * 16 + 4 + 12 * 20 / 10)


def test_curves_are_of_the_studys_metric(
    whole_study: Analysis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, path, analysis: drawn.append(figure))
    assert draw_curves(whole_study, tmp_path / CURVES)
    assert draw_costs(whole_study, tmp_path / COSTS)
    curves, costs = drawn
    assert curves.axes[0].get_ylabel() == "val/accuracy"
    assert costs.axes[0].get_xlabel() == "FLOPs of a run of 12 steps"
    assert len(costs.axes[0].containers) >= 3 + 1  # bars, and the spread of every arm


def lightness(color: str) -> float:
    red, green, blue = to_rgb(color)
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_the_first_arms_differ_in_lightness() -> None:
    for first, second in itertools.combinations(COLORS[:4], 2):
        assert abs(lightness(first) - lightness(second)) >= 0.1


def test_every_arm_has_a_style_of_its_own() -> None:
    styles = [arm_style(number) for number in range(2 * len(COLORS))]
    assert len({(each.marker, each.fill == "white") for each in styles}) == len(styles)
