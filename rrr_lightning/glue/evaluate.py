"""The whole way: plan, jobs, results, report; the same call goes on after any interruption."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from rrr_lightning.errors import InputError
from rrr_lightning.glue.checks import check_finished, check_running, check_start
from rrr_lightning.glue.comparable import check_comparable, check_results
from rrr_lightning.glue.plan import Plan, Run, chosen_tasks, make_plan, write_settings
from rrr_lightning.glue.protocol import Protocol, find_protocol
from rrr_lightning.glue.record import Record, make_record, merge, read_record
from rrr_lightning.glue.report import MARKDOWN, PICTURE, write_report
from rrr_lightning.glue.results import JSON, TABLE, Results, check_data
from rrr_lightning.glue.side_by_side import write_comparison
from rrr_lightning.glue.submission import check_writable, write_submission, zip_file
from rrr_lightning.jobs import Outcome, Places, find_places, hold, run_jobs
from rrr_lightning.jobs.display import Display, duration


def evaluate(
    checkpoint: str,
    data: str,
    out: str | Path,
    *,
    tasks: str = "all",
    protocol: str = "published",
    settings: str | Path | Mapping[str, Any] | None = None,
    seeds: Sequence[int] | None = None,
    micro_batch_size: int | None = None,
    devices: str = "auto",
    slurm: Mapping[str, Any] | None = None,
    submission: str | Path | None = None,
    compare_with: str | Path | None = None,
    stream: TextIO | None = None,
) -> tuple[Results, Outcome]:
    """Fine-tunes a checkpoint on GLUE and writes `glue.json`, `.csv`, `.md` and `.png`.

    Args:
        checkpoint: A checkpoint of this library, a Hugging Face folder or a hub id.
        data: A folder with the tasks' files, or a hub id.
        out: The output folder; finished jobs in it are kept.
        tasks: Names with commas, or `all` for the eight of the average.
        protocol: `published`, `quick` or `single`.
        settings: Cells of the protocol to replace; see `find_protocol`.
        seeds: Seeds for every task, instead of the protocol's.
        micro_batch_size: The most samples per forward pass, for devices with little memory;
            gradients are accumulated, and the steps stay those of the protocol. By default all
            samples of a step.
        devices: Where to run; see `find_places`.
        slurm: Parameters of the cluster.
        submission: A zip file for test predictions.
        compare_with: The output folder of another checkpoint, to be set against this one.
        stream: Where to print; the standard output by default.

    Returns:
        The results, and what became of the jobs.

    Raises:
        InputError: Something that was given is wrong; no job has started then.
    """
    stream = sys.stdout if stream is None else stream
    say = partial(print, end="", file=stream, flush=True)
    table = find_protocol(protocol, settings, seeds)
    names = chosen_tasks(tasks)
    home = Path(out).expanduser().absolute()
    archive = None if submission is None else zip_file(submission)
    record = make_record(checkpoint, data, names, table, archive is not None)
    merged = merge(record, home)
    other = None if compare_with is None else Path(compare_with).expanduser().absolute()
    if other is not None:
        if other.resolve() == home.resolve():
            raise InputError("is --out itself", key="--compare", found=str(compare_with))
        before = read_record(other, "--compare")
        check_comparable(before, merged, other)
        check_finished(before.runs(other), before.fingerprint, "--compare")
    asked = (names, table, home, micro_batch_size)
    plan = _plan(merged, *asked)
    check_start(plan, merged.runs(home))
    known: dict[str, Any] = {}
    places = None
    if plan.left:
        # Loads Lightning and transformers, which a call with nothing left to do can spare.
        from rrr_lightning.glue.inputs import look_at

        places = find_places(devices, slurm)
        seen = look_at(plan.left, _path(checkpoint), places)
        check_data(_results(merged, home), seen.rows, seen.data_sha256)
        known = vars(seen)
        for note in plan.notes:
            say(note + "\n")
    if other is not None:
        now = (known.get("rows", {}), known.get("data_sha256", {}))
        check_results(before, merged, (other, home), *now)
    if archive is not None:
        check_writable(archive)
    with hold(home) as held:
        # Once more: another call may have written here while this one looked at its data.
        merged = merge(record, home)
        plan = _plan(merged, *asked, **known)
        check_running(plan)
        merged.write(home)
        write_settings(plan)
        if plan.left and places is not None:
            say(_hours(plan, places))
        outcome = run_jobs(plan.jobs, home, places, stream, held)
        results = _report(merged, home, say)
    if archive is not None:
        _submit(results, merged.runs(home), archive, outcome, say)
    if other is not None and not outcome.complete:
        say(f"Not set against {other}: jobs are missing.\n")
    elif other is not None:
        first = _results(read_record(other, "--compare"), other, "--compare")
        say("\n" + write_comparison(first, results, (other, home), home))
    return results, outcome


def _plan(
    record: Record,
    tasks: Sequence[str],
    protocol: Protocol,
    home: Path,
    micro_batch_size: int | None,
    **known: Any,
) -> Plan:
    """Plans from what a call says alone, or with what is known of its data and network."""
    return make_plan(
        tasks,
        protocol,
        _path(record.checkpoint),
        record.data,
        home,
        predict_test=record.predict_test,
        micro_batch_size=micro_batch_size,
        mnli_seed=record.mnli_seed,
        fingerprint=record.fingerprint,
        **known,
    )


def _path(checkpoint: str) -> str:
    """The whole path of what is here, so that a folder is no size of BERT; a hub id as it is."""
    path = Path(checkpoint).expanduser()
    return str(path.resolve()) if path.exists() else checkpoint


def _hours(plan: Plan, places: Places) -> str:
    """What is about to begin, in a line."""
    seconds = {job.name: job.seconds for job in plan.jobs if not job.finished}
    at_once = min(len(seconds), len(places.environments))
    left = duration(Display(seconds, 0, max(1, at_once)).seconds_left())
    return f"{len(seconds)} jobs, {at_once} at a time, about {left}\n"


def _results(record: Record, home: Path, key: str = "--out") -> Results:
    """What has finished, once it is known to have been trained as the record says."""
    check_finished(record.runs(home), record.fingerprint, key)
    return record.results(home)


def _report(record: Record, home: Path, say: Callable[[str], object]) -> Results:
    """Writes the report on everything that the folder holds, and prints it."""
    results = _results(record, home)
    say("\n" + write_report(results, home) + "\n")
    for file in (JSON, TABLE, MARKDOWN, *([PICTURE] if results.tasks else [])):
        say(f"{home / file}\n")
    return results


def _submit(
    results: Results,
    runs: Sequence[Run],
    path: Path,
    outcome: Outcome,
    say: Callable[[str], object],
) -> None:
    """Writes the zip when every job has finished."""
    if not outcome.complete:
        say(f"{path} is not written: jobs are missing.\n")
        return
    absent = write_submission(results, runs, path)
    say(f"{path}\n")
    if absent:
        say(f"The server also wants {', '.join(absent)}.\n")
