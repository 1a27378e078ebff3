"""`plan.json`: what an output folder is of, so that nothing of another kind gets into it.

A later call may add tasks and seeds. Another checkpoint, other data, another protocol or other
settings of a task of which a run has finished are refused, and so are other settings of the run of
MNLI that finished runs have started from.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from rrr_lightning.errors import InputError
from rrr_lightning.files import read_json
from rrr_lightning.glue.fingerprint import fingerprint
from rrr_lightning.glue.plan import Run, make_plan
from rrr_lightning.glue.protocol import Protocol, TaskSettings, base_name, name_of
from rrr_lightning.glue.results import Results, collect
from rrr_lightning.jobs.process import MARKER, write_json

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
        start: Settings of the run of MNLI that tasks start from; None where none does.
    """

    checkpoint: str
    fingerprint: str
    data: str
    protocol: str
    predict_test: bool
    mnli_seed: int
    tasks: dict[str, TaskSettings] = field(default_factory=dict)
    start: TaskSettings | None = None

    @property
    def starts_from_mnli(self) -> bool:
        """Whether a task starts from MNLI's result."""
        return any(cell.start == "mnli" for cell in self.tasks.values())

    @property
    def cells(self) -> dict[str, TaskSettings]:
        """Settings of all tasks that are run: also of MNLI where others start from it."""
        return {**({} if self.start is None else {"mnli": self.start}), **self.tasks}

    def runs(self, folder: Path) -> Sequence[Run]:
        """Returns all runs, finished or not; those nobody asked for are not reported."""
        plan = make_plan(
            tuple(self.tasks),
            Protocol(self.protocol, self.cells),
            self.checkpoint,
            self.data,
            folder,
            mnli_seed=self.mnli_seed,
            predict_test=self.predict_test,
        )
        return plan.runs

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
    mnli = protocol.tasks["mnli"]
    record = Record(
        checkpoint,
        fingerprint(checkpoint),
        str(where.resolve()) if where.is_dir() else data,
        protocol.name,
        predict_test,
        mnli.seeds[0],
        {task: protocol.tasks[task] for task in tasks},
    )
    start = mnli.with_seeds(mnli.seeds[:1]) if record.starts_from_mnli else None
    return _named(dataclasses.replace(record, start=start))


