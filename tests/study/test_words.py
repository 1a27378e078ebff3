"""How numbers are written."""

from __future__ import annotations

from rrr_lightning.study.comparison import Bounded
from rrr_lightning.study.words import (
    charge_words,
    gain_words,
    missing_words,
    ratio_words,
    speed_up_words,
    students_words,
    table,
)
from tests.study.made import DESIGN


def test_speed_ups() -> None:
    assert speed_up_words(Bounded(1.384, low=1.21, high=1.567)) == "1.38× (1.21 to 1.57)"
    assert speed_up_words(Bounded(1.9, ">=", low=1.6)) == "≥ 1.90× (from 1.60)"
    assert speed_up_words(Bounded(0.5, "<=", high=0.6)) == "≤ 0.50× (up to 0.60)"
    assert speed_up_words(Bounded(1.2, why="one seed")) == "1.20× (no interval)"
    assert speed_up_words(Bounded(why="not yet")) == "–"


def test_gains_are_in_units_of_the_metric() -> None:
    assert gain_words(Bounded(0.1, low=0.05, high=0.15), 0.2) == "+0.0200 (+0.0100 to +0.0300)"
    assert gain_words(Bounded(-0.1, "<=", high=0.0), 0.2) == "≤ -0.0200 (up to +0.0000)"
    assert gain_words(Bounded(), 0.2) == "–"


def test_students() -> None:
    assert students_words(Bounded(6.2, low=5.0, high=8.1)) == "7 (5 to 9)"
    assert students_words(Bounded(6.2, low=5.0)) == "7 (5 to never)"
    assert students_words(Bounded(6.2, "<=", low=5.0, high=9.0)) == "≤ 7 (5 to 9)"
    assert students_words(Bounded(6.2, why="one seed")) == "7"
    assert students_words(Bounded(why="never")) == "–"


def test_other_words() -> None:
    assert ratio_words(Bounded(0.98, low=0.94, high=1.03)) == "0.980 (0.940 to 1.030)"
    assert ratio_words(Bounded()) == "–"
    assert charge_words("free", DESIGN) == "teachers free"
    assert charge_words("amortized", DESIGN) == "teachers' training shared by 10 students"
    assert missing_words({"plain": {3: [1], 6: [1, 2]}}) == [
        "plain: 3 steps (seed 1), 6 steps (seeds 1, 2)"
    ]
    assert table(["a", "b"], [["x|y", 1]]) == "| a | b |\n| --- | --- |\n| x\\|y | 1 |"
