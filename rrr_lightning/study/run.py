"""From a study file to its report: plan, timed steps, jobs, results; the same call resumes.

`study.json` says which study an output folder is of. A later call may add arms, durations, seeds
and teachers; anything else that differs is refused, above all the quality target and the headline
cell, which are fixed before the runs. Records are not read without it, as they do not have target
and headline. A record, not a job's marker, says that a run has finished: the next call makes its
jobs of whatever has no record yet.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from rrr_lightning.errors import InputError, check, refuse
from rrr_lightning.files import content_of, read_json
from rrr_lightning.jobs import Job, Outcome, Places, find_places, run_jobs
from rrr_lightning.jobs.places import slurm_parameters
from rrr_lightning.jobs.process import MARKER, write_json
from rrr_lightning.jobs.runner import duration
from rrr_lightning.study.advise import FOLDER as PILOT
from rrr_lightning.study.advise import Timing, advise, list_hours, list_runs, time_runs
from rrr_lightning.study.comparison import analyse
from rrr_lightning.study.config import Quality, Study, read_study
from rrr_lightning.study.plan import PlannedRun, make_plan
from rrr_lightning.study.plots import draw
from rrr_lightning.study.report import COST_METRIC_NAMES, write_ranking, write_report
from rrr_lightning.study.results import FOLDER as RECORDS
from rrr_lightning.study.results import LEDGER, Result, comparable, machine, read_results

NAME = "study.json"
BATCH = "batch.json"
PICTURES = "\n!["
START_SECONDS = 15.0
# A batch is long enough to make the start of Python small, short enough to keep all devices busy.
LEAST_SECONDS, MOST_SECONDS = 40.0, 600.0
JOBS_PER_PLACE = 3


@dataclass(frozen=True)
class StudyFolder:
    """A study in its output folder: its runs in an order in which they can run, and its results."""

    name: str
    study: Study
    home: Path
    runs: tuple[PlannedRun, ...]
    results: Mapping[str, Result]

    @property
    def students(self) -> list[Result]:
        """The results of students."""
        return [result for result in self.results.values() if result.role == "student"]


def open_study(
    file: str, out: str | Path, data: str | None = None, quality_data: str | None = None
) -> StudyFolder:
    """Reads a study file, local or shipped, and the results in its folder, if that exists.

    `data` is where the data are, over what the configurations say; `quality_data` likewise for the
    command that evaluates runs.
    """
    study = read_study(file, quality_data)
    home = Path(out).expanduser().absolute()
    runs = make_plan(study, home, data)
    check_folder(study, home)
    return StudyFolder(Path(file).stem, study, home, runs, read_results(home, runs))


def run_study(
    opened: StudyFolder,
    devices: str = "auto",
    slurm: Mapping[str, Any] | None = None,
    stream: TextIO | None = None,
) -> Outcome:
    """Runs what has not finished, then writes the report.

    A kind of run that is refused is refused before any of the study's runs starts. `devices` and
    `slurm` are explained at `find_places`.
    """
    stream = sys.stdout if stream is None else stream
    left, again = runs_to_do(opened.runs, opened.results)
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
        claim_folder(opened.study, opened.home)
        jobs = make_jobs(left, seconds, opened.home, opened.study.quality, count)
    outcome = run_jobs(jobs, opened.home, places, stream)
    report(replace(opened, results=read_results(opened.home, opened.runs)), stream)
    return outcome


def timed(opened: StudyFolder, places: Places) -> dict[str, Timing]:
    """Times each kind of run; leaves no new folder behind if one is refused."""
    new = not opened.home.exists()
    try:
        timings = time_runs(opened.runs, opened.home, places, opened.study.quality)
        _check_machine(opened)
        return timings
    except InputError:
        if new:
            shutil.rmtree(opened.home, ignore_errors=True)
        raise


def _check_machine(opened: StudyFolder) -> None:
    """Refuses to resume, by seconds, on another machine than that of the results.

    Where the results are of several machines already, the report is by FLOPs, and more of them do
    no harm.
    """
    study = opened.study
    if study.cost_metric == "flops" or study.purpose == "tuning":
        return
    roles = ("student",) if study.charge == "free" else ("student", "teacher")
    there = {result.machine for result in opened.results.values() if result.role in roles}
    here = set()
    for kind in {run.kind for run in opened.runs if run.role in roles}:
        ledger = read_json(opened.home / PILOT / kind / LEDGER)
        here.add(machine(ledger["hardware"], ledger))
    ran = f"the records are of {', '.join(there)}, and " if there else ""
    what = f"cannot compare runs of different machines: {ran}this is {', '.join(sorted(here))}"
    accepted = "flops; or one machine for all runs"
    same = len(there) > 1 or len(there | here) == 1
    check(same, "headline.clock", study.cost_metric, accepted, what)


def report(opened: StudyFolder, stream: TextIO | None = None) -> None:
    """Writes the report on what has finished, and prints it with the paths of its files."""
    stream = sys.stdout if stream is None else stream
    study, students = opened.study, opened.students
    if not students:
        stream.write("no run has finished yet, so there is no report\n")
        return
    if study.purpose == "tuning":
        text = write_ranking(students, study, opened.home)
    else:
        notes = []
        used = comparable(students, study).cost_metric
        if used != study.cost_metric:
            wanted = COST_METRIC_NAMES[study.cost_metric]
            notes.append(
                f"The headline is by {COST_METRIC_NAMES[used]} and not by {wanted}, as the runs "
                "were made on different machines"
            )
        stream.writelines(f"\n{note}.\n" for note in notes)
        if study.tuning:
            notes.append(f"How settings were chosen: {study.tuning}")
        notes += [
            f"{name} was trained again, {result.trained_again} time(s), because its checkpoint was "
            "gone; its costs are those of the last time"
            for name, result in opened.results.items()
            if result.trained_again
        ]
        analysis = analyse(students, study)
        pictures = draw(analysis, opened.home)
        text = write_report(analysis, opened.name, opened.home, notes, pictures)
    # The screen gets the question and its answer; the rest is in the file.
    stream.write(f"\n{text.partition(PICTURES)[0].rstrip()}\n\n")
    for path in (*sorted(opened.home.glob("report.*")), *sorted(opened.home.glob("*.png"))):
        stream.write(f"{path}\n")


def runs_to_do(
    runs: Sequence[PlannedRun], finished: Collection[str]
) -> tuple[list[PlannedRun], list[PlannedRun]]:
    """Returns the runs that are left, and the teachers among them that have to be trained again.

    The latter have finished, but their checkpoint was deleted, and a run that is left needs it.
    """
    left = [run for run in runs if run.role == "student" and run.name not in finished]
    needed = {name for run in left for name in run.teachers}
    by_name = {run.name: run for run in runs}
    again: list[PlannedRun] = []
    teachers: dict[str, PlannedRun] = {}
    queue = [
        run.name
        for run in runs
        if run.role == "teacher" and (run.name not in finished or run.name in needed)
    ]
    while queue:
        run = by_name[queue.pop()]
        if run.name in teachers or (run.name in finished and run.checkpoint.exists()):
            continue
        teachers[run.name] = run
        queue += run.teachers
        if run.name in finished:
            again.append(run)
    return [run for run in runs if run.name in teachers or run in left], again


def make_jobs(
    runs: Sequence[PlannedRun],
    seconds: Mapping[str, float],
    home: Path,
    quality: Quality,
    places: int,
) -> list[Job]:
    """Returns jobs of one or more runs each, of which `places` run at once; writes their batches.

    Short runs share a process, so that starting Python is not most of the work: `seconds` are
    expected by run, without this start.
    """
    total = sum(seconds[run.name] for run in runs)
    limit = min(max(total / (places * JOBS_PER_PLACE), LEAST_SECONDS), MOST_SECONDS)
    left = {run.name for run in runs}
    by_teachers: dict[tuple[str, ...], list[list[PlannedRun]]] = {}
    for run in runs:
        # Runs that wait for the same teachers go together, and what others wait for goes alone.
        waits = tuple(name for name in run.teachers if name in left)
        batches = by_teachers.setdefault((run.role, *waits), [[]])
        batch = batches[-1]
        if batch and sum(seconds[each.name] for each in batch) + seconds[run.name] > limit:
            batches.append(batch := [])
        batch.append(run)
    batches = [batch for each in by_teachers.values() for batch in each]
    job_of = {run.name: _job_name(batch) for batch in batches for run in batch}
    jobs = []
    for batch in batches:
        name = _job_name(batch)
        folder = home / "jobs" / name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARKER).unlink(missing_ok=True)
        write_json(folder / BATCH, [description(run, home, quality) for run in batch])
        command = (sys.executable, "-m", "rrr_lightning.study.worker", str(folder / BATCH))
        needs = {job_of[need] for run in batch for need in run.teachers if need in job_of} - {name}
        expected = START_SECONDS + sum(seconds[run.name] for run in batch)
        jobs.append(Job(name, command, folder, expected, tuple(sorted(needs))))
    return jobs


def _job_name(batch: Sequence[PlannedRun]) -> str:
    more = f"+{len(batch) - 1}" if len(batch) > 1 else ""
    return batch[0].name + more


def description(run: PlannedRun, home: Path, quality: Quality) -> dict[str, Any]:
    """Returns a run as plain types for the worker."""
    command = None
    if run.role == "student" and quality.command is not None:
        values = {"checkpoint": run.checkpoint, "folder": run.folder, "data": quality.data}
        command = list(quality.command)
        for key, value in values.items():
            command = [part.replace(f"{{{key}}}", str(value)) for part in command]
        if command[0] == "rrr":
            command = [sys.executable, "-m", "rrr_lightning", *command[1:]]
    return {
        **{key: value for key, value in asdict(run).items() if key not in ("name", "kind")},
        "run": run.name,
        "arm": run.arm,
        "settings": run.settings,
        "folder": str(run.folder),
        "home": str(home),
        "metric": quality.metric,
        "command": command,
        "result": [quality.file, quality.key],
    }


def claim_folder(study: Study, home: Path) -> None:
    """Makes a folder that of a study."""
    check_folder(study, home)
    home.mkdir(parents=True, exist_ok=True)
    write_json(home / NAME, _plain(study))


def check_folder(study: Study, home: Path) -> None:
    """Refuses a folder with another study, records of another or of none, or other files."""
    records = sorted(path.stem for path in (home / RECORDS).glob("*.json"))
    if not (home / NAME).exists():
        what = f"has records without the {NAME} that says what was fixed before these runs"
        accepted = f"the {NAME} that lay beside them as well"
        check(not records, "--out", str(home), accepted, what)
        files = [path.name for path in home.iterdir()] if home.is_dir() else []
        others = [name for name in files if name[0] != "." and name not in (RECORDS, PILOT)]
        accepted = "a new folder, or one that `rrr study run --out` wrote"
        check(not others, "--out", str(home), accepted, "has other files")
        return
    before = read_json(home / NAME)
    for key, now in _plain(study).items():
        with content_of(home / NAME, "--out"):
            where = _conflict(before.get(key), now, key)
        accepted = "another folder; arms, durations, seeds and teachers may be added here"
        what = f"belongs to another study, whose {where} differs"
        check(where is None, "--out", str(home), accepted, what)
    for name in sorted(set(records) - set(study.run_names())):
        found = str(home / RECORDS / f"{name}.json")
        accepted = f"records of runs such as {next(study.run_names())}"
        refuse("--out", found, accepted, "is the record of no run of this study")


def _plain(study: Study) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(asdict(study)))
    del content["quality"]["data"]  # differs by machine
    return content


def _conflict(before: Any, now: Any, key: str) -> str | None:
    """Returns where two values differ other than by an addition that is allowed."""
    if key in ("arms", "teachers") and isinstance(before, Mapping):
        for name, value in before.items():
            after = now.get(name)
            if not isinstance(after, Mapping):
                return f"{key}.{name}"
            for field in value:
                if (where := _conflict(value[field], after.get(field), field)) is not None:
                    return f"{key}.{name}.{where}"
        return None
    if key in ("durations", "seeds") and before is not None and now is not None:
        return None if set(before) <= set(now) else key
    return None if before == now else key


# ----------------------------------------------------------------------
# `rrr study`: does distillation pay? Runs a study file and prints speed-ups with intervals.


def act(args: argparse.Namespace) -> bool:
    """Runs `rrr study ACTION`; returns whether every run has finished."""
    slurm = slurm_parameters(args.slurm)
    opened = open_study(args.file, args.out, args.data, args.quality_data)
    if args.action == "run":
        return run_study(opened, args.devices, slurm).complete
    if args.action == "report":
        report(opened)
        return True
    if args.action == "plan":
        sys.stdout.write(list_runs(opened.runs, opened.results))
        if args.untimed:
            return True
    timings = timed(opened, find_places(args.devices, slurm))
    if args.action == "plan":
        evaluated = opened.study.quality.command is not None
        sys.stdout.write(list_hours(opened.runs, opened.results, timings, evaluated))
    else:
        sys.stdout.write(advise(opened.study, opened.runs, timings))
    return True
