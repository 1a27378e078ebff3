from __future__ import annotations

import pytest

from rrr_lightning.data.glue_tasks import TASKS, find_task
from rrr_lightning.errors import InputError


def test_nine_tasks_in_the_layout_of_the_hub() -> None:
    names = ("cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli")
    assert tuple(TASKS) == names
    for task in TASKS.values():
        assert len(task.words) == len(task.labels)
        assert len(task.columns) in (1, 2)
        splits = ("train", *task.validation_splits, *task.test_splits)
        assert tuple(task.rows) == splits
        assert len(task.validation_splits) == len(task.test_splits) == 1 + (task.name == "mnli")


def test_the_official_metrics() -> None:
    accuracy = {"sst2", "mnli", "qnli", "rte", "wnli"}
    others = {
        "cola": ("matthews",),
        "mrpc": ("accuracy", "f1"),
        "qqp": ("accuracy", "f1"),
        "stsb": ("pearson", "spearman"),
    }
    assert {name: task.metrics for name, task in TASKS.items()} == {
        **dict.fromkeys(accuracy, ("accuracy",)),
        **others,
    }
    assert [name for name, task in TASKS.items() if task.is_regression] == ["stsb"]


@pytest.mark.parametrize(
    ("train", "official"), [(363_846, 363_846), (363_849, 363_849), (363_847, 363_846)]
)
def test_both_releases_of_qqp_are_whole(train: int, official: int) -> None:
    rows = {"train": train, "validation": 40_430}
    assert TASKS["qqp"].official_rows(rows) == {"train": official, "validation": 40_430}


@pytest.mark.parametrize(
    ("name", "expected"), [("rte", "rte"), ("SST-2", "sst2"), ("STS-B", "stsb"), ("MNLI", "mnli")]
)
def test_a_task_goes_by_both_of_its_names(name: str, expected: str) -> None:
    assert find_task(name).name == expected


def test_an_unknown_task_is_refused_with_the_nearest_name() -> None:
    message = r"data\.task: no task of GLUE; did you mean 'cola'\?; found 'coal'; accepted: cola, "
    with pytest.raises(InputError, match=message):
        find_task("coal")
