"""Records: small, free of the machine's paths, and enough for the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.study.clocks import charged, machines, usable_clocks
from rrr_lightning.study.plan import Run, make_plan
from rrr_lightning.study.points import CLOCKS
from rrr_lightning.study.records import (
    CURVE_ROWS,
    Record,
    final_value,
    machine,
    make_design,
    make_points,
    read_curve,
    read_record,
    read_records,
    record_path,
    thin,
)
from rrr_lightning.study.study_file import make_study
from tests.study.studies import HARDWARE, content, ledger, record

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
STUDY = make_study(content())


def plan(home: Path) -> dict[str, Run]:
    return {run.name: run for run in make_plan(STUDY, home)}


def test_a_record_is_read_as_it_was_written_and_names_no_machine(tmp_path: Path) -> None:
    run = plan(tmp_path)["distilled-8-1"]
    written = record(run, 0.4)
    written.write(tmp_path)
    assert read_record(tmp_path, run.name) == written
    assert read_records(tmp_path, [run]) == {run.name: written}
    assert str(tmp_path) not in record_path(tmp_path, run.name).read_text()
    assert read_record(tmp_path, "baseline-8-1") is None


def test_records_that_were_committed_stay_readable() -> None:
    homes = {path.parents[1] for path in RESULTS.rglob("records/*.json")}
    assert homes
    for home in homes:
        names = [path.stem for path in (home / "records").iterdir()]
        records = {name: read_record(home, name) for name in names}
        points = make_points({name: each for name, each in records.items() if each is not None})
        assert points
        assert usable_clocks(points, CLOCKS) == list(CLOCKS)
        assert all(set(point.teacher_costs) == set(CLOCKS) for point in points if point.taught)


def test_a_record_of_other_settings_is_refused(tmp_path: Path) -> None:
    run = plan(tmp_path)["baseline-8-1"]
    record(run, 0.4, fingerprint="0" * 64).write(tmp_path)
    with pytest.raises(InputError, match="baseline-8-1: was run with other settings"):
        read_records(tmp_path, [run])


@pytest.mark.parametrize("text", ["{", "[]", '{"run": "x"}'])
def test_a_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    path = record_path(tmp_path, "x")
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(InputError, match="--out: is no record of a run"):
        read_record(tmp_path, "x")


def test_a_record_of_another_version_is_refused(tmp_path: Path) -> None:
    run = plan(tmp_path)["baseline-8-1"]
    record(run, 0.4, version=9).write(tmp_path)
    with pytest.raises(InputError, match="has the version 9"):
        read_record(tmp_path, run.name)


def test_a_curve_counts_steps_done(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss,val/loss\n0,2.5,\n9,1.5,1.25\n")
    curve = read_curve(tmp_path)
    assert curve == [
        {"step": 1, "train/loss": 2.5},
        {"step": 10, "train/loss": 1.5, "val/loss": 1.25},
    ]
    assert final_value(curve, "val/loss", 10) == 1.25


def test_a_metric_that_is_never_logged_is_refused() -> None:
    curve = [{"step": 1, "train/loss": 2.5, "val/loss": 1.0}]
    with pytest.raises(InputError) as error:
        final_value(curve, "val/los", 1)
    assert str(error.value) == (
        "quality.metric: no run logs it; did you mean 'val/loss'?; found 'val/los'; "
        "accepted: train/loss, val/loss"
    )
    with pytest.raises(InputError, match="is not logged at the last step"):
        final_value(curve, "val/loss", 2)


def test_a_thin_curve_keeps_validations_and_leaves_costs_to_the_ledger() -> None:
    curve = [
        {"step": step, "train/loss": 1 / 3, "cost/seconds": 1.0}
        | ({"val/loss": 0.5} if step % 777 == 0 else {})
        for step in range(1, 2001)
    ]
    short = thin(curve)
    assert len(short) <= CURVE_ROWS + 2
    assert [row["step"] for row in short if "val/loss" in row] == [777, 1554]
    assert short[0] == {"step": 1, "train/loss": 0.333333}


def test_points_carry_their_teachers_whole_training(tmp_path: Path) -> None:
    runs = plan(tmp_path)
    taught, plain, teacher = (runs[x] for x in ("distilled-8-1", "baseline-8-1", "longer-901"))
    records = {run.name: record(run, 0.4) for run in (taught, plain, teacher)}
    by_arm = {point.arm: point for point in make_points(records)}
    assert set(by_arm) == {"baseline", "distilled"}
    assert by_arm["baseline"].teacher_costs == {}
    assert not by_arm["baseline"].taught
    assert by_arm["distilled"].teacher_costs["flops"] == pytest.approx(60e9)
    assert by_arm["distilled"].costs["flops"] == pytest.approx(1.25 * 8e9)
    assert by_arm["distilled"].hardware == "A processor, 1 threads"
    del records["longer-901"]  # its cost is then unknown, and not zero
    (point,) = (each for each in make_points(records) if each.arm == "distilled")
    assert point.teacher_costs == {}
    assert point.taught


def test_teachers_from_elsewhere_bring_their_ledgers(tmp_path: Path) -> None:
    run = plan(tmp_path)["baseline-8-1"]
    told = ledger(8, teachers=("old.ckpt",))
    told["teachers"][0]["ledger"] = ledger(100, 5e9)
    (point,) = make_points({run.name: record(run, 0.4, ledger=told)})
    assert point.teacher_costs["flops"] == pytest.approx(5e9)


def test_teachers_from_elsewhere_bring_their_own_teachers(tmp_path: Path) -> None:
    run = plan(tmp_path)["baseline-8-1"]
    told = ledger(8, teachers=("old.ckpt", "older.ckpt"))
    oldest = ledger(10, 1e9) | {"run": "a"}
    for teacher, part in zip(told["teachers"], (0.5, 1.0), strict=True):
        # Two checkpoints of one training count once, as far as the longer one went.
        teacher["ledger"] = ledger(100, part * 5e9, ("its.ckpt",)) | {"run": "b", "steps": part}
        teacher["ledger"]["teachers"][0]["ledger"] = oldest
    (point,) = make_points({run.name: record(run, 0.4, ledger=told)})
    assert point.teacher_costs["flops"] == pytest.approx(1.25 * 5e9 + 1e9)
    told["teachers"][1]["ledger"]["teachers"][0]["ledger"] = None
    told["teachers"][1]["ledger"]["teachers"][0]["name"] = "unknown.ckpt"
    (point,) = make_points({run.name: record(run, 0.4, ledger=told)})
    assert point.teacher_costs == {}


def test_teachers_of_teachers_are_charged_once(tmp_path: Path) -> None:
    teachers = {
        "old": {"steps": 10, "seeds": [7]},
        "new": {"steps": 20, "seeds": [8, 9], "overlay": {"distillation": {"teachers": "old"}}},
    }
    arms = {"baseline": {}, "d": {"overlay": {"distillation": {"teachers": "new"}}}}
    runs = make_plan(make_study(content(teachers=teachers, arms=arms)), tmp_path)
    records = {run.name: record(run, 0.4) for run in runs}
    point = next(each for each in make_points(records) if each.arm == "d")
    assert point.teacher_costs["flops"] == pytest.approx(1e9 * (10 + 2 * 1.25 * 20))


def test_machines_in_words() -> None:
    assert machine(HARDWARE, {}) == "A processor, 1 threads"
    large = {**HARDWARE, "device": "NVIDIA H200"}
    assert machine(large, {"world_size": 1}) == "NVIDIA H200"
    assert machine(large, {"world_size": 8}) == "8 × NVIDIA H200"
    assert machine(None, {}) == "a machine that is not known"


def test_points_know_the_machines_of_runs_and_teachers(tmp_path: Path) -> None:
    runs = plan(tmp_path)
    large = {**HARDWARE, "device": "NVIDIA H200"}
    taught = record(runs["distilled-8-1"], 0.4)
    teacher = record(runs["longer-901"], 0.4)
    on_large = replace(teacher, hardware=large, ledger={**teacher.ledger, "hardware": large})
    records = {"distilled-8-1": taught, "longer-901": on_large}
    (point,) = make_points(records)
    assert list(point.teacher_machines) == ["NVIDIA H200"]
    assert charged(point, "wall", "full", 1) is None
    # A run that was resumed on another machine is comparable to no other.
    resumed = [
        replace(record(runs[name], 0.4), ledger={**taught.ledger, "mixed_hardware": True})
        for name in ("distilled-8-1", "distilled-8-2")
    ]
    points = make_points({each.run: each for each in resumed})
    assert len(machines(points)) == 2
    assert usable_clocks(points, CLOCKS) == ["flops"]


def test_the_design_is_the_studys() -> None:
    design = make_design(STUDY, "name")
    assert (design.name, design.metric, design.direction) == ("name", "val/loss", "min")
    assert design.durations == {"baseline": (4, 8, 16, 32), "distilled": (4, 8, 16, 32)}
    assert (design.clock, design.charge, design.target) == ("flops", "free", 0.3)


def test_records_are_small(tmp_path: Path) -> None:
    run = plan(tmp_path)["distilled-8-1"]
    row = {"train/loss": 0.123456, "train/distillation_loss": 0.123456, "lr": 0.123456}
    curve = [{"step": step, **row} for step in range(1, CURVE_ROWS + 1)]
    written: Record = record(run, 0.4, curve=curve)
    written.write(tmp_path)
    assert record_path(tmp_path, run.name).stat().st_size < 30_000
