"""Finished runs: their records on disk, and what they cost.

`records/<run>.json` has the run's configuration, metrics and ledger, and can be committed: from it
the study is reported without any checkpoint.

There are three cost metrics. `wall` is the device-seconds of training: student steps, teacher
forwards, waiting for data and whatever else the loop does between them. Validation, checkpoints and
set-up are left out, for how often they happen is a choice of the user, not of the method.
`wall_without_data` leaves out the waiting as well, as on a machine whose loader keeps up. `flops`
counts the operations of the student and of the teacher forwards, and is the same on every machine.
Seconds of different machines are never added up or compared, only operations are.

A step that was redone after a crash is no cost of an arm: costs are scaled by the share of steps
that were not redone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

import msgspec
import numpy as np

from rrr_lightning.errors import InputError, check, did_you_mean, refuse
from rrr_lightning.files import read_json
from rrr_lightning.jobs.process import write_json
from rrr_lightning.study.confidence import SeedGroup
from rrr_lightning.study.config import Charge, CostMetric, Study
from rrr_lightning.study.plan import PlannedRun
from rrr_lightning.study.quality_cost_curve import log_error

FOLDER = "records"
LEDGER = "ledger.json"
VALIDATED = "validated.json"  # metrics and size of the last validation, see `LastValidation`
VERSION = 1
TRAINING = ("student_step", "teacher_forward", "data_wait", "other")


class _Phase(TypedDict):
    seconds: float


class _Flops(TypedDict):
    student: float | None
    teacher: float | None


class _Taught(TypedDict):
    name: str
    sha256: str | None
    ledger: Ledger | None


class _Needed(TypedDict):
    steps: int
    phases: dict[str, _Phase]
    flops: _Flops


class Ledger(_Needed, total=False):
    """What is used of a run's cost ledger."""

    run: str | None
    redone_steps: int | None
    world_size: int | None
    mixed_hardware: bool
    hardware: dict[str, Any] | None
    teachers: list[_Taught] | None


class _Final(TypedDict):
    value: float


class Record(TypedDict):
    """The content of a record: `quality` has `metric`, `value` and `step`, `teachers` are runs."""

    run: str
    role: str
    arm: str | None
    steps: int
    seed: int
    fingerprint: str
    config: dict[str, Any]
    quality: _Final
    curve: list[dict[str, float]]
    ledger: Ledger
    hardware: dict[str, Any]
    teachers: list[str]
    trained_again: int
    version: int


@dataclass(frozen=True)
class Result:
    """One finished run.

    Attributes:
        arm: The arm's name; of a teacher, its run's name.
        steps: Its duration in optimizer steps.
        seed: Its seed; runs of one seed share initial weights and data.
        quality: The final value of the study's metric.
        costs: Cost of the run by cost metric, excluding teacher training: device-seconds (`wall`,
            `wall_without_data`), FLOPs (`flops`). Unknown ones are left out.
        teacher_costs: Cost of training all the teachers of this run in full, likewise; empty for a
            run without teachers.
        phases: Device-seconds by phase of the ledger.
        curve: Rows of metrics, each with `step`.
        machine: As text; runs with different texts are from different machines.
        teacher_machines: The machines of all its teachers, as far as they are known.
        has_teachers: Whether teachers took part, whose training may be charged.
        role: `student` or `teacher`.
        trained_again: How often the run was repeated because its checkpoint was gone.
    """

    arm: str
    steps: int
    seed: int
    quality: float
    costs: Mapping[str, float]
    teacher_costs: Mapping[str, float] = field(default_factory=dict)
    phases: Mapping[str, float] = field(default_factory=dict)
    curve: Sequence[Mapping[str, float]] = ()
    machine: str = ""
    teacher_machines: Sequence[str] = ()
    has_teachers: bool = False
    role: str = "student"
    trained_again: int = 0

    @property
    def other_machines(self) -> list[str]:
        """The machines that trained its teachers, other than its own."""
        return sorted(set(self.teacher_machines) - {self.machine})


def record_path(home: Path, run: str) -> Path:
    """Returns the path of a run's record."""
    return home / FOLDER / f"{run}.json"


def write_record(home: Path, record: Record) -> None:
    """Writes a record into the study's folder, whole or not at all."""
    path = record_path(home, record["run"])
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, record)


def read_record(home: Path, run: str) -> Record | None:
    """Reads the record of a run; None if there is none."""
    path = record_path(home, run)
    if not path.exists():
        return None
    try:
        record: Record = read_json(path)
        msgspec.convert(record, Record)  # which would leave out what is not used here
    except ValueError as error:
        raise InputError("is no record of a run", key="--out", found=str(path)) from error
    what = f"has the version {record['version']}"
    check(record["version"] == VERSION, "--out", str(path), f"version {VERSION}", what)
    return record


