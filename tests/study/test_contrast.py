"""Two arms at equal steps."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rrr_lightning.study.comparison import NO_SPREAD, ONE_SEED
from rrr_lightning.study.contrast import contrast
from rrr_lightning.study.interval import Cell, Spread, quantile
from rrr_lightning.study.noise import LEVEL, Trend

ARMS = ("random", "average")


def cell(steps: int, error: float, cost: float, seeds: int = 3) -> Cell:
    return Cell(steps, tuple(range(seeds)), np.full(seeds, cost), np.full(seeds, error))


def test_ratios() -> None:
    first = [cell(1, -1.0, 0.0), cell(2, -1.5, 1.0), cell(9, -9.0, 9.0)]
    second = [cell(1, -1.1, 0.5), cell(2, -1.7, 1.7)]
    found = contrast(ARMS, first, second, Spread(1e-4, 0.0, 10), 0.95)
    assert found.steps == (1, 2)
    assert found.error_ratio.value == pytest.approx(math.exp(0.15))
    assert found.cost_ratio == pytest.approx(math.exp(-0.6))
    assert found.error_ratio.low is not None
    half = quantile(0.95, 10) * math.sqrt(1e-4 * (2 / 3 + 2 / 3) / 4)
    assert found.error_ratio.low == pytest.approx(math.exp(0.15 - half))
    assert found.as_json()["arms"] == list(ARMS)


def test_coverage() -> None:
    random, held, freedom = np.random.default_rng(0), 0, 12
    for _ in range(1000):
        means = random.normal(0, 0.02 / math.sqrt(3), (2, 3))
        variance = 0.02**2 * random.chisquare(freedom) / freedom
        first, second = ([cell(n, float(m), 0.0) for n, m in enumerate(row)] for row in means)
        found = contrast(ARMS, first, second, Spread(variance, 0.0, freedom), 0.95).error_ratio
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 1 <= found.high
    assert held >= 930


def test_durations_that_vary_more_widen() -> None:
    first, second = [cell(1, -1.0, 0.0)], [cell(1, -1.1, 0.0)]
    noisy = Trend(np.array([-1.0]), np.array([-math.log(4)]))
    plain, wide = (
        contrast(ARMS, first, second, Spread(1e-4, 0.0, 10, trend=trend), 0.95).error_ratio
        for trend in (LEVEL, noisy)
    )
    assert wide.high is not None
    assert plain.high is not None
    assert math.log(wide.high) - 0.1 == pytest.approx(2 * (math.log(plain.high) - 0.1))


def test_no_interval() -> None:
    pair = [cell(1, -1.0, 0.0)], [cell(1, -1.1, 0.5)]
    assert contrast(ARMS, *pair, Spread(0.0, 0.0, 0), 0.95).error_ratio.why == ONE_SEED
    assert contrast(ARMS, *pair, Spread(0.0, 0.0, 4), 0.95).error_ratio.why == NO_SPREAD
    apart = contrast(ARMS, pair[0], [cell(2, -1.0, 0.0)], Spread(1e-4, 0.0, 4), 0.95)
    assert apart.error_ratio.value is None
    assert "no duration in common" in str(apart.error_ratio.why)
