"""What cannot be set side by side is refused before any job."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.glue.comparable import check_comparable, check_results
from rrr_lightning.glue.compare import PREDICTIONS
from rrr_lightning.glue.protocol import find_protocol
from rrr_lightning.glue.record import Record, make_record
from rrr_lightning.jobs.process import MARKER
from tests.glue import made
from tests.glue.made import evaluation


def record_of(
    *tasks: str, seeds: tuple[int, ...] = (1, 2), data: str = "data", **settings: object
) -> Record:
    protocol = find_protocol("published", settings or None, seeds=seeds)
    return make_record("hub/name", data, tasks, protocol, False)


def finish(folder: Path, *names: str) -> None:
    for name in names:
        (folder / "jobs" / name).mkdir(parents=True)
        (folder / "jobs" / name / MARKER).touch()


def test_what_is_alike_is_accepted(tmp_path: Path) -> None:
    finish(tmp_path, "rte-2")
    check_comparable(record_of("cola", "rte"), record_of("rte"), tmp_path)
    check_comparable(record_of("rte", seeds=(1, 2)), record_of("rte", seeds=(1, 2, 3)), tmp_path)
    # Settings and seeds of MNLI count where tasks start from it.
    finish(tmp_path, "cola-1")
    first = record_of("cola", mnli={"max_steps": 1})
    check_comparable(first, record_of("cola", seeds=(3, 1)), tmp_path)


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (record_of("cola"), "has no task in common"),
        (record_of("rte", data="b"), "has results of other data; found 'b'; accepted: data"),
        (record_of("rte", seeds=(2, 1)), "another run of MNLI to start from: its seed; found 2"),
        (
            record_of("rte", rte={"seeds": [7]}, mnli={"seeds": [1]}),
            "has no seed in common with this call; found .*; accepted: runs with the seeds 1, 2",
        ),
    ],
)
def test_what_is_not_alike_is_refused(first: Record, message: str, tmp_path: Path) -> None:
    if "no seed" in message:
        first = dataclasses.replace(first, tasks={"rte": first.tasks["rte"].with_seeds([7])})
    finish(tmp_path, "rte-1", "rte-2", "rte-7", "cola-1")
    with pytest.raises(InputError, match=f"--compare: .*{message}"):
        check_comparable(first, record_of("rte"), tmp_path)


@pytest.mark.parametrize(
    ("first", "second", "line"),
    [
        (
            record_of("rte", rte={"learning_rate": 1e-4, "max_steps": 5}),
            record_of("rte", rte={"learning_rate": 5e-4}),
            "has other settings of rte, such as rte.learning_rate; found 0.0001; accepted: 0.0005",
        ),
        # Both protocols are called "published, changed".
        (
            record_of("rte", rte={"max_steps": 5}),
            record_of("rte", rte={"epochs": 3}, mnli={"epochs": 9}),
            "has other settings of rte, such as rte.max_steps; found 5; accepted: none",
        ),
        (
            record_of("rte", mnli={"epochs": 1}),
            record_of("rte", mnli={"max_steps": 1}),
            "has a start from other settings of mnli, such as mnli.epochs; found 1.0; accepted: 3",
        ),
    ],
)
def test_settings_that_differ_are_named(
    first: Record, second: Record, line: str, tmp_path: Path
) -> None:
    finish(tmp_path, "rte-1")
    with pytest.raises(InputError) as refused:
        check_comparable(first, second, tmp_path)
    assert str(refused.value) == f"--compare: {tmp_path} {line}"


def test_the_other_evaluation_must_have_finished_runs(tmp_path: Path) -> None:
    finish(tmp_path, "cola-1")
    with pytest.raises(InputError, match=r"no finished run of this .*; accepted: rte-1, rte-2"):
        check_comparable(record_of("rte", "cola"), record_of("rte"), tmp_path)


def two(
    tmp_path: Path, tasks: tuple[str, ...] = ("rte", "cola"), **settings: Any
) -> tuple[Record, Record, tuple[Path, Path]]:
    """A finished evaluation, and one of which nothing has finished."""
    folders = (tmp_path / "first", tmp_path / "second")
    first = evaluation(folders[0], tasks, seeds=(1, 2), **settings)
    return first, first, folders


ROWS = {"rte": (2490, 277), "cola": (8551, 1043), "mnli": (392_702, 19_647)}


def test_results_of_the_same_data_are_accepted(tmp_path: Path) -> None:
    first, second, folders = two(tmp_path)
    check_results(first, second, folders, ROWS, {})
    # Of a task that is not looked at, nothing is known yet.
    check_results(first, second, folders, {}, {})
    # Nor does it matter what is not compared.
    (folders[0] / "jobs" / "cola-1" / PREDICTIONS).unlink()
    few = dataclasses.replace(second, tasks={"rte": second.tasks["rte"]})
    check_results(first, few, folders, ROWS, {})


def test_other_data_under_the_same_path_are_refused(tmp_path: Path) -> None:
    first, second, folders = two(tmp_path)
    with pytest.raises(InputError) as refused:
        check_results(first, second, folders, {**ROWS, "rte": (2490, 100)}, {})
    line = (
        f"--compare: {folders[0]} has other data of rte; found '2490 rows to train and 277 to "
        "judge on'; accepted: "
    )
    assert str(refused.value) == f"{line}2490 and 100"
    # What has finished here is known without a look at the data.
    evaluation(folders[1], ("rte",), seeds=(1,), subset=("rte",))
    with pytest.raises(InputError) as refused:
        check_results(first, second, folders, {}, {})
    assert str(refused.value) == f"{line}1000 and 277"


def test_other_texts_under_the_same_path_are_refused(tmp_path: Path) -> None:
    first, second, folders = two(tmp_path, data_sha256={"train": "a"})
    check_results(first, second, folders, {}, {"rte": {"train": "a"}})
    with pytest.raises(InputError) as refused:
        check_results(first, second, folders, {}, {"rte": {"train": "b"}})
    assert str(refused.value) == (
        f"--compare: {folders[0]} has other data of rte: texts or labels; found 'train'; accepted: "
        "the same"
    )
    # What has finished here is known without a look at the data.
    evaluation(folders[1], ("cola",), seeds=(1,), data_sha256={"train": "b"})
    with pytest.raises(InputError, match="has other data of cola: texts or labels"):
        check_results(first, second, folders, {}, {})


def test_another_start_under_the_same_path_is_refused(tmp_path: Path) -> None:
    first, second, folders = two(tmp_path, ("rte",), protocol=find_protocol(seeds=(1, 2)))
    made.finish(folders[0] / "jobs" / "mnli-1", "mnli", 1, 0.8, subset=True)
    with pytest.raises(InputError) as refused:
        check_results(first, second, folders, ROWS, {})
    assert str(refused.value) == (
        f"--compare: {folders[0]} has other data of mnli; found '1000 rows to train and 19647 to "
        "judge on'; accepted: 392702 and 19647"
    )


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 and no more"])
@pytest.mark.parametrize("which", [0, 1])
def test_predictions_that_cannot_be_read_are_refused(
    which: int, content: bytes | None, tmp_path: Path
) -> None:
    first, second, folders = two(tmp_path)
    evaluation(folders[1], ("rte",), seeds=(1,))
    path = folders[which] / "jobs" / "rte-1" / PREDICTIONS
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        check_results(first, second, folders, ROWS, {})
    assert str(refused.value) == (
        f"--compare: the predictions of rte-1 cannot be read; found '{path}'; accepted: two whole "
        "folders that `rrr glue --out` wrote"
    )