def read_results(home: Path, runs: Iterable[PlannedRun]) -> dict[str, Result]:
    """Reads those runs that have finished, by name; records of other settings are refused."""
    records: dict[str, Record] = {}
    for run in runs:
        record = read_record(home, run.name)
        if record is None:
            continue
        if record["fingerprint"] != run.fingerprint:
            found = str(record_path(home, run.name))
            accepted = "the former settings, or another folder"
            what = "was run with other settings than the study file now says"
            refuse(run.name, found, accepted, what)
        arm = run.kind if run.role == "student" else None
        planned = (run.name, run.role, arm, run.steps, run.seed)
        stated = tuple(record[name] for name in ("run", "role", "arm", "steps", "seed"))
        path = str(record_path(home, run.name))
        check(stated == planned, "--out", path, "the record of this run", "is of another run")
        records[run.name] = record
    return make_results(records)


def make_results(records: Mapping[str, Record]) -> dict[str, Result]:
    """Returns results of records, each with its teachers' costs."""
    return {name: _result(record, records) for name, record in records.items()}


def _result(record: Record, records: Mapping[str, Record]) -> Result:
    ledgers = _ledgers_of_teachers(record, records)
    known = {name: ledger for name, ledger in ledgers.items() if ledger is not None}
    complete = len(known) == len(ledgers)
    machines = {machine(each.get("hardware"), each, name) for name, each in known.items()}
    return Result(
        arm=record["arm"] or record["run"],
        steps=record["steps"],
        seed=record["seed"],
        quality=record["quality"]["value"],
        costs=run_costs(record["ledger"]),
        teacher_costs=_sum([run_costs(each) for each in known.values()]) if complete else {},
        phases=phase_seconds(record["ledger"]),
        curve=record["curve"],
        machine=machine(record["hardware"], record["ledger"], record["run"]),
        teacher_machines=sorted(machines),
        has_teachers=bool(ledgers),
        role=record["role"],
        trained_again=record["trained_again"],
    )


def _ledgers_of_teachers(record: Record, records: Mapping[str, Record]) -> dict[str, Ledger | None]:
    """Returns the ledgers of a run's teachers and of their teachers; None where unknown.

    Checkpoints of one training, as of one that was resumed, count once: the longest.
    """
    found: dict[str, Ledger | None] = {}
    for name, ledger in _all_teachers(record["ledger"], record["teachers"], records):
        before, now = (each["steps"] if each else 0 for each in (found.get(name), ledger))
        if name not in found or now > before:
            found[name] = ledger
    return found


def _all_teachers(
    ledger: Mapping[str, Any], ours: Sequence[str], records: Mapping[str, Record]
) -> Iterator[tuple[str, Ledger | None]]:
    """Yields the teachers of a run, each followed by its own; `ours` are runs of the study."""
    for teacher in ledger.get("teachers") or ():
        name, own = teacher["name"], teacher["ledger"]
        if name not in ours:
            yield (own or {}).get("run") or teacher["sha256"] or name, own
            yield from _all_teachers(own or {}, (), records)
        elif name in records:
            yield name, records[name]["ledger"]
            yield from _all_teachers(records[name]["ledger"], records[name]["teachers"], records)
        else:
            yield name, None


