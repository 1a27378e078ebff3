"""What cannot be set side by side is refused before any job."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.glue.comparable import check_comparable
from rrr_lightning.glue.protocol import find_protocol
from rrr_lightning.glue.record import Record, make_record
from rrr_lightning.jobs.process import MARKER


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
    # Folders of earlier versions do not tell these settings.
    earlier = dataclasses.replace(record_of("rte"), start=None)
    check_comparable(earlier, record_of("rte"), tmp_path)


@pytest.mark.parametrize(
    ("first", "message"),
    [
        (record_of("cola"), "has no task in common"),
        (record_of("rte", rte={"epochs": 9}), "has other settings of rte; found 'published, ch"),
        (record_of("rte", data="b"), "has results of other data; found 'b'; accepted: data"),
        (record_of("rte", seeds=(2, 1)), "another run of MNLI to start from: its seed; found 2"),
        (record_of("rte", mnli={"max_steps": 1}), "another run of MNLI to .*: its settings"),
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


def test_the_other_evaluation_must_have_finished_runs(tmp_path: Path) -> None:
    finish(tmp_path, "cola-1")
    with pytest.raises(InputError, match=r"no finished run of this .*; accepted: rte-1, rte-2"):
        check_comparable(record_of("rte", "cola"), record_of("rte"), tmp_path)
