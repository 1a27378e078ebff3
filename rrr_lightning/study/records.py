"""What a finished run leaves: a small file from which the study goes on without its checkpoints.

`records/<run>.json` holds the run's configuration, metrics and ledger, and can be committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rrr_lightning.errors import InputError, did_you_mean
from rrr_lightning.files import read_json
from rrr_lightning.jobs.process import write_json
from rrr_lightning.study.clocks import phase_seconds, run_costs
from rrr_lightning.study.plan import Run
from rrr_lightning.study.points import Point, StudyDesign
from rrr_lightning.study.settings import Study

FOLDER = "records"
LEDGER = "ledger.json"
METRICS = "metrics.csv"
VALIDATED = "validated.json"  # of a validation after the training, see `LastValidation`
NOTES = "notes.json"  # of a pilot run, see `PilotNotes`
VERSION = 1
CURVE_ROWS = 100


@dataclass(frozen=True)
class Record:
    """A finished run.

    Attributes:
        run: Its name.
        role: `student` or `teacher`.
        arm: Its arm, of a student.
        steps: Its optimizer steps.
        seed: Its seed.
        fingerprint: Digest of all that it depends on.
        config: Its configuration, but for what is a matter of the machine.
        quality: `metric`, `value` and `step` of what the study compares.
        curve: Rows of metrics, each with the number of steps done.
        ledger: Its costs.
        hardware: The machine.
        teachers: Names of the study's runs that taught it.
        trained_again: How often it was trained again because its checkpoint was gone.
        version: Version of this format.
    """

    run: str
    role: str
    arm: str | None
    steps: int
    seed: int
    fingerprint: str
    config: dict[str, Any]
    quality: dict[str, Any]
    curve: list[dict[str, float]]
    ledger: dict[str, Any]
    hardware: dict[str, Any]
    teachers: list[str] = field(default_factory=list)
    trained_again: int = 0
    version: int = VERSION

    def write(self, home: Path) -> None:
        """Writes the record into the study's folder, whole or not at all."""
        path = record_path(home, self.run)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, asdict(self))


def record_path(home: Path, run: str) -> Path:
    """Returns where a run's record is kept."""
    return home / FOLDER / f"{run}.json"


def read_record(home: Path, run: str) -> Record | None:
    """Reads the record of a run; None if there is none.

    Raises:
        InputError: The file is damaged or of another version.
    """
    path = record_path(home, run)
    if not path.exists():
        return None
    try:
        record = Record(**read_json(path))
    except (ValueError, TypeError) as error:
        raise InputError("is no record of a run", key="--out", found=str(path)) from error
    if record.version != VERSION:
        raise InputError(f"has the version {record.version}", key="--out", found=str(path))
    return record


def read_records(home: Path, runs: Iterable[Run]) -> dict[str, Record]:
    """Reads the records of those runs that have one.

    Raises:
        InputError: A record was made with other settings.
    """
    records = {}
    for run in runs:
        record = read_record(home, run.name)
        if record is None:
            continue
        if record.fingerprint != run.fingerprint:
            raise InputError(
                "was run with other settings than the study file now says",
                key=run.name,
                found=str(record_path(home, run.name)),
                accepted="the former settings, or another folder",
            )
        records[run.name] = record
    return records


def read_curve(folder: Path) -> list[dict[str, float]]:
    """Returns the metrics that a run has logged, by optimizer steps done."""
    # Imports Lightning, which a call with nothing left to do can spare.
    from rrr_lightning.metrics_file import read_rows

    _, rows = read_rows(folder / METRICS)
    return [
        {"step": int(row["step"]) + 1}
        | {key: float(value) for key, value in row.items() if key != "step" and value}
        for row in rows
    ]


