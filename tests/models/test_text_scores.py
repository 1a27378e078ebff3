"""Scores against scikit-learn and scipy, on random and on degenerate predictions."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
from lightning.pytorch import Callback, LightningModule
from torch import Tensor, nn
from torch.nn.functional import one_hot

from rrr_lightning.errors import InputError
from rrr_lightning.models.text_scores import (
    ClassScore,
    ScoreCorrelation,
    check_scores,
    make_scores,
    pearson,
    score_of,
    spearman,
)
from tests.models.tiny import make_trainer

SEEDS = range(12)
REFERENCES: dict[str, Any] = {
    "accuracy": sklearn.metrics.accuracy_score,
    "f1": lambda true, predicted: sklearn.metrics.f1_score(true, predicted, zero_division=0),
    "matthews": sklearn.metrics.matthews_corrcoef,
}
CORRELATIONS: dict[str, Any] = {
    "pearson": scipy.stats.pearsonr,
    "spearman": scipy.stats.spearmanr,
}
FLOAT32 = {"abs": 1e-6}


def of_classes(name: str, true: Any, predicted: Any, classes: int = 2) -> float:
    """The score from batches of unequal size."""
    score = ClassScore(name, classes)
    labels, logits = torch.tensor(true), one_hot(torch.tensor(predicted), classes).float()
    for chosen in torch.arange(len(labels)).tensor_split([1, 8]):
        score.update(logits[chosen], labels[chosen])
    return float(score.compute())


def of_scores(name: str, targets: Any, predictions: Any) -> float:
    score = ScoreCorrelation(name)
    given = [torch.as_tensor(each, dtype=torch.float32) for each in (predictions, targets)]
    for chosen in torch.arange(len(given[0])).tensor_split([1, 8]):
        score.update(given[0][chosen, None], given[1][chosen])
    return float(score.compute())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("name", "classes"),
    [("accuracy", 3), ("accuracy", 2), ("f1", 2), ("matthews", 2), ("matthews", 4)],
)
def test_random_classes(name: str, classes: int, seed: int) -> None:
    chance = np.random.default_rng(seed)
    true = chance.integers(classes, size=40 + seed)
    wrong = chance.random(len(true)) < 0.4
    predicted = np.where(wrong, chance.integers(classes, size=len(true)), true)
    expected = REFERENCES[name](true, predicted)
    assert of_classes(name, true, predicted, classes) == pytest.approx(expected, **FLOAT32)


DEGENERATE = {
    "one class predicted": ([0, 1, 1, 0, 1], [1, 1, 1, 1, 1]),
    "the other class predicted": ([0, 1, 1, 0, 1], [0, 0, 0, 0, 0]),
    "one class true": ([1, 1, 1, 1], [0, 1, 1, 0]),
    "the other class true": ([0, 0, 0, 0], [0, 1, 1, 0]),
    "one class in all, right": ([1, 1, 1], [1, 1, 1]),
    "the other class in all, right": ([0, 0, 0], [0, 0, 0]),
    "one class in all, wrong": ([0, 0, 0], [1, 1, 1]),
    "all wrong": ([0, 1, 0, 1], [1, 0, 1, 0]),
    "one row": ([1], [0]),
}


@pytest.mark.parametrize("case", list(DEGENERATE))
@pytest.mark.parametrize("name", list(REFERENCES))
def test_degenerate_classes(name: str, case: str) -> None:
    true, predicted = DEGENERATE[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = REFERENCES[name](true, predicted)
    found = of_classes(name, true, predicted)
    assert found == pytest.approx(expected, **FLOAT32)
    if name == "matthews" and case != "all wrong":
        assert found == 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", list(CORRELATIONS))
def test_random_scores(name: str, seed: int) -> None:
    chance = np.random.default_rng(seed)
    targets = chance.integers(26, size=50) / 5  # with ties, as in STS-B
    predictions = targets + chance.normal(size=50) * (1 + seed)
    if seed % 2:
        predictions = predictions.round()
    predictions = predictions.astype(np.float32)
    expected = CORRELATIONS[name](predictions, targets.astype(np.float32)).statistic
    assert of_scores(name, targets, predictions) == pytest.approx(expected, **FLOAT32)


@pytest.mark.parametrize("name", list(CORRELATIONS))
def test_degenerate_scores(name: str) -> None:
    spread, same = [0.1, 4.0, 2.5, 1.0], [0.1] * 4
    for targets, predictions in ((spread, same), (same, spread), (same, same), ([1.0], [2.0])):
        assert of_scores(name, targets, predictions) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert math.isnan(CORRELATIONS[name](spread, same).statistic)  # what is 0 here instead
    assert of_scores(name, spread, [-10 * each for each in spread]) == pytest.approx(-1)


def test_tiny_differences_around_a_large_mean_are_kept() -> None:
    targets = torch.arange(9.0)
    predictions = 4096 + targets / 256  # exact in float32, where squares are not
    assert pearson(predictions, targets) == pytest.approx(1, abs=1e-12)
    assert spearman(predictions, -targets) == pytest.approx(-1, abs=1e-12)


def test_a_network_that_gives_nan_is_not_taken_for_a_degenerate_one() -> None:
    for targets in ([1.0, 2.0, 3.0], [1.0, 1.0, 1.0]):
        for name in CORRELATIONS:
            for predictions in ([1.0, math.nan, 2.0], [math.nan] * 3):
                assert math.isnan(of_scores(name, targets, predictions))
                assert math.isnan(score_of(name, np.array(predictions), np.array(targets)))
    for name in REFERENCES:
        score = ClassScore(name, 2)
        score.update(torch.randn(9, 2), torch.ones(9, dtype=torch.int64))
        assert not math.isnan(score.compute())
        score.update(torch.tensor([[math.nan, 0.0]]), torch.tensor([1]))
        assert math.isnan(score.compute())
        score.reset()
        score.update(torch.zeros(1, 2), torch.tensor([1]))
        assert score.compute() == 0
        assert math.isnan(score_of(name, np.array([1, math.nan]), np.array([1, 0])))


@pytest.mark.parametrize("name", [*REFERENCES, *CORRELATIONS])
def test_scores_of_arrays_are_exact(name: str) -> None:
    chance = np.random.default_rng(0)
    for rows in (5, 60, 400):
        labels = chance.integers(0, 2, rows).astype(float)
        labels[:2] = 0, 1
        predictions = np.where(chance.random(rows) < 0.7, labels, 1 - labels)
        predictions[:3] = 0, 1, 1
        if name in REFERENCES:
            expected = REFERENCES[name](labels, predictions)
        else:
            predictions = np.round(predictions + chance.normal(size=rows), 1)
            expected = CORRELATIONS[name](predictions, labels).statistic
        assert score_of(name, predictions, labels) == pytest.approx(expected, abs=1e-12)
    assert score_of("accuracy", np.array([0, 1, 2, 2]), np.array([0, 1, 2, 1])) == 0.75
    if name != "accuracy":
        assert score_of(name, np.zeros(5), np.array([0.0, 1, 1, 0, 1])) == 0
    if name not in ("accuracy", "f1"):
        assert score_of(name, np.array([0.0, 1, 1]), np.ones(3)) == 0


@pytest.mark.parametrize(
    ("names", "classes", "message"),
    [
        (["mathews"], 2, r"model\.metrics: no metric of 2 classes; did you mean 'matthews'\?"),
        (["f1"], 3, r"no metric of 3 classes; found 'f1'; accepted: accuracy, matthews"),
        (["accuracy"], 1, r"no metric of scores; found 'accuracy'; accepted: pearson, spearman"),
    ],
)
def test_metrics_that_do_not_suit_the_labels(names: Any, classes: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_scores(names, classes)


class Judge(LightningModule):
    """Evaluates given predictions, and leaves what a rank has logged."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.unused = nn.Parameter(torch.zeros(()))
        self.classes = make_scores(("accuracy", "f1", "matthews"), 2)
        self.numbers = make_scores(("pearson", "spearman"), 1)

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        for scores, logits, labels in (
            (self.classes, torch.stack([-batch[0], batch[0]], dim=1), (batch[1] > 0).long()),
            (self.numbers, batch[0][:, None], batch[1]),
        ):
            for name, score in scores.items():
                score.update(logits, labels)  # type: ignore[operator]
                self.log(name, score)  # type: ignore[arg-type]


class Leave(Callback):
    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        torch.save(metrics, pl_module.folder / f"{trainer.world_size}-{trainer.global_rank}.pt")


@pytest.mark.ddp
def test_scores_are_exact_over_ranks(tmp_path: Path) -> None:
    chance = torch.Generator().manual_seed(0)
    targets = torch.randn(23, generator=chance)
    predictions = targets + torch.randn(23, generator=chance)
    parts = [torch.arange(23), torch.arange(7), torch.arange(7, 23)]  # ranks of unequal size
    for devices in ({}, {"devices": 2, "strategy": "ddp_fork"}):
        trainer = make_trainer(
            callbacks=[Leave()], limit_val_batches=1.0, use_distributed_sampler=False, **devices
        )

        class Share:
            def __init__(self, trainer: Any = trainer) -> None:
                self.trainer = trainer

            def __iter__(self) -> Any:
                rank = self.trainer.global_rank
                part = parts[0] if self.trainer.world_size == 1 else parts[1 + rank]
                yield predictions[part], targets[part]

            def __len__(self) -> int:
                return 1

        trainer.validate(Judge(tmp_path), Share(), verbose=False)
    alone, *ranks = (torch.load(tmp_path / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    assert len(alone) == 5
    assert ranks == [alone, alone]
