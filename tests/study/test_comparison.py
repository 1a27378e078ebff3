"""One arm against the baseline: speed-ups, bounds where nothing is known, and no interval at all
where it could not be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.study.clocks import cells_of
from rrr_lightning.study.comparison import (
    NO_BOUND,
    NO_SLOPE,
    NO_SPREAD,
    ONE_SEED,
    Comparer,
    Comparison,
)
from rrr_lightning.study.coverage import PowerLaw
from rrr_lightning.study.interval import Cell
from rrr_lightning.study.points import Point
from tests.study.made import DESIGN, DURATIONS, LAW, runs

TARGET = math.log(1 - 0.84)


def cells(points: Sequence[Point], arm: str) -> list[Cell]:
    return cells_of(points, DESIGN, arm, "flops", "free")


def compare(points: Sequence[Point], target: float | None = TARGET) -> Comparison:
    taught = cells(points, "taught")
    return Comparer(cells(points, "plain"), [taught], 0.95, "plain").compare(taught, target)


@pytest.mark.parametrize("speed_up", [0.8, 1.0, 1.4, 1.96])
def test_without_noise(speed_up: float) -> None:
    points = [*runs("plain", DURATIONS, noise=0)]
    points += runs("taught", (3, 6, 12, 20), speed_up=speed_up, noise=0)
    found = compare(points)
    assert found.target.value == pytest.approx(speed_up, rel=0.01)
    assert found.target.why == NO_SPREAD
    inside = [each.speed_up for each in found.durations if not each.speed_up.sign]
    assert inside
    for each in inside:
        assert each.value == pytest.approx(speed_up, rel=0.01)


def test_an_arm_equal_to_the_baseline() -> None:
    found = compare([*runs("plain", DURATIONS), *runs("taught", DURATIONS)])
    target = found.target
    assert target.low is not None
    assert target.high is not None
    assert target.low < 1 < target.high
    assert target.coverage is not None
    assert target.coverage >= 0.93
    copied = [*runs("plain", DURATIONS)]
    copied += [Point("taught", p.steps, p.seed, p.quality, p.costs) for p in copied]
    same = compare(copied)
    assert same.target.value == pytest.approx(1)
    for each in same.durations:
        assert each.speed_up.value == pytest.approx(1)
        assert each.speed_up.sign == ""
        assert each.error_ratio.value == pytest.approx(0, abs=1e-9)


def test_a_frontier_that_saturates_gives_a_bound() -> None:
    flat = PowerLaw(0.2, math.log(0.4), 1.5)
    better = PowerLaw(0.1, math.log(0.4), 1.0)
    points = runs("plain", DURATIONS, law=flat, noise=0.01)
    points += runs("taught", (3, 6, 12), law=better, noise=0.01)
    found = compare(points, math.log(0.17))
    longest = found.durations[-1].speed_up
    for each in (found.target, longest):
        assert each.sign == ">="
        assert each.value is not None
        assert each.value < 20 / 3
        assert each.high is None
        assert each.low is not None
        assert each.low <= each.value


def test_worse_than_the_whole_frontier() -> None:
    points = [*runs("plain", DURATIONS), *runs("taught", (3, 6, 12), speed_up=0.1)]
    found = compare(points)
    assert found.target.sign == "<="
    assert found.target.low is None
    first = found.durations[0].speed_up
    assert first.sign == "<="
    assert first.value == pytest.approx(1.0)
    assert first.low is None
    assert first.high is not None
    beyond = "than plain's shortest duration (3 steps), before which nothing is known"
    assert first.why == f"worse {beyond}"
    assert found.target.why == ("the target is better than the arm's longest duration (12 steps)")
    easy = compare(points, math.log(0.4)).target
    assert easy.sign == "<="
    assert str(easy.why).startswith(f"the target is worse {beyond}")


def test_better_than_the_whole_frontier() -> None:
    points = [*runs("plain", DURATIONS), *runs("taught", (3, 6, 12), speed_up=20)]
    found = compare(points)
    assert found.target.sign == ">="
    assert found.target.high is None
    assert [each.speed_up.sign for each in found.durations] == [">="] * 3
    assert found.durations[0].speed_up.value == pytest.approx(20 / 3)
    beyond = "better than plain's longest duration (20 steps), beyond which nothing is known"
    assert found.durations[0].speed_up.why == beyond
    assert found.target.why == "the target is worse than the arm's shortest duration (3 steps)"
    hard = compare(points, float(LAW.log_error(np.array(math.log(50))))).target
    assert hard.sign == ">="
    assert str(hard.why).startswith(f"the target is {beyond}")


def test_neither_has_been_seen_at_the_target() -> None:
    points = [*runs("plain", DURATIONS), *runs("taught", DURATIONS)]
    found = compare(points, math.log(0.01))
    assert found.target.value is None
    assert found.saved.value is None
    assert "neither the baseline nor the arm" in str(found.target.why)


@pytest.mark.parametrize(
    ("seeds", "noise", "why"), [((1,), 0.02, ONE_SEED), ((1, 2, 3), 0.0, NO_SPREAD)]
)
def test_no_interval_without_spread(seeds: tuple[int, ...], noise: float, why: str) -> None:
    points = [*runs("plain", DURATIONS, seeds, noise=noise)]
    points += runs("taught", (3, 6, 12), seeds, 1.4, noise)
    found = compare(points)
    numbers = [found.target, *(each.speed_up for each in found.durations)]
    for each in [*numbers, *(each.error_ratio for each in found.durations)]:
        assert each.value is not None
        assert (each.low, each.high) == (None, None)
        assert str(each.why).endswith(why)


def test_no_interval_where_the_baseline_gets_worse() -> None:
    worse = [
        Point("plain", steps, seed, 0.8 - 0.01 * steps + 0.001 * seed, {"flops": float(steps)})
        for steps in DURATIONS
        for seed in (1, 2, 3)
    ]
    found = compare([*worse, *runs("taught", (3, 6, 12))], math.log(0.23))
    assert found.target.value is not None
    assert str(found.target.why).endswith(NO_SLOPE)
    assert (found.target.low, found.target.high) == (None, None)
    for each in found.durations:
        assert str(each.speed_up.why).endswith(NO_SLOPE)
        assert str(each.error_ratio.why) == NO_SLOPE
        assert (each.error_ratio.low, each.error_ratio.high) == (None, None)


def test_no_interval_under_the_least_coverage() -> None:
    law = PowerLaw(0.1, -0.7, 1.0)
    points = runs("plain", (1, 2, 4, 8), law=law, noise=0.002)
    points += runs("taught", (1, 6), law=law, noise=0.002, speed_up=1.4)
    found = compare(points, float(law.log_error(np.array(math.log(3.5)))))
    assert found.target.value is not None
    assert found.target.coverage is not None
    assert found.target.coverage < 0.93
    assert (found.target.low, found.target.high) == (None, None)
    assert "under 93%" in str(found.target.why)


def test_so_much_noise_that_nothing_is_bounded() -> None:
    points = runs("plain", DURATIONS, (1, 2), noise=1.0)
    points += runs("taught", (3, 6, 12), (1, 2), noise=1.0)
    for each in compare(points).durations:
        assert str(each.speed_up.why).endswith((NO_BOUND, NO_SLOPE))


def test_targets_that_an_arm_cannot_be_read_at() -> None:
    points = [*runs("plain", DURATIONS), *runs("taught", (6,))]
    assert "2 durations or more" in str(compare(points).target.why)
    assert "no target" in str(compare(points, None).target.why)
    assert compare(points, None).durations[0].speed_up.value is not None


def test_gain_at_equal_cost() -> None:
    points = runs("plain", DURATIONS, noise=0.002)
    points += runs("taught", (2, 4, 8, 30), noise=0.002, speed_up=1.4)
    found = {each.steps: each.error_ratio for each in compare(points).durations}
    for steps in (4, 8):
        place = np.array(math.log(steps))
        true = math.exp(float(LAW.log_error(place) - LAW.log_error(place + math.log(1.4)))) - 1
        low, high = found[steps].low, found[steps].high
        assert low is not None
        assert high is not None
        assert low < true < high
        assert found[steps].sign == ""
    assert (found[2].sign, found[2].high) == (">=", None)
    assert (found[30].sign, found[30].low) == ("<=", None)


def test_what_is_saved_at_the_target() -> None:
    points = runs("plain", DURATIONS, noise=0.005)
    points += runs("taught", (3, 6, 12), noise=0.005, speed_up=1.4)
    found, cost = compare(points).saved, math.exp(LAW.log_cost(TARGET))
    true = 1e9 * cost * (1 - 1 / 1.4)
    assert found.value == pytest.approx(true, rel=0.2)
    assert found.low is not None
    assert found.high is not None
    assert found.low < true < found.high
    assert found.coverage is not None
    assert found.coverage >= 0.93


def test_a_gain_is_gated_by_its_own_coverage() -> None:
    """Between two durations far apart the frontier is not where the baseline would be."""
    law = PowerLaw(0.1, 0.7, 2.0)
    points = runs("plain", (1, 12, 14, 16), law=law, noise=0.002)
    points += runs("taught", (3, 4), law=law, noise=0.002, speed_up=1.4)
    found = compare(points).durations[0].error_ratio
    assert found.coverage is not None
    assert found.coverage < 0.93
    assert (found.low, found.high) == (None, None)
    assert "under 93%" in str(found.why)


def test_too_few_durations_say_what_is_missing() -> None:
    points = [*runs("plain", (3, 6, 12)), *runs("taught", (3, 6))]
    with pytest.raises(InputError, match=r"my baseline: .*at least 4 durations; missing: 20;"):
        Comparer(cells(points, "plain"), [], 0.95, "my baseline", DURATIONS)


def test_durations_of_equal_cost() -> None:
    points = [Point("plain", p.steps, p.seed, p.quality, {"flops": 1.0})
              for p in runs("plain", DURATIONS)]  # fmt: skip
    with pytest.raises(InputError, match="two durations have the same cost"):
        Comparer(cells(points, "plain"), [], 0.95)


def test_plain_types() -> None:
    found = compare([*runs("plain", DURATIONS), *runs("taught", (3, 6, 12))]).target
    assert list(found.as_json("speed_up")) == [
        "speed_up", "censored", "low", "high", "coverage", "why",
    ]  # fmt: skip
