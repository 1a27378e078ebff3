"""`glue.json` and `glue.csv` say what the runs have left, with spread and rows."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rrr_lightning.glue.plan import Plan
from rrr_lightning.glue.protocol import find_protocol
from rrr_lightning.glue.report import markdown
from rrr_lightning.glue.results import mean_and_deviation, write_files
from tests.glue.made import evaluation, finish, finish_again, run_folder


def test_json_has_every_seed_mean_and_deviation(tmp_path: Path) -> None:
    record = evaluation(tmp_path, subset=("mnli", "qqp"))
    write_files(record.results(tmp_path), tmp_path)
    content = json.loads((tmp_path / "glue.json").read_text())
    assert content["checkpoint"] == f"{tmp_path.name}.ckpt"
    assert content["protocol"] == "quick, other seeds"
    assert content["subset"] is True
    assert list(content["tasks"]) == ["cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte"]
    mrpc = content["tasks"]["mrpc"]
    assert mrpc["seeds"] == [1, 2, 3]
    f1 = mrpc["metrics"]["f1"]
    assert f1["mean"] == pytest.approx(np.mean(list(f1["seeds"].values())))
    assert f1["std"] == pytest.approx(np.std(list(f1["seeds"].values()), ddof=1))
    assert mrpc["mean"] == pytest.approx((f1["mean"] + mrpc["metrics"]["accuracy"]["mean"]) / 2)
    assert mrpc["rows"] == {"train": 3668, "validation": 408}
    assert not mrpc["subset"]
    assert content["tasks"]["mnli"]["subset"]
    assert content["tasks"]["mnli"]["rows"]["train"] == 1000
    assert content["tasks"]["mnli"]["official_rows"]["train"] == 392_702
    means = [task["mean"] for task in content["tasks"].values()]
    assert content["averages"]["GLUE"]["value"] == pytest.approx(np.mean(means))
    assert set(content["averages"]) == {"GLUE", "GLUE-Large", "nine numbers", "tasks here"}


def test_one_value_has_no_deviation(tmp_path: Path) -> None:
    assert mean_and_deviation([0.5]) == (0.5, None)
    record = evaluation(tmp_path, ("rte",), seeds=(1,))
    assert record.results(tmp_path).as_json()["tasks"]["rte"]["std"] is None


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    record = evaluation(tmp_path, ("rte", "cola"))
    shutil.rmtree(run_folder(tmp_path, "rte-2"))
    for seed in (1, 2, 3):
        shutil.rmtree(run_folder(tmp_path, f"cola-{seed}"))
    content = record.results(tmp_path).as_json()
    assert list(content["tasks"]) == ["rte"]
    assert content["tasks"]["rte"]["missing_seeds"] == [2]
    assert content["without_result"] == ["cola"]
    assert content["averages"]["GLUE"]["value"] is None
    assert "cola" in content["averages"]["GLUE"]["missing"]


def test_an_average_says_next_to_its_value_what_it_is_without(tmp_path: Path) -> None:
    record = evaluation(tmp_path)
    shutil.rmtree(run_folder(tmp_path, "rte-2"))
    content = record.results(tmp_path).as_json()["averages"]
    assert content["GLUE"]["value"] is not None
    assert content["GLUE"]["missing_seeds"] == {"rte": [2]}
    assert content["GLUE-Large"]["missing_seeds"] == {}


def test_device_and_precision_are_those_of_the_runs(tmp_path: Path) -> None:
    record = evaluation(tmp_path, ("rte",), seeds=(1, 2))
    finish_again(tmp_path, "rte", 2, ("cuda", "bf16-mixed"))
    assert record.results(tmp_path).as_json()["tasks"]["rte"]["computed"] == {
        "1": {"device": "cpu", "precision": "32-true"},
        "2": {"device": "cuda", "precision": "bf16-mixed"},
    }


def test_csv_has_a_row_for_every_value(tmp_path: Path) -> None:
    results = evaluation(tmp_path, ("rte", "mrpc"), subset=("rte",)).results(tmp_path)
    write_files(results, tmp_path)
    with (tmp_path / "glue.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * (1 + 2)
    row = next(row for row in rows if (row["task"], row["seed"]) == ("rte", "2"))
    assert float(row["value"]) == results.values["rte"]["accuracy"][2]
    assert (row["rows_trained"], row["rows_judged"], row["subset"]) == ("1000", "277", "true")
    assert row["rows_trained_before"] == ""


def with_start(folder: Path, subset: tuple[str, ...]) -> Plan:
    """A finished evaluation of RTE and CoLA, and of MNLI, which RTE starts from."""
    protocol = find_protocol("published", seeds=(1, 2))
    record = evaluation(folder, ("rte", "cola"), seeds=(1, 2), protocol=protocol)
    finish(run_folder(folder, "mnli-1"), "mnli", 1, 0.8, "mnli" in subset)
    return record


def test_a_start_from_a_subset_makes_a_subset(tmp_path: Path) -> None:
    whole = with_start(tmp_path / "whole", ()).results(tmp_path / "whole")
    assert [(each.task, each.is_subset) for each in whole.tasks] == [
        ("cola", False),
        ("rte", False),
    ]
    results = with_start(tmp_path / "part", ("mnli",)).results(tmp_path / "part")
    assert [(each.task, each.is_subset) for each in results.tasks] == [
        ("cola", False),
        ("rte", True),
    ]
    write_files(results, tmp_path)
    content = json.loads((tmp_path / "glue.json").read_text())
    assert content["subset"]
    assert content["tasks"]["rte"]["rows_of_start"]["train"] == 1000
    assert content["tasks"]["cola"]["rows_of_start"] is None
    with (tmp_path / "glue.csv").open() as file:
        rows = {row["task"]: row for row in csv.DictReader(file)}
    assert (rows["rte"]["subset"], rows["rte"]["rows_trained_before"]) == ("true", "1000")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_seed_on_a_subset_makes_a_subset(seed: int, tmp_path: Path) -> None:
    record = evaluation(tmp_path, ("rte",))
    shutil.rmtree(run_folder(tmp_path, f"rte-{seed}"))
    finish(run_folder(tmp_path, f"rte-{seed}"), "rte", seed, 0.8, subset=True)
    (result,) = record.results(tmp_path).tasks
    assert result.uneven
    assert result.is_subset
    assert "RTE: its seeds had different numbers of rows" in markdown(record.results(tmp_path))
