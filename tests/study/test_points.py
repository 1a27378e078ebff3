"""What the statistics are given."""

from __future__ import annotations

from rrr_lightning.study.points import Point
from tests.study.made import DESIGN


def test_arms_are_all_but_the_baseline() -> None:
    assert DESIGN.arms == ("taught",)


def test_teachers_may_be_there_without_a_known_cost() -> None:
    assert not Point("a", 1, 1, 0.5, {}).taught
    assert Point("a", 1, 1, 0.5, {}, {"wall": 1.0}).taught
    assert Point("a", 1, 1, 0.5, {}, has_teachers=True).taught
    assert not Point("a", 1, 1, 0.5, {}, {"wall": 1.0}, has_teachers=False).taught
