"""`rrr glue` from the call to the report; the same call resumes after any interruption."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TextIO

import torch

from rrr_lightning.data.glue import GlueDataModule
from rrr_lightning.data.sampling import BatchPlan
from rrr_lightning.errors import InputError, check, refuse
from rrr_lightning.glue.compare import check_comparable, check_results, folders_of
from rrr_lightning.glue.fine_tune import make_data, settings_of
from rrr_lightning.glue.plan import (
    CHECKPOINTS,
    SETTINGS,
    Plan,
    Run,
    check_start,
    chosen_tasks,
    local_path,
    make_plan,
    merge,
    read_plan,
)
from rrr_lightning.glue.protocol import find_protocol
from rrr_lightning.glue.report import MARKDOWN, PICTURE, write_comparison, write_report
from rrr_lightning.glue.results import JSON, TABLE, Results
from rrr_lightning.glue.submission import check_writable, write_submission, zip_file
from rrr_lightning.jobs import Outcome, find_places, hold, run_jobs
from rrr_lightning.jobs.process import still_running, write_json
from rrr_lightning.models import hugging_face
from rrr_lightning.models.masked_rows import usable_positions
from rrr_lightning.models.text_bodies import agree_on_tokens
from rrr_lightning.models.text_classifier import TextClassifier
from rrr_lightning.tokens import tokenizer_from

# ----------------------------------------------------------------------
# Reads checkpoint and data before any job starts, so that what is wrong is said once and early.


# What the classes of a run call their arguments, and what the command line calls them.
OPTIONS = {
    "model.body:": "--checkpoint:",
    "data.tokenizer:": "--checkpoint:",
    "data.source:": "--data:",
    "data.micro_batch_size:": "--micro_batch_size:",
}


def inspect_inputs(runs: Sequence[Run], checkpoint: str) -> dict[str, dict[str, str]]:
    """Returns hashes of the texts and labels that runs train and evaluate on, by task and split."""
    data_sha256 = {}
    with _options_in_errors(), torch.random.fork_rng(devices=[]):
        with _options_in_errors(CHECKPOINTS), _without_warnings():
            model = _network(checkpoint, settings_of(runs[0].config).dropout)
        for run in {run.task: run for run in runs}.values():
            data = make_data({**run.config, "data_sha256": None})
            _check_fit(model, data)
            _check_rows(data, run)
            data_sha256[run.task] = data.sha256
    return data_sha256


def _network(checkpoint: str, dropout: float | None) -> TextClassifier:
    try:
        return TextClassifier(checkpoint, dropout=dropout)
    except InputError as error:
        unknown = f"hf:{checkpoint} cannot be loaded"
        if unknown not in str(error) or Path(checkpoint).expanduser().exists():
            raise
        # A path that is not there is read as a hub id.
        neither = f"{checkpoint} is no file or folder here, and no model that the hub gives"
        raise InputError(str(error).replace(unknown, neither)) from error


def _check_rows(data: GlueDataModule, run: Run) -> None:
    """Reads the splits that a run needs, and refuses too few rows to train on."""
    rows = data.rows
    if run.config["predict_test"]:
        for split in data.test_splits:
            data.split(split)
    batch_size = run.config["batch_size"]
    check(
        rows["train"] >= batch_size,
        f"--settings {run.task}.batch_size",
        batch_size,
        f"at most {rows['train']}",
        "is more than the rows of the training split",
    )
    BatchPlan(batch_size, data.micro_batch_size)  # refuses what does not divide a step


def _check_fit(model: TextClassifier, data: GlueDataModule) -> None:
    """Refuses a network that does not have the tokens or positions of the data."""
    known = model.vocabulary
    with _options_in_errors(CHECKPOINTS):
        data.tokenizer = tokenizer_from(
            None if known is None else known.tokenizer_json,
            None if known is None else known.special_token_ids,
            "the checkpoint",
        )
    agree_on_tokens(model.network, known, data)
    longest = usable_positions(model.network)
    check(
        longest is None or data.max_length <= longest,
        f"--settings {data.task}.max_length",
        data.max_length,
        f"at most {longest}, as by every_task: {{max_length: {longest}}}",
        "is longer than the network's positions",
    )


@contextlib.contextmanager
def _options_in_errors(accepted: str | None = None) -> Iterator[None]:
    """Names the option of the command instead of the argument of a class, and what it accepts."""
    try:
        yield
    except InputError as error:
        line = str(error)
        for name, option in OPTIONS.items():
            if line.startswith(name):
                line = option + line.removeprefix(name)
                if accepted is not None:
                    line = line.partition("; accepted: ")[0] + f"; accepted: {accepted}"
                raise InputError(line) from error
        raise


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Silences the warning that a folder has no tokenizer, which is an error a moment later."""
    logger = logging.getLogger(hugging_face.__name__)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


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
    """Fine-tunes a checkpoint on GLUE and writes `glue.json`, `.csv`, `.md` and `.png`."""
    stream = sys.stdout if stream is None else stream
    say = partial(print, end="", file=stream, flush=True)
    table = find_protocol(protocol, settings, seeds)
    names = chosen_tasks(tasks)
    home = Path(out).expanduser().absolute()
    archive = None if submission is None else zip_file(submission)
    call = make_plan(checkpoint, data, names, table, archive is not None)
    plan = merge(call, home)
    other = None if compare_with is None else Path(compare_with).expanduser().absolute()
    if other is not None:
        check(other.resolve() != home.resolve(), "--compare", str(compare_with), "another folder",
              "is --out itself")  # fmt: skip
        before = read_plan(other, "--compare")
        check_comparable(before, plan, other)
    check_start(plan.runs(home), plan.runs_of(call, home))
    places, seen = None, {}
    left = [run for run in plan.runs_of(call, home, micro_batch_size) if not run.finished]
    if left:
        # Loads Lightning and transformers, which a call with nothing left to do can spare.
        from rrr_lightning.glue.run import inspect_inputs

        places = find_places(devices, slurm)
        seen = inspect_inputs(left, local_path(checkpoint))
        plan = _with_data(plan, seen)
        _announce_start(plan.runs_of(call, home), names, say)
    if other is not None:
        check_results(before, plan, (other, home))
    if archive is not None:
        check_writable(archive)
    with hold(home) as held:
        # Once more: another call may have written here while this one read its data.
        plan = _with_data(merge(call, home), seen)
        plan.write(home)
        runs = plan.runs_of(call, home, micro_batch_size)
        write_settings(runs)
        jobs = [run.job() for run in runs]
        if places is not None:
            count = sum(not job.finished for job in jobs)
            say(f"{count} jobs, {min(count, len(places.environments))} at a time\n")
        outcome = run_jobs(jobs, home, places, stream, held)
        results = _report(plan, home, say)
    if archive is not None:
        _submit(results, plan.runs(home), archive, outcome, say)
    if other is not None and outcome.complete:
        folders = folders_of(before, other), folders_of(plan, home)
        say("\n" + write_comparison(before.results(other), results, folders, home))
    elif other is not None:
        say(f"Not compared with {other}: jobs are missing.\n")
    return results, outcome


