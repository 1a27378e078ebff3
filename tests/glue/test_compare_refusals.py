"""What cannot be set side by side is refused before any job."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.glue.compare import check_comparable, check_results
from rrr_lightning.glue.plan import PREDICTIONS, Plan, make_plan
from rrr_lightning.glue.protocol import find_protocol
from rrr_lightning.jobs.process import MARKER
from tests.glue.made import evaluation, run_folder


def record_of(
    *tasks: str, seeds: tuple[int, ...] = (1, 2), data: str = "data", **settings: object
) -> Plan:
    protocol = find_protocol("published", settings or None, seeds=seeds)
    return make_plan("hub/name", data, tasks, protocol, False)


def finish(folder: Path, plan: Plan, *names: str) -> None:
    for run in plan.runs(folder):
        if run.name in names:
            run.folder.mkdir(parents=True)
            (run.folder / MARKER).touch()


def test_what_is_alike_is_accepted(tmp_path: Path) -> None:
    finish(tmp_path, record_of("cola", "rte"), "rte-2")
    check_comparable(record_of("cola", "rte"), record_of("rte"), tmp_path)
    check_comparable(record_of("rte", seeds=(1, 2)), record_of("rte", seeds=(1, 2, 3)), tmp_path)
    # Settings and seeds of MNLI count where tasks start from it.
    first = record_of("cola", mnli={"max_steps": 1})
    finish(tmp_path, first, "cola-1")
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
def test_what_is_not_alike_is_refused(first: Plan, message: str, tmp_path: Path) -> None:
    if "no seed" in message:
        first = dataclasses.replace(first, tasks={"rte": first.tasks["rte"].with_seeds([7])})
    finish(tmp_path, first, "rte-1", "rte-2", "rte-7", "cola-1")
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
    first: Plan, second: Plan, line: str, tmp_path: Path
) -> None:
    finish(tmp_path, first, "rte-1")
    with pytest.raises(InputError) as refused:
        check_comparable(first, second, tmp_path)
    assert str(refused.value) == f"--compare: {tmp_path} {line}"


def test_the_other_evaluation_must_have_finished_runs(tmp_path: Path) -> None:
    finish(tmp_path, record_of("rte", "cola"), "cola-1")
    with pytest.raises(InputError, match=r"no finished run of this .*; accepted: rte-1, rte-2"):
        check_comparable(record_of("rte", "cola"), record_of("rte"), tmp_path)


def two(
    tmp_path: Path, tasks: tuple[str, ...] = ("rte", "cola"), **settings: Any
) -> tuple[Plan, Plan, tuple[Path, Path]]:
    """A finished evaluation, and one of which nothing has finished."""
    folders = (tmp_path / "first", tmp_path / "second")
    first = evaluation(folders[0], tasks, seeds=(1, 2), **settings)
    return first, first, folders


def known(plan: Plan, **sha256: str) -> Plan:
    """The plan with other hashes of the training split of some tasks."""
    return dataclasses.replace(
        plan, data_sha256={task: {"train": each} for task, each in sha256.items()}
    )


def test_results_of_the_same_data_are_accepted(tmp_path: Path) -> None:
    first, second, folders = two(tmp_path)
    check_results(first, second, folders)
    # Of a task that has not been read, nothing is known yet.
    check_results(first, known(second), folders)
    # Nor does it matter what is not compared.
    (run_folder(folders[0], "cola-1") / PREDICTIONS).unlink()
    few = dataclasses.replace(second, tasks={"rte": second.tasks["rte"]})
    check_results(first, few, folders)


def test_other_data_under_the_same_path_are_refused(tmp_path: Path) -> None:
    first, second, folders = two(tmp_path)
    with pytest.raises(InputError) as refused:
        check_results(first, known(second, rte="other"), folders)
    assert str(refused.value) == (
        f"--compare: {folders[0]} has other texts or labels of rte; found 'train'; accepted: "
        "the same"
    )


def test_another_start_under_the_same_path_is_refused(tmp_path: Path) -> None:
    first, second, folders = two(tmp_path, ("rte",), protocol=find_protocol(seeds=(1, 2)))
    check_results(first, known(second, rte="abc", mnli="abc"), folders)
    with pytest.raises(InputError, match="has other texts or labels of mnli"):
        check_results(first, known(second, rte="abc", mnli="other"), folders)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04 and no more"])
@pytest.mark.parametrize("which", [0, 1])
def test_predictions_that_cannot_be_read_are_refused(
    which: int, content: bytes | None, tmp_path: Path
) -> None:
    first, _, folders = two(tmp_path)
    second = evaluation(folders[1], ("rte",), seeds=(1,))
    path = run_folder(folders[which], "rte-1") / PREDICTIONS
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        check_results(first, second, folders)
    assert str(refused.value) == (
        f"--compare: the predictions of rte-1 cannot be read; found '{path}'; accepted: two whole "
        "folders that `rrr glue --out` wrote"
    )
