"""A folder is of one checkpoint, one data source and one protocol; it may only grow."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.glue.plan import Plan, make_plan, merge, read_plan
from rrr_lightning.glue.protocol import find_protocol
from rrr_lightning.jobs.process import MARKER
from tests.glue.made import run_folder

ACCEPTED = "another folder, or the same checkpoint, data, protocol and settings"


def record_of(tasks: tuple[str, ...] = ("rte",), **settings: object) -> Plan:
    protocol = find_protocol("quick", settings or None, seeds=(1, 2))
    return make_plan("hub/name", "data", tasks, protocol, False)


def test_the_record_survives_its_file(tmp_path: Path) -> None:
    record = record_of(("rte", "cola"))
    record.write(tmp_path)
    assert read_plan(tmp_path, "--out") == record


def test_tasks_and_seeds_may_be_added(tmp_path: Path) -> None:
    record_of().write(tmp_path)
    more = make_plan("hub/name", "data", ("cola", "rte"), find_protocol("quick", seeds=(3,)), False)
    merged = merge(more, tmp_path)
    assert {task: cell.seeds for task, cell in merged.tasks.items()} == {
        "rte": (1, 2, 3),
        "cola": (3,),
    }
    assert [run.name for run in merged.runs(tmp_path)] == ["rte-1", "rte-2", "rte-3", "cola-3"]


def test_unreported_prerequisites_are_no_runs_of_the_report(tmp_path: Path) -> None:
    record = make_plan("hub/name", "data", ("rte",), find_protocol("published"), False)
    runs = record.runs(tmp_path)
    assert {run.task for run in runs if run.reported} == {"rte"}
    assert {run.start.name for run in runs if run.start} == {"mnli-19"}


def published(tasks: tuple[str, ...], **settings: object) -> Plan:
    return make_plan("hub/name", "data", tasks, find_protocol("published", settings), False)


def refusal(record: Plan, folder: Path) -> str:
    with pytest.raises(InputError) as refused:
        merge(record, folder)
    return str(refused.value)


def finish(folder: Path, *names: str) -> None:
    for name in names:
        home = run_folder(folder, name)
        home.mkdir(parents=True, exist_ok=True)
        (home / MARKER).touch()


def test_settings_of_a_task_may_change_until_one_of_its_runs_has_finished(tmp_path: Path) -> None:
    published(("rte", "cola"), rte={"learning_rate": 1, "seeds": [1, 2]}).write(tmp_path)
    finish(tmp_path, "mnli-19", "cola-19")
    slower = published(("rte",), rte={"learning_rate": 0.5, "seeds": [1]})
    merged = merge(slower, tmp_path)
    assert (merged.tasks["rte"].learning_rate, merged.tasks["rte"].seeds) == (0.5, (1, 2))
    finish(tmp_path, "rte-2")
    assert refusal(slower, tmp_path) == (
        f"--out: {tmp_path} holds results of other settings of rte: rte.learning_rate is 0.5 in "
        f"this call; found 1.0; accepted: {ACCEPTED}"
    )


def test_settings_of_mnli_may_change_until_a_run_that_rests_on_it_has_finished(
    tmp_path: Path,
) -> None:
    published(("rte", "mnli"), mnli={"learning_rate": 1}).write(tmp_path)
    slower = published(("rte",), mnli={"learning_rate": 0.5})
    merged = merge(slower, tmp_path)
    assert merged.start == merged.tasks["mnli"] == slower.start
    # Also where its own folder has been removed since.
    finish(tmp_path, "rte-19")
    assert refusal(slower, tmp_path) == (
        f"--out: {tmp_path} holds results of other settings of mnli: mnli.learning_rate is 0.5 in "
        f"this call; found 1.0; accepted: {ACCEPTED}"
    )


def test_a_start_that_nothing_needs_any_more_is_forgotten(tmp_path: Path) -> None:
    published(("rte",)).write(tmp_path)
    merged = merge(published(("rte",), rte={"start": "checkpoint"}), tmp_path)
    assert merged.start is None
    assert {run.task for run in merged.runs(tmp_path)} == {"rte"}


def test_another_base_protocol_is_refused_for_other_tasks_too(tmp_path: Path) -> None:
    published(("rte",)).write(tmp_path)
    with pytest.raises(InputError, match=r"holds results of another protocol \(published\)"):
        merge(record_of(("cola",)), tmp_path)


def test_a_folder_with_changed_settings_keeps_the_name_of_a_changed_protocol(
    tmp_path: Path,
) -> None:
    published(("rte",), rte={"epochs": 1}).write(tmp_path)
    merged = merge(published(("cola",)), tmp_path)
    assert merged.protocol == "published, changed"
    merged.write(tmp_path)
    assert merge(published(("sst2",)), tmp_path).protocol == "published, changed"
    # What was changed of tasks that are not asked for has changed nothing.
    assert published(("cola",), rte={"epochs": 1}).protocol == "published"


def test_names_follow_the_seeds_that_are_there(tmp_path: Path) -> None:
    published(("cola",), cola={"seeds": [19]}).write(tmp_path)
    assert read_plan(tmp_path, "--out").protocol == "published, other seeds"
    assert merge(published(("cola",)), tmp_path).protocol == "published"


@pytest.mark.parametrize(("first", "second"), [("rte", "mnli"), ("mnli", "rte"), ("rte", "mrpc")])
def test_the_settings_of_mnli_count_where_tasks_start_from_it(
    first: str, second: str, tmp_path: Path
) -> None:
    published((first,), mnli={"max_steps": 1}).write(tmp_path)
    finish(tmp_path, "mnli-19")
    for steps, shown in ((4, 4), (None, "none")):
        assert refusal(published((second,), mnli={"max_steps": steps}), tmp_path) == (
            f"--out: {tmp_path} holds results of other settings of mnli: mnli.max_steps is {shown} "
            f"in this call; found 1; accepted: {ACCEPTED}"
        )
    merged = merge(published((second,), mnli={"max_steps": 1}), tmp_path)
    assert merged.cells["mnli"].max_steps == 1
    assert merged.protocol == "published, changed"


def test_the_start_stays_where_later_calls_do_not_need_it(tmp_path: Path) -> None:
    published(("rte",), mnli={"max_steps": 1}).write(tmp_path)
    later = make_plan("hub/name", "data", ("cola",), find_protocol(seeds=[5]), False)
    merged = merge(later, tmp_path)
    assert (merged.mnli_seed, merged.cells["mnli"].max_steps) == (19, 1)
    assert {run.name for run in merged.runs(tmp_path)} >= {"mnli-19", "rte-19", "cola-5"}


def test_a_submission_may_be_left_out_later_and_added_before_anything_has_finished(
    tmp_path: Path,
) -> None:
    without = record_of()
    with_it = dataclasses.replace(without, predict_test=True)
    with_it.write(tmp_path / "a")
    assert merge(without, tmp_path / "a").predict_test
    without.write(tmp_path / "b")
    assert merge(with_it, tmp_path / "b").predict_test
    finish(tmp_path / "b", "rte-1")
    with pytest.raises(InputError) as refused:
        merge(with_it, tmp_path / "b")
    assert str(refused.value) == (
        f"--submission: the finished runs in {tmp_path / 'b'} have not predicted the test splits; "
        "accepted: another --out, or none of --submission"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"checkpoint": "b.ckpt", "fingerprint": "other"},
            "another checkpoint than b.ckpt; found 'hub/name'",
        ),
        ({"fingerprint": "other"}, "hub/name, whose content has changed since"),
        ({"data": "elsewhere"}, "other data; found 'data'"),
        (
            {"tasks": find_protocol("single", seeds=(1, 2)).tasks},
            "other settings of rte: rte.batch_size is 16 in this call; found 32",
        ),
    ],
)
def test_other_evaluations_are_not_mixed(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    record = record_of()
    record.write(tmp_path)
    finish(tmp_path, "rte-1")
    changed = dataclasses.replace(record, **change)  # type: ignore[arg-type]
    line = f"--out: {tmp_path} holds results of {message}; accepted: {ACCEPTED}"
    assert refusal(changed, tmp_path) == line


def test_a_path_that_is_written_otherwise_is_the_same(tmp_path: Path) -> None:
    now = tmp_path / "last.ckpt"
    before = f"{tmp_path}/x/../last.ckpt"
    out = tmp_path / "out"
    record = dataclasses.replace(record_of(), checkpoint=before, fingerprint="before")
    record.write(out)
    assert refusal(dataclasses.replace(record, checkpoint=str(now), fingerprint="now"), out) == (
        f"--out: {out} holds results of {now}, whose content has changed since; accepted: "
        f"{ACCEPTED}"
    )


@pytest.mark.parametrize("first", ["rte", "mnli"])
def test_later_calls_start_from_the_run_of_mnli_that_is_there(first: str, tmp_path: Path) -> None:
    make_plan("x", "data", (first,), find_protocol(seeds=(1, 2)), False).write(tmp_path)
    second = make_plan("x", "data", ("rte",), find_protocol(seeds=(2,)), False)
    merged = merge(second, tmp_path)
    assert (merged.mnli_seed, merged.cells["mnli"].seeds[0]) == (1, 1)
    assert merged.start is not None
    assert merged.start.seeds == (1,)
    assert {run.start.name for run in merged.runs(tmp_path) if run.start} == {"mnli-1"}


def test_a_folder_without_mnli_has_no_seed_of_it(tmp_path: Path) -> None:
    make_plan("x", "data", ("cola",), find_protocol(seeds=(1,)), False).write(tmp_path)
    second = make_plan("x", "data", ("rte",), find_protocol(seeds=(2,)), False)
    assert merge(second, tmp_path).mnli_seed == 2


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="--out: holds other files"):
        merge(record_of(), tmp_path)
    with pytest.raises(InputError, match=r"--compare: has no plan.json of an evaluation"):
        read_plan(tmp_path, "--compare")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in ("file", "file/below"):
        with pytest.raises(InputError, match=r"--out: is a file; found '.*file'"):
            merge(record_of(), tmp_path / out)


def test_what_can_be_no_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--out: cannot be a folder \(File name too long\)"):
        merge(record_of(), tmp_path / ("x" * 300))
