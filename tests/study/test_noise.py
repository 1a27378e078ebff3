"""The trend of the noise: without bias, and of no effect where nothing can be told."""

from __future__ import annotations

import numpy as np
import pytest

from rrr_lightning.study.noise import LEVEL, trend_of

PLACES = np.log(np.array([3.0, 6, 12, 20, 4, 8, 16]))


def drawn(slope: float, freedom: int, replicates: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    random, freedoms = np.random.default_rng(0), np.full(len(PLACES), float(freedom))
    chance = random.chisquare(freedom, (len(PLACES), replicates)) / freedom
    return np.exp(slope * PLACES)[:, None] * chance, freedoms


def test_many_seeds_tell_the_trend() -> None:
    trend = trend_of(PLACES, *drawn(-1.1, 400, 1))
    assert trend.slope[0] == pytest.approx(-1.1, abs=0.15)
    relative = trend.relative(PLACES)[:, 0]
    assert np.mean(relative) == pytest.approx(1)
    assert relative[0] / relative[3] == pytest.approx((20 / 3) ** 1.1, rel=0.3)
    assert np.array_equal(trend.widened(PLACES)[:, 0], np.maximum(1, relative))


@pytest.mark.parametrize("slope", [0.0, -1.1])
def test_few_seeds_have_no_bias(slope: float) -> None:
    slopes = trend_of(PLACES, *drawn(slope, 2)).slope
    assert np.mean(slopes) == pytest.approx(slope, abs=0.05)
    assert np.std(slopes) < 0.9


def test_where_nothing_can_be_told() -> None:
    variances, freedoms = drawn(-1.1, 2, 3)
    for known in (slice(2), slice(0, 0)):
        assert trend_of(PLACES[known], variances[known], freedoms[known]).slope.tolist() == [0] * 3
    variances[2:] = 0.0
    assert not trend_of(PLACES, variances, freedoms).slope.any()
    assert LEVEL.relative(PLACES).tolist() == [[1.0]] * len(PLACES)
