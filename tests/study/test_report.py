"""The files of a report: promised keys, plain types, the same every time, and never half of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.study.analysis import Analysis
from rrr_lightning.study.report import as_json, build_report, markdown, write_report
from tests.study.made import DESIGN, study

pytestmark = pytest.mark.usefixtures("few_replicates")


def test_promised_keys(whole_study: Analysis) -> None:
    found = as_json(whole_study, ["a note"])
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
    points = study()
    first = write_report(points, DESIGN, tmp_path / "first")
    second = write_report(points[::-1], DESIGN, tmp_path / "second")
    assert first == second
    for name in ("report.json", "report.md"):
        assert (tmp_path / "first" / name).read_text() == (tmp_path / "second" / name).read_text()
    for line in first.splitlines():
        if line.startswith("!["):
            assert (tmp_path / "first" / line.split("(")[-1].rstrip(")")).exists()


def test_headline_comes_first(whole_study: Analysis) -> None:
    text = markdown(whole_study, pictures=[("a.png", "A picture")])
    heads = [line for line in text.splitlines() if line.startswith(("#", "| arm | speed-up", "!["))]
    assert heads[:3] == [
        "# Study: made",
        "| arm | speed-up, teachers free | speed-up, teachers' training in full | runs | "
        "settings tried |",
        "![A picture](a.png)",
    ]


def test_half_finished_and_empty(tmp_path: Path) -> None:
    half = [point for point in study() if point.steps < 12]
    text = write_report(half, DESIGN, tmp_path)
    assert "Not finished: plain: 12 steps (seeds 1, 2, 3), 20 steps (seeds 1, 2, 3)" in text
    assert json.loads((tmp_path / "report.json").read_text())["runs"]["done"] == 12
    empty = build_report([], DESIGN)
    assert empty["arms"][0]["speed_up"] is None
    assert empty["arms"][0]["n"] == 0
    assert "missing: 3, 6, 12, 20" in empty["why"]
    assert empty["noise"] is None


def test_a_report_of_nothing_that_can_be_judged(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="names no seed"):
        write_report(study(), replace(DESIGN, seeds=()), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_runs_of_different_machines_are_compared_by_flops() -> None:
    points = study()
    mixed = [replace(points[0], hardware="another"), *points[1:]]
    found = build_report(mixed, replace(DESIGN, clock="wall"))
    assert found["clock"] == found["arms"][0]["clock"] == "flops"
    assert {cell["clock"] for cell in found["arms"][0]["cells"]} == {"flops"}
    assert found["arms"][0]["speed_up"] == build_report(points, DESIGN)["arms"][0]["speed_up"]
