"""Metrics as scikit-learn and scipy have them, zero where they are not defined; named averages."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rrr_lightning.data.glue_tasks import TASKS
from rrr_lightning.glue.protocol import PROTOCOLS
from rrr_lightning.glue.results import (
    AVERAGED,
    COUNTED,
    GLUE,
    NINE,
    REPORTED,
    averages,
    task_scores,
)
from rrr_lightning.models.text_scores import score_of


def test_metrics_are_those_of_the_classifier() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 2, 60).astype(float)
    predictions = np.where(random.random(60) < 0.7, labels, 1 - labels)
    for metrics in REPORTED.values():
        for metric in metrics:
            name = metric.name.removesuffix("_mismatched")
            assert metric(predictions, labels) == score_of(name, predictions, labels)
            assert math.isnan(metric(np.where(labels, math.nan, 1), labels))


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
    # The numbers of MNLI move together.
    error = (8 * (0.001 / 2) ** 2 - (0.001 / 2) ** 2 + (2 * 0.001 / 2) ** 2) ** 0.5 / 9
    assert found["nine numbers"].error == pytest.approx(error)
    assert found["nine numbers"].alone == ()


def test_an_average_without_an_error_says_why() -> None:
    runs = made_up()
    for task in ("mnli", "qqp"):
        runs[task] = {name: {1: by_seed[1]} for name, by_seed in runs[task].items()}
    for each in averages(runs):
        assert each.error is None
        assert sorted(each.alone) == ["mnli", "qqp"]
    few = averages({task: runs[task] for task in ("rte", "cola")})[-1]
    assert few.error is not None
    assert few.alone == ()


def test_an_average_knows_which_seeds_of_its_tasks_are_missing() -> None:
    missing = {"rte": [3], "sst2": [], "wnli": [1]}
    found = {each.name: each for each in averages(made_up(), missing)}
    assert {name: each.missing_seeds for name, each in found.items()} == {
        "GLUE": {"rte": (3,)},
        "GLUE-Large": {},
        "nine numbers": {"rte": (3,)},
        "tasks here": {"rte": (3,)},
    }
    assert all(each.value is not None for each in found.values())
    assert {name: set(each.tasks) for name, each in found.items()} == {
        name: set(tasks) for name, tasks in AVERAGED.items()
    }


def test_the_mean_of_the_tasks_here_knows_which_were_asked_for() -> None:
    here = averages(made_up(("rte", "cola")), missing=("sst2", "wnli"))[-1]
    assert (here.tasks, here.missing) == (("cola", "rte"), ("sst2",))
    assert here.value is not None
    none = averages({"wnli": made_up()["rte"]})[-1]
    assert none.what == "mean of the scores of the tasks here, WNLI aside"
    assert none.value is None


def test_an_average_with_missing_tasks_is_not_given() -> None:
    found = {each.name: each for each in averages(made_up(("mnli", "qnli", "qqp", "sst2", "rte")))}
    assert found["GLUE"].value is None
    assert found["GLUE"].missing == ("cola", "mrpc", "stsb")
    assert found["GLUE-Large"].value is not None
    assert found["nine numbers"].value is None
    assert found["tasks here"].value is not None
    assert averages({})[-1].value is None
