"""The simulation that decides whether an interval is printed: right, seeded, and able to refuse."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from rrr_lightning.study.calibration import LEAST_COVERAGE, PowerLaw, Simulation, fit, means
from rrr_lightning.study.confidence import PooledVariance, SeedGroup
from tests.study.made import DURATIONS, LAW


def groups(durations: Sequence[float], law: PowerLaw = LAW, seeds: int = 3) -> list[SeedGroup]:
    found = []
    for steps in durations:
        place = math.log(steps)
        error = float(law.log_error(np.array(place)))
        ones = np.ones(seeds)
        found.append(SeedGroup(int(steps), tuple(range(seeds)), place * ones, error * ones))
    return found


def spread(noise: float, count: int, seeds: int = 3) -> PooledVariance:
    return PooledVariance(noise**2, 0.0, count * (seeds - 1))


@pytest.mark.parametrize("law", [LAW, PowerLaw(0.0, 0.3, 0.4), PowerLaw(0.3, -0.7, 1.0)])
def test_fit_finds_the_law(law: PowerLaw) -> None:
    places = np.log(np.array([1.0, 2, 4, 8]))
    found = fit(places, law.log_error(places))
    assert found is not None
    assert np.abs(found.log_error(places) - law.log_error(places)).max() < 0.002
    assert found.log_cost(float(law.log_error(np.array(1.0)))) == pytest.approx(1.0, abs=0.01)


def test_fit_needs_errors_that_fall() -> None:
    assert fit(np.arange(4.0), np.array([-2.0, -1.9, -1.8, -1.7])) is None


def test_law() -> None:
    places = np.array([0.5, 2.0])
    slopes = (LAW.log_error(places + 1e-6) - LAW.log_error(places - 1e-6)) / 2e-6
    assert np.allclose(LAW.slope(places), slopes)
    assert np.allclose(LAW.moved(0.3).log_error(places), LAW.log_error(places + 0.3))
    assert LAW.log_cost(math.log(LAW.floor / 2)) == math.inf


@pytest.mark.parametrize("noise", [0.01, 0.04])
def test_coverage_at_the_shipped_size(noise: float) -> None:
    baseline, arm = groups(DURATIONS), groups((4, 8, 16), LAW.moved(math.log(1.4)))
    found = Simulation(baseline, LAW, spread(noise, 7), 0.95).coverage(arm, math.log(0.16))
    assert found.target is not None
    assert min(found.target, *found.by_steps.values()) >= LEAST_COVERAGE
    again = Simulation(baseline, LAW, spread(noise, 7), 0.95).coverage(arm, math.log(0.16))
    assert again == found


def test_a_bias_that_the_interval_does_not_know_of_is_found() -> None:
    """Two durations far apart: the straight line between them is worse than the arm."""
    law = PowerLaw(0.1, -0.7, 1.0)
    arm = groups((1.2, 6.0), law.moved(math.log(1.4)))
    simulation = Simulation(groups((1, 2, 4, 8), law), law, spread(0.003, 6), 0.95)
    found = simulation.coverage(arm, float(law.log_error(np.array(math.log(3.5)))))
    assert found.target is not None
    assert found.target < LEAST_COVERAGE


def test_nothing_to_simulate_at_the_target() -> None:
    simulation = Simulation(groups(DURATIONS), LAW, spread(0.02, 5), 0.95, replicates=50)
    assert simulation.coverage(groups((4,)), math.log(0.16)).target is None
    assert simulation.coverage(groups((4, 8)), None).target is None
    assert simulation.coverage(groups((4, 8)), math.log(LAW.floor / 2)).target is None


def test_an_arm_below_the_floor_of_the_baseline_is_covered_by_open_ends() -> None:
    simulation = Simulation(groups(DURATIONS), LAW, spread(0.02, 9), 0.95, replicates=200)
    better = PowerLaw(0.0, math.log(0.06), 0.5)
    found = simulation.coverage(groups(DURATIONS, better), math.log(0.16), better)
    assert min(found.by_steps.values()) == 1.0


def test_means() -> None:
    costs, errors = means(groups((1, 2)))
    assert np.allclose(costs, [0, math.log(2)])
    assert np.allclose(errors, LAW.log_error(costs))
