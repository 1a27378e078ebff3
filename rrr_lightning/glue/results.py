"""Metrics of the tasks, the averages that papers report, and the results of all runs.

Values are fractions, as everywhere in the library; reports show them times 100, as papers do.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypedDict

import msgspec
import numpy as np
from numpy.typing import NDArray

from rrr_lightning.data.glue_tasks import TASKS
from rrr_lightning.files import content_of, read_json
from rrr_lightning.jobs.process import write_json

JSON, TABLE = "glue.json", "glue.csv"
Array = NDArray[np.float64]
LEAST_RANGE = 1e-3  # of scores; classes differ by 1


class RunResult(TypedDict):
    """What a run leaves of its evaluation, as far as reports use it."""

    metrics: dict[str, float]
    rows: dict[str, int]
    official_rows: dict[str, int]
    device: str
    precision: str
    collapsed: bool


@dataclass(frozen=True)
class Metric:
    """A metric on one split.

    Attributes:
        name: `accuracy_mismatched` is the accuracy on MNLI's mismatched split.
        split: The split, as the hub names it.
    """

    name: str
    split: str = "validation"

    def __call__(self, predictions: Array, labels: Array) -> float:
        """Returns the value; NaN where a prediction is NaN."""
        # Loads torchmetrics, which a report on finished runs can spare.
        from rrr_lightning.models.text_scores import score_of

        return score_of(self.name.removesuffix("_mismatched"), predictions, labels)


_ACCURACY = (Metric("accuracy"),)

# Every metric of a task is reported; its score is the mean of those that count.
REPORTED: dict[str, tuple[Metric, ...]] = {
    "cola": (Metric("matthews"), Metric("accuracy")),
    "sst2": _ACCURACY,
    "mrpc": (Metric("accuracy"), Metric("f1")),
    "stsb": (Metric("pearson"), Metric("spearman")),
    "qqp": (Metric("accuracy"), Metric("f1")),
    "mnli": (
        Metric("accuracy", "validation_matched"),
        Metric("accuracy_mismatched", "validation_mismatched"),
    ),
    "qnli": _ACCURACY,
    "rte": _ACCURACY,
    "wnli": _ACCURACY,
}
COUNTED: dict[str, tuple[str, ...]] = {
    **{task: tuple(metric.name for metric in metrics) for task, metrics in REPORTED.items()},
    "cola": ("matthews",),
    "stsb": ("spearman",),
}

GLUE = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte")
GLUE_LARGE = ("mnli", "qnli", "qqp", "sst2")
NINE = (
    ("mnli", "accuracy"),
    ("mnli", "accuracy_mismatched"),
    ("qnli", "accuracy"),
    ("qqp", "f1"),
    ("sst2", "accuracy"),
    ("cola", "matthews"),
    ("stsb", "pearson"),
    ("mrpc", "f1"),
    ("rte", "accuracy"),
)
# The tasks of every average; of "tasks here" those that have been run.
AVERAGED: dict[str, tuple[str, ...]] = {
    "GLUE": GLUE,
    "GLUE-Large": GLUE_LARGE,
    "nine numbers": tuple(dict.fromkeys(task for task, _ in NINE)),
    "tasks here": GLUE,
}

Runs = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Values by task, metric and seed."""


@dataclass(frozen=True)
class Average:
    """A mean over tasks or numbers.

    Attributes:
        name: What it is called.
        what: What it is the mean of, in words.
        tasks: The tasks that it needs.
        value: The mean; None where something it needs is missing.
        error: Its standard error over seeds; None where a task has one seed.
        missing: The tasks that are missing; the mean of the tasks here is given without them.
        alone: The tasks with one seed, for which the mean has no error.
        missing_seeds: Seeds of its tasks that are missing, by task; the mean is given without them.
    """

    name: str
    what: str
    tasks: tuple[str, ...] = ()
    value: float | None = None
    error: float | None = None
    missing: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    missing_seeds: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def read_result(path: Path, task: str) -> dict[str, Any]:
    """Returns what a run of a task has left in its folder."""
    with content_of(path, "--out"):
        result: dict[str, Any] = read_json(path)["result"]
        msgspec.convert(result, RunResult)
        names = [(metric.name, metric.split) for metric in REPORTED[task]]
        _ = (
            result["rows"]["train"],
            [(result["metrics"][name], result["rows"][split]) for name, split in names],
        )
    return result


def has_collapsed(splits: Iterable[tuple[Array, Array]]) -> bool:
    """Returns whether all predictions of a run are one class or score, although the labels vary."""
    predictions, labels = (np.concatenate(each) for each in zip(*splits, strict=True))
    return bool(np.ptp(predictions) < LEAST_RANGE <= np.ptp(labels))


