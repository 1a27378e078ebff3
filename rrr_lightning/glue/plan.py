"""From tasks and a protocol to jobs: one for every task and seed, and what they wait for."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrr_lightning.data.glue_tasks import TASKS, find_task
from rrr_lightning.errors import InputError
from rrr_lightning.files import read_json
from rrr_lightning.glue.protocol import Protocol, TaskSettings
from rrr_lightning.glue.scores import GLUE
from rrr_lightning.jobs import Job
from rrr_lightning.jobs.process import MARKER, write_json

SETTINGS = "settings.json"
NETWORK = "network.ckpt"
ALL = "all"
CHECKPOINTS = "checkpoints"  # the folder that `checkpointing.last_checkpoint` looks into
CELLS = [each for each in dataclasses.fields(TaskSettings) if each.name != "seeds"]
TRAINED_BY = {*(each.name for each in CELLS), "fingerprint", "data_sha256"}
START_SECONDS = 20.0
JUDGED_FASTER = 3.0  # a forward pass against a training step


@dataclass(frozen=True)
class Run:
    """The fine-tuning of one task with one seed.

    Attributes:
        task: The task.
        seed: The seed.
        folder: Where the job leaves its result.
        settings: What the job is told, as plain types.
        reported: Whether it was asked for; otherwise others start from it.
        is_start: Whether others start from it.
    """

    task: str
    seed: int
    folder: Path
    settings: Mapping[str, Any]
    reported: bool = True
    is_start: bool = False

    @property
    def name(self) -> str:
        """The name of its job."""
        return _name(self.task, self.seed)


@dataclass(frozen=True)
class Plan:
    """What will be run.

    Attributes:
        runs: All runs.
        jobs: Their jobs, in the same order.
        notes: What the user should know before they start.
    """

    runs: tuple[Run, ...]
    jobs: tuple[Job, ...]
    notes: tuple[str, ...]

    @property
    def left(self) -> tuple[Run, ...]:
        """The runs that have not finished."""
        pairs = zip(self.runs, self.jobs, strict=True)
        return tuple(run for run, job in pairs if not job.finished)


def chosen_tasks(text: str) -> tuple[str, ...]:
    """Returns the tasks that `--tasks` names with commas; `all` stands for those of the average.

    Raises:
        InputError: There is no such task.
    """
    names: list[str] = []
    for name in filter(None, map(str.strip, text.split(","))):
        names += GLUE if name == ALL else [find_task(name, "--tasks", (ALL, *TASKS)).name]
    if not names:
        raise InputError("names no task", key="--tasks", found=text, accepted="all, or cola,rte")
    return tuple(dict.fromkeys(names))


def make_plan(
    tasks: Sequence[str],
    protocol: Protocol,
    checkpoint: str,
    data: str,
    out: str | Path,
    *,
    rows: Mapping[str, tuple[int, int]] | None = None,
    data_sha256: Mapping[str, Mapping[str, str]] | None = None,
    samples_per_second: float = 100.0,
    predict_test: bool = False,
    micro_batch_size: int | None = None,
    mnli_seed: int | None = None,
    fingerprint: str | None = None,
) -> Plan:
    """Plans the fine-tuning of a checkpoint.

    Args:
        tasks: Names of tasks.
        protocol: Their settings.
        checkpoint: What every task starts from, unless the protocol has it start from MNLI.
        data: Source of the data.
        out: Folder of the evaluation; the jobs get `jobs/<task>-<seed>` in it.
        rows: Rows to train and to judge on, by task; by default those of the official data.
        data_sha256: What tells the texts and labels from others, by task and split; by default the
            jobs take them as they are.
        samples_per_second: How fast the network trains, for the order and the time left.
        predict_test: Whether the test splits are predicted too, also by what is not reported: a
            later call may ask for it.
        micro_batch_size: The most samples per forward pass; by default those of a step.
        mnli_seed: Seed of the run of MNLI that tasks start from; by default its first one.
        fingerprint: What tells the checkpoint from others; by default the jobs take it as it is.
    """
    home = Path(out).absolute() / "jobs"
    wanted = {(task, seed): True for task in tasks for seed in protocol.tasks[task].seeds}
    followers = [task for task in tasks if protocol.tasks[task].start == "mnli"]
    source = ("mnli", protocol.tasks["mnli"].seeds[0] if mnli_seed is None else mnli_seed)
    notes: list[str] = []
    if followers and source not in wanted:
        wanted = {source: False, **wanted}
        what = "MNLI, which is fine-tuned first and not reported"
        if (home / _name(*source) / MARKER).exists():
            what = f"the finished run of MNLI with seed {source[1]}"
        notes.append(f"{', '.join(followers)} start from {what}.")
    runs, jobs = [], []
    for (task, seed), reported in wanted.items():
        cell = protocol.tasks[task]
        start = home / _name(*source) / NETWORK if task in followers else checkpoint
        told = {
            **dataclasses.asdict(cell),
            "task": task,
            "seed": seed,
            "checkpoint": str(start),
            "data": data,
            # Also where nobody starts from it in this call: a later one can ask for more tasks.
            "save_network": (task, seed) == source,
            "predict_test": predict_test,
            "micro_batch_size": micro_batch_size,
        }
        del told["seeds"]
        if data_sha256 is not None and task in data_sha256:
            told["data_sha256"] = dict(data_sha256[task])
        if fingerprint is not None:
            told["fingerprint"] = fingerprint
        begins = bool(followers) and (task, seed) == source
        run = Run(task, seed, home / _name(task, seed), told, reported, begins)
        trained, judged = (rows or {}).get(task) or _official_rows(task)
        samples = cell.steps(trained) * cell.batch_size + judged / JUDGED_FASTER
        seconds = START_SECONDS + samples / samples_per_second
        needs = (_name(*source),) if task in followers else ()
        runs.append(run)
        jobs.append(Job(run.name, _command(run), run.folder, seconds, needs))
    return Plan(tuple(runs), tuple(jobs), tuple(notes))


def write_settings(plan: Plan) -> None:
    """Writes what the jobs that have not finished are told.

    What a job has trained by other settings, from another checkpoint, or from a run of MNLI that is
    done again, is removed.
    """
    left = {run.name for run in plan.left}
    for run, job in zip(plan.runs, plan.jobs, strict=True):
        if run.name not in left:
            continue
        changed = not TRAINED_BY.isdisjoint(told_otherwise(run))
        if changed or not left.isdisjoint(job.needs):
            shutil.rmtree(run.folder / CHECKPOINTS, ignore_errors=True)
        run.folder.mkdir(parents=True, exist_ok=True)
        write_json(run.folder / SETTINGS, dict(run.settings))


def told_otherwise(run: Run) -> list[str]:
    """What a job's settings file, if there is one, says otherwise than the plan.

    Where a checkpoint lies does not matter.
    """
    path = run.folder / SETTINGS
    if not path.exists():
        return []
    before = read_json(path)
    return [
        name
        for name, value in run.settings.items()
        if name != "checkpoint" and before.get(name) != value
    ]


def _name(task: str, seed: int) -> str:
    return f"{task}-{seed}"


def _command(run: Run) -> tuple[str, ...]:
    program = (sys.executable, "-m", "rrr_lightning.glue.fine_tune")
    return (*program, str(run.folder / SETTINGS))


def _official_rows(task: str) -> tuple[int, int]:
    found = find_task(task)
    return found.rows["train"], sum(found.rows[split] for split in found.validation_splits)
