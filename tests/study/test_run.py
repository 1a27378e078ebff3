"""The whole way with runs that do not train: what is run, resumed, refused and reported."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.study import fit_runs, pilot, run
from rrr_lightning.study import report as report_module
from rrr_lightning.study.run import open_study, report, run_study
from tests.study.pretend import Pretend, in_this_process
from tests.study.studies import write


@pytest.fixture
def pretend(monkeypatch: pytest.MonkeyPatch, few_replicates: None) -> Pretend:
    pretend = Pretend()
    for module in (fit_runs, pilot):
        monkeypatch.setattr(module, "forked", pretend)
    for module in (run, pilot):
        monkeypatch.setattr(module, "run_jobs", in_this_process)
    monkeypatch.setattr(report_module, "draw", lambda analysis, folder: [])
    return pretend


def go(folder: Path, name: str = "out", **changes: Any) -> str:
    stream = io.StringIO()
    file = write(folder / "made.yaml", **changes)
    run_study(open_study(file, folder / name), "cpu:1", stream=stream)
    return stream.getvalue()


def reported(home: Path) -> Any:
    return json.loads((home / "report.json").read_text())


def test_a_study_is_run_and_reported(tmp_path: Path, pretend: Pretend) -> None:
    printed = go(tmp_path)
    assert "17 of 17 runs are left" in printed
    assert "5 jobs run" in printed
    assert str(tmp_path / "out" / "report.md") in printed
    assert len(list((tmp_path / "out" / "records").glob("*.json"))) == 17
    arm = reported(tmp_path / "out")["arms"][0]
    assert arm["name"] == "distilled"
    # 1.5 times fewer steps to the same loss, each 1.25 times as expensive
    assert arm["speed_up"] == pytest.approx(1.5 / 1.25, rel=0.02)


def test_a_rerun_runs_nothing(tmp_path: Path, pretend: Pretend) -> None:
    go(tmp_path)
    before, calls = reported(tmp_path / "out"), len(pretend.calls)
    printed = go(tmp_path)
    assert "0 jobs run" in printed
    assert len(pretend.calls) == calls
    assert reported(tmp_path / "out") == before


def test_records_are_enough_on_another_machine(tmp_path: Path, pretend: Pretend) -> None:
    go(tmp_path)
    records = tmp_path / "out" / "records"
    (records / "distilled-8-2.json").unlink()
    (records / "baseline-8-2.json").unlink()
    shutil.copytree(records, tmp_path / "there" / "records")
    shutil.copy(tmp_path / "out" / "study.json", tmp_path / "there")
    pretend.calls.clear()
    printed = go(tmp_path, "there")
    ran = [name for _, name in pretend.calls if "-" in name]
    assert sorted(ran) == ["baseline-8-2", "distilled-8-2", "longer-901"]
    assert "longer-901 is trained again: its checkpoint is gone" in printed
    again, before = reported(tmp_path / "there"), reported(tmp_path / "out")
    assert again["arms"] == before["arms"]
    text = (tmp_path / "there" / "report.md").read_text()
    assert "longer-901 was trained again" in text


def test_a_study_may_grow(tmp_path: Path, pretend: Pretend) -> None:
    go(tmp_path)
    printed = go(tmp_path, seeds=[1, 2, 3])
    assert "8 of 25 runs are left" in printed


def test_another_study_is_refused(tmp_path: Path, pretend: Pretend) -> None:
    go(tmp_path)
    with pytest.raises(InputError, match="holds another study, whose quality differs"):
        go(tmp_path, quality={"metric": "val/loss", "direction": "min", "target": 0.1})


def test_a_refused_study_leaves_no_folder(tmp_path: Path, pretend: Pretend) -> None:
    with pytest.raises(InputError, match="no run logs it"):
        go(tmp_path, quality={"metric": "val/x", "direction": "min", "target": 0.3})
    assert not (tmp_path / "out").exists()


WALL = {"clock": "wall", "charge": "free"}


def move(home: Path, pattern: str) -> None:
    """Says of records that their runs were made on another machine."""
    for path in (home / "records").glob(pattern):
        record = json.loads(path.read_text())
        record["hardware"]["cpu"] = record["ledger"]["hardware"]["cpu"] = "Another processor"
        path.write_text(json.dumps(record))


def test_a_wall_clock_is_refused_on_another_machine_before_any_run(
    tmp_path: Path, pretend: Pretend
) -> None:
    go(tmp_path, headline=WALL)
    move(tmp_path / "out", "*.json")
    (tmp_path / "out" / "records" / "baseline-8-1.json").unlink()
    before = len(pretend.calls)
    with pytest.raises(InputError) as caught:
        go(tmp_path, headline=WALL)
    assert str(caught.value) == (
        "headline.clock: cannot compare runs of different machines: the records are of "
        "Another processor, 1 threads, and this is A processor, 1 threads; found 'wall'; "
        "accepted: flops; or one machine for all runs"
    )
    assert not [name for _, name in pretend.calls[before:] if "-" in name]  # pilots alone
    stream = io.StringIO()  # what there is can be reported all the same
    report(open_study(str(tmp_path / "made.yaml"), tmp_path / "out"), stream)
    assert reported(tmp_path / "out")["clock"] == "wall"


def test_students_may_have_teachers_from_another_machine(tmp_path: Path, pretend: Pretend) -> None:
    go(tmp_path, headline=WALL)
    move(tmp_path / "out", "longer-*.json")
    (tmp_path / "out" / "records" / "baseline-8-1.json").unlink()
    go(tmp_path, headline=WALL)
    found = reported(tmp_path / "out")
    assert found["clock"] == "wall"
    assert found["arms"][0]["speed_up"] is not None
    assert "A processor, 1 threads" in found["machines"]
    assert "took place on Another processor" in found["arms"][0]["full_charge"]["why"]


def test_where_machines_differ_the_report_is_by_flops(tmp_path: Path, pretend: Pretend) -> None:
    go(tmp_path, headline=WALL)
    by_time = reported(tmp_path / "out")["arms"][0]
    move(tmp_path / "out", "baseline-*-1.json")
    (tmp_path / "out" / "records" / "distilled-8-2.json").unlink()
    printed = go(tmp_path, headline=WALL)  # there is nothing left to spoil
    line = "The headline is by FLOPs and not by device time, as the runs were made on different"
    assert line in printed
    assert line in (tmp_path / "out" / "report.md").read_text()
    found = reported(tmp_path / "out")["arms"][0]
    assert (by_time["clock"], found["clock"]) == ("wall", "flops")
    assert {cell["clock"] for cell in found["cells"]} == {"flops"}
    assert found["speed_up"] is not None


def test_half_a_study_is_reported(tmp_path: Path, pretend: Pretend) -> None:
    go(tmp_path)
    for path in (tmp_path / "out" / "records").glob("distilled-*-2.json"):
        path.unlink()
    stream = io.StringIO()
    report(open_study(str(tmp_path / "made.yaml"), tmp_path / "out"), stream)
    assert "report.md" in stream.getvalue()
    empty = io.StringIO()
    report(open_study(str(tmp_path / "made.yaml"), tmp_path / "new"), empty)
    assert "no run has finished yet" in empty.getvalue()


def test_a_tuning_study_is_ranked(tmp_path: Path, pretend: Pretend) -> None:
    printed = go(tmp_path, purpose="tuning", durations=[8])
    assert "no result, but a choice of settings" in printed
    assert [arm["name"] for arm in reported(tmp_path / "out")["arms"]] == ["distilled", "baseline"]


def test_how_settings_were_chosen_is_said(tmp_path: Path, pretend: Pretend) -> None:
    go(tmp_path, tuning="5 trials each, on a tenth of the training images")
    text = (tmp_path / "out" / "report.md").read_text()
    assert "5 trials each, on a tenth of the training images" in text


def test_a_demonstration_says_so(tmp_path: Path, pretend: Pretend) -> None:
    go(tmp_path, purpose="demonstration")
    assert "demonstrat" in (tmp_path / "out" / "report.md").read_text()