def write_settings(runs: Sequence[Run]) -> None:
    """Writes what the jobs that have not finished read.

    Folders of unfinished runs of the same task and seed with other settings are removed, unless a
    job on a cluster still works in them.
    """
    for run in runs:
        if run.finished:
            continue
        for folder in run.folder.parent.glob(f"{run.name}-*"):
            superseded = folder != run.folder and not replace(run, folder=folder).finished
            if superseded and still_running(folder) is None:
                shutil.rmtree(folder)
        run.folder.mkdir(parents=True, exist_ok=True)
        write_json(run.folder / SETTINGS, dict(run.config))


def _with_data(plan: Plan, seen: Mapping[str, dict[str, str]]) -> Plan:
    """Returns the plan with hashes of the data that were read."""
    for task, splits in seen.items():
        known = plan.data_sha256.get(task, splits)
        for split, found in splits.items():
            if known.get(split) != found:
                refuse(
                    "--data",
                    split,
                    "the rows as they were, or another --out",
                    f"has other texts or labels than when runs of {task} finished in --out",
                )
    return replace(plan, data_sha256={**plan.data_sha256, **seen})


def _announce_start(
    runs: Sequence[Run], tasks: Sequence[str], say: Callable[[str], object]
) -> None:
    """Says that tasks start from MNLI, unless MNLI is one of the tasks of the call."""
    start = next((run.start for run in runs if run.start is not None), None)
    followers = dict.fromkeys(run.task for run in runs if run.start and run.task in tasks)
    if start is None or not followers or start.task in tasks:
        return
    what = f"the finished run of MNLI with seed {start.seed}"
    if not start.finished:
        what = "MNLI, which is fine-tuned first and not reported"
    say(f"{', '.join(followers)} start from {what}.\n")


def _report(plan: Plan, home: Path, say: Callable[[str], object]) -> Results:
    """Writes the report on everything that the folder holds, and prints it."""
    results = plan.results(home)
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
