"""The official metrics on arrays, and the averages that papers report.

Where a metric is not defined because all predictions are equal it is 0, so that no average is lost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Array = NDArray[np.float64]
Key = TypeVar("Key")


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
        missing: The tasks that are missing.
    """

    name: str
    what: str
    value: float | None
    missing: tuple[str, ...] = ()


def task_scores(task: str, values: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """Returns the score of each seed: the mean of the metrics that count."""
    counted = [values[name] for name in COUNTED[task]]
    return {seed: float(np.mean([each[seed] for each in counted])) for seed in counted[0]}


def averages(runs: Runs) -> list[Average]:
    """Returns every average that can be compared with those of papers, and that of what is here."""
    means = {task: _mean(task_scores(task, values)) for task, values in runs.items()}
    numbers = {
        (task, metric): _mean(by_seed)
        for task, values in runs.items()
        for metric, by_seed in values.items()
    }
    here = [task for task in GLUE if task in means]
    return [
        _over("GLUE", "mean of the 8 task scores, WNLI aside", GLUE, means),
        _over("GLUE-Large", "mean of the scores of MNLI, QNLI, QQP and SST-2", GLUE_LARGE, means),
        _over(
            "nine numbers",
            "mean of MNLI-m, MNLI-mm, QNLI, SST-2 and RTE accuracy, QQP and MRPC F1, "
            "CoLA Matthews and STS-B Pearson correlation",
            NINE,
            numbers,
        ),
        _over("tasks here", f"mean of the scores of {', '.join(here)}", here, means),
    ]


def _over(name: str, what: str, keys: Sequence[Key], values: Mapping[Key, float]) -> Average:
    missing = [key[0] if isinstance(key, tuple) else key for key in keys if key not in values]
    if missing or not keys:
        return Average(name, what, None, tuple(dict.fromkeys(map(str, missing))))
    return Average(name, what, float(np.mean([values[key] for key in keys])))


def _mean(by_seed: Mapping[int, float]) -> float:
    return float(np.mean(list(by_seed.values())))
