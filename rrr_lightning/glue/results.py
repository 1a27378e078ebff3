"""What the runs have left, put together: values by task, metric and seed, and what they rest on.

Values are fractions, as everywhere in the library; reports show them times 100, as papers do.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rrr_lightning.errors import InputError
from rrr_lightning.files import read_json
from rrr_lightning.glue.plan import CELLS, Run
from rrr_lightning.glue.scores import GLUE, REPORTED, Average, averages, task_scores
from rrr_lightning.jobs.process import MARKER, write_json

JSON, TABLE = "glue.json", "glue.csv"


@dataclass
class TaskResult:
    """The runs of one task.

    Attributes:
        task: The task.
        values: Values by metric and seed.
        rows: Rows by split: what was trained and judged on.
        official_rows: The same for the whole of the official data.
        settings: How it was fine-tuned.
        missing: Seeds without a result.
        computed: Device and precision by seed.
        data_sha256: What each run has recorded of its data, by split.
        uneven: Whether seeds were trained or judged on different numbers of rows.
        start: The run of MNLI that the task starts from, None where it starts from the checkpoint.
    """

    task: str
    values: dict[str, dict[int, float]] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    official_rows: dict[str, int] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    missing: list[int] = field(default_factory=list)
    computed: dict[int, tuple[str, str]] = field(default_factory=dict)
    data_sha256: list[dict[str, str]] = field(default_factory=list)
    uneven: bool = False
    start: TaskResult | None = None

    @property
    def is_subset(self) -> bool:
        """Whether a split was not the whole of the official one, of the start's splits too."""
        of_start = self.start is not None and self.start.is_subset
        return self.uneven or self.rows != self.official_rows or of_start

    @property
    def scores(self) -> dict[int, float]:
        """The score of each seed."""
        return task_scores(self.task, self.values)

    @property
    def trained_rows(self) -> int:
        """Rows of the training split."""
        return self.rows["train"]

    @property
    def judged_rows(self) -> int:
        """Rows of the validation splits."""
        return sum(self.rows.values()) - self.rows["train"]


@dataclass(frozen=True)
class Results:
    """The results of one checkpoint.

    Attributes:
        checkpoint: What was judged.
        protocol: The name of the protocol.
        tasks: Results of the tasks that have any, in the order of reports.
        without: Tasks that were asked for and have no result yet.
    """

    checkpoint: str
    protocol: str
    tasks: tuple[TaskResult, ...]
    without: tuple[str, ...] = ()

    @property
    def values(self) -> dict[str, dict[str, dict[int, float]]]:
        """Values by task, metric and seed."""
        return {result.task: result.values for result in self.tasks}

    @property
    def averages(self) -> list[Average]:
        """The averages, which know what of them is missing."""
        missing = {result.task: result.missing for result in self.tasks}
        return averages(self.values, missing, self.without)

    def as_json(self) -> dict[str, Any]:
        """Returns everything as plain types."""
        return {
            "checkpoint": self.checkpoint,
            "protocol": self.protocol,
            "subset": any(result.is_subset for result in self.tasks),
            "tasks": {result.task: _task_json(result) for result in self.tasks},
            "averages": {
                average.name: {
                    "value": average.value,
                    "missing_seeds": {
                        task: list(seeds) for task, seeds in average.missing_seeds.items()
                    },
                    "standard_error": average.error,
                    "with_one_seed": list(average.alone),
                    "what": average.what,
                    "missing": list(average.missing),
                }
                for average in self.averages
            },
            "without_result": list(self.without),
        }


def collect(checkpoint: str, protocol: str, runs: Iterable[Run]) -> Results:
    """Reads the results of the reported runs that have finished."""
    found: dict[str, TaskResult] = {}
    start = None
    for run in runs:
        if run.is_start:
            start = TaskResult(run.task)
            _add(start, run)
        if run.reported:
            _add(found.setdefault(run.task, TaskResult(run.task)), run)
    for result in found.values():
        if result.settings.get("start") == "mnli" and start is not None and start.values:
            result.start = start
    order = sorted(found.values(), key=lambda result: _place(result.task))
    return Results(
        checkpoint,
        protocol,
        tuple(result for result in order if result.values),
        tuple(result.task for result in order if not result.values),
    )