def _sum(costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sums by cost metric; one that is not known of all is left out."""
    if not costs:
        return {}
    known = set(costs[0]).intersection(*costs)
    return {name: sum(each[name] for each in costs) for name in sorted(known)}


def machine(
    hardware: Mapping[str, Any] | None, ledger: Mapping[str, Any], run: str | None = None
) -> str:
    """Returns what a run ran on as text, equal where seconds are comparable.

    A run that was resumed on another machine is comparable to no other, so its text has its name.
    """
    if ledger.get("mixed_hardware"):
        return f"several machines ({run})"
    if not hardware:
        return "a machine that is not known"
    device, processor = hardware.get("device"), hardware.get("cpu")
    if device in (None, "cpu", processor):
        device = f"{processor}, {hardware.get('threads')} threads"
    devices = ledger.get("world_size") or 1
    return f"{devices} × {device}" if devices > 1 else str(device)


def phase_seconds(ledger: Mapping[str, Any]) -> dict[str, float]:
    """Returns the device-seconds of a run by phase, without the share of redone steps."""
    scale = (ledger.get("world_size") or 1) * _not_redone(ledger)
    return {name: scale * float(phase["seconds"]) for name, phase in ledger["phases"].items()}


def run_costs(ledger: Mapping[str, Any]) -> dict[str, float]:
    """Returns the cost of a run by cost metric, without those that its ledger does not know."""
    seconds = phase_seconds(ledger)
    wall = sum(seconds.get(name, 0.0) for name in TRAINING)
    costs = {"wall": wall, "wall_without_data": wall - seconds.get("data_wait", 0.0)}
    student, teacher = ledger["flops"]["student"], ledger["flops"]["teacher"]
    if student is not None and teacher is not None:
        costs["flops"] = _not_redone(ledger) * (float(student) + float(teacher))
    return {name: cost for name, cost in costs.items() if cost > 0}


def _not_redone(ledger: Mapping[str, Any]) -> float:
    """Returns the share of a run's steps that were not redone."""
    steps, redone = ledger["steps"], ledger.get("redone_steps") or 0
    return float(steps - redone) / steps if steps else 1.0


def charged(
    result: Result, cost_metric: CostMetric, charge: Charge, amortize_over: int
) -> float | None:
    """Returns the cost of a run with its teachers' training charged; None where it is unknown."""
    own = result.costs.get(cost_metric)
    if own is None or charge == "free" or not result.has_teachers:
        return own
    teachers = teachers_cost(result, cost_metric)
    if teachers is None:
        return None
    return own + (teachers if charge == "full" else teachers / amortize_over)


def teachers_cost(result: Result, cost_metric: CostMetric) -> float | None:
    """Returns the cost of training a run's teachers; None in seconds of other machines."""
    elsewhere = cost_metric != "flops" and result.other_machines
    return None if elsewhere else result.teacher_costs.get(cost_metric)


def seed_groups(
    results: Sequence[Result], study: Study, arm: str, cost_metric: CostMetric, charge: Charge
) -> list[SeedGroup]:
    """Returns the runs of an arm by duration, in the order of their costs.

    Refuses an arm with a cost that is not known, or an error that has no logarithm.
    """
    by_steps: dict[int, list[Result]] = {}
    for result in sorted(results, key=lambda each: (each.steps, each.seed)):
        if result.arm == arm:
            by_steps.setdefault(result.steps, []).append(result)
    groups = []
    for steps, runs in by_steps.items():
        costs = [charged(run, cost_metric, charge, study.amortize_over) for run in runs]
        known = [cost for cost in costs if cost]
        if len(known) < len(runs):
            what = "the training of its teachers" if charge != "free" else "its runs"
            where = sorted({name for run in runs for name in run.other_machines})
            why = f", for it took place on {', '.join(where)}" if where and charge != "free" else ""
            raise InputError(
                f"the cost of {what} is not known by the clock {cost_metric}{why}", key=arm
            )
        try:
            errors = log_error(np.array([run.quality for run in runs]), *study.quality.scale)
        except InputError as error:
            raise InputError(f"{arm}, {steps} steps: {error}") from error
        groups.append(SeedGroup(steps, tuple(run.seed for run in runs), np.log(known), errors))
    return sorted(groups, key=lambda group: group.cost)


def machines(results: Sequence[Result]) -> dict[str, int]:
    """Returns the number of runs by machine."""
    return dict(Counter(result.machine for result in results))


def usable_cost_metrics(
    results: Sequence[Result], cost_metrics: Sequence[CostMetric]
) -> list[CostMetric]:
    """Returns the cost metrics by which all runs can be compared."""
    mixed = len(machines(results)) > 1
    return [
        each
        for each in cost_metrics
        if all(each in result.costs for result in results) and not (mixed and each != "flops")
    ]


def comparable(results: Sequence[Result], study: Study) -> Study:
    """Returns the study by FLOPs where its runs, or teachers charged to them, mix machines."""
    mixed = len(machines(results)) > 1
    if study.charge != "free":
        mixed = mixed or any(result.other_machines for result in results)
    return study.by("flops") if mixed else study


def missing_runs(results: Sequence[Result], study: Study) -> dict[str, dict[int, list[int]]]:
    """Returns the seeds that have not finished yet, by arm and duration."""
    done = {(result.arm, result.steps, result.seed) for result in results}
    missing: dict[str, dict[int, list[int]]] = {}
    for arm in study.arms:
        for steps in study.durations_of(arm):
            seeds = [seed for seed in study.seeds if (arm, steps, seed) not in done]
            if seeds:
                missing.setdefault(arm, {})[steps] = seeds
    return missing


def never_logged(metric: str, logged: Sequence[str]) -> InputError:
    """The error of a metric that no run logs."""
    return InputError(
        f"no run logs it{did_you_mean(metric, logged)}",
        key="quality.metric",
        found=metric,
        accepted=", ".join(logged),
    )
