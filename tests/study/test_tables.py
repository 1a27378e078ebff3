"""The parts of the report in words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rrr_lightning.study import tables
from rrr_lightning.study.analysis import Analysis, analyse
from rrr_lightning.study.interval import Spread
from tests.study.made import DESIGN, study

pytestmark = pytest.mark.usefixtures("few_replicates")


def test_headline_first_with_the_full_charge_beside_it(whole_study: Analysis) -> None:
    text = tables.headline(whole_study)
    assert "`val/accuracy` = 0.84, fixed before the runs" in text
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert rows[0] == [
        "| arm", "speed-up, teachers free", "speed-up, teachers' training in full", "runs",
        "settings tried |",
    ]  # fmt: skip
    assert rows[2][0] == "| taught"
    assert rows[2][1].startswith("1.4")
    assert rows[2][2].startswith("0.3")
    assert rows[2][3:] == ["9", "6 |"]
    assert "Settings tried for `plain`: 6. 2 arms are shown" in text


@pytest.mark.parametrize(
    ("speed_up", "target", "words"),
    [
        (
            20.0,
            0.9,
            "better than plain's longest duration (20 steps), beyond which nothing is known",
        ),
        (0.1, 0.6, "worse than plain's shortest duration (3 steps), before which nothing is known"),
    ],
)
def test_what_lies_beyond_the_frontier_is_said_under_the_headline(
    speed_up: float, target: float, words: str
) -> None:
    text = tables.headline(analyse(study(speed_up=speed_up), replace(DESIGN, target=target)))
    assert f"- taught: the target is {words}" in text


def test_a_headline_that_charges_in_full_has_one_column() -> None:
    text = tables.headline(analyse(study(), replace(DESIGN, charge="full", settings_tried={})))
    assert text.count("speed-up, teachers' training in full") == 1
    assert "Settings tried for `plain`: not stated." in text
    assert "| – |" in text


def test_demonstration() -> None:
    analysis = analyse([], replace(DESIGN, demonstration=True))
    assert "demonstrates the tool, not the claim" in tables.title(analysis)
    assert "demonstrates" not in tables.title(analyse([], DESIGN))


def test_every_part(whole_study: Analysis) -> None:
    assert tables.every_cell(whole_study).count("×") == 2 * 2 * 9 - 18
    durations = tables.every_duration(whole_study)
    assert durations.count("| plain |") == 4
    assert durations.count("| averaged |") == 4
    assert "≥ 1." in durations
    assert "| taught over averaged |" in tables.contrasts(whole_study)
    assert "| 0.667 |" in tables.contrasts(whole_study)
    assert "| taught |" in tables.teachers(whole_study)
    grounds = tables.grounds(whole_study, ["A teacher was trained again"])
    assert "33 runs on: a machine" in grounds
    assert "degrees of freedom" in grounds
    assert "- A teacher was trained again." in grounds
    assert "Simulated coverage" in grounds


def test_half_finished() -> None:
    analysis = analyse([p for p in study() if p.steps in (3, 6) and p.seed == 1], DESIGN)
    assert "| 2 of 9 |" in tables.headline(analysis)
    grounds = tables.grounds(analysis, [])
    assert "No speed-up yet: plain: the frontier" in grounds
    assert "Not finished: plain: 3 steps (seeds 2, 3), 6 steps (seeds 2, 3), 12 steps" in grounds
    assert tables.every_duration(analyse([], DESIGN)) == ""
    assert tables.contrasts(analysis) == ""


def test_clocks_left_out() -> None:
    points = study()
    mixed = [replace(points[0], hardware="another"), *points[1:]]
    text = tables.clocks_left_out(analyse(mixed, DESIGN))
    assert text is not None
    assert text.startswith("Left out: device time, device time without waiting for data, as the")
    assert "2 different machines" in text
    lost = [replace(points[0], costs={"flops": 3e9}), *points[1:]]
    assert "not every run knows" in str(tables.clocks_left_out(analyse(lost, DESIGN)))
    assert tables.clocks_left_out(analyse(points, DESIGN)) is None


@pytest.mark.parametrize(
    ("spread", "words"),
    [
        (Spread(1e-4, 0.0, 14, 0.4), "correlate by +0.40; intervals are not narrowed"),
        (Spread(1e-4, 0.0, 14, -0.4), "correlate by -0.40; intervals are widened"),
        (Spread(1e-4, 0.0, 14, None, 0.001), "Bartlett's test, p = 0.001"),
    ],
)
def test_what_the_spread_says(whole_study: Analysis, spread: Spread, words: str) -> None:
    assert words in tables.grounds(replace(whole_study, spread=spread), [])


def test_a_baseline_that_gets_worse_is_told() -> None:
    worse = {3: 0.75, 6: 0.81, 12: 0.805, 20: 0.86}
    points = [
        replace(p, quality=worse[p.steps] + 0.002 * p.seed) if p.arm == "plain" else p
        for p in study()
    ]
    assert "`plain` gets worse with cost somewhere" in tables.grounds(analyse(points, DESIGN), [])
