"""Runs of every task and seed; MNLI first where others start from it; folders by digest."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.files import read_json
from rrr_lightning.glue.plan import (
    NETWORK,
    SETTINGS,
    Plan,
    Run,
    check_start,
    chosen_tasks,
    make_plan,
)
from rrr_lightning.glue.protocol import Protocol, find_protocol
from rrr_lightning.glue.results import GLUE
from rrr_lightning.glue.run import write_settings
from rrr_lightning.jobs.locks import Lock
from rrr_lightning.jobs.process import LOCK, MARKER, write_json

OUT = Path("out")


def plan_of(tasks: str, protocol: Protocol | None = None, predict_test: bool = False) -> Plan:
    table = protocol or find_protocol("published")
    return make_plan("hub/name", "data", chosen_tasks(tasks), table, predict_test)


def runs_of(tasks: str, protocol: Protocol | None = None, out: Path = OUT) -> dict[str, Run]:
    return {run.name: run for run in plan_of(tasks, protocol).runs(out)}


def finish(run: Run, network: bool = False) -> Path:
    run.folder.mkdir(parents=True, exist_ok=True)
    write_json(run.folder / MARKER, {"result": {}})
    if network:
        (run.folder / NETWORK).touch()
    return run.folder


def test_one_run_for_every_task_and_seed() -> None:
    runs = runs_of("all")
    assert len(runs) == 1 + 1 + 1 + 3 + 4 + 5 + 5 + 5
    assert all(run.reported for run in runs.values())
    run = runs["cola-717"]
    assert run.folder.parent == (OUT / "jobs").absolute()
    assert run.folder.name.startswith("cola-717-")
    assert (run.config["task"], run.config["seed"]) == ("cola", 717)
    assert run.config["learning_rate"] == 5e-5
    assert run.config["checkpoint"] == "hub/name"
    job = run.job()
    assert (job.name, job.folder, job.command[-1]) == (
        "cola-717",
        run.folder,
        str(run.folder / SETTINGS),
    )


def test_three_tasks_start_from_mnli() -> None:
    runs = runs_of("mnli,rte,mrpc,stsb,cola")
    network = str(runs["mnli-19"].folder / NETWORK)
    for run in runs.values():
        follows = run.task in ("rte", "mrpc", "stsb")
        assert run.job().needs == (("mnli-19",) if follows else ())
        assert run.config["checkpoint"] == (network if follows else "hub/name")
        assert run.config["save_network"] == (run.task == "mnli")
    assert next(iter(runs)) == "mnli-19"


def test_mnli_runs_unreported_where_it_is_needed_alone() -> None:
    assert [run.name for run in runs_of("rte,cola").values() if not run.reported] == ["mnli-19"]
    assert all(run.reported for run in runs_of("cola").values())


def test_a_prerequisite_predicts_test_splits_for_a_later_call() -> None:
    runs = plan_of("rte", predict_test=True).runs(OUT)
    assert {run.task: run.config["predict_test"] for run in runs} == {"mnli": True, "rte": True}


def test_the_first_run_of_mnli_is_kept_under_every_protocol() -> None:
    for name in ("published", "quick", "single"):
        runs = runs_of("mnli,cola", find_protocol(name, seeds=[1, 2]))
        assert [run.name for run in runs.values() if run.config["save_network"]] == ["mnli-1"]


def test_light_protocols_have_no_prerequisites() -> None:
    runs = runs_of("rte,mrpc", find_protocol("quick"))
    assert {run.task for run in runs.values()} == {"rte", "mrpc"}
    assert all(run.start is None for run in runs.values())


def test_chosen_seeds_replace_the_start_too() -> None:
    runs = runs_of("rte", find_protocol("published", seeds=[3, 4]))
    assert list(runs) == ["mnli-3", "rte-3", "rte-4"]


def test_expected_seconds_follow_the_rows() -> None:
    runs = runs_of("mnli,rte")
    assert runs["mnli-19"].job().seconds > 100 * runs["rte-19"].job().seconds


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({}, set()),
        ({"fingerprint": "other"}, {"mnli", "rte", "cola"}),
        ({"data_sha256": {"cola": {"train": "other"}}}, {"cola"}),
        # What decides the run of MNLI decides those that start from it.
        ({"data_sha256": {"mnli": {"train": "other"}}}, {"mnli", "rte"}),
        ({"predict_test": True}, {"mnli", "rte", "cola"}),
        ({"checkpoint": "elsewhere"}, set()),
    ],
)
def test_a_folder_is_named_by_what_decides_its_result(
    change: dict[str, Any], differs: set[str]
) -> None:
    plan = plan_of("rte,cola", find_protocol(seeds=[1]))
    changed = dataclasses.replace(plan, **change)
    pairs = zip(plan.runs(OUT), changed.runs(OUT), strict=True)
    assert {one.task for one, other in pairs if one.folder != other.folder} == differs


@pytest.mark.parametrize(
    ("settings", "differs"),
    [
        ({"cola": {"learning_rate": 1.0}}, {"cola"}),
        ({"mnli": {"max_steps": 7}}, {"mnli", "rte"}),
        ({"every_task": {"dropout": 0.2}}, {"mnli", "rte", "cola"}),
    ],
)
def test_other_settings_have_other_folders(settings: Any, differs: set[str]) -> None:
    before, now = (
        runs_of("rte,cola", find_protocol("published", each, seeds=[1]))
        for each in (None, settings)
    )
    assert {run.task for run in before.values() if run.folder != now[run.name].folder} == differs


def test_the_size_of_micro_batches_changes_no_folder() -> None:
    plan = plan_of("cola")
    before, now = (plan.runs(OUT, size)[0] for size in (None, 4))
    assert before.folder == now.folder
    assert now.config["micro_batch_size"] == 4


def test_what_other_settings_have_begun_is_removed(tmp_path: Path) -> None:
    first = runs_of("cola", find_protocol(seeds=[1, 2]), tmp_path)
    write_settings(list(first.values()))
    finish(first["cola-2"])
    rate = {"cola": {"learning_rate": 1.0}}
    second = runs_of("cola", find_protocol("published", rate, seeds=[1, 2]), tmp_path)
    write_settings(list(second.values()))
    assert not first["cola-1"].folder.exists()
    assert first["cola-2"].folder.exists()  # its result is kept
    assert read_json(second["cola-1"].folder / SETTINGS)["learning_rate"] == 1.0


def test_what_a_job_still_works_on_is_not_removed(tmp_path: Path) -> None:
    before = runs_of("cola", find_protocol(seeds=[1]), tmp_path)["cola-1"]
    write_settings([before])
    lock = Lock(before.folder / LOCK)
    assert lock.take({"host": "node1", "pid": 7, "group": 9, "runner": ""})
    rate = {"cola": {"learning_rate": 1.0}}
    now = runs_of("cola", find_protocol("published", rate, seeds=[1]), tmp_path)["cola-1"]
    write_settings([now])
    assert (before.folder / SETTINGS).exists()
    lock.release()
    write_settings([now])
    assert not before.folder.exists()


def test_a_start_that_has_kept_no_network_is_refused(tmp_path: Path) -> None:
    runs = runs_of("rte", find_protocol(seeds=[1]), tmp_path)
    folder = finish(runs["mnli-1"])
    with pytest.raises(InputError) as refused:
        check_start(runs.values(), runs.values())
    assert str(refused.value) == (
        "--out: a finished run of MNLI has kept no network that tasks could start from; "
        f"found '{folder}'; accepted: the same call once it is removed, and the folders of the "
        "runs that started from it"
    )
    (folder / NETWORK).touch()
    check_start(runs.values(), runs.values())


def test_a_start_that_is_gone_is_refused_before_it_is_trained_again(tmp_path: Path) -> None:
    runs = runs_of("rte", find_protocol(seeds=[1]), tmp_path)
    folder = finish(runs["rte-1"])
    with pytest.raises(InputError) as refused:
        check_start(runs.values(), runs.values())
    assert str(refused.value) == (
        f"--out: rte-1 started from a run of MNLI that is gone; found '{folder}'; accepted: the "
        "same call once the folders of all such runs are removed"
    )
    finish(runs["mnli-1"], network=True)
    check_start(runs.values(), runs.values())


def test_tasks_by_name() -> None:
    assert chosen_tasks("all") == GLUE
    assert chosen_tasks("SST-2, rte,rte") == ("sst2", "rte")
    assert chosen_tasks("all, wnli") == (*GLUE, "wnli")
    assert chosen_tasks("rte,all") == ("rte", *(task for task in GLUE if task != "rte"))
    with pytest.raises(InputError, match="--tasks: no task of GLUE; did you mean 'cola'"):
        chosen_tasks("coal")
    with pytest.raises(InputError, match=r"did you mean 'all'.*found 'al'; accepted: all, cola, "):
        chosen_tasks("al,wnli")
    with pytest.raises(InputError, match="--tasks: names no task"):
        chosen_tasks(" , ")
