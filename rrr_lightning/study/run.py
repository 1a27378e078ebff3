"""The whole way: plan, timed steps, jobs, records, report; the same call goes on after a stop."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from rrr_lightning.errors import InputError
from rrr_lightning.files import read_json
from rrr_lightning.jobs import Outcome, Places, find_places, run_jobs
from rrr_lightning.jobs.display import duration
from rrr_lightning.study import folder
from rrr_lightning.study.batches import make_jobs, runs_to_do
from rrr_lightning.study.checks import readable
from rrr_lightning.study.pilot import FOLDER as PILOT
from rrr_lightning.study.pilot import Timing, time_runs
from rrr_lightning.study.plan import Run, make_plan
from rrr_lightning.study.points import Point, StudyDesign
from rrr_lightning.study.records import (
    LEDGER,
    Record,
    machine,
    make_design,
    make_points,
    read_records,
)
from rrr_lightning.study.report import write_report
from rrr_lightning.study.settings import Study
from rrr_lightning.study.study_file import read_study
from rrr_lightning.study.tuning import write_ranking
from rrr_lightning.study.words import CLOCKS

PICTURES = "\n!["


@dataclass(frozen=True)
class Opened:
    """A study in its folder.

    Attributes:
        name: Its name in reports.
        study: The study.
        home: Its folder.
        runs: All runs, in an order in which they can run.
        records: Records of those that have finished.
    """

    name: str
    study: Study
    home: Path
    runs: tuple[Run, ...]
    records: Mapping[str, Record]


def open_study(
    file: str, out: str | Path, data: str | None = None, quality_data: str | None = None
) -> Opened:
    """Reads a study file and what its folder holds.

    Args:
        file: The study file, or the name of a shipped one.
        out: The output folder; it need not be there.
        data: Where the data are, over what the configurations say.
        quality_data: What the command that judges runs judges on, likewise.

    Raises:
        InputError: Something in the file is wrong, or the folder is not its own.
    """
    study = read_study(file, quality_data)
    home = Path(out).expanduser().absolute()
    runs = make_plan(study, home, data)
    folder.check(study, home)
    return Opened(Path(file).stem, study, home, runs, read_records(home, runs))


def run_study(
    opened: Opened,
    devices: str = "auto",
    slurm: Mapping[str, Any] | None = None,
    stream: TextIO | None = None,
) -> Outcome:
    """Runs what has not finished, then writes the report.

    Args:
        opened: The study.
        devices: Where to run; see `find_places`.
        slurm: Parameters of the cluster.
        stream: Where to print; the standard output by default.

    Raises:
        InputError: A kind of run is refused; none has started then.
    """
    stream = sys.stdout if stream is None else stream
    left, again = runs_to_do(opened.runs, opened.records)
    places, jobs = Places(({},)), []
    if left:
        places = find_places(devices, slurm)
        timings = timed(opened, places)
        seconds = {run.name: timings[run.kind].seconds(run) for run in left}
        count = len(places.environments)
        stream.write(
            f"{len(left)} of {len(opened.runs)} runs are left, "
            f"about {duration(sum(seconds.values()) / count)} in {count} at once\n"
        )
        for run in again:
            stream.write(f"{run.name} is trained again: its checkpoint is gone\n")
        folder.claim(opened.study, opened.home)
        jobs = make_jobs(left, seconds, opened.home, opened.study.quality, count)
    outcome = run_jobs(jobs, opened.home, places, stream)
    records = read_records(opened.home, opened.runs)
    report(Opened(opened.name, opened.study, opened.home, opened.runs, records), stream)
    return outcome


def timed(opened: Opened, places: Places) -> dict[str, Timing]:
    """Returns what each kind of run takes; leaves no new folder behind if one is refused."""
    new = not opened.home.exists()
    try:
        timings = time_runs(opened.runs, opened.home, places, opened.study.quality)
        _check_machine(opened)
        return timings
    except InputError:
        if new:
            shutil.rmtree(opened.home, ignore_errors=True)
        raise


def _check_machine(opened: Opened) -> None:
    """Refuses to go on, by a wall clock, on another machine than that of the records.

    Where the records are of several machines already, the report is by FLOPs, and more of them do
    no harm.
    """
    study = opened.study
    if study.headline.clock == "flops" or study.purpose == "tuning":
        return
    roles = ("student",) if study.headline.charge == "free" else ("student", "teacher")
    there = {
        machine(record.hardware, record.ledger, record.run)
        for record in opened.records.values()
        if record.role in roles
    }
    here = set()
    for kind in {run.kind for run in opened.runs if run.role in roles}:
        ledger = read_json(opened.home / PILOT / kind / LEDGER)
        here.add(machine(ledger["hardware"], ledger))
    if len(there) > 1 or len(there | here) == 1:
        return
    ran = f"the records are of {', '.join(there)}, and " if there else ""
    raise InputError(
        f"cannot compare runs of different machines: {ran}this is {', '.join(sorted(here))}",
        key="headline.clock",
        found=study.headline.clock,
        accepted="flops; or one machine for all runs",
    )


def report(opened: Opened, stream: TextIO | None = None) -> None:
    """Writes the report on what has finished, and prints it with the paths of its files."""
    stream = sys.stdout if stream is None else stream
    records = opened.records
    if not any(record.role == "student" for record in records.values()):
        stream.write("no run has finished yet, so there is no report\n")
        return
    points = make_points(records)
    if opened.study.purpose == "tuning":
        text = write_ranking(points, opened.study, opened.home)
    else:
        design = make_design(opened.study, opened.name)
        notes = _forced(points, design)
        stream.writelines(f"\n{note}.\n" for note in notes)
        text = write_report(points, design, opened.home, [*notes, *_notes(opened)])
    # The screen gets the question and its answer; the rest is in the file.
    stream.write(f"\n{text.partition(PICTURES)[0].rstrip()}\n\n")
    for path in (*sorted(opened.home.glob("report.*")), *sorted(opened.home.glob("*.png"))):
        stream.write(f"{path}\n")


def _forced(points: Sequence[Point], design: StudyDesign) -> list[str]:
    """Says where the report has to take another clock than the study."""
    clock = readable(points, design).clock
    if clock == design.clock:
        return []
    return [
        f"The headline is by {CLOCKS[clock]} and not by {CLOCKS[design.clock]}, as the runs were "
        "made on different machines"
    ]


def _notes(opened: Opened) -> Sequence[str]:
    """What the report says besides numbers."""
    notes = []
    if opened.study.tuning:
        notes.append(f"How settings were chosen: {opened.study.tuning}")
    for record in opened.records.values():
        if record.trained_again:
            notes.append(
                f"{record.run} was trained again, {record.trained_again} time(s), because its "
                "checkpoint was gone; its costs are those of the last time"
            )
    return notes
