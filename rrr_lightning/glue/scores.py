"""The official metrics on arrays, and the averages that papers report.

Where a metric is not defined because all predictions are equal it is 0, so that no average is lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from rrr_lightning.data.glue_tasks import TASKS

Array = NDArray[np.float64]


def accuracy(predictions: Array, labels: Array) -> float:
    """Returns the fraction of predictions that are right."""
    return float(np.mean(predictions == labels))


def f1(predictions: Array, labels: Array) -> float:
    """Returns the F1 score of class 1."""
    both = np.sum((predictions == 1) & (labels == 1))
    either = np.sum(predictions == 1) + np.sum(labels == 1)
    return float(2 * both / either) if both else 0.0


def matthews(predictions: Array, labels: Array) -> float:
    """Returns the Matthews correlation of two classes."""
    return pearson(predictions, labels)


def pearson(predictions: Array, labels: Array) -> float:
    """Returns the linear correlation."""
    x = np.asarray(predictions, np.float64)
    y = np.asarray(labels, np.float64)
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / scale if scale > 0 else 0.0


def spearman(predictions: Array, labels: Array) -> float:
    """Returns the correlation of ranks."""
    return pearson(rankdata(predictions), rankdata(labels))


METRICS: dict[str, Callable[[Array, Array], float]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}


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
        """Returns the value."""
        return METRICS[self.name.removesuffix("_mismatched")](predictions, labels)


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

Runs = Mapping[str, Mapping[str, Mapping[int, float]]]
"""Values by task, metric and seed."""


@dataclass(frozen=True)
class Average:
    """A mean over tasks or numbers.

    Attributes:
        name: What it is called.
        what: What it is the mean of, in words.
        value: The mean; None where something it needs is missing.
        error: Its standard error over seeds; None where a task has one seed.
        missing: The tasks that are missing.
    """

    name: str
    what: str
    value: float | None = None
    error: float | None = None
    missing: tuple[str, ...] = ()


def task_scores(task: str, values: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """Returns the score of each seed: the mean of the metrics that count."""
    counted = [values[name] for name in COUNTED[task]]
    return {seed: float(np.mean([each[seed] for each in counted])) for seed in counted[0]}


def averages(runs: Runs) -> list[Average]:
    """Returns every average that can be compared with those of papers, and that of what is here."""
    scores = {task: list(task_scores(task, values).values()) for task, values in runs.items()}
    here = [task for task in GLUE if task in scores]
    names = ", ".join(TASKS[task].folder for task in here)
    return [
        _of_tasks("GLUE", "mean of the 8 task scores, WNLI aside", GLUE, scores),
        _of_tasks("GLUE-Large", "mean of the scores of MNLI, QNLI, QQP, SST-2", GLUE_LARGE, scores),
        _of_nine(runs),
        _of_tasks("tasks here", f"mean of the scores of {names}", here, scores),
    ]


def _of_tasks(
    name: str, what: str, tasks: Sequence[str], scores: Mapping[str, list[float]]
) -> Average:
    missing = tuple(task for task in tasks if task not in scores)
    if missing or not tasks:
        return Average(name, what, missing=missing)
    error = None
    if all(len(scores[task]) > 1 for task in tasks):
        squares = [np.var(scores[task], ddof=1) / len(scores[task]) for task in tasks]
        error = math.sqrt(float(np.sum(squares))) / len(tasks)
    return Average(name, what, float(np.mean([np.mean(scores[task]) for task in tasks])), error)


def _of_nine(runs: Runs) -> Average:
    what = (
        "mean of MNLI-m, MNLI-mm, QNLI, SST-2 and RTE accuracy, QQP and MRPC F1, "
        "CoLA Matthews and STS-B Pearson correlation"
    )
    missing = tuple(dict.fromkeys(task for task, _ in NINE if task not in runs))
    if missing:
        return Average("nine numbers", what, missing=missing)
    numbers = [np.mean(list(runs[task][metric].values())) for task, metric in NINE]
    return Average("nine numbers", what, float(np.mean(numbers)))
