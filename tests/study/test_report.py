"""The report: promised keys, plain types, the same every time, and what its parts say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.study.comparison import Analysis, Estimate, analyse
from rrr_lightning.study.confidence import PooledVariance
from rrr_lightning.study.config import Study, make_study
from rrr_lightning.study.report import (
    as_json,
    charge_text,
    estimate_text,
    markdown,
    speed_up_text,
    students_text,
    table,
    write_ranking,
    write_report,
)
from rrr_lightning.study.results import Result
from tests.study.made import STUDY, aimed_at, judged_by, study
from tests.study.studies import content

pytestmark = pytest.mark.usefixtures("few_replicates")


def text_of(analysis: Analysis, *notes: str) -> str:
    return markdown(as_json(analysis, "made", notes), analysis)


def content_of(results: Sequence[Result], design: Study = STUDY) -> dict[str, Any]:
    return as_json(analyse(results, design), "made")


def test_promised_keys(whole_study: Analysis) -> None:
    found = as_json(whole_study, "made", ["a note"])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    first = found["arms"][0]
    promised = {"name", "speed_up", "low", "high", "target", "clock", "charge", "n"}
    assert promised <= set(first)
    assert (first["name"], first["clock"], first["charge"], first["n"]) == (
        "taught", "flops", "free", 3,
    )  # fmt: skip
    assert first["low"] < first["speed_up"] < first["high"]
    assert first["coverage"] >= 0.93
    assert first["full_charge"]["speed_up"] < 1
    assert len(first["cells"]) == 9
    assert first["cells"][0]["speed_up"] == first["speed_up"]
    assert [each["steps"] for each in first["durations"]] == [3, 6, 12]
    assert first["durations"][0]["gain_at_equal_cost"]["gain"] > 0
    assert first["break_even_students"]["students"] > 1
    assert found["contrasts"][0]["arms"] == ["taught", "averaged"]
    assert [each["steps"] for each in found["frontier"]] == [3, 6, 12, 20]
    assert found["runs"] == {"done": 33, "planned": 33, "missing": []}
    assert found["settings_tried"]["plain"] == 6
    assert found["notes"] == ["a note"]


def test_the_order_of_the_runs_does_not_matter(tmp_path: Path) -> None:
    results = study()
    for name, ordered in (("first", results), ("second", results[::-1])):
        (tmp_path / name).mkdir()
        text = write_report(analyse(ordered, STUDY), "made", tmp_path / name)
        assert (tmp_path / name / "report.md").read_text() == text
    for name in ("report.json", "report.md"):
        assert (tmp_path / "first" / name).read_text() == (tmp_path / "second" / name).read_text()


def test_headline_comes_first_with_the_full_charge_beside_it(whole_study: Analysis) -> None:
    text = markdown(as_json(whole_study, "made"), whole_study, [("a.png", "A picture")])
    heads = [line for line in text.splitlines() if line.startswith(("#", "| arm | speed-up", "!["))]
    assert heads[:3] == [
        "# Study: made",
        "| arm | speed-up, teachers free | speed-up, teachers' training in full | runs | "
        "settings tried |",
        "![A picture](a.png)",
    ]
    assert "`val/accuracy` = 0.84, fixed before the runs" in text
    row = next(line for line in text.splitlines() if line.startswith("| taught")).split(" | ")
    assert row[1].startswith("1.4")
    assert row[2].startswith("0.3")
    assert row[3:] == ["9", "6 |"]
    assert "Settings tried for `plain`: 6. 2 arms are shown" in text


def test_half_finished_and_empty() -> None:
    half = analyse([result for result in study() if result.steps < 12], STUDY)
    assert "Not finished: plain: 12 steps (seeds 1, 2, 3), 20 steps (seeds 1, 2, 3)" in text_of(
        half
    )
    assert as_json(half, "made")["runs"]["done"] == 12
    few = text_of(analyse([p for p in study() if p.steps in (3, 6) and p.seed == 1], STUDY))
    assert "| 2 of 9 |" in few
    assert "No speed-up yet: plain: the frontier" in few
    assert "Not finished: plain: 3 steps (seeds 2, 3), 6 steps (seeds 2, 3), 12 steps" in few
    empty = content_of([])
    assert (empty["arms"][0]["speed_up"], empty["arms"][0]["n"]) == (None, 0)
    assert "missing: 3, 6, 12, 20" in empty["why"]
    assert empty["noise"] is None
    nothing = text_of(analyse([], STUDY))
    assert "## Every duration" not in nothing
    assert "## Arms at equal steps" not in nothing


def test_runs_of_different_machines_are_compared_by_flops() -> None:
    results = study()
    mixed = [replace(results[0], machine="another"), *results[1:]]
    found = content_of(mixed, judged_by("wall"))
    assert found["clock"] == found["arms"][0]["clock"] == "flops"
    assert {cell["clock"] for cell in found["arms"][0]["cells"]} == {"flops"}
    assert found["arms"][0]["speed_up"] == content_of(results)["arms"][0]["speed_up"]


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
    text = text_of(analyse(study(speed_up=speed_up), aimed_at(target)))
    assert f"- taught: the target is {words}" in text


def test_a_headline_that_charges_in_full_has_one_column() -> None:
    full = replace(judged_by(charge="full"), settings_tried={})
    text = text_of(analyse(study(), full)).partition("## Every clock")[0]
    assert text.count("speed-up, teachers' training in full") == 1
    assert "Settings tried for `plain`: not stated." in text
    assert "| – |" in text


def test_demonstration() -> None:
    shown = text_of(analyse([], replace(STUDY, purpose="demonstration")))
    assert "demonstrates the tool, not the claim" in shown
    assert "demonstrates" not in text_of(analyse([], STUDY))


def test_every_part(whole_study: Analysis) -> None:
    text = text_of(whole_study, "A teacher was trained again")
    parts = dict(part.split("\n\n", 1) for part in text.split("\n## ")[1:])
    assert parts["Every clock and charge"].count("×") == 2 * 2 * 9 - 18
    durations = parts["Every duration"]
    assert durations.count("| plain |") == 4
    assert durations.count("| averaged |") == 4
    assert "≥ 1." in durations
    assert "| taught over averaged |" in parts["Arms at equal steps"]
    assert "| 0.667 |" in parts["Arms at equal steps"]
    assert "| taught |" in parts["When teachers have paid"]
    basis = parts["What this rests on"]
    assert "33 runs on: a machine" in basis
    assert "degrees of freedom" in basis
    assert "- A teacher was trained again." in basis
    assert "Simulated coverage" in basis


def test_cost_metrics_left_out() -> None:
    results = study()
    mixed = [replace(results[0], machine="another"), *results[1:]]
    text = text_of(analyse(mixed, STUDY))
    assert "Left out: device time, device time without waiting for data, as the" in text
    assert "2 different machines" in text
    lost = [replace(results[0], costs={"flops": 3e9}), *results[1:]]
    assert "not every run knows" in text_of(analyse(lost, STUDY))
    assert "Left out" not in text_of(analyse(results, STUDY))


@pytest.mark.parametrize(
    ("variance", "words"),
    [
        (PooledVariance(1e-4, 0.0, 14, 0.4), "correlate by +0.40; intervals are not narrowed"),
        (PooledVariance(1e-4, 0.0, 14, -0.4), "correlate by -0.40; intervals are widened"),
        (PooledVariance(1e-4, 0.0, 14, None, 0.001), "Bartlett's test, p = 0.001"),
    ],
)
def test_what_the_variance_says(
    whole_study: Analysis, variance: PooledVariance, words: str
) -> None:
    assert words in text_of(replace(whole_study, variance=variance))


def test_a_baseline_that_gets_worse_is_reported() -> None:
    worse = {3: 0.75, 6: 0.81, 12: 0.805, 20: 0.86}
    results = [
        replace(p, quality=worse[p.steps] + 0.002 * p.seed) if p.arm == "plain" else p
        for p in study()
    ]
    assert "`plain` gets worse with cost somewhere" in text_of(analyse(results, STUDY))


def speed_up(*numbers: Any, **more: Any) -> str:
    return speed_up_text(Estimate(*numbers, **more).as_json("speed_up"))


def students(*numbers: Any, **more: Any) -> str:
    return students_text(Estimate(*numbers, **more).as_json("students"))


def test_numbers_as_text() -> None:
    assert speed_up(1.384, low=1.21, high=1.567) == "1.38× (1.21 to 1.57)"
    assert speed_up(1.9, ">=", low=1.6) == "≥ 1.90× (from 1.60)"
    assert speed_up(0.5, "<=", high=0.6) == "≤ 0.50× (up to 0.60)"
    assert speed_up(1.2, why="one seed") == "1.20× (no interval)"
    assert speed_up(why="not yet") == "–"
    gain = Estimate(-0.02, "<=", high=0.0).as_json("gain")
    assert estimate_text(gain, "gain", "+.4f") == "≤ -0.0200 (up to +0.0000)"
    ratio = Estimate(0.98, low=0.94, high=1.03).as_json("error_ratio")
    assert estimate_text(ratio, "error_ratio", ".3f") == "0.980 (0.940 to 1.030)"
    assert students(6.2, low=5.0, high=8.1) == "7 (5 to 9)"
    assert students(6.2, low=5.0) == "7 (5 to never)"
    assert students(6.2, "<=", low=5.0, high=9.0) == "≤ 7 (5 to 9)"
    assert students(6.2, why="one seed") == "7"
    assert students(why="never") == "–"
    assert [students(number) for number in (0.2, 3.0, 3.0 + 1e-12)] == ["1", "3", "3"]
    assert charge_text("amortized", 10) == "teachers' training shared by 10 students"
    assert table(["a", "b"], [["x|y", 1]]) == "| a | b |\n| --- | --- |\n| x\\|y | 1 |"


@pytest.mark.parametrize(("direction", "best"), [("min", "baseline"), ("max", "distilled")])
def test_the_best_comes_first(tmp_path: Path, direction: str, best: str) -> None:
    quality = {"metric": "val/loss", "direction": direction}
    study = make_study(content(durations=[8], purpose="tuning", quality=quality))
    results = [
        Result(arm, 8, seed, value + seed / 100, {"flops": 1.0})
        for arm, value in (("baseline", 0.2), ("distilled", 0.4))
        for seed in (1, 2)
    ]
    text = write_ranking(results[:-1], study, tmp_path)
    assert (tmp_path / "report.md").read_text() == text
    arms = json.loads((tmp_path / "report.json").read_text())["arms"]
    assert arms[0]["name"] == best
    by_name = {arm["name"]: arm for arm in arms}
    assert by_name["baseline"]["quality"] == pytest.approx(0.215)
    assert by_name["distilled"]["n"] == 1
    assert by_name["distilled"]["spread"] is None
    assert "| baseline | 8 | 2 | 0.2150 ± 0.0071 |" in text
    assert "no result, but a choice" in text