def task_scores(task: str, values: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """Returns the score of each seed: the mean of the metrics that count."""
    counted = [values[name] for name in COUNTED[task]]
    return {seed: float(np.mean([each[seed] for each in counted])) for seed in counted[0]}


def averages(
    runs: Runs,
    missing_seeds: Mapping[str, Sequence[int]] | None = None,
    missing: Sequence[str] = (),
) -> list[Average]:
    """Returns every average that can be compared with those of papers, and that of what is here."""
    scores = {task: list(task_scores(task, values).values()) for task, values in runs.items()}
    here = tuple(task for task in AVERAGED["tasks here"] if task in scores)
    names = ", ".join(TASKS[task].folder for task in here) or "the tasks here, WNLI aside"
    of_here = _of_tasks("tasks here", f"mean of the scores of {names}", here, scores)
    found = [
        _of_tasks("GLUE", "mean of the 8 task scores, WNLI aside", GLUE, scores),
        _of_tasks("GLUE-Large", "mean of the scores of MNLI, QNLI, QQP, SST-2", GLUE_LARGE, scores),
        _of_nine(runs),
        replace(of_here, missing=tuple(task for task in GLUE if task in missing)),
    ]
    seeds = {task: tuple(each) for task, each in (missing_seeds or {}).items() if each}
    return [
        replace(each, missing_seeds={task: seeds[task] for task in each.tasks if task in seeds})
        for each in found
    ]


def _of_tasks(
    name: str, what: str, tasks: Sequence[str], scores: Mapping[str, list[float]]
) -> Average:
    missing = tuple(task for task in tasks if task not in scores)
    if missing or not tasks:
        return Average(name, what, tuple(tasks), missing=missing)
    return _mean(name, what, {task: scores[task] for task in tasks}, len(tasks))


def _mean(name: str, what: str, parts: Mapping[str, Sequence[float]], count: int) -> Average:
    """The mean of so many numbers, of which `parts` has the sum by task, for each seed."""
    value = float(np.sum([np.mean(each) for each in parts.values()])) / count
    alone = tuple(task for task, each in parts.items() if len(each) < 2)
    error = None
    if not alone:
        squares = [float(np.var(each, ddof=1)) / len(each) for each in parts.values()]
        error = math.sqrt(math.fsum(squares)) / count
    return Average(name, what, tuple(parts), value, error, alone=alone)


def _of_nine(runs: Runs) -> Average:
    what = (
        "mean of MNLI-m, MNLI-mm, QNLI, SST-2 and RTE accuracy, QQP and MRPC F1, "
        "CoLA Matthews and STS-B Pearson correlation"
    )
    tasks = AVERAGED["nine numbers"]
    missing = tuple(task for task in tasks if task not in runs)
    if missing:
        return Average("nine numbers", what, tasks, missing=missing)
    # Both numbers of MNLI are of one network: their sum is what changes from seed to seed.
    parts = {
        task: [
            math.fsum(values)
            for values in zip(
                *(runs[task][name].values() for t, name in NINE if t == task), strict=True
            )
        ]
        for task in tasks
    }
    return _mean("nine numbers", what, parts, len(NINE))


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
        collapsed: Seeds whose network predicts one class, or one score, for every row.
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
    collapsed: list[int] = field(default_factory=list)
    uneven: bool = False
    start: TaskResult | None = None

    def add(self, seed: int, found: Mapping[str, Any] | None, settings: dict[str, Any]) -> None:
        """Adds what the run of a seed has left, None where it has not finished."""
        if found is None:
            self.missing.append(seed)
            return
        for metric in REPORTED[self.task]:
            self.values.setdefault(metric.name, {})[seed] = found["metrics"][metric.name]
        self.uneven |= bool(self.rows) and self.rows != found["rows"]
        self.rows, self.official_rows = found["rows"], found["official_rows"]
        if found["collapsed"]:
            self.collapsed.append(seed)
        self.computed[seed] = (found["device"], found["precision"])
        self.settings = settings

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


def collect(checkpoint: str, protocol: str, tasks: Iterable[TaskResult]) -> Results:
    """Returns the results of tasks in the order of reports."""
    order = sorted(tasks, key=lambda result: [*GLUE, "wnli"].index(result.task))
    return Results(
        checkpoint,
        protocol,
        tuple(result for result in order if result.values),
        tuple(result.task for result in order if not result.values),
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
        "collapsed_seeds": result.collapsed,
        "computed": {
            str(seed): {"device": device, "precision": precision}
            for seed, (device, precision) in result.computed.items()
        },
        "settings": result.settings,
    }
