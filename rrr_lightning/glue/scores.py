"""The metrics of every task, and the averages that papers report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rrr_lightning.data.glue_tasks import TASKS

Array = NDArray[np.float64]


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


def task_scores(task: str, values: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """Returns the score of each seed: the mean of the metrics that count."""
    counted = [values[name] for name in COUNTED[task]]
    return {seed: float(np.mean([each[seed] for each in counted])) for seed in counted[0]}


def averages(
    runs: Runs,
    missing_seeds: Mapping[str, Sequence[int]] | None = None,
    missing: Sequence[str] = (),
) -> list[Average]:
    """Returns every average that can be compared with those of papers, and that of what is here.

    Args:
        runs: Values by task, metric and seed.
        missing_seeds: Seeds that were asked for and have no result, by task.
        missing: Tasks that were asked for and have no result of any seed.
    """
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
