"""A folder is of one checkpoint, one data source and one protocol; it may only grow."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.glue.protocol import find_protocol
from rrr_lightning.glue.record import (
    Record,
    check_comparable,
    fingerprint,
    make_record,
    merge,
    read_record,
)


def record_of(tasks: tuple[str, ...] = ("rte",), **settings: object) -> Record:
    protocol = find_protocol("quick", settings or None, seeds=(1, 2))
    return make_record("hub/name", "data", tasks, protocol, False)


def test_the_record_survives_its_file(tmp_path: Path) -> None:
    record = record_of(("rte", "cola"))
    record.write(tmp_path)
    assert read_record(tmp_path, "--out") == record


def test_tasks_and_seeds_may_be_added(tmp_path: Path) -> None:
    record_of().write(tmp_path)
    more = make_record(
        "hub/name", "data", ("cola", "rte"), find_protocol("quick", seeds=(3,)), False
    )
    merged = merge(more, tmp_path)
    assert {task: cell.seeds for task, cell in merged.tasks.items()} == {
        "rte": (1, 2, 3),
        "cola": (3,),
    }
    assert [run.name for run in merged.runs(tmp_path)] == ["rte-1", "rte-2", "rte-3", "cola-3"]


def test_unreported_prerequisites_are_no_runs_of_the_report(tmp_path: Path) -> None:
    record = make_record("hub/name", "data", ("rte",), find_protocol("published"), False)
    assert {run.task for run in record.runs(tmp_path)} == {"rte"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fingerprint": "other"}, "results of another checkpoint; found 'hub/name'"),
        ({"data": "elsewhere"}, "results of other data; found 'data'"),
        ({"predict_test": True}, "results of a call without --submission"),
        (
            {"tasks": find_protocol("single", seeds=(1, 2)).tasks},
            r"results of another protocol \(quick.*\), with other settings of",
        ),
    ],
)
def test_other_evaluations_are_not_mixed(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    record = record_of()
    record.write(tmp_path)
    with pytest.raises(InputError, match=f"--out: .*{message}"):
        merge(dataclasses.replace(record, **change), tmp_path)  # type: ignore[arg-type]


def test_another_start_from_mnli_is_another_protocol(tmp_path: Path) -> None:
    first = make_record("x", "data", ("rte",), find_protocol("published", seeds=(1,)), False)
    first.write(tmp_path)
    second = make_record("x", "data", ("rte",), find_protocol("published", seeds=(2,)), False)
    with pytest.raises(InputError, match="starts from another seed of MNLI; found 1"):
        merge(second, tmp_path)


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InputError, match="--out: holds other files"):
        merge(record_of(), tmp_path)
    with pytest.raises(InputError, match=r"--compare: has no plan.json of an evaluation"):
        read_record(tmp_path, "--compare")


def test_checkpoints_are_told_apart_by_their_content(tmp_path: Path) -> None:
    file, folder = tmp_path / "a.ckpt", tmp_path / "folder"
    file.write_bytes(b"1")
    folder.mkdir()
    (folder / "x").write_bytes(b"1")
    before = fingerprint(str(file)), fingerprint(str(folder))
    assert fingerprint(str(file)) == before[0]
    (folder / "x").write_bytes(b"2")
    file.write_bytes(b"2")
    assert fingerprint(str(file)) != before[0]
    assert fingerprint(str(folder)) != before[1]
    assert fingerprint("hub/name") == "hub/name"


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--compare: has no task in common"):
        check_comparable(record_of(("cola",)), record_of(("rte",)), tmp_path)
    other = record_of(("rte",), rte={"epochs": 9})
    with pytest.raises(InputError, match=r"--compare: .* has other settings of rte"):
        check_comparable(other, record_of(("rte",)), tmp_path)
    check_comparable(record_of(("cola", "rte")), record_of(("rte",)), tmp_path)
