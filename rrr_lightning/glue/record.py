"""`plan.json`: what an output folder is of, so that nothing of another kind gets into it.

A later call may add tasks and seeds. Another checkpoint, other data or other settings of a task
that is there are refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rrr_lightning.distillation.state_dicts import sha256_of
from rrr_lightning.errors import InputError
from rrr_lightning.glue.plan import Run, make_plan
from rrr_lightning.glue.protocol import Protocol, TaskSettings
from rrr_lightning.glue.results import Results, collect
from rrr_lightning.jobs.process import read_json, write_json

NAME = "plan.json"


@dataclass(frozen=True)
class Record:
    """What a folder holds.

    Attributes:
        checkpoint: The checkpoint as it was given.
        fingerprint: What tells it from others.
        data: Source of the data.
        protocol: Name of the protocol.
        predict_test: Whether test splits are predicted.
        mnli_seed: Seed of the run that other tasks start from.
        tasks: Settings of the tasks that were asked for.
    """

    checkpoint: str
    fingerprint: str
    data: str
    protocol: str
    predict_test: bool
    mnli_seed: int
    tasks: dict[str, TaskSettings] = field(default_factory=dict)

    def settings(self) -> Protocol:
        """Returns the settings as a protocol."""
        return Protocol(self.protocol, self.tasks)

    def runs(self, folder: Path) -> Sequence[Run]:
        """Returns all runs that were asked for, finished or not."""
        table = dict(self.tasks)
        if "mnli" not in table:  # only its seed matters here
            table["mnli"] = TaskSettings(1, 1, 1.0, 0.0, (self.mnli_seed,))
        plan = make_plan(
            tuple(self.tasks),
            Protocol(self.protocol, table),
            self.checkpoint,
            self.data,
            folder,
            predict_test=self.predict_test,
        )
        return [run for run in plan.runs if run.reported]

    def results(self, folder: Path) -> Results:
        """Collects what has finished."""
        return collect(self.checkpoint, self.protocol, self.runs(folder))

    def write(self, folder: Path) -> None:
        """Writes `plan.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / NAME, dataclasses.asdict(self))


def make_record(
    checkpoint: str, data: str, tasks: Sequence[str], protocol: Protocol, predict_test: bool
) -> Record:
    """Returns the record of a call.

    Raises:
        InputError: There is no such checkpoint.
    """
    where = Path(data).expanduser()
    return Record(
        checkpoint,
        fingerprint(checkpoint),
        str(where.resolve()) if where.is_dir() else data,
        protocol.name,
        predict_test,
        protocol.tasks["mnli"].seeds[0],
        {task: protocol.tasks[task] for task in tasks},
    )


def read_record(folder: Path, key: str) -> Record:
    """Reads the record of a folder.

    Raises:
        InputError: The folder is not one of an evaluation.
    """
    try:
        content: dict[str, Any] = read_json(folder / NAME)
        content["tasks"] = {
            task: TaskSettings(**{**values, "seeds": tuple(values["seeds"])})
            for task, values in content["tasks"].items()
        }
        return Record(**content)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"has no {NAME} of an evaluation",
            key=key,
            found=str(folder),
            accepted="a folder that `rrr glue --out` wrote",
        ) from error


def merge(record: Record, folder: Path) -> Record:
    """Returns the record of a call with what the folder holds already.

    Raises:
        InputError: The folder is of another checkpoint, other data or another protocol.
    """
    if not (folder / NAME).exists():
        if folder.is_dir() and any(not path.name.startswith(".") for path in folder.iterdir()):
            raise InputError(
                "holds other files",
                key="--out",
                found=str(folder),
                accepted="a new folder, or one that `rrr glue --out` wrote",
            )
        return record
    before = read_record(folder, "--out")
    _same(folder, "another checkpoint", before.fingerprint, record.fingerprint, before.checkpoint)
    _same(folder, "other data", before.data, record.data)
    for task, cell in record.tasks.items():
        known = before.tasks.get(task, cell)
        if dataclasses.replace(known, seeds=cell.seeds) != cell:
            what = f"another protocol ({before.protocol}), with other settings of {task}"
            _same(folder, what, known, cell, before.protocol)
    if any(cell.start == "mnli" for cell in (*before.tasks.values(), *record.tasks.values())):
        what = "another protocol: a network that starts from another seed of MNLI"
        _same(folder, what, before.mnli_seed, record.mnli_seed)
    what = "a call with" if before.predict_test else "a call without"
    _same(folder, f"{what} --submission", before.predict_test, record.predict_test)
    tasks = dict(before.tasks)
    for task, cell in record.tasks.items():
        seeds = (*tasks[task].seeds, *cell.seeds) if task in tasks else cell.seeds
        tasks[task] = dataclasses.replace(cell, seeds=tuple(dict.fromkeys(seeds)))
    return dataclasses.replace(record, tasks=tasks)


def check_comparable(first: Record, second: Record, folder: Path) -> None:
    """Refuses two evaluations of which no task can be set side by side.

    Raises:
        InputError: They have no task in common, or one with other settings or data.
    """
    common = [task for task in second.tasks if task in first.tasks]
    if not common:
        raise InputError(
            "has no task in common with this call",
            key="--compare",
            found=", ".join(first.tasks),
            accepted=", ".join(second.tasks),
        )
    for task in common:
        before, now = first.tasks[task], second.tasks[task]
        if dataclasses.replace(before, seeds=now.seeds) != now:
            raise InputError(
                f"{folder} has other settings of {task}",
                key="--compare",
                found=first.protocol,
                accepted=second.protocol,
            )


def fingerprint(checkpoint: str) -> str:
    """Returns what tells a checkpoint from others: a hash of its content, or a hub id.

    Raises:
        InputError: There is no such file or folder, and it is no hub id.
    """
    path = Path(checkpoint).expanduser()
    if path.is_file():
        return sha256_of(path)
    if path.is_dir():
        files = sorted(each for each in path.rglob("*") if each.is_file())
        content = "".join(f"{each.relative_to(path)} {sha256_of(each)}\n" for each in files)
        return hashlib.sha256(content.encode()).hexdigest()
    return checkpoint


def _same(folder: Path, what: str, before: object, now: object, found: object = None) -> None:
    if before != now:
        raise InputError(
            f"{folder} holds results of {what}",
            key="--out",
            found=before if found is None else found,
            accepted="another folder, or the same checkpoint, data and protocol",
        )
