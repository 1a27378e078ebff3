"""The report on two checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

from rrr_lightning.glue.side_by_side import write_comparison
from tests.glue.made import evaluation


def test_differences_with_intervals_in_three_files(tmp_path: Path) -> None:
    folders = (tmp_path / "first", tmp_path / "second")
    first = evaluation(folders[0], ("rte", "cola"), 0.7, subset=("cola",))
    second = evaluation(folders[1], ("rte", "cola", "mrpc"), 0.9)
    results = [each.results(folder) for each, folder in zip((first, second), folders, strict=True)]
    text = write_comparison(results[0], results[1], folders, folders[1])
    assert (folders[1] / "comparison.md").read_text() == text
    assert (folders[1] / "comparison.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((folders[1] / "comparison.json").read_text())
    assert list(content["tasks"]) == ["cola", "rte"]
    assert content["subset"] is True
    rte = content["tasks"]["rte"]
    assert rte["low"] < rte["difference"] < rte["high"]
    assert rte["over"] == "rows and seeds"
    assert text.startswith("# second.ckpt against first.ckpt")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "CoLA ‡",
        "RTE",
        "**tasks here** ‡",
    ]
    assert f"{100 * rte['difference']:+.2f}" in lines[3]


def test_a_subset_of_a_task_that_is_not_compared_is_none(tmp_path: Path) -> None:
    folders = (tmp_path / "first", tmp_path / "second")
    first = evaluation(folders[0], ("rte", "cola"), 0.7, subset=("cola",))
    second = evaluation(folders[1], ("rte",), 0.9)
    write_comparison(first.results(folders[0]), second.results(folders[1]), folders, folders[1])
    assert json.loads((folders[1] / "comparison.json").read_text())["subset"] is False
