"""How many students a teacher must serve."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rrr_lightning.study.break_even import NOT_CHEAPER, break_even, whole
from rrr_lightning.study.comparison import Bounded
from rrr_lightning.study.frontier import Frontier
from rrr_lightning.study.interval import at_target, quantile
from tests.study.made import LAW


def test_both_ways_cost_the_same() -> None:
    baseline, student, teacher = 12.0, 8.0, 30.0
    found = break_even(Bounded(baseline - student, low=3.0, high=5.0, coverage=0.95), teacher)
    assert found.value is not None
    assert found.value * baseline == pytest.approx(teacher + found.value * student)
    assert (found.low, found.high, found.coverage) == (30 / 5, 30 / 3, 0.95)


def test_open_ends() -> None:
    never = break_even(Bounded(4.0, low=-1.0, high=5.0), 30.0)
    assert (never.low, never.high) == (6.0, None)
    bound = break_even(Bounded(4.0, ">=", low=3.0, why="beyond"), 30.0)
    assert (bound.sign, bound.low, bound.high, bound.why) == ("<=", None, 10.0, "beyond")
    no_interval = break_even(Bounded(4.0, why="one seed"), 30.0)
    assert (no_interval.low, no_interval.high, no_interval.why) == (None, None, "one seed")


def test_no_number() -> None:
    assert break_even(Bounded(-1.0, low=-2.0, high=1.0), 30.0).why == NOT_CHEAPER
    assert break_even(Bounded(-1.0, ">=", why="beyond"), 30.0).why == "beyond"
    assert break_even(Bounded(why="not yet"), 30.0).why == "not yet"
    assert "not known" in str(break_even(Bounded(4.0), None).why)


@pytest.mark.parametrize("noise", [0.01, 0.03])
def test_coverage(noise: float) -> None:
    """The costs of both, baseline and arm, are uncertain."""
    random, replicates, speed_up, teacher = np.random.default_rng(0), 1000, 1.5, 30.0
    counts = [np.full(4, 3.0), np.full(3, 3.0)]
    costs = [np.log([3.0, 6, 12, 20]), np.log([3.0, 6, 12])]
    curves = []
    for place, count, moved in zip(costs, counts, (0.0, math.log(speed_up)), strict=True):
        means = noise / math.sqrt(3) * random.normal(size=(len(place), replicates))
        curves.append(Frontier(place, LAW.log_error(place + moved)[:, None] + means, count))
    variance = noise**2 * random.chisquare(14, replicates) / 14
    limit, cost = quantile(0.95, 14), 9.0
    target = float(LAW.log_error(np.array(math.log(cost))))
    saved = at_target(*curves, target, (variance, np.zeros(1)), limit).saved
    true, held = teacher / (cost - cost / speed_up), 0
    for value, low, high in zip(saved.value, saved.low, saved.high, strict=True):
        ends = (float(end) if math.isfinite(end) else None for end in (low, high))
        found = break_even(Bounded(float(value), "", *ends), teacher)
        never = found.why == NOT_CHEAPER
        held += never or (found.low or 0.0) <= true <= (found.high or math.inf)
    assert held >= 0.93 * replicates


def test_whole_students() -> None:
    assert [whole(number) for number in (0.2, 3.0, 3.0 + 1e-12, 3.1)] == [1, 3, 3, 4]
