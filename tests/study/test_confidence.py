"""The intervals hold the truth: simulated from single runs, with variances estimated from them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from rrr_lightning.study.calibration import PowerLaw
from rrr_lightning.study.confidence import (
    HOMOSCEDASTIC,
    PooledVariance,
    SeedGroup,
    at_cost,
    at_duration,
    at_target,
    curve_of,
    pool,
    quantile,
    variance_trend,
)
from rrr_lightning.study.quality_cost_curve import Array, QualityCostCurve
from tests.study.made import LAW
from tests.study.studies import shipped_sizes

REPLICATES = 2000
Curve = Callable[[Array], Array]


def bent(places: Array) -> Array:
    """Log errors that are no power law: a parabola that flattens out."""
    return -0.55 * places + 0.06 * places**2 - 0.8


def coverages(
    law: Curve,
    durations: Sequence[float],
    arm: Sequence[float],
    seeds: int,
    noise: float,
    speed_up: float = 1.4,
    cost_noise: float = 0.0,
    shared: float = 0.0,
    falling: float = 1.0,
) -> list[float]:
    """Coverage of speed-up and gain at each duration of the arm, and of cost saved and speed-up at
    a target, from single runs up.

    Args:
        law: The baseline's log error by log cost.
        durations: Costs of the baseline's durations.
        arm: Costs of the arm's.
        seeds: Runs of each.
        noise: Standard deviation of log errors.
        speed_up: The true speed-up.
        cost_noise: Standard deviation of log costs.
        shared: The part of the variance that runs of one seed share.
        falling: How many times more the baseline's cheapest runs vary than its dearest.
    """
    random = np.random.default_rng(1)
    truth = math.log(speed_up)
    costs = [np.log(np.array(each, np.float64)) for each in (durations, arm)]
    common = random.normal(size=(1, seeds, REPLICATES))
    runs, noises, spent = [], [], []
    middle, span = np.mean(costs[0][[0, -1]]), np.ptp(costs[0])
    for moved, places in zip((0.0, truth), costs, strict=True):
        own = random.normal(size=(len(places), seeds, REPLICATES))
        errors = noise * (math.sqrt(shared) * common + math.sqrt(1 - shared) * own)
        errors *= falling ** ((middle - places) / span)[:, None, None]
        # A run that is charged too much lies too far to the right by as much.
        paid = cost_noise * random.normal(size=own.shape)
        slope = (law(places + moved + 1e-4) - law(places + moved))[:, None, None] / 1e-4
        runs.append(law(places + moved)[:, None, None] + errors - slope * paid)
        noises.append(errors)
        spent.append(paid)
    freedom = (seeds - 1) * (len(durations) + len(arm))
    variances = (
        sum(((x - x.mean(1, keepdims=True)) ** 2).sum((0, 1)) for x in noises) / freedom,
        sum(((x - x.mean(1, keepdims=True)) ** 2).sum((0, 1)) for x in spent) / freedom,
    )
    limit = quantile(0.95, freedom)
    squares = np.concatenate([x.var(1, ddof=1) for x in runs])
    places = np.concatenate(costs)
    trend = variance_trend(places, squares, np.full(len(places), seeds - 1.0))
    frontiers = [
        QualityCostCurve(
            place, run.mean(1), np.full(len(place), float(seeds)), trend.widened(place)
        )
        for place, run in zip(costs, runs, strict=True)
    ]
    found, truths = [], []
    for place, errors in zip(costs[1], runs[1].mean(1), strict=True):
        known = (seeds / trend.widened(place), variances, limit)
        found += [compare(frontiers[0], float(place), errors, *known)
                  for compare in (at_duration, at_cost)]  # fmt: skip
        truths += [truth, float(law(place) - law(place + truth))]
    level = float(middle) + 0.3
    both = at_target(frontiers[0], frontiers[1], float(law(np.array(level))), variances, limit)
    found += [both.saved, both.ratio]
    truths += [math.exp(level) - math.exp(level - truth), truth]
    return [
        float(np.mean((each.low <= true) & (true <= each.high)))
        for each, true in zip(found, truths, strict=True)
    ]


@pytest.mark.parametrize("noise", [0.01, 0.04])
@pytest.mark.parametrize(
    ("durations", "arm", "seeds"),
    [
        ((3, 6, 12, 20), (3, 6, 12), 3),
        ((3, 6, 12, 20), (4, 8, 16, 26.7), 3),
        ((1, 2, 4, 8), (1.5, 3, 6), 2),
        ((2.5, 5, 10, 20, 40), (3.3, 6.7, 13.3), 3),
        ((3, 6, 12, 20), (3, 6, 12), 5),
    ],
)
def test_coverage(
    durations: tuple[float, ...], arm: tuple[float, ...], seeds: int, noise: float
) -> None:
    found = coverages(LAW.log_error, durations, arm, seeds, noise)
    assert min(found) >= 0.93
    assert found[-1] <= 0.985 or noise > 0.05  # open ends hold more


@pytest.mark.parametrize(("durations", "arm", "seeds"), sorted(shipped_sizes()))
def test_coverage_of_the_shipped_studies(
    durations: tuple[int, ...], arm: tuple[int, ...], seeds: int
) -> None:
    costs, taught = ([3 * steps / durations[0] for steps in each] for each in (durations, arm))
    assert min(coverages(LAW.log_error, costs, taught, seeds, 0.02)) >= 0.93


@pytest.mark.parametrize("speed_up", [0.7, 1.0, 1.2, 1.96])
def test_coverage_at_other_speed_ups(speed_up: float) -> None:
    assert min(coverages(LAW.log_error, (3, 6, 12, 20), (3, 6, 12), 3, 0.02, speed_up)) >= 0.93


def test_coverage_off_the_power_law() -> None:
    assert min(coverages(bent, (1, 2, 4, 8, 16), (1.3, 2.6, 5.2), 3, 0.02)) >= 0.93


def test_coverage_where_the_frontier_saturates() -> None:
    law = PowerLaw(0.3, math.log(0.5), 1.2)
    assert min(coverages(law.log_error, (2, 4, 8, 16), (2, 4, 8), 3, 0.02)) >= 0.93


def test_coverage_with_noisy_costs() -> None:
    durations, arm = (3, 6, 12, 20), (3, 6, 12)
    found = coverages(LAW.log_error, durations, arm, 3, 0.01, cost_noise=0.05)
    assert min(found) >= 0.93


@pytest.mark.parametrize("falling", [1 / 3, 3.0])
@pytest.mark.parametrize("noise", [0.01, 0.04])
def test_coverage_where_some_durations_vary_more(falling: float, noise: float) -> None:
    durations, arm = (3, 6, 12, 20), (3, 6, 12)
    found = coverages(LAW.log_error, durations, arm, 3, noise, falling=falling)
    # Without the trend the least would be 0.825 and 0.878.
    assert min(found) >= 0.905
    assert min(found[-2:]) >= 0.93  # at the target, where the headline is


def test_pairs_that_go_together_are_covered_more_often() -> None:
    durations, arm = (3, 6, 12, 20), (3, 6, 12)
    plain = coverages(LAW.log_error, durations, arm, 3, 0.02)
    paired = coverages(LAW.log_error, durations, arm, 3, 0.02, shared=0.5)
    assert min(paired) >= 0.95
    assert np.mean(paired) > np.mean(plain)


def test_delta_method_where_the_curve_is_straight() -> None:
    law = PowerLaw(0.0, 0.0, 0.5)
    places = np.log(np.array([1.0, 2, 4, 8]))
    frontier = QualityCostCurve(places, law.log_error(places)[:, None], np.full(4, 3.0))
    variance, limit = 1e-6, quantile(0.95, 14)
    level = law.log_error(np.array([math.log(4)]))
    found = at_duration(frontier, math.log(2), level, 3, (np.array([variance]), np.zeros(1)), limit)
    half = limit * math.sqrt(variance * (1 / 3 + 1 / 3)) / 0.5
    assert found.value[0] == pytest.approx(math.log(2))
    assert found.high[0] - found.low[0] == pytest.approx(2 * half, rel=0.03)


def group(steps: int, seeds: Sequence[int], errors: Sequence[float]) -> SeedGroup:
    return SeedGroup(steps, tuple(seeds), np.full(len(seeds), math.log(steps)), np.array(errors))


def test_pool() -> None:
    plain = [group(1, (1, 2, 3), (0.0, 1.0, 2.0)), group(2, (1, 2), (4.0, 6.0))]
    arm = [group(1, (1, 3), (5.0, 9.0)), group(4, (1,), (0.0,))]
    variance = pool(plain, [arm])
    assert variance.freedom == 2 + 1 + 1
    assert variance.quality == pytest.approx((2 + 2 + 8) / 4)
    assert variance.cost == 0
    assert variance.correlation == pytest.approx(1.0)
    assert variance.widening == 1.0
    assert variance.unequal is not None


def test_pairs_that_go_against_each_other_widen() -> None:
    plain = [group(1, (1, 2, 3), (0.0, 1.0, 2.0))]
    arm = [group(1, (3, 1, 2), (0.0, 2.0, 1.0))]
    variance = pool(plain, [arm])
    assert variance.correlation == pytest.approx(-1.0)
    assert variance.widening == pytest.approx(2.0)


def test_one_seed_pools_nothing() -> None:
    variance = pool([group(1, (1,), (0.0,)), group(2, (1,), (0.0,))], [])
    assert variance == PooledVariance(0.0, 0.0, 0)
    assert pool([group(1, (1, 2), (0.0, 0.0))], []).unequal is None
    assert pool([group(1, (1, 2), (0.1, 0.1 + 1e-15))], []).quality == 0


def test_frontier_of_means() -> None:
    groups = [group(steps, (1, 2), (-steps, -steps - 1.0)) for steps in (1, 2, 4, 8)]
    frontier = curve_of(groups)
    assert frontier.values[0, 0] == pytest.approx(-1.5)
    assert frontier.values[-1, 0] == pytest.approx(-8.5)


def test_target_outside_of_both() -> None:
    places = np.log(np.array([1.0, 2, 4, 8]))
    curves = [
        QualityCostCurve(places, LAW.log_error(places + by)[:, None], np.ones(4)) for by in (0, 0.3)
    ]
    variances = (np.array([1e-4]), np.zeros(1))
    ends = [float(curves[0].values[0, 0]) + 1, float(curves[1].values[-1, 0]) - 1]
    for level in ends:
        assert at_target(curves[0], curves[1], level, variances, 2.0).ratio.sign[0] == 2
    between = (curves[0].values[-1, 0] + curves[1].values[-1, 0]) / 2  # of the arm's best and ours
    found = at_target(curves[0], curves[1], float(between), variances, 2.0).ratio
    assert found.sign[0] == 1
    assert found.high[0] == np.inf
    back = at_target(curves[1], curves[0], float(between), variances, 2.0).ratio
    assert back.sign[0] == -1
    assert back.low[0] == -np.inf


PLACES = np.log(np.array([3.0, 6, 12, 20, 4, 8, 16]))


def drawn(slope: float, freedom: int, replicates: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    random, freedoms = np.random.default_rng(0), np.full(len(PLACES), float(freedom))
    chance = random.chisquare(freedom, (len(PLACES), replicates)) / freedom
    return np.exp(slope * PLACES)[:, None] * chance, freedoms


def test_many_seeds_tell_the_trend() -> None:
    trend = variance_trend(PLACES, *drawn(-1.1, 400, 1))
    assert trend.slope[0] == pytest.approx(-1.1, abs=0.15)
    relative = trend.relative(PLACES)[:, 0]
    assert np.mean(relative) == pytest.approx(1)
    assert relative[0] / relative[3] == pytest.approx((20 / 3) ** 1.1, rel=0.3)
    assert np.array_equal(trend.widened(PLACES)[:, 0], np.maximum(1, relative))


@pytest.mark.parametrize("slope", [0.0, -1.1])
def test_few_seeds_have_no_bias(slope: float) -> None:
    slopes = variance_trend(PLACES, *drawn(slope, 2)).slope
    assert np.mean(slopes) == pytest.approx(slope, abs=0.05)
    assert np.std(slopes) < 0.9


def test_where_nothing_can_be_told() -> None:
    variances, freedoms = drawn(-1.1, 2, 3)
    for known in (slice(2), slice(0, 0)):
        assert (
            variance_trend(PLACES[known], variances[known], freedoms[known]).slope.tolist()
            == [0] * 3
        )
    variances[2:] = 0.0
    assert not variance_trend(PLACES, variances, freedoms).slope.any()
    assert HOMOSCEDASTIC.relative(PLACES).tolist() == [[1.0]] * len(PLACES)
