"""`glue.json` and `glue.csv` say what the runs have left, with spread and rows."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rrr_lightning.glue.results import mean_and_deviation, write_files
from tests.glue.made import evaluation


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
    shutil.rmtree(tmp_path / "jobs" / "rte-2")
    for seed in (1, 2, 3):
        shutil.rmtree(tmp_path / "jobs" / f"cola-{seed}")
    content = record.results(tmp_path).as_json()
    assert list(content["tasks"]) == ["rte"]
    assert content["tasks"]["rte"]["missing_seeds"] == [2]
    assert content["without_result"] == ["cola"]
    assert content["averages"]["GLUE"]["value"] is None
    assert "cola" in content["averages"]["GLUE"]["missing"]


def test_csv_has_a_row_for_every_value(tmp_path: Path) -> None:
    results = evaluation(tmp_path, ("rte", "mrpc"), subset=("rte",)).results(tmp_path)
    write_files(results, tmp_path)
    with (tmp_path / "glue.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * (1 + 2)
    row = next(row for row in rows if (row["task"], row["seed"]) == ("rte", "2"))
    assert float(row["value"]) == results.values["rte"]["accuracy"][2]
    assert (row["rows_trained"], row["rows_judged"], row["subset"]) == ("1000", "277", "true")
