"""The curve: through its nodes, never rising, biased by less than 1 % of cost between them."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from rrr_lightning.errors import InputError
from rrr_lightning.study.calibration import PowerLaw
from rrr_lightning.study.quality_cost_curve import (
    QualityCostCurve,
    first_crossing,
    isotonic,
    last_crossing,
    log_error,
    quality_of,
)
from tests.study.made import LAW
from tests.study.studies import shipped_sizes

SATURATING = PowerLaw(0.3, math.log(0.5), 0.8)
GRIDS = {
    (100, 200, 400, 800, 1600),
    (1, 1.5, 2, 3, 4, 6, 8),
    *(grid for grid, *_ in shipped_sizes()),
}


def curve(costs: tuple[float, ...], law: PowerLaw = LAW, seeds: int = 1) -> QualityCostCurve:
    places = np.log(np.array(costs, np.float64))
    return QualityCostCurve(
        places, law.log_error(places)[:, None], np.full(len(costs), float(seeds))
    )


def test_errors_and_qualities() -> None:
    accuracy = np.array([0.2, 0.9, 0.999])
    assert np.allclose(log_error(accuracy, "max"), np.log(1 - accuracy))
    assert np.allclose(quality_of(log_error(accuracy, "max"), "max"), accuracy)
    assert np.allclose(log_error(100 * accuracy, "max", 100), np.log(100 - 100 * accuracy))
    assert np.allclose(quality_of(log_error(accuracy, "min"), "min"), accuracy)


@pytest.mark.parametrize(
    ("quality", "direction", "found"),
    [(1.0, "max", "1.0"), (0.0, "min", "0.0"), (math.nan, "min", "nan"), (math.inf, "min", "inf")],
)
def test_no_logarithm(quality: float, direction: str, found: str) -> None:
    with pytest.raises(InputError, match=rf"has no logarithm of its error.*found {found}"):
        log_error(np.array([0.5, quality]), direction)  # type: ignore[arg-type]


def test_levelled_as_isotonic_regression() -> None:
    random = np.random.default_rng(0)
    values = random.normal(size=(6, 40)) - 0.5 * np.arange(6)[:, None]
    weights = random.integers(1, 5, 6).astype(np.float64)
    ours = isotonic(values, weights)
    for column in range(values.shape[1]):
        peer = IsotonicRegression(increasing=False)
        peer.fit(np.arange(6), values[:, column], sample_weight=weights)
        assert np.allclose(ours[:, column], peer.predict(np.arange(6)))


def test_levelled_leaves_falling_values() -> None:
    values = np.array([[3.0], [2.0], [1.0]])
    assert np.allclose(isotonic(values, np.ones(3)), values)
    assert not curve((1, 2, 4, 8)).raised[0]


@pytest.mark.parametrize("costs", sorted(GRIDS))
@pytest.mark.parametrize("law", [LAW, SATURATING, PowerLaw(0, 0.0, 0.4), PowerLaw(0.1, -0.7, 1.0)])
def test_bias_without_noise(costs: tuple[float, ...], law: PowerLaw) -> None:
    costs = tuple(cost / costs[0] for cost in costs)
    places = np.linspace(0.0, math.log(costs[-1]), 101)[1:-1]
    frontier = curve(costs, law)
    found = [frontier.reaches(level).log_cost[0] for level in law.log_error(places)]
    assert np.abs(np.array(found) - places).max() <= 0.01


def test_exact_at_nodes() -> None:
    frontier = curve((3, 6, 12, 20))
    for cost in (3, 6, 12, 20):
        level = float(LAW.log_error(np.array(math.log(cost))))
        found = frontier.reaches(level)
        assert math.exp(found.log_cost[0]) == pytest.approx(cost, rel=1e-9)
        assert not found.at_start[0]
        assert not found.nowhere[0]
        assert frontier.at(math.log(cost))[0] == pytest.approx(level)


def test_outside_is_said_and_not_extrapolated() -> None:
    frontier = curve((3, 6, 12, 20))
    better, worse = frontier.values[-1, 0] - 0.1, frontier.values[0, 0] + 0.1
    assert frontier.reaches(better).nowhere[0]
    assert frontier.reaches(better).log_cost[0] == pytest.approx(math.log(20))
    assert frontier.reaches(worse).at_start[0]
    assert frontier.reaches(worse).log_cost[0] == pytest.approx(math.log(3))


def test_rising_means_are_levelled() -> None:
    places = np.log(np.array([1.0, 2, 4, 8]))
    frontier = QualityCostCurve(places, np.array([[-1.0], [-1.4], [-1.3], [-1.6]]), np.ones(4))
    assert frontier.raised[0]
    assert np.all(np.diff(frontier.values[:, 0]) <= 1e-12)
    # The quality of a level stretch is had at its cheap end.
    assert math.exp(frontier.reaches(-1.35).log_cost[0]) == pytest.approx(2, rel=1e-9)


def test_leverage_is_that_of_a_mean_at_nodes_and_less_between() -> None:
    frontier = curve((1, 2, 4, 8), seeds=3)
    assert frontier.leverage[0, 0] == pytest.approx(1 / 3, rel=1e-4)
    assert frontier.leverage[-1, 0] == pytest.approx(1 / 3, rel=1e-4)
    assert frontier.leverage[:, 0].min() > 0.15
    # Against the variance of the curve over noisy means.
    random, noise = np.random.default_rng(0), 1e-3
    nodes = LAW.log_error(frontier.log_costs)[:, None] + noise * random.normal(size=(4, 4000))
    drawn = QualityCostCurve(frontier.log_costs, nodes, np.ones(4)).values.var(axis=1) / noise**2
    assert np.allclose(drawn, 3 * frontier.leverage[:, 0], rtol=0.12)


def test_crossings() -> None:
    places = np.array([0.0, 1.0, 2.0, 3.0])
    curves = np.array([[4.0, 1.0], [2.0, 3.0], [2.0, 1.0], [0.0, 0.0]])
    first, last = first_crossing(places, curves, 2.0), last_crossing(places, curves, 2.0)
    assert first.log_cost.tolist() == [1.0, 0.0]
    assert first.at_start.tolist() == [False, True]
    assert last.log_cost.tolist() == [2.0, 1.5]
    assert first_crossing(places, curves, -1.0).nowhere.all()
    assert first_crossing(places, curves, -1.0).log_cost.tolist() == [3.0, 3.0]
    assert last_crossing(places, curves, 5.0).nowhere.all()
    assert last_crossing(places, curves, 5.0).log_cost.tolist() == [0.0, 0.0]
