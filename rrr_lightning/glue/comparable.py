"""What two evaluations must share, so that their scores can be set side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

from rrr_lightning.errors import InputError
from rrr_lightning.glue.compare import read_predictions
from rrr_lightning.glue.protocol import TaskSettings
from rrr_lightning.glue.record import Record, other_cell
from rrr_lightning.glue.results import TaskResult
from rrr_lightning.jobs.process import MARKER


def check_comparable(first: Record, second: Record, folder: Path) -> None:
    """Refuses two evaluations of which no run can be set side by side.

    Args:
        first: The evaluation that is compared with.
        second: The evaluation that is judged.
        folder: The folder of the first one.

    Raises:
        InputError: They have no task and seed in common, none of these has finished in the first
            one, or a common task has other settings, other data or another start.
    """
    common = [task for task in second.tasks if task in first.tasks]
    if not common:
        raise InputError(
            "has no task in common with this call",
            key="--compare",
            found=", ".join(first.tasks),
            accepted=", ".join(second.tasks),
        )
    if first.data != second.data:
        _refuse(folder, "results of other data", first.data, second.data)
    for task in common:
        _check_cells(task, first.tasks[task], second.tasks[task], folder, "other settings of")
    if any(second.tasks[task].start == "mnli" for task in common):
        _check_start(first, second, folder)
    names = [
        f"{task}-{seed}"
        for task in common
        for seed in second.tasks[task].seeds
        if seed in first.tasks[task].seeds
    ]
    if not names:
        seeds = {seed for task in common for seed in second.tasks[task].seeds}
        raise InputError(
            "has no seed in common with this call",
            key="--compare",
            found=str(folder),
            accepted="runs with the seeds " + ", ".join(map(str, sorted(seeds))),
        )
    if not any((folder / "jobs" / name / MARKER).exists() for name in names):
        raise InputError(
            "has no finished run of this call's tasks and seeds",
            key="--compare",
            found=str(folder),
            accepted=", ".join(names),
        )


def check_results(
    first: Record,
    second: Record,
    folders: tuple[Path, Path],
    rows: Mapping[str, tuple[int, int]],
    data_sha256: Mapping[str, Mapping[str, str]],
) -> None:
    """Refuses results that cannot be set side by side, as far as is known before any job.

    Args:
        first: The evaluation that is compared with.
        second: The evaluation that is judged.
        folders: The folders of both.
        rows: Rows to train and to judge on of the tasks that the second one has yet to run.
        data_sha256: What tells their texts and labels from others, by split.

    Raises:
        InputError: A common task, or the run of MNLI that it starts from, had other rows in the
            first one, or predictions of common runs cannot be read.
    """
    finished = second.results(folders[1]).tasks
    starts = [each.start for each in finished if each.start is not None]
    known = {**{each.task: _rows(each) for each in (*starts, *finished)}, **rows}
    contents = {each.task: each.data_sha256 for each in (*starts, *finished)}
    contents |= {task: [dict(content)] for task, content in data_sha256.items()}
    runs = {(each.task, seed) for each in finished for seed in each.scores}
    for result in first.results(folders[0]).tasks:
        if result.task not in second.tasks:
            continue
        for each in (result, result.start):
            if each is not None:
                _check_rows(each, known.get(each.task), folders[0])
                _check_contents(each, contents.get(each.task, []), folders[0])
        for seed in result.scores:
            if seed in second.tasks[result.task].seeds:
                read_predictions(folders[0], result.task, seed)
            if (result.task, seed) in runs:
                read_predictions(folders[1], result.task, seed)


def _rows(result: TaskResult) -> tuple[int, int]:
    return result.trained_rows, result.judged_rows


def _check_rows(before: TaskResult, now: tuple[int, int] | None, folder: Path) -> None:
    """Refuses other numbers of rows, where they are known already."""
    if now is not None and _rows(before) != now:
        _refuse(
            folder,
            f"other data of {before.task}",
            f"{before.trained_rows} rows to train and {before.judged_rows} to judge on",
            f"{now[0]} and {now[1]}",
        )


def _check_contents(before: TaskResult, now: Iterable[Mapping[str, str]], folder: Path) -> None:
    """Refuses other texts or labels, where both sides have recorded them."""
    for split in {split for each in before.data_sha256 for split in each}:
        found, wanted = (
            {each[split] for each in side if split in each} for side in (before.data_sha256, now)
        )
        if found and wanted and found != wanted:
            _refuse(folder, f"other data of {before.task}: texts or labels", split, "the same")


def _check_start(first: Record, second: Record, folder: Path) -> None:
    """Refuses another run of MNLI under the tasks that start from it."""
    if first.mnli_seed != second.mnli_seed:
        what = "another run of MNLI to start from: its seed"
        _refuse(folder, what, first.mnli_seed, second.mnli_seed)
    before, now = first.cells.get("mnli"), second.cells.get("mnli")
    if before is not None and now is not None:
        _check_cells("mnli", before, now, folder, "a start from other settings of")


def _check_cells(
    task: str, before: TaskSettings, now: TaskSettings, folder: Path, what: str
) -> None:
    """Refuses settings that differ, and names the first one."""
    other = other_cell(task, before, now)
    if other is not None:
        name, found, accepted = other
        _refuse(folder, f"{what} {task}, such as {name}", found, accepted)


def _refuse(folder: Path, what: str, found: object, accepted: object) -> NoReturn:
    raise InputError(f"{folder} has {what}", key="--compare", found=found, accepted=str(accepted))
