"""Records: small, free of the machine's paths, and enough for the report."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.study.config import COST_METRICS, make_study
from rrr_lightning.study.plan import PlannedRun, make_plan
from rrr_lightning.study.results import (
    charged,
    comparable,
    machine,
    machines,
    make_results,
    missing_runs,
    phase_seconds,
    read_record,
    read_results,
    record_path,
    run_costs,
    seed_groups,
    usable_cost_metrics,
    write_record,
)
from tests.study.made import STUDY as MADE
from tests.study.made import judged_by, runs, study
from tests.study.studies import HARDWARE, content, ledger, record

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"
STUDY = make_study(content())


def plan(home: Path) -> dict[str, PlannedRun]:
    return {run.name: run for run in make_plan(STUDY, home)}


def test_a_record_is_read_as_it_was_written_and_names_no_machine(tmp_path: Path) -> None:
    run = plan(tmp_path)["distilled-8-1"]
    written = record(run, 0.4)
    write_record(tmp_path, written)
    assert read_record(tmp_path, run.name) == written
    assert read_results(tmp_path, [run]) == make_results({run.name: written})
    assert str(tmp_path) not in record_path(tmp_path, run.name).read_text()
    assert read_record(tmp_path, "baseline-8-1") is None


def test_records_that_were_committed_stay_readable() -> None:
    homes = {path.parents[1] for path in RESULTS.rglob("records/*.json")}
    assert homes
    for home in homes:
        names = [path.stem for path in (home / "records").iterdir()]
        records = {name: read_record(home, name) for name in names}
        read = make_results({name: each for name, each in records.items() if each is not None})
        results = [each for each in read.values() if each.role == "student"]
        assert results
        assert usable_cost_metrics(results, COST_METRICS) == list(COST_METRICS)
        assert all(
            set(result.teacher_costs) == set(COST_METRICS)
            for result in results
            if result.has_teachers
        )


def test_a_record_of_other_settings_is_refused(tmp_path: Path) -> None:
    run = plan(tmp_path)["baseline-8-1"]
    write_record(tmp_path, record(run, 0.4, fingerprint="0" * 64))
    with pytest.raises(InputError, match="baseline-8-1: was run with other settings"):
        read_results(tmp_path, [run])


@pytest.mark.parametrize("text", ["{", "[]", '{"run": "x"}'])
def test_a_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    path = record_path(tmp_path, "x")
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(InputError, match="--out: is no record of a run"):
        read_record(tmp_path, "x")


def test_a_record_of_another_version_is_refused(tmp_path: Path) -> None:
    run = plan(tmp_path)["baseline-8-1"]
    write_record(tmp_path, record(run, 0.4, version=9))
    with pytest.raises(InputError, match="has the version 9"):
        read_record(tmp_path, run.name)


def test_results_carry_their_teachers_whole_training(tmp_path: Path) -> None:
    runs = plan(tmp_path)
    taught, plain, teacher = (runs[x] for x in ("distilled-8-1", "baseline-8-1", "longer-901"))
    records = {run.name: record(run, 0.4) for run in (taught, plain, teacher)}
    by_arm = {result.arm: result for result in make_results(records).values()}
    assert set(by_arm) == {"baseline", "distilled", "longer-901"}
    assert by_arm["baseline"].teacher_costs == {}
    assert not by_arm["baseline"].has_teachers
    assert by_arm["distilled"].teacher_costs["flops"] == pytest.approx(60e9)
    assert by_arm["distilled"].costs["flops"] == pytest.approx(1.25 * 8e9)
    assert by_arm["distilled"].machine == "A processor, 1 threads"
    del records["longer-901"]  # its cost is then unknown, and not zero
    result = make_results(records)["distilled-8-1"]
    assert result.teacher_costs == {}
    assert result.has_teachers


def test_teachers_from_elsewhere_bring_their_ledgers(tmp_path: Path) -> None:
    run = plan(tmp_path)["baseline-8-1"]
    told = ledger(8, teachers=("old.ckpt",))
    told["teachers"][0]["ledger"] = ledger(100, 5e9)
    result = make_results({run.name: record(run, 0.4, ledger=told)})[run.name]
    assert result.teacher_costs["flops"] == pytest.approx(5e9)


def test_teachers_from_elsewhere_bring_their_own_teachers(tmp_path: Path) -> None:
    run = plan(tmp_path)["baseline-8-1"]
    told = ledger(8, teachers=("old.ckpt", "older.ckpt"))
    oldest = ledger(10, 1e9) | {"run": "a"}
    for teacher, part in zip(told["teachers"], (0.5, 1.0), strict=True):
        # Two checkpoints of one training count once, as far as the longer one went.
        teacher["ledger"] = ledger(100, part * 5e9, ("its.ckpt",)) | {"run": "b", "steps": part}
        teacher["ledger"]["teachers"][0]["ledger"] = oldest
    result = make_results({run.name: record(run, 0.4, ledger=told)})[run.name]
    assert result.teacher_costs["flops"] == pytest.approx(1.25 * 5e9 + 1e9)
    told["teachers"][1]["ledger"]["teachers"][0]["ledger"] = None
    told["teachers"][1]["ledger"]["teachers"][0]["name"] = "unknown.ckpt"
    result = make_results({run.name: record(run, 0.4, ledger=told)})[run.name]
    assert result.teacher_costs == {}


def test_teachers_of_teachers_are_charged_once(tmp_path: Path) -> None:
    teachers = {
        "old": {"steps": 10, "seeds": [7]},
        "new": {"steps": 20, "seeds": [8, 9], "overlay": {"distillation": {"teachers": "old"}}},
    }
    arms = {"baseline": {}, "d": {"overlay": {"distillation": {"teachers": "new"}}}}
    runs = make_plan(make_study(content(teachers=teachers, arms=arms)), tmp_path)
    records = {run.name: record(run, 0.4) for run in runs}
    result = next(each for each in make_results(records).values() if each.arm == "d")
    assert result.teacher_costs["flops"] == pytest.approx(1e9 * (10 + 2 * 1.25 * 20))


def test_machines_in_words() -> None:
    assert machine(HARDWARE, {}) == "A processor, 1 threads"
    large = {**HARDWARE, "device": "NVIDIA H200"}
    assert machine(large, {"world_size": 1}) == "NVIDIA H200"
    assert machine(large, {"world_size": 8}) == "8 × NVIDIA H200"
    assert machine(None, {}) == "a machine that is not known"


def test_results_know_the_machines_of_runs_and_teachers(tmp_path: Path) -> None:
    runs = plan(tmp_path)
    large = {**HARDWARE, "device": "NVIDIA H200"}
    taught = record(runs["distilled-8-1"], 0.4)
    teacher = record(runs["longer-901"], 0.4, hardware=large)
    teacher["ledger"]["hardware"] = large
    result = make_results({"distilled-8-1": taught, "longer-901": teacher})["distilled-8-1"]
    assert list(result.teacher_machines) == ["NVIDIA H200"]
    assert charged(result, "wall", "full", 1) is None
    # A run that was resumed on another machine is comparable to no other.
    resumed = {
        name: record(runs[name], 0.4, ledger={**taught["ledger"], "mixed_hardware": True})
        for name in ("distilled-8-1", "distilled-8-2")
    }
    results = list(make_results(resumed).values())
    assert len(machines(results)) == 2
    assert usable_cost_metrics(results, COST_METRICS) == ["flops"]


def phases_ledger(**changes: Any) -> dict[str, Any]:
    seconds = {
        "student_step": 10.0,
        "teacher_forward": 3.0,
        "data_wait": 2.0,
        "validation": 5.0,
        "checkpoint": 1.0,
        "set_up": 4.0,
        "other": 0.5,
    }
    return {
        "steps": 100,
        "redone_steps": 0,
        "world_size": 2,
        "phases": {name: {"seconds": value} for name, value in seconds.items()},
        "flops": {"student": 6e9, "teacher": 2e9},
        **changes,
    }


def test_cost_metrics() -> None:
    assert run_costs(phases_ledger()) == {"wall": 31.0, "wall_without_data": 27.0, "flops": 8e9}
    assert phase_seconds(phases_ledger())["validation"] == 10.0


def test_redone_steps_are_no_cost_of_an_arm() -> None:
    found = run_costs(phases_ledger(redone_steps=20))
    assert found == pytest.approx({"wall": 24.8, "wall_without_data": 21.6, "flops": 6.4e9})


@pytest.mark.parametrize("unknown", ["student", "teacher"])
def test_unknown_cost_metrics_are_left_out(unknown: str) -> None:
    flops = {"student": 6e9, "teacher": 2e9, unknown: None}
    assert set(run_costs(phases_ledger(flops=flops))) == {"wall", "wall_without_data"}


def test_charges() -> None:
    result = runs("taught", (6,), teacher=20.0)[0]
    assert charged(result, "wall", "free", 10) == 72
    assert charged(result, "wall", "full", 10) == 72 + 240
    assert charged(result, "wall", "amortized", 10) == 72 + 24
    unknown = replace(result, teacher_costs={"flops": 1e9})
    assert charged(unknown, "wall", "full", 10) is None
    assert charged(replace(unknown, has_teachers=False), "wall", "full", 10) == 72
    never_known = replace(result, teacher_costs={}, has_teachers=True)
    assert charged(never_known, "flops", "full", 10) is None
    assert charged(never_known, "flops", "free", 10) == 6e9


def test_seconds_of_other_machines_are_not_added() -> None:
    result = replace(runs("taught", (6,), teacher=20.0)[0], teacher_machines=("a big machine",))
    for cost_metric in ("wall", "wall_without_data"):
        assert charged(result, cost_metric, "full", 10) is None
        assert charged(result, cost_metric, "amortized", 10) is None
        assert charged(result, cost_metric, "free", 10) == result.costs[cost_metric]
    assert charged(result, "flops", "full", 10) == 26e9
    full = judged_by("wall", "full")
    assert comparable([result], full).cost_metric == "flops"
    assert comparable([result], judged_by("wall")).cost_metric == "wall"
    here = replace(result, teacher_machines=("a machine",))
    assert charged(here, "wall", "full", 10) == 72 + 240
    assert comparable([here], full).cost_metric == "wall"


def test_groups_in_the_order_of_costs() -> None:
    groups = seed_groups(study(), MADE, "taught", "wall", "free")
    assert [group.steps for group in groups] == [3, 6, 12]
    assert groups[0].seeds == (1, 2, 3)
    assert np.allclose(np.exp(groups[1].log_costs), 96)
    assert seed_groups(study(), MADE, "missing", "wall", "free") == []


def test_groups_that_cannot_be_made() -> None:
    unknown = study(teacher_costs={}, has_teachers=True)
    with pytest.raises(InputError, match="taught: the cost of the training of its teachers is not"):
        seed_groups(unknown, MADE, "taught", "flops", "full")
    elsewhere = study(teacher_machines=("a big machine",))
    with pytest.raises(InputError, match="by the clock wall, for it took place on a big machine"):
        seed_groups(elsewhere, MADE, "taught", "wall", "full")
    with pytest.raises(InputError, match="the cost of its runs is not known by the clock wall"):
        seed_groups(study(costs={"flops": 1.0}), MADE, "plain", "wall", "free")
    with pytest.raises(InputError, match=r"taught, 3 steps: .*no logarithm.*found 1\.0"):
        seed_groups(study(quality=1.0), MADE, "taught", "flops", "free")


def test_machines_and_the_cost_metrics_they_allow() -> None:
    results = study()
    assert usable_cost_metrics(results, COST_METRICS) == list(COST_METRICS)
    mixed = [replace(results[0], machine="another"), *results[1:]]
    assert machines(mixed) == {"another": 1, "a machine": len(results) - 1}
    assert usable_cost_metrics(mixed, COST_METRICS) == ["flops"]
    lost = [replace(results[0], costs={"wall": 1.0}), *results[1:]]
    assert usable_cost_metrics(lost, COST_METRICS) == ["wall"]


def test_comparison_by_seconds_needs_one_machine() -> None:
    results, wall = study(), judged_by("wall")
    assert comparable(results, wall) is wall
    mixed = [replace(results[0], machine="another machine"), *results[1:]]
    assert comparable(mixed, wall) == MADE


def test_missing_runs() -> None:
    results = study()
    assert missing_runs(results, MADE) == {}
    assert missing_runs(results[1:-3], MADE) == {"plain": {3: [1]}, "taught": {12: [1, 2, 3]}}
