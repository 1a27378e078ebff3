"""How many students a teacher must serve."""

from __future__ import annotations

import pytest

from rrr_lightning.study.break_even import NOT_CHEAPER, break_even, whole
from rrr_lightning.study.comparison import Bounded


def test_both_ways_cost_the_same() -> None:
    baseline, teacher, speed_up = 12.0, 30.0, 1.5
    found = break_even(Bounded(speed_up, low=1.2, high=2.0), baseline, teacher)
    assert found.value is not None
    students = found.value
    assert students * baseline == pytest.approx(teacher + students * baseline / speed_up)
    assert found.low == pytest.approx(30 / (12 * (1 - 1 / 2)))
    assert found.high == pytest.approx(30 / (12 * (1 - 1 / 1.2)))


def test_open_ends() -> None:
    never = break_even(Bounded(1.5, low=0.9, high=2.0), 12.0, 30.0)
    assert never.high is None
    assert never.low is not None
    bound = break_even(Bounded(1.5, ">=", low=1.2), 12.0, 30.0)
    assert bound.sign == "<="
    assert bound.low == pytest.approx(30 / 12)
    no_interval = break_even(Bounded(1.5, why="one seed"), 12.0, 30.0)
    assert (no_interval.low, no_interval.high, no_interval.why) == (None, None, "one seed")


def test_no_number() -> None:
    assert break_even(Bounded(0.9, low=0.8, high=1.1), 12.0, 30.0).why == NOT_CHEAPER
    assert break_even(Bounded(why="not yet"), None, 30.0).why == "not yet"
    assert "not known" in str(break_even(Bounded(1.5), 12.0, None).why)


def test_whole_students() -> None:
    assert [whole(number) for number in (0.2, 3.0, 3.0 + 1e-12, 3.1)] == [1, 3, 3, 4]
