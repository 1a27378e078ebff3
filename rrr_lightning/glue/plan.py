"""`plan.json`: what an output folder of `rrr glue` holds, and the runs that follow from it.

A run's folder carries the digest of everything that decides its result (settings, seed, checkpoint,
texts and labels, and the run of MNLI that it starts from), so that results of different settings
cannot meet in one folder. A later call may add tasks and seeds to an output folder; another
checkpoint, other data, another protocol, or other settings of a task of which a run has finished
are refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import msgspec

from rrr_lightning.data.glue_tasks import TASKS, find_task
from rrr_lightning.errors import InputError, check, refuse
from rrr_lightning.files import read_json, sha256_of
from rrr_lightning.glue.protocol import Protocol, TaskSettings, base_name, name_of
from rrr_lightning.glue.results import GLUE, Results, TaskResult, collect, read_result
from rrr_lightning.jobs import Job
from rrr_lightning.jobs.process import MARKER, write_json
from rrr_lightning.tokens import HUB_ID

PLAN, SETTINGS, NETWORK = "plan.json", "settings.json", "network.ckpt"
PREDICTIONS = "predictions.npz"
ALL = "all"
CHECKPOINTS = (
    "a checkpoint of a text model of this library, a Hugging Face folder with its tokenizer, or a "
    "hub id"
)
SAME = "another folder, or the same checkpoint, data, protocol and settings"
WEIGHTS = (".ckpt", ".pt", ".pth", ".bin", ".safetensors")  # names of files, not of hub ids
PARTS = (".json", ".safetensors", ".bin", ".txt", ".model")  # of a Hugging Face folder
CELLS = [each.name for each in dataclasses.fields(TaskSettings) if each.name != "seeds"]


@dataclass(frozen=True)
class Run:
    """The fine-tuning of one task with one seed.

    Attributes:
        task: The task.
        seed: The seed.
        folder: Where its job works; named after the digest of what decides the result.
        config: What its job reads, as plain types.
        reported: Whether it is part of the report; otherwise other runs start from it.
        start: The run of MNLI that it starts from, None for the checkpoint.
    """

    task: str
    seed: int
    folder: Path
    config: Mapping[str, Any]
    reported: bool = True
    start: Run | None = None

    @property
    def name(self) -> str:
        """The name of its job."""
        return f"{self.task}-{self.seed}"

    @property
    def finished(self) -> bool:
        """Whether its result is there."""
        return (self.folder / MARKER).exists()

    def result(self) -> dict[str, Any]:
        """Returns what it has left in its folder."""
        return read_result(self.folder / MARKER, self.task)

    def job(self) -> Job:
        """Returns its job; its expected seconds follow the number of samples."""
        task, config = find_task(self.task), self.config
        steps = TaskSettings(**{name: config[name] for name in CELLS}).steps(task.rows["train"])
        samples = steps * config["batch_size"] + sum(
            task.rows[split] for split in task.validation_splits
        )
        program = (sys.executable, "-m", "rrr_lightning.glue.fine_tune")
        needs = () if self.start is None else (self.start.name,)
        command = (*program, str(self.folder / SETTINGS))
        return Job(self.name, command, self.folder, 20 + samples / 100, needs)


@dataclass(frozen=True)
class Plan:
    """What an output folder holds.

    Attributes:
        checkpoint: The checkpoint as the user wrote it.
        fingerprint: A hash of its content, or a hub id.
        data: Source of the data.
        protocol: Name of the protocol.
        predict_test: Whether test splits are predicted.
        mnli_seed: Seed of the run that other tasks start from.
        tasks: Settings of the tasks.
        start: Settings of the run of MNLI that tasks start from; None where none does.
        data_sha256: Hashes of texts and labels, by task and split, of tasks that have been read.
    """

    checkpoint: str
    fingerprint: str
    data: str
    protocol: str
    predict_test: bool
    mnli_seed: int
    tasks: dict[str, TaskSettings] = field(default_factory=dict)
    start: TaskSettings | None = None
    data_sha256: dict[str, dict[str, str]] = field(default_factory=dict)

    @property
    def starts_from_mnli(self) -> bool:
        """Whether a task starts from MNLI's result."""
        return any(cell.start == "mnli" for cell in self.tasks.values())

    @property
    def cells(self) -> dict[str, TaskSettings]:
        """Settings of all tasks that run, MNLI included where others start from it."""
        return {**({} if self.start is None else {"mnli": self.start}), **self.tasks}

    def runs(self, folder: Path, micro_batch_size: int | None = None) -> tuple[Run, ...]:
        """Returns all runs, finished or not; the run that others start from comes first."""
        start = None
        if self.starts_from_mnli:
            reported = "mnli" in self.tasks and self.mnli_seed in self.tasks["mnli"].seeds
            start = self._run(folder, "mnli", self.mnli_seed, micro_batch_size, reported=reported)
        others = (
            self._run(folder, task, seed, micro_batch_size, start if cell.start == "mnli" else None)
            for task, cell in self.tasks.items()
            for seed in cell.seeds
            if start is None or (task, seed) != ("mnli", self.mnli_seed)
        )
        return (*([] if start is None else [start]), *others)

    def runs_of(
        self, call: Plan, folder: Path, micro_batch_size: int | None = None
    ) -> tuple[Run, ...]:
        """Returns the runs of a call, and the one that they start from."""
        runs = [
            run
            for run in self.runs(folder, micro_batch_size)
            if run.task in call.tasks and run.seed in call.tasks[run.task].seeds
        ]
        start = next((run.start for run in runs if run.start is not None), None)
        missing = start is not None and start.name not in {run.name for run in runs}
        return (*([start] if start is not None and missing else []), *runs)

    def _run(
        self,
        folder: Path,
        task: str,
        seed: int,
        micro_batch_size: int | None,
        start: Run | None = None,
        reported: bool = True,
    ) -> Run:
        cell = self.cells[task]
        decides = {
            **{name: getattr(cell, name) for name in CELLS},
            "task": task,
            "seed": seed,
            "fingerprint": self.fingerprint,
            "data_sha256": self.data_sha256.get(task),
            "predict_test": self.predict_test,
        }
        config = {
            **decides,
            "checkpoint": local_path(self.checkpoint),
            "data": self.data,
            # Kept also where no task of this call starts from it, as a later call may add some.
            "save_network": (task, seed) == ("mnli", self.mnli_seed),
            "micro_batch_size": micro_batch_size,
        }
        if start is not None:
            config["checkpoint"] = str(start.folder / NETWORK)
            decides["start"] = start.folder.name
        content = json.dumps(decides, sort_keys=True).encode()
        name = f"{task}-{seed}-{hashlib.sha256(content).hexdigest()[:8]}"
        return Run(task, seed, folder.absolute() / "jobs" / name, config, reported, start)

    def results(self, folder: Path) -> Results:
        """Collects what has finished."""
        tasks: dict[str, TaskResult] = {}
        start = None
        for run in self.runs(folder):
            if run.start is None and run.config["save_network"] and self.starts_from_mnli:
                start = TaskResult(run.task)
                _add(start, run)
            if run.reported:
                _add(tasks.setdefault(run.task, TaskResult(run.task)), run)
        for result in tasks.values():
            if result.settings.get("start") == "mnli" and start is not None and start.values:
                result.start = start
        return collect(self.checkpoint, self.protocol, tasks.values())

    def write(self, folder: Path) -> None:
        """Writes `plan.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / PLAN, dataclasses.asdict(self))


def _add(result: TaskResult, run: Run) -> None:
    found = run.result() if run.finished else None
    result.add(run.seed, found, {name: run.config[name] for name in CELLS})


def chosen_tasks(text: str) -> tuple[str, ...]:
    """Returns the tasks that `--tasks` names with commas; `all` stands for those of the average."""
    names: list[str] = []
    for name in filter(None, map(str.strip, text.split(","))):
        names += GLUE if name == ALL else [find_task(name, "--tasks", (ALL, *TASKS)).name]
    check(bool(names), "--tasks", text, "all, or cola,rte", "names no task")
    return tuple(dict.fromkeys(names))


def make_plan(
    checkpoint: str, data: str, tasks: Sequence[str], protocol: Protocol, predict_test: bool
) -> Plan:
    """Returns the plan of a call."""
    where, mnli = Path(data).expanduser(), protocol.tasks["mnli"]
    plan = Plan(
        checkpoint,
        fingerprint(checkpoint),
        str(where.resolve()) if where.is_dir() else data,
        protocol.name,
        predict_test,
        mnli.seeds[0],
        {task: protocol.tasks[task] for task in tasks},
    )
    start = mnli.with_seeds(mnli.seeds[:1]) if plan.starts_from_mnli else None
    return _named(dataclasses.replace(plan, start=start))


def read_plan(folder: Path, key: str) -> Plan:
    """Reads the plan of a folder."""
    try:
        content: dict[str, Any] = read_json(folder / PLAN)
        msgspec.convert(content, Plan)
        for task in content["tasks"]:
            find_task(task)
        content["tasks"] = {task: _settings(values) for task, values in content["tasks"].items()}
        if content["start"] is not None:
            content["start"] = _settings(content["start"])
        return Plan(**content)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(
            f"has no {PLAN} of an evaluation",
            key=key,
            found=str(folder),
            accepted="a folder that `rrr glue --out` wrote",
        ) from error


def merge(plan: Plan, folder: Path) -> Plan:
    """Returns the plan of a call together with what the folder holds already.

    Test splits are predicted by all runs of a folder or by none, so a later call may leave
    `--submission` out, and may add it as long as nothing has finished. Of a task of which nothing
    has finished, such as one that has diverged, the settings of the latest call count.
    """
    if _is_new(folder):
        return plan
    before = read_plan(folder, "--out")
    if before.fingerprint != plan.fingerprint:
        _refuse_checkpoint(folder, before.checkpoint, plan.checkpoint)
    if before.data != plan.data:
        _refuse(folder, "other data", before.data)
    if base_name(before.protocol) != base_name(plan.protocol):
        _refuse(folder, f"another protocol ({before.protocol})", base_name(before.protocol))
    finished = {run.task for run in before.runs(folder) if run.finished}
    if any(run.finished and run.start is not None for run in before.runs(folder)):
        finished.add("mnli")
    now = plan.cells
    for task in sorted(finished & set(now)):
        for known in (before.tasks.get(task), before.start if task == "mnli" else None):
            other = None if known is None else other_cell(task, known, now[task])
            if other is not None:
                name, found, value = other
                _refuse(folder, f"other settings of {task}: {name} is {value} in this call", found)
    if plan.predict_test and not before.predict_test and finished:
        refuse(
            "--submission",
            None,
            "another --out, or none of --submission",
            f"the finished runs in {folder} have not predicted the test splits",
        )
    tasks = {}
    for task in {**before.tasks, **plan.tasks}:
        cells = [each.tasks[task] for each in (before, plan) if task in each.tasks]
        seeds = dict.fromkeys(seed for cell in cells for seed in cell.seeds)
        tasks[task] = now.get(task, cells[0]).with_seeds(tuple(seeds))
    # The run of MNLI that a folder has is the one that tasks start from, whatever the call's seeds.
    seed = (before if before.starts_from_mnli or "mnli" in before.tasks else plan).mnli_seed
    starts = any(cell.start == "mnli" for cell in tasks.values())
    start = now.get("mnli", before.start) if starts else None
    return _named(
        dataclasses.replace(
            plan,
            tasks=tasks,
            predict_test=before.predict_test or plan.predict_test,
            mnli_seed=seed,
            start=None if start is None else start.with_seeds([seed]),
            data_sha256={t: s for t, s in before.data_sha256.items() if t in finished},
        )
    )


def check_start(runs: Iterable[Run], of_call: Iterable[Run]) -> None:
    """Refuses runs that would not all start from the same network."""
    names = {run.name for run in of_call}
    for run in runs:
        start = run.start
        if start is None or start.name not in names:
            continue
        if run.finished and not start.finished:
            refuse(
                "--out",
                str(run.folder),
                "the same call once the folders of all such runs are removed",
                f"{run.name} started from a run of MNLI that is gone",
            )
        if not run.finished and start.finished and not (start.folder / NETWORK).exists():
            refuse(
                "--out",
                str(start.folder),
                "the same call once it is removed, and the folders of the runs that started from "
                "it",
                "a finished run of MNLI has kept no network that tasks could start from",
            )


def other_cell(
    task: str, before: TaskSettings, now: TaskSettings
) -> tuple[str, object, object] | None:
    """Returns the first setting of a task that differs, seeds aside, with both of its values.

    >>> other_cell("rte", TaskSettings(3, 16, 1e-4, 0), TaskSettings(3, 16, 5e-4, 0))
    ('rte.learning_rate', 0.0001, 0.0005)
    """
    for name in CELLS:
        values = [getattr(settings, name) for settings in (before, now)]
        if values[0] != values[1]:
            # `InputError` leaves out a value of None.
            shown = ["none" if value is None else value for value in values]
            return f"{task}.{name}", shown[0], shown[1]
    return None


def fingerprint(checkpoint: str) -> str:
    """Returns what tells a checkpoint from others: a hash of its content, or a hub id.

    Of a folder, the files count that make the model and the tokenizer: other files, and folders in
    it, change nothing.
    """
    path = Path(checkpoint).expanduser()
    if path.is_file():
        return sha256_of(path)
    if path.is_dir():
        last = path / "checkpoints" / "last.ckpt"
        is_run = last.exists() and not (path / "config.json").exists()
        what = "is the folder of a run, and no checkpoint"
        check(not is_run, "--checkpoint", str(path), str(last), what)
        files = sorted(each for each in path.iterdir() if each.suffix in PARTS and each.is_file())
        content = "".join(f"{each.name} {sha256_of(each)}\n" for each in files)
        return hashlib.sha256(content.encode()).hexdigest()
    is_hub_id = HUB_ID.fullmatch(checkpoint) and path.suffix not in WEIGHTS
    check(bool(is_hub_id), "--checkpoint", checkpoint, CHECKPOINTS, "no such file or folder")
    return checkpoint


def local_path(checkpoint: str) -> str:
    """Makes a local path absolute, so that a folder called `base` is not read as a size of BERT."""
    path = Path(checkpoint).expanduser()
    return str(path.resolve()) if path.exists() else checkpoint


def _settings(values: dict[str, Any]) -> TaskSettings:
    return TaskSettings(**{**values, "seeds": tuple(values["seeds"])})


def _named(plan: Plan) -> Plan:
    """Returns the plan with the protocol's name that its settings deserve."""
    return dataclasses.replace(plan, protocol=name_of(plan.protocol, plan.cells))


def _is_new(folder: Path) -> bool:
    """Whether no evaluation is there; refuses what holds something else, or can be no folder."""
    try:
        if (folder / PLAN).exists():
            return False
        above = next(path for path in (folder, *folder.parents) if path.exists())
        names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    except OSError as error:
        refuse("--out", str(folder), None, f"cannot be a folder ({error.strerror})")
    check(above.is_dir(), "--out", str(above), "a folder", "is a file")
    check(
        all(name.startswith(".") for name in names),
        "--out",
        str(folder),
        "a new folder, or one that `rrr glue --out` wrote",
        "holds other files",
    )
    return True


def _refuse_checkpoint(folder: Path, before: str, now: str) -> NoReturn:
    paths = [Path(each).expanduser().resolve() for each in (before, now)]
    if paths[0] == paths[1]:
        _refuse(folder, f"{now}, whose content has changed since", None)
    _refuse(folder, f"another checkpoint than {now}", before)


def _refuse(folder: Path, what: str, found: object) -> NoReturn:
    refuse("--out", found, SAME, f"{folder} holds results of {what}")
