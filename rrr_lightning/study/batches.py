"""From runs to jobs: short runs share a process, so that starting Python is not most of the work.

A record, not a job's marker, says that a run has finished: the next call makes its jobs of whatever
has no record yet.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from rrr_lightning.jobs import Job
from rrr_lightning.jobs.process import MARKER, write_json
from rrr_lightning.study.fit_runs import describe
from rrr_lightning.study.plan import Run
from rrr_lightning.study.settings import Quality

START_SECONDS = 15.0
# A batch is long enough to make the start of Python small, short enough to fill all places.
LEAST_SECONDS, MOST_SECONDS = 40.0, 600.0
JOBS_PER_PLACE = 3
FILE = "batch.json"


def runs_to_do(runs: Sequence[Run], recorded: Collection[str]) -> tuple[list[Run], list[Run]]:
    """Returns the runs that are left, and those of them that have a record all the same.

    The latter are teachers whose checkpoint is gone, and is needed by a run that is left.
    """
    left = [run for run in runs if run.role == "student" and run.name not in recorded]
    needed = {name for run in left for name in run.teachers}
    by_name = {run.name: run for run in runs}
    again: list[Run] = []
    teachers: dict[str, Run] = {}
    queue = [
        run.name
        for run in runs
        if run.role == "teacher" and (run.name not in recorded or run.name in needed)
    ]
    while queue:
        run = by_name[queue.pop()]
        if run.name in teachers or (run.name in recorded and run.checkpoint.exists()):
            continue
        teachers[run.name] = run
        queue += run.teachers
        if run.name in recorded:
            again.append(run)
    return [run for run in runs if run.name in teachers or run in left], again


def make_jobs(
    runs: Sequence[Run],
    seconds: Mapping[str, float],
    home: Path,
    quality: Quality,
    places: int,
) -> list[Job]:
    """Returns jobs of one or more runs each, and writes what they are told.

    Args:
        runs: The runs that are left.
        seconds: Expected seconds by run, without the start of Python.
        home: The study's folder.
        quality: How runs are judged.
        places: Jobs that run at once.
    """
    total = sum(seconds[run.name] for run in runs)
    limit = min(max(total / (places * JOBS_PER_PLACE), LEAST_SECONDS), MOST_SECONDS)
    left = {run.name for run in runs}
    groups: dict[tuple[str, ...], list[list[Run]]] = {}
    for run in runs:
        # Runs that wait for the same teachers go together, and what others wait for goes alone.
        waits = tuple(name for name in run.teachers if name in left)
        batches = groups.setdefault((run.role, *waits), [[]])
        batch = batches[-1]
        if batch and sum(seconds[each.name] for each in batch) + seconds[run.name] > limit:
            batches.append(batch := [])
        batch.append(run)
    batches = [batch for group in groups.values() for batch in group]
    job_of = {run.name: _name(batch) for batch in batches for run in batch}
    return [_job(batch, job_of, seconds, home, quality) for batch in batches]


def _job(
    batch: Sequence[Run],
    job_of: Mapping[str, str],
    seconds: Mapping[str, float],
    home: Path,
    quality: Quality,
) -> Job:
    name = _name(batch)
    folder = home / "jobs" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARKER).unlink(missing_ok=True)
    write_json(folder / FILE, [describe(run, home, quality) for run in batch])
    command = (sys.executable, "-m", "rrr_lightning.study.fit_runs", str(folder / FILE))
    needs = {job_of[need] for run in batch for need in run.teachers if need in job_of} - {name}
    expected = START_SECONDS + sum(seconds[run.name] for run in batch)
    return Job(name, command, folder, expected, tuple(sorted(needs)))


def _name(batch: Sequence[Run]) -> str:
    more = f"+{len(batch) - 1}" if len(batch) > 1 else ""
    return batch[0].name + more
