"""Pictures are drawn of whole and of half-finished studies, at the width of a phone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rrr_lightning.study.analysis import Analysis, analyse
from rrr_lightning.study.pictures import (
    COSTS,
    CURVES,
    FRONTIER,
    SPEED_UP,
    draw,
    draw_frontier,
    draw_speed_up,
)
from tests.study.made import DESIGN, DURATIONS, runs, study

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
        assert pixels.shape[1] <= 6 * DPI  # ten-point type is at least nine pixels on a phone


def test_what_is_not_there_yet_is_not_drawn(whole_study: Analysis, tmp_path: Path) -> None:
    draw(whole_study, tmp_path)
    some = [replace(p, curve=(), phases={}) for p in study() if p.steps == 3]
    assert [name for name, _ in draw(analyse(some, DESIGN), tmp_path)] == [FRONTIER]
    assert [path.name for path in tmp_path.iterdir()] == [FRONTIER]
    assert draw(analyse([], DESIGN), tmp_path) == []


@pytest.mark.parametrize("speed_up", [0.1, 20.0])
def test_bounds(speed_up: float, tmp_path: Path) -> None:
    points = [*runs("plain", DURATIONS), *runs("taught", (3, 6, 12), speed_up=speed_up)]
    analysis = analyse(points, DESIGN)
    assert draw_speed_up(analysis, tmp_path / SPEED_UP)
    assert draw_frontier(analysis, tmp_path / FRONTIER)


def test_losses_one_seed_and_no_target(tmp_path: Path) -> None:
    points = [replace(p, quality=4 - 2 * p.quality) for p in study() if p.seed == 1]
    design = replace(DESIGN, direction="min", target=None, demonstration=True)
    analysis = analyse(points, design)
    assert draw_frontier(analysis, tmp_path / FRONTIER)
    assert not draw_speed_up(analysis, tmp_path / SPEED_UP)
