"""Jobs for every task and seed; MNLI first, also where nobody asked for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rrr_lightning.checkpointing import last_checkpoint
from rrr_lightning.errors import InputError
from rrr_lightning.files import read_json
from rrr_lightning.glue.plan import (
    SETTINGS,
    Plan,
    chosen_tasks,
    make_plan,
    write_settings,
)
from rrr_lightning.glue.protocol import Protocol, find_protocol
from rrr_lightning.glue.scores import GLUE
from rrr_lightning.jobs.process import MARKER
from tests.glue.made import small_plan


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


def test_what_other_data_have_trained_is_removed(tmp_path: Path) -> None:
    def write(content: str | None) -> bool:
        known = None if content is None else {"cola": {"train": content}}
        write_settings(small_plan(tmp_path, data_sha256=known))
        return kept.exists()

    kept = last_checkpoint(tmp_path / "jobs" / "cola-1")
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert write("a")
    settings = kept.parents[1] / SETTINGS
    assert read_json(settings)["data_sha256"] == {"train": "a"}
    assert write("a")
    assert not write("b")


def test_what_another_checkpoint_has_trained_is_removed(tmp_path: Path) -> None:
    last = tmp_path / "jobs" / "cola-1" / "checkpoints" / "last.ckpt"
    for fingerprint, kept in (("abc", True), ("abc", True), ("xyz", False)):
        last.parent.mkdir(parents=True, exist_ok=True)
        last.touch()
        write_settings(small_plan(tmp_path, fingerprint))
        assert read_json(last.parents[1] / SETTINGS)["fingerprint"] == fingerprint
        assert last.exists() == kept


def test_a_smaller_micro_batch_goes_on_with_what_is_trained(tmp_path: Path) -> None:
    def write(micro_batch_size: int | None) -> None:
        table = find_protocol("quick", seeds=[1])
        options = {"micro_batch_size": micro_batch_size}
        write_settings(make_plan(("rte",), table, "a", "data", tmp_path, **options))

    folder = tmp_path / "jobs" / "rte-1"
    write(None)
    last_checkpoint(folder).parent.mkdir()
    last_checkpoint(folder).touch()
    write(4)
    assert read_json(folder / SETTINGS)["micro_batch_size"] == 4
    assert last_checkpoint(folder).exists()


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
