"""Metrics as scikit-learn and scipy have them, zero where they are not defined; named averages."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
from scipy import stats

from rrr_lightning.data.glue_tasks import TASKS
from rrr_lightning.glue.protocol import PROTOCOLS
from rrr_lightning.glue.scores import (
    COUNTED,
    GLUE,
    METRICS,
    NINE,
    REPORTED,
    averages,
    task_scores,
)

REFERENCE = {
    "accuracy": lambda p, y: sklearn.metrics.accuracy_score(y, p),
    "f1": lambda p, y: sklearn.metrics.f1_score(y, p),
    "matthews": lambda p, y: sklearn.metrics.matthews_corrcoef(y, p),
    "pearson": lambda p, y: stats.pearsonr(p, y).statistic,
    "spearman": lambda p, y: stats.spearmanr(p, y).statistic,
}


@pytest.mark.parametrize("name", METRICS)
def test_metrics_agree_with_the_reference(name: str) -> None:
    random = np.random.default_rng(0)
    for rows in (5, 60, 400):
        labels = random.integers(0, 2, rows).astype(float)
        labels[:2] = 0, 1
        predictions = np.where(random.random(rows) < 0.7, labels, 1 - labels)
        predictions[:3] = 0, 1, 1
        if name in ("pearson", "spearman"):
            predictions = np.round(predictions + random.normal(size=rows), 1)
        assert METRICS[name](predictions, labels) == pytest.approx(
            REFERENCE[name](predictions, labels), abs=1e-12
        )


@pytest.mark.parametrize("name", ["f1", "matthews", "pearson", "spearman"])
def test_one_prediction_for_all_rows_scores_zero(name: str) -> None:
    labels = np.array([0.0, 1, 1, 0, 1])
    assert METRICS[name](np.zeros(5), labels) == 0.0


@pytest.mark.parametrize("name", ["matthews", "pearson", "spearman"])
def test_one_label_for_all_rows_scores_zero(name: str) -> None:
    assert METRICS[name](np.array([0.0, 1, 1]), np.ones(3)) == 0.0


def test_more_than_two_classes_have_an_accuracy() -> None:
    assert METRICS["accuracy"](np.array([0, 1, 2, 2]), np.array([0, 1, 2, 1])) == 0.75


def test_every_task_reports_its_official_metrics_and_counts_what_the_protocol_counts() -> None:
    assert set(REPORTED) == set(COUNTED) == set(TASKS) == set(PROTOCOLS["published"].tasks)
    for task, metrics in REPORTED.items():
        names = {metric.name for metric in metrics}
        assert set(TASKS[task].metrics) <= names
        assert set(COUNTED[task]) <= names
        assert {metric.split for metric in metrics} == set(TASKS[task].validation_splits)
    assert COUNTED["stsb"] == ("spearman",)
    assert all(metric in {m.name for m in REPORTED[task]} for task, metric in NINE)


def made_up(tasks: tuple[str, ...] = GLUE) -> dict[str, dict[str, dict[int, float]]]:
    return {
        task: {
            metric.name: {seed: 0.5 + 0.01 * place + 0.1 * number + 0.001 * seed for seed in (1, 2)}
            for number, metric in enumerate(REPORTED[task])
        }
        for place, task in enumerate(tasks)
    }


def test_the_score_of_a_task_is_the_mean_of_what_counts() -> None:
    runs = made_up()
    assert task_scores("mrpc", runs["mrpc"]) == pytest.approx(
        {seed: (runs["mrpc"]["accuracy"][seed] + runs["mrpc"]["f1"][seed]) / 2 for seed in (1, 2)}
    )
    assert task_scores("stsb", runs["stsb"]) == runs["stsb"]["spearman"]
    assert task_scores("cola", runs["cola"]) == runs["cola"]["matthews"]


def test_averages_are_those_of_the_papers() -> None:
    runs = made_up()
    score = {task: np.mean(list(task_scores(task, runs[task]).values())) for task in GLUE}
    number = {(t, m): np.mean(list(by.values())) for t, ms in runs.items() for m, by in ms.items()}
    found = {each.name: each for each in averages({**runs, "wnli": {"accuracy": {1: 0.0}}})}
    assert found["GLUE"].value == pytest.approx(np.mean(list(score.values())))
    assert found["GLUE"].error == pytest.approx(0.001 / 2 / 8**0.5)  # seeds differ by 0.001
    large = [score[task] for task in ("mnli", "qnli", "qqp", "sst2")]
    assert found["GLUE-Large"].value == pytest.approx(np.mean(large))
    assert found["nine numbers"].value == pytest.approx(np.mean([number[key] for key in NINE]))
    assert found["tasks here"].value == found["GLUE"].value


def test_an_average_with_missing_tasks_is_not_given() -> None:
    found = {each.name: each for each in averages(made_up(("mnli", "qnli", "qqp", "sst2", "rte")))}
    assert found["GLUE"].value is None
    assert found["GLUE"].missing == ("cola", "mrpc", "stsb")
    assert found["GLUE-Large"].value is not None
    assert found["nine numbers"].value is None
    assert found["tasks here"].value is not None
    assert averages({})[-1].value is None
