"""The official metrics of text classification, exact over batches and ranks.

What has no spread has no correlation: where predictions or targets are all the same, Matthews,
Pearson and Spearman are 0, and so is F1 where no row of class 1 is found, as in scikit-learn; NaN
would spoil an average. What a diverged network gives is no such case: where a prediction is NaN, so
is every metric.

Shapes: N rows, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchmetrics import Metric

from rrr_lightning.errors import InputError, did_you_mean


def accuracy(counts_KK: Tensor) -> Tensor:
    """Returns the share of rows that are right, from counts [target, prediction]."""
    return counts_KK.diagonal().sum().double() / counts_KK.sum()


def f1(counts_KK: Tensor) -> Tensor:
    """Returns the harmonic mean of precision and recall of class 1 of two, 0 without a hit."""
    right, wrong = counts_KK[1, 1], counts_KK[0, 1] + counts_KK[1, 0]
    return 2 * right.double() / (2 * right + wrong).clamp(min=1)


def matthews(counts_KK: Tensor) -> Tensor:
    """Returns the correlation of predicted and true classes, 0 where either is always the same.

    Source: Gorodkin, "Comparing two K-category assignments by a K-category correlation
    coefficient", 2004.
    """
    counts = counts_KK.double()
    total, true, predicted = counts.sum(), counts.sum(dim=1), counts.sum(dim=0)
    covariance = counts.diagonal().sum() * total - true @ predicted
    spread = (total**2 - true @ true) * (total**2 - predicted @ predicted)
    score: Tensor = covariance / torch.where(spread > 0, spread, 1).sqrt() * (spread > 0)
    return score


def pearson(predictions_N: Tensor, targets_N: Tensor) -> Tensor:
    """Returns the linear correlation in float64, 0 where either side is always the same."""
    if bool(predictions_N.isnan().any()):
        return torch.full((), math.nan, dtype=torch.float64)
    if any(bool((each == each[0]).all()) for each in (predictions_N, targets_N)):
        return torch.zeros((), dtype=torch.float64)
    one, other = (each.double() - each.double().mean() for each in (predictions_N, targets_N))
    score: Tensor = (one @ other) / (one.square().sum() * other.square().sum()).sqrt()
    return score


def spearman(predictions_N: Tensor, targets_N: Tensor) -> Tensor:
    """Returns the correlation of ranks, where equal values share their mean rank."""
    # NaN would get a rank like any number.
    ranks_N = predictions_N if bool(predictions_N.isnan().any()) else _ranks(predictions_N)
    return pearson(ranks_N, _ranks(targets_N))


def _ranks(values_N: Tensor) -> Tensor:
    _, places_N, counts = np.unique(values_N.numpy(), return_inverse=True, return_counts=True)
    means = counts.cumsum() - (counts - 1) / 2
    return torch.from_numpy(means[places_N])


OF_CLASSES: dict[str, Callable[[Tensor], Tensor]] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews": matthews,
}
OF_SCORES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "pearson": pearson,
    "spearman": spearman,
}


def score_of(
    name: str, predictions_N: NDArray[np.number[Any]], targets_N: NDArray[np.number[Any]]
) -> float:
    """Returns a metric of predicted classes or scores; NaN where a prediction is NaN.

    >>> score_of("accuracy", np.array([0, 1, 1, 1]), np.array([0, 1, 1, 0]))
    0.75
    """
    if name in OF_SCORES:
        return float(OF_SCORES[name](*map(torch.from_numpy, (predictions_N, targets_N))))
    if np.isnan(predictions_N).any():
        return math.nan
    predicted_N, true_N = (np.asarray(each, np.int64) for each in (predictions_N, targets_N))
    classes = 1 + max(1, int(predicted_N.max()), int(true_N.max()))
    counts = np.bincount(true_N * classes + predicted_N, minlength=classes**2)
    return float(OF_CLASSES[name](torch.from_numpy(counts.reshape(classes, classes))))


class ClassScore(Metric):
    """One of `accuracy`, `f1` and `matthews`, from the counts of predictions by class.

    Args:
        name: Which.
        num_classes: K.
    """

    full_state_update = False
    counts: Tensor
    undefined: Tensor

    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        self.score = OF_CLASSES[name]
        self.num_classes = num_classes
        counts_KK = torch.zeros(num_classes, num_classes, dtype=torch.int64)
        self.add_state("counts", counts_KK, dist_reduce_fx="sum")
        self.add_state("undefined", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits_NK: Tensor, labels_N: Tensor) -> None:
        """Counts the rows."""
        cells_N = labels_N * self.num_classes + logits_NK.argmax(dim=1)
        counts = torch.bincount(cells_N, minlength=self.num_classes**2)
        self.counts += counts.view(self.num_classes, self.num_classes)
        self.undefined += logits_NK.isnan().sum()

    def compute(self) -> Tensor:
        """Returns the score, a float32 scalar."""
        score = self.score(self.counts.cpu()).float().to(self.counts.device)
        return score.masked_fill(self.undefined > 0, math.nan)


class ScoreCorrelation(Metric):
    """One of `pearson` and `spearman`, over all rows at once.

    Args:
        name: Which.
    """

    full_state_update = False
    predictions: list[Tensor]
    targets: list[Tensor]

    def __init__(self, name: str) -> None:
        super().__init__()
        self.score = OF_SCORES[name]
        self.add_state("predictions", [], dist_reduce_fx="cat")
        self.add_state("targets", [], dist_reduce_fx="cat")

    def update(self, logits_N1: Tensor, labels_N: Tensor) -> None:
        """Notes the rows."""
        self.predictions.append(logits_N1[:, 0].float())
        self.targets.append(labels_N.float())

    def compute(self) -> Tensor:
        """Returns the score, a float32 scalar."""
        predictions_N, targets_N = (_joined(each) for each in (self.predictions, self.targets))
        return self.score(predictions_N.cpu(), targets_N.cpu()).float().to(predictions_N.device)


def _joined(parts: Tensor | Sequence[Tensor]) -> Tensor:
    """One tensor: after a reduction over ranks it is one already."""
    return parts if isinstance(parts, Tensor) else torch.cat(list(parts))


def check_scores(names: Sequence[str] | None, num_classes: int) -> tuple[str, ...] | None:
    """Returns the names of metrics as a tuple."""
    if names is None:
        return None
    known = _known(num_classes)
    for name in names:
        if name not in known:
            raise InputError(
                f"no metric of {'scores' if num_classes == 1 else f'{num_classes} classes'}"
                f"{did_you_mean(name, known)}",
                key="model.metrics",
                found=name,
                accepted=", ".join(known),
            )
    return tuple(names)


def _known(num_classes: int) -> tuple[str, ...]:
    if num_classes == 1:
        return tuple(OF_SCORES)
    return tuple(name for name in OF_CLASSES if num_classes == 2 or name != "f1")


def make_scores(names: Sequence[str], num_classes: int) -> nn.ModuleDict:
    """Returns the metrics of an evaluation by name."""
    if num_classes == 1:
        return nn.ModuleDict({name: ScoreCorrelation(name) for name in names})
    return nn.ModuleDict({name: ClassScore(name, num_classes) for name in names})
