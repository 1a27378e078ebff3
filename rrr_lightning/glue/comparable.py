"""What two evaluations must share, so that their scores can be set side by side."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn

from rrr_lightning.errors import InputError
from rrr_lightning.glue.record import Record
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
        if first.tasks[task].with_seeds(()) != second.tasks[task].with_seeds(()):
            _refuse(folder, f"other settings of {task}", first.protocol, second.protocol)
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


def _check_start(first: Record, second: Record, folder: Path) -> None:
    """Refuses another run of MNLI under the tasks that start from it."""
    what = "another run of MNLI to start from"
    if first.mnli_seed != second.mnli_seed:
        _refuse(folder, f"{what}: its seed", first.mnli_seed, second.mnli_seed)
    before, now = first.cells.get("mnli"), second.cells.get("mnli")
    # Folders of earlier versions do not tell.
    if before is not None and now is not None and before.with_seeds(()) != now.with_seeds(()):
        _refuse(folder, f"{what}: its settings", first.protocol, second.protocol)


def _refuse(folder: Path, what: str, found: object, accepted: object) -> NoReturn:
    raise InputError(f"{folder} has {what}", key="--compare", found=found, accepted=str(accepted))