def read_record(folder: Path, key: str) -> Record:
    """Reads the record of a folder.

    Raises:
        InputError: The folder is not one of an evaluation.
    """
    try:
        content: dict[str, Any] = read_json(folder / NAME)
        content["tasks"] = {task: _settings(values) for task, values in content["tasks"].items()}
        if content.get("start") is not None:
            content["start"] = _settings(content["start"])
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

    Test splits are predicted by all runs of a folder or by none, so a later call may leave
    `--submission` out, and may add it as long as nothing has finished. Of a task of which nothing
    has finished, such as one that has diverged, the settings of the latest call hold.

    Raises:
        InputError: The folder is of another checkpoint, other data, another protocol or other
            settings.
    """
    if _is_new(folder):
        return record
    before = read_record(folder, "--out")
    if before.fingerprint != record.fingerprint:
        _refuse_checkpoint(folder, before.checkpoint, record.checkpoint)
    _same(folder, "other data", before.data, record.data)
    protocol = f"another protocol ({before.protocol})"
    _same(folder, protocol, base_name(before.protocol), base_name(record.protocol))
    now, settled = record.cells, _settled(before, folder)
    for task in settled & set(now):
        for known in (before.tasks.get(task), before.start if task == "mnli" else None):
            other = None if known is None else other_cell(task, known, now[task])
            if other is not None:
                name, found, asked = other
                what = f"other settings of {task}: {name} is {asked} in this call"
                _refuse(folder, what, found)
    if record.predict_test and not before.predict_test and any(folder.glob(f"jobs/*/{MARKER}")):
        raise InputError(
            f"the finished runs in {folder} have not predicted the test splits",
            key="--submission",
            accepted="another --out, or none of --submission",
        )
    tasks = {}
    for task in {**before.tasks, **record.tasks}:
        cells = [each.tasks[task] for each in (before, record) if task in each.tasks]
        seeds = dict.fromkeys(seed for cell in cells for seed in cell.seeds)
        tasks[task] = now.get(task, cells[0]).with_seeds(tuple(seeds))
    # The run of MNLI that a folder has is the one that tasks start from, whatever the call's seeds.
    seed = (before if before.starts_from_mnli or "mnli" in before.tasks else record).mnli_seed
    starts = any(cell.start == "mnli" for cell in tasks.values())
    start = now.get("mnli", before.start) if starts else None
    merged = dataclasses.replace(
        record,
        tasks=tasks,
        predict_test=before.predict_test or record.predict_test,
        mnli_seed=seed,
        start=None if start is None else start.with_seeds([seed]),
    )
    return _named(merged)


def other_cell(
    task: str, before: TaskSettings, now: TaskSettings
) -> tuple[str, object, object] | None:
    """Returns the first setting of a task that differs, seeds aside, with both of its values.

    >>> other_cell("rte", TaskSettings(3, 16, 1e-4, 0), TaskSettings(3, 16, 5e-4, 0))
    ('rte.learning_rate', 0.0001, 0.0005)
    """
    for each in dataclasses.fields(TaskSettings):
        values = [getattr(settings, each.name) for settings in (before, now)]
        if each.name != "seeds" and values[0] != values[1]:
            # An error without a value found would say nothing of it.
            shown = ["none" if value is None else value for value in values]
            return f"{task}.{each.name}", shown[0], shown[1]
    return None


def _settled(record: Record, folder: Path) -> set[str]:
    """The tasks of which a run has finished, and MNLI where one that started from it has."""
    names = {path.parent.name.partition("-")[0] for path in folder.glob(f"jobs/*/{MARKER}")}
    starts = any(cell.start == "mnli" and task in names for task, cell in record.tasks.items())
    return names | ({"mnli"} if starts else set())


def _settings(values: dict[str, Any]) -> TaskSettings:
    """Returns settings as `plan.json` has them."""
    return TaskSettings(**{**values, "seeds": tuple(values["seeds"])})


def _named(record: Record) -> Record:
    """The record under the name that its settings deserve."""
    return dataclasses.replace(record, protocol=name_of(record.protocol, record.cells))


def _is_new(folder: Path) -> bool:
    """Whether no evaluation is there; refuses what holds something else, or can be no folder."""
    try:
        if (folder / NAME).exists():
            return False
        above = next(path for path in (folder, *folder.parents) if path.exists())
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    except OSError as error:
        raise InputError(
            f"cannot be a folder ({error.strerror})", key="--out", found=str(folder)
        ) from error
    if not above.is_dir():
        raise InputError("is a file", key="--out", found=str(above), accepted="a folder")
    if any(not name.startswith(".") for name in names):
        raise InputError(
            "holds other files",
            key="--out",
            found=str(folder),
            accepted="a new folder, or one that `rrr glue --out` wrote",
        )
    return True


def _same(folder: Path, what: str, before: object, now: object) -> None:
    if before != now:
        _refuse(folder, what, before)


def _refuse_checkpoint(folder: Path, before: str, now: str) -> NoReturn:
    """Says of a path that is given again what has become of it."""
    paths = [Path(each).expanduser().resolve() for each in (before, now)]
    if paths[0] == paths[1]:
        _refuse(folder, f"{now}, whose content has changed since")
    _refuse(folder, f"another checkpoint than {now}", before)


def _refuse(folder: Path, what: str, found: object = None) -> NoReturn:
    raise InputError(
        f"{folder} holds results of {what}",
        key="--out",
        found=found,
        accepted="another folder, or the same checkpoint, data, protocol and settings",
    )
