"""The report on two checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.glue import report as module
from rrr_lightning.glue.compare import folders_of
from rrr_lightning.glue.plan import Plan
from rrr_lightning.glue.report import official_name, write_comparison
from rrr_lightning.glue.results import GLUE, Results
from tests.glue.made import collapse, evaluation, finish_again


def test_differences_with_intervals_in_three_files(tmp_path: Path) -> None:
    folders = (tmp_path / "first", tmp_path / "second")
    first = evaluation(folders[0], ("rte", "cola"), 0.7, subset=("cola",))
    second = evaluation(folders[1], ("rte", "cola", "mrpc"), 0.9)
    text = compared(first, second, folders)
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
    text = compared(first, second, folders)
    assert json.loads((folders[1] / "comparison.json").read_text())["subset"] is False
    assert "‡" not in text


def compared(first: Plan, second: Plan, folders: tuple[Path, Path]) -> str:
    results = [each.results(folder) for each, folder in zip((first, second), folders, strict=True)]
    runs = (folders_of(first, folders[0]), folders_of(second, folders[1]))
    return write_comparison(results[0], results[1], runs, folders[1])


@pytest.mark.parametrize(
    ("side", "task", "seeds", "whose"),
    [
        (0, "rte", (2,), "the network of first, seed 2 has collapsed"),
        (1, "rte", (1, 2, 3), "the networks of second, seeds 1, 2, 3 have collapsed"),
        (1, "stsb", (3,), "the network of second, seed 3 has collapsed: it predicts one score"),
    ],
)
@pytest.mark.filterwarnings("ignore:The variance of predictions or target is close to zero")
def test_tasks_with_a_collapsed_network_have_no_interval(
    side: int, task: str, seeds: tuple[int, ...], whose: str, tmp_path: Path
) -> None:
    folders = (tmp_path / "first", tmp_path / "second")
    plans = [evaluation(folder, ("rte", "cola", "stsb"), 0.8) for folder in folders]
    collapse(folders[side], task, *seeds)
    text = compared(plans[0], plans[1], folders)
    content = json.loads((folders[1] / "comparison.json").read_text())
    for name, each in content["tasks"].items():
        assert (each["low"] is None) == (each["high"] is None) == (name == task), name
    assert content["averages"]["tasks here"]["low"] is None
    assert whose in text
    assert "† No interval: where a network has collapsed" in text
    row = next(line for line in text.splitlines() if f"| {official_name(task)} †" in line)
    assert [cell.strip() for cell in row.split("|")[5:8]] == ["–", "3", "none: collapsed"]


def test_a_seed_that_is_not_compared_takes_no_interval(tmp_path: Path) -> None:
    folders = (tmp_path / "first", tmp_path / "second")
    first = evaluation(folders[0], ("rte",), 0.7, (1, 2, 3))
    second = evaluation(folders[1], ("rte",), 0.8, (1, 2))
    collapse(folders[0], "rte", 3)
    assert "†" not in compared(first, second, folders)


def test_nothing_in_common_is_refused(tmp_path: Path) -> None:
    folders = (tmp_path / "first", tmp_path / "second")
    first, second = (
        evaluation(folder, ("rte",), 0.7, (seed,)) for seed, folder in enumerate(folders)
    )
    with pytest.raises(InputError, match="no task and seed in common"):
        compared(first, second, folders)


@pytest.mark.parametrize(("subset", "marked"), [("rte", 2), ("wnli", 0)])
def test_averages_that_no_subset_touches_are_not_marked(
    subset: str, marked: int, tmp_path: Path
) -> None:
    folders = (tmp_path / "first", tmp_path / "second")
    tasks = (*GLUE, "wnli")
    first = evaluation(folders[0], tasks, seeds=(1,))
    second = evaluation(folders[1], tasks, seeds=(1,), subset=(subset,))
    lines = [line for line in compared(first, second, folders).splitlines() if "‡" in line]
    names = [line.split("|")[1].strip() for line in lines if line.startswith("|")]
    averages = ["**GLUE** ‡", "**tasks here** ‡"]
    assert names == [f"{official_name(subset)} ‡", *averages[:marked]]


def test_the_picture_shows_what_the_table_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = (tmp_path / "first", tmp_path / "second")
    first = evaluation(folders[0], ("rte", "cola"), seeds=(1, 2, 3))
    second = evaluation(folders[1], ("mrpc", "rte"), quality=0.9, seeds=(3, 4, 2))
    drawn: list[Results] = []
    monkeypatch.setattr(module, "draw", lambda results, path: drawn.extend(results))
    row = next(line for line in compared(first, second, folders).splitlines() if "| RTE" in line)
    assert [[(each.task, set(each.scores)) for each in results.tasks] for results in drawn] == [
        [("rte", {2, 3})],
        [("rte", {2, 3})],
    ]
    means = [np.mean(list(results.tasks[0].scores.values())) for results in drawn]
    assert [cell.strip() for cell in row.split("|")[2:4]] == [f"{100 * mean:.2f}" for mean in means]


def test_pairs_of_other_devices_are_said_to_be_such(tmp_path: Path) -> None:
    folders = (tmp_path / "first", tmp_path / "second")
    first = evaluation(folders[0], ("rte", "cola"), seeds=(1, 2))
    second = evaluation(folders[1], ("rte", "cola"), seeds=(2, 3))
    assert "different ways" not in compared(first, second, folders)
    # A seed that the other one does not have is in no difference.
    finish_again(folders[1], "cola", 3, ("cuda", "32-true"))
    assert "different ways" not in compared(first, second, folders)
    finish_again(folders[1], "rte", 2, ("cuda", "bf16-mixed"))
    assert (
        "\n\nRTE was computed in different ways: first on cpu in 32-true: seed 2; second on cuda "
        "in bf16-mixed: seed 2.\n"
    ) in compared(first, second, folders)