def _add(result: TaskResult, run: Run) -> None:
    """Adds what a run has left to the result of its task."""
    marker = run.folder / MARKER
    if not marker.exists():
        result.missing.append(run.seed)
        return
    left = read_json(marker)["result"]
    for metric in REPORTED[run.task]:
        result.values.setdefault(metric.name, {})[run.seed] = left["metrics"][metric.name]
    result.uneven |= bool(result.rows) and result.rows != left["rows"]
    result.rows, result.official_rows = left["rows"], left["official_rows"]
    result.data_sha256.append(left["data_sha256"])
    result.computed[run.seed] = (left["device"], left["precision"])
    result.settings = {each.name: run.settings[each.name] for each in CELLS}


def check_data(
    results: Results,
    rows: Mapping[str, tuple[int, int]],
    data_sha256: Mapping[str, Mapping[str, str]],
) -> None:
    """Refuses data that have changed since runs of the same task have finished.

    Args:
        results: What has finished.
        rows: Rows to train and to judge on, by task.
        data_sha256: What tells their texts and labels from others, by task and split.

    Raises:
        InputError: A task has other rows than its finished runs.
    """
    for result in results.tasks:
        before = (result.trained_rows, result.judged_rows)
        now = rows.get(result.task, before)
        if now != before:
            raise InputError(
                f"has changed since runs of {result.task} have finished in --out",
                key="--data",
                found=f"{now[0]} rows to train and {now[1]} to judge on",
                accepted=f"{before[0]} and {before[1]}",
            )
        for split, found in data_sha256.get(result.task, {}).items():
            if any(known.get(split, found) != found for known in result.data_sha256):
                raise InputError(
                    f"has other texts or labels than when runs of {result.task} finished in --out",
                    key="--data",
                    found=split,
                    accepted="the rows as they were, or another --out",
                )


def write_files(results: Results, folder: Path) -> None:
    """Writes `glue.json` and `glue.csv`."""
    write_json(folder / JSON, results.as_json(), indent=1)
    with (folder / TABLE).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(
            (
                *("task", "metric", "seed", "value", "rows_trained", "rows_judged", "subset"),
                "rows_trained_before",
            )
        )
        for result in results.tasks:
            subset = str(result.is_subset).lower()
            before = "" if result.start is None else result.start.trained_rows
            about = (result.trained_rows, result.judged_rows, subset, before)
            for metric, by_seed in result.values.items():
                for seed, value in by_seed.items():
                    writer.writerow((result.task, metric, seed, repr(value), *about))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float | None]:
    """Returns the mean and the standard deviation, None for one value."""
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return float(np.mean(values)), spread


def _task_json(result: TaskResult) -> dict[str, Any]:
    mean, std = mean_and_deviation(list(result.scores.values()))
    metrics = {}
    for name, by_seed in result.values.items():
        middle, spread = mean_and_deviation(list(by_seed.values()))
        by_name = {str(seed): value for seed, value in by_seed.items()}
        metrics[name] = {"seeds": by_name, "mean": middle, "std": spread}
    return {
        "metrics": metrics,
        "seeds": list(result.scores),
        "scores": {str(seed): score for seed, score in result.scores.items()},
        "mean": mean,
        "std": std,
        "rows": result.rows,
        "official_rows": result.official_rows,
        "rows_of_start": None if result.start is None else result.start.rows,
        "subset": result.is_subset,
        "missing_seeds": result.missing,
        "computed": {
            str(seed): {"device": device, "precision": precision}
            for seed, (device, precision) in result.computed.items()
        },
        "settings": result.settings,
    }


def _place(task: str) -> int:
    return [*GLUE, "wnli"].index(task)
