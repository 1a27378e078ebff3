"""Jobs for every task and seed; MNLI first, also where nobody asked for it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from rrr_lightning.checkpointing import last_checkpoint
from rrr_lightning.errors import InputError
from rrr_lightning.glue.plan import (
    NETWORK,
    SETTINGS,
    Plan,
    check_finished,
    check_running,
    check_start,
    chosen_tasks,
    make_plan,
    write_settings,
)
from rrr_lightning.glue.protocol import Protocol, find_protocol
from rrr_lightning.glue.scores import GLUE
from rrr_lightning.jobs.locks import Lock
from rrr_lightning.jobs.process import LOCK, MARKER, read_json, write_json


def plan_of(tasks: str, protocol: Protocol | None = None, **settings: object) -> Plan:
    protocol = protocol or find_protocol("published")
    return make_plan(chosen_tasks(tasks), protocol, "a.ckpt", "data", "out", **settings)  # type: ignore[arg-type]


def test_one_job_for_every_task_and_seed() -> None:
    plan = plan_of("all")
    assert len(plan.jobs) == len(plan.runs) == 1 + 1 + 1 + 3 + 4 + 5 + 5 + 5
    assert all(run.reported for run in plan.runs)
    assert plan.notes == ()
    run = next(run for run in plan.runs if run.name == "cola-717")
    assert run.folder == Path("out/jobs/cola-717").absolute()
    assert (run.settings["task"], run.settings["seed"]) == ("cola", 717)
    assert run.settings["learning_rate"] == 5e-5
    assert run.settings["checkpoint"] == "a.ckpt"


def test_three_tasks_start_from_mnli() -> None:
    plan = plan_of("mnli,rte,mrpc,stsb,cola")
    needs = {job.name: job.needs for job in plan.jobs}
    network = str(Path("out/jobs/mnli-19/network.ckpt").absolute())
    for run in plan.runs:
        follows = run.task in ("rte", "mrpc", "stsb")
        assert needs[run.name] == (("mnli-19",) if follows else ())
        assert run.settings["checkpoint"] == (network if follows else "a.ckpt")
        assert run.settings["save_network"] == (run.task == "mnli")


def test_mnli_runs_unreported_where_it_is_needed_and_not_asked_for() -> None:
    plan = plan_of("rte,cola")
    assert [run.name for run in plan.runs if not run.reported] == ["mnli-19"]
    assert plan.notes == ("rte start from MNLI, which is fine-tuned first and not reported.",)
    assert all(run.reported for run in plan_of("cola").runs)


def test_a_prerequisite_predicts_test_splits_for_a_call_that_asks_for_it_later() -> None:
    plan = plan_of("rte", predict_test=True)
    assert {run.task: run.settings["predict_test"] for run in plan.runs} == {
        "mnli": True,
        "rte": True,
    }


def test_the_first_run_of_mnli_is_kept_under_every_protocol() -> None:
    for name in ("published", "quick", "single"):
        plan = plan_of("mnli,cola", find_protocol(name, seeds=[1, 2]))
        assert [run.name for run in plan.runs if run.settings["save_network"]] == ["mnli-1"]


def test_a_finished_run_of_mnli_is_not_announced_as_one_to_come(tmp_path: Path) -> None:
    folder = tmp_path / "jobs" / "mnli-4"
    folder.mkdir(parents=True)
    (folder / MARKER).touch()
    plan = make_plan(("rte",), find_protocol(), "a", "data", tmp_path, mnli_seed=4)
    assert plan.notes == ("rte start from the finished run of MNLI with seed 4.",)
    with pytest.raises(InputError) as refused:
        check_start(plan)
    assert str(refused.value) == (
        "--out: a finished run of MNLI has kept no network that tasks could start from; "
        f"found '{folder}'; accepted: the same call once it is removed, and the folders of the "
        "runs that started from it"
    )
    (folder / NETWORK).touch()
    check_start(plan)


def test_what_other_settings_have_trained_is_removed(tmp_path: Path) -> None:
    def write(seeds: list[int], **settings: object) -> list[str]:
        table = find_protocol("published", settings, seeds=seeds)
        write_settings(make_plan(("rte", "cola"), table, "a", "data", tmp_path, mnli_seed=1))
        files = (tmp_path / "jobs").glob("*/checkpoints/last.ckpt")
        return sorted(path.parents[1].name for path in files)

    def leave_all() -> None:
        for folder in (tmp_path / "jobs").iterdir():
            (folder / "checkpoints").mkdir(exist_ok=True)
            (folder / "checkpoints" / "last.ckpt").touch()

    write([1])
    mnli = tmp_path / "jobs" / "mnli-1"
    assert last_checkpoint(mnli) == mnli / "checkpoints" / "last.ckpt"
    leave_all()
    assert write([1]) == ["cola-1", "mnli-1"]  # RTE would start from another MNLI
    (mnli / MARKER).touch()
    leave_all()
    assert write([1]) == ["cola-1", "mnli-1", "rte-1"]
    assert write([1], cola={"learning_rate": 1.0}) == ["mnli-1", "rte-1"]
    assert read_json(tmp_path / "jobs" / "cola-1" / SETTINGS)["learning_rate"] == 1.0


def small_plan(folder: Path, fingerprint: str | None = "abc", **settings: object) -> Plan:
    table = find_protocol("published", settings, seeds=[1])
    tasks = ("rte", "cola")
    return make_plan(tasks, table, "a", "data", folder, mnli_seed=1, fingerprint=fingerprint)


def test_what_another_checkpoint_has_trained_is_removed(tmp_path: Path) -> None:
    write_settings(small_plan(tmp_path, None))  # as earlier versions did
    last = tmp_path / "jobs" / "cola-1" / "checkpoints" / "last.ckpt"
    for fingerprint, kept in (("abc", True), ("abc", True), ("xyz", False)):
        last.parent.mkdir(exist_ok=True)
        last.touch()
        write_settings(small_plan(tmp_path, fingerprint))
        assert read_json(last.parents[1] / SETTINGS)["fingerprint"] == fingerprint
        assert last.exists() == kept


def test_the_settings_of_a_job_that_still_runs_stay(tmp_path: Path) -> None:
    write_settings(small_plan(tmp_path, None))
    lock = Lock(tmp_path / "jobs" / "cola-1" / LOCK)
    assert lock.take({"host": "node1", "pid": 7, "group": 9, "runner": ""})
    check_running(small_plan(tmp_path))
    other = small_plan(tmp_path, cola={"learning_rate": 1.0, "epochs": 1})
    with pytest.raises(InputError) as refused:
        check_running(other)
    assert str(refused.value) == (
        "--out: cola-1 is still run by the settings of an earlier call, with another epochs and "
        "learning_rate; found 'process 9 on node1'; accepted: the same call after that one has "
        "ended, or the earlier settings"
    )
    lock.release()
    check_running(other)


def test_a_run_that_was_trained_by_other_settings_is_refused(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)

    def finish(name: str, **trained: object) -> Path:
        folder = tmp_path / "jobs" / name
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / MARKER, {"result": {"metrics": {}, **trained}})
        return folder

    finish("cola-1")  # an earlier version
    finish("rte-1", settings={"learning_rate": 1e-5, "of a later version": 1}, fingerprint="abc")
    check_finished(plan.runs, "abc", "--out")
    folder = finish("cola-1", settings={"learning_rate": 1.0, "max_steps": None})
    with pytest.raises(InputError) as refused:
        check_finished(plan.runs, "abc", "--out")
    assert str(refused.value) == (
        "--out: cola-1 was trained by other settings than those of its folder; found "
        "{'learning_rate': 1.0}; accepted: {'learning_rate': 5e-05}, or the same call once "
        f"{folder} is removed"
    )
    finish("cola-1")
    finish("mnli-1", settings={}, fingerprint="xyz")
    with pytest.raises(
        InputError, match=r"found {'fingerprint': 'xyz'}; .*mnli-1 is removed, and the folders of"
    ):
        check_finished(plan.runs, "abc", "--compare")


def test_a_run_that_started_from_another_run_of_mnli_is_refused(tmp_path: Path) -> None:
    plan = small_plan(tmp_path)
    mnli, rte = (tmp_path / "jobs" / name for name in ("mnli-1", "rte-1"))
    for folder in (mnli, rte):
        folder.mkdir(parents=True)
    (mnli / NETWORK).write_bytes(b"first")
    start = hashlib.sha256(b"first").hexdigest()
    write_json(rte / MARKER, {"result": {"metrics": {}, "start_sha256": start}})
    check_finished(plan.runs, "abc", "--out")
    (mnli / NETWORK).write_bytes(b"second")
    with pytest.raises(InputError) as refused:
        check_finished(plan.runs, "abc", "--out")
    assert str(refused.value) == (
        "--out: rte-1 started from another run of MNLI than the one that is there now; found "
        f"'{mnli / NETWORK}'; accepted: the same call once {rte} is removed"
    )
    (mnli / NETWORK).unlink()
    check_finished(plan.runs, "abc", "--out")


def test_the_run_that_others_start_from_is_named() -> None:
    assert [run.name for run in plan_of("mnli,rte").runs if run.is_start] == ["mnli-19"]
    assert not any(run.is_start for run in plan_of("mnli,cola").runs)
    assert [run.name for run in plan_of("rte", mnli_seed=4).runs if run.is_start] == ["mnli-4"]


def test_light_protocols_have_no_prerequisites() -> None:
    plan = plan_of("rte,mrpc", find_protocol("quick"))
    assert {run.task for run in plan.runs} == {"rte", "mrpc"}
    assert all(job.needs == () for job in plan.jobs)


def test_chosen_seeds_replace_the_start_too() -> None:
    plan = plan_of("rte", find_protocol("published", seeds=[3, 4]))
    assert [run.name for run in plan.runs] == ["mnli-3", "rte-3", "rte-4"]
    assert {job.needs for job in plan.jobs[1:]} == {("mnli-3",)}


def test_expected_seconds_follow_the_rows() -> None:
    seconds = {job.name: job.seconds for job in plan_of("mnli,rte").jobs}
    assert seconds["mnli-19"] > 100 * seconds["rte-19"]
    small = plan_of("mnli,rte", rows={"mnli": (480, 30), "rte": (16, 30)}, samples_per_second=10)
    assert {job.name: job.seconds for job in small.jobs}["mnli-19"] == 20 + (3 * 480 + 10) / 10


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
