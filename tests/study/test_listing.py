"""Listings: the runs in their order, the hours by kind."""

from __future__ import annotations

from pathlib import Path

from rrr_lightning.study.listing import list_hours, list_runs
from rrr_lightning.study.pilot import Timing
from rrr_lightning.study.plan import make_plan
from rrr_lightning.study.study_file import make_study
from tests.study.studies import content, record


def timing(kind: str, distilled: float | None = None) -> Timing:
    share = 0.5 if distilled else 0.0
    return Timing(kind, 0.1, distilled, share, 0.1, 0.1, 7.0, 2.0, 2, "A processor")


def test_runs_and_what_they_need(tmp_path: Path) -> None:
    runs = make_plan(make_study(content()), tmp_path)
    lines = list_runs(runs, {"baseline-4-1": record(runs[1], 0.3)}).splitlines()
    assert lines[1].split() == ["longer-901", "60", "901"]
    assert lines[2].endswith("has finished")
    assert [line.split() for line in lines if line.startswith("distilled-32-2")] == [
        ["distilled-32-2", "32", "2", "longer-901"]
    ]
    assert lines[-1] == "17 runs, 16 of them left"


def test_hours_are_those_of_the_devices(tmp_path: Path) -> None:
    runs = make_plan(make_study(content()), tmp_path)
    timings = {name: timing(name) for name in ("longer", "baseline")}
    timings["distilled"] = timing("distilled", 0.3)
    text = list_hours(runs, {}, timings)
    # set-up 7 s, validation 2 s each 5 steps, 0.2 s per step or 0.3 s where half are distilled
    teacher = 7 + 60 * 0.2 + 12 * 2
    plain = 2 * sum(7 + steps * 0.2 + (1 + (steps - 1) // 5) * 2 for steps in (4, 8, 16, 32))
    taught = 2 * sum(7 + steps * 0.3 + (1 + (steps - 1) // 5) * 2 for steps in (4, 8, 16, 32))
    hours = 2 * (teacher - 11 * 2 + plain + taught) / 3600  # the teacher is validated once
    assert f"{hours:.3f} device-hours" in text
    assert "100.0 plain / 300.0 distilled" in text
    assert "A processor" in text
    assert "judges" not in text
    assert "not among these hours: the command that judges" in list_hours(runs, {}, timings, True)