def thin(curve: Sequence[Mapping[str, float]]) -> list[dict[str, float]]:
    """Returns a curve as records keep it: validations, and evenly chosen rows of the others.

    The costs logged by step are left out, as the ledger has them.
    """
    every = max(1, len(curve) // CURVE_ROWS)
    return [
        {key: _rounded(key, value) for key, value in row.items() if not key.startswith("cost/")}
        for position, row in enumerate(curve)
        if position % every == 0 or any(key.startswith("val/") for key in row)
    ]


def _rounded(key: str, value: float) -> float:
    return int(value) if key == "step" else float(f"{value:.6g}")


def final_value(curve: Sequence[Mapping[str, float]], metric: str, steps: int) -> float:
    """Returns a metric at the end of a run.

    Raises:
        InputError: The run never logged it, or not at its end.
    """
    logged = sorted({key for row in curve for key in row} - {"step"})
    if metric not in logged:
        raise never_logged(metric, logged)
    values = [row[metric] for row in curve if metric in row and row["step"] == steps]
    if not values:
        raise InputError(
            "is not logged at the last step of a run", key="quality.metric", found=metric
        )
    return values[-1]


def never_logged(metric: str, logged: Sequence[str]) -> InputError:
    """The error of a metric that no run will ever have."""
    return InputError(
        f"no run logs it{did_you_mean(metric, logged)}",
        key="quality.metric",
        found=metric,
        accepted=", ".join(logged),
    )


def make_points(records: Mapping[str, Record]) -> list[Point]:
    """Returns the finished students as points of the estimator, each with its teachers' costs."""
    return [_point(record, records) for record in records.values() if record.role == "student"]


def _point(record: Record, records: Mapping[str, Record]) -> Point:
    assert record.arm is not None
    ledgers = _ledgers_of_teachers(record, records)
    known = {name: ledger for name, ledger in ledgers.items() if ledger is not None}
    complete = len(known) == len(ledgers)
    return Point(
        arm=record.arm,
        steps=record.steps,
        seed=record.seed,
        quality=record.quality["value"],
        costs=run_costs(record.ledger),
        teacher_costs=_sum([run_costs(each) for each in known.values()]) if complete else {},
        phases=phase_seconds(record.ledger),
        curve=record.curve,
        hardware=machine(record.hardware, record.ledger, record.run),
        teacher_machines=sorted(
            {machine(each.get("hardware"), each, name) for name, each in known.items()}
        ),
        has_teachers=bool(ledgers),
    )


def _ledgers_of_teachers(
    record: Record, records: Mapping[str, Record]
) -> dict[str, dict[str, Any] | None]:
    """Returns the ledgers of those who taught a run, and who taught them; None where unknown.

    Checkpoints of one training, as of one that was resumed, count once: the longest.
    """
    found: dict[str, dict[str, Any] | None] = {}
    for name, ledger in _all_teachers(record.ledger, record.teachers, records):
        before, now = ((each or {}).get("steps", 0) for each in (found.get(name), ledger))
        if name not in found or now > before:
            found[name] = ledger
    return found


def _all_teachers(
    ledger: Mapping[str, Any], ours: Sequence[str], records: Mapping[str, Record]
) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yields the teachers of a run, each followed by its own; `ours` are runs of the study."""
    for teacher in ledger.get("teachers") or ():
        name, told = teacher["name"], teacher["ledger"]
        if name not in ours:
            yield (told or {}).get("run") or teacher["sha256"] or name, told
            yield from _all_teachers(told or {}, (), records)
        elif name in records:
            yield name, records[name].ledger
            yield from _all_teachers(records[name].ledger, records[name].teachers, records)
        else:
            yield name, None


def _sum(costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Sums by clock; a clock that one does not know is left out."""
    if not costs:
        return {}
    clocks = set(costs[0]).intersection(*costs)
    return {clock: sum(each[clock] for each in costs) for clock in sorted(clocks)}


def machine(
    hardware: Mapping[str, Any] | None, ledger: Mapping[str, Any], run: str | None = None
) -> str:
    """Returns what a run ran on, in words that are the same where seconds are comparable.

    Args:
        hardware: The machine.
        ledger: Its ledger, which tells the number of devices, and whether there was another
            machine before. Such a run is comparable to no other.
        run: Its name.
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


def make_design(study: Study, name: str) -> StudyDesign:
    """Returns what the estimator has to know of a study."""
    return StudyDesign(
        name=name,
        metric=study.quality.metric,
        direction=study.quality.direction,  # type: ignore[arg-type]
        baseline=study.baseline,
        durations={arm: tuple(sorted(study.durations_of(arm))) for arm in study.arms},
        seeds=study.seeds,
        target=study.quality.target,
        clock=study.headline.clock,  # type: ignore[arg-type]
        charge=study.headline.charge,  # type: ignore[arg-type]
        amortized_over=study.amortize_over,
        settings_tried=study.settings_tried,
        ceiling=study.quality.ceiling,
        demonstration=study.demonstration,
        contrasts=study.contrasts,
    )
