"""The report shows every metric, seed, spread and row count, and marks what is a subset."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from rrr_lightning.glue.protocol import find_protocol
from rrr_lightning.glue.report import (
    SUBSET_NOTE,
    markdown,
    official_name,
    table,
    write_report,
)
from rrr_lightning.glue.results import GLUE, has_collapsed
from tests.glue.made import collapse, evaluation, finish, finish_again, run_folder


def test_every_metric_and_seed_is_there(tmp_path: Path) -> None:
    text = write_report(evaluation(tmp_path).results(tmp_path), tmp_path)
    assert (tmp_path / "glue.md").read_text() == text
    assert (tmp_path / "glue.png").read_bytes().startswith(b"\x89PNG")
    for row in (
        "| CoLA  | Matthews ",
        "| CoLA  | (accuracy) ",
        "| MRPC  | accuracy ",
        "| MRPC  | F1 ",
        "| MRPC  | **score** ",
        "| STS-B | (Pearson) ",
        "| STS-B | Spearman ",
        "| MNLI  | accuracy, mismatched ",
        "| GLUE         | ",
        "| GLUE-Large   | ",
        "| nine numbers | ",
    ):
        assert row in text, text
    rte = next(line for line in text.splitlines() if line.startswith("| RTE "))
    assert all(f"{seed}: " in rte for seed in (1, 2, 3))
    assert " ± " in rte
    assert "2,490" in rte
    assert "277" in rte
    assert SUBSET_NOTE not in text
    assert "‡" not in text


def test_subsets_are_marked_wherever_they_count(tmp_path: Path) -> None:
    text = markdown(evaluation(tmp_path, subset=("mnli",)).results(tmp_path))
    assert SUBSET_NOTE in text
    marked = [line for line in text.splitlines() if line.startswith("|") and "‡" in line]
    assert {line.split("|")[1].strip() for line in marked} == {
        "MNLI ‡",
        "GLUE ‡",
        "GLUE-Large ‡",
        "nine numbers ‡",
        "tasks here ‡",
    }
    tables = text.split("\n\n")
    assert [sum("‡" in line for line in each.splitlines()) for each in tables if "|" in each] == [
        3,  # two metrics of MNLI and its score
        4,  # the averages
        1,  # the settings of MNLI
    ]
    assert "| RTE " in text


@pytest.mark.parametrize(
    ("subset", "averages"),
    [("rte", {"GLUE ‡", "nine numbers ‡", "tasks here ‡"}), ("wnli", set())],
)
def test_averages_that_no_subset_touches_are_not_marked(
    subset: str, averages: set[str], tmp_path: Path
) -> None:
    record = evaluation(tmp_path, (*GLUE, "wnli"), seeds=(1,), subset=(subset,))
    lines = markdown(record.results(tmp_path)).splitlines()
    marked = {line.split("|")[1].strip() for line in lines if line.startswith("|") and "‡" in line}
    assert marked == {f"{official_name(subset)} ‡", *averages}


def test_an_average_says_which_seeds_it_is_without(tmp_path: Path) -> None:
    record = evaluation(tmp_path)
    for name in ("rte-2", "cola-1", "cola-3"):
        shutil.rmtree(run_folder(tmp_path, name))
    lines = [line.split("|") for line in markdown(record.results(tmp_path)).splitlines()]
    cells = {line[1].strip(): line[2].strip() for line in lines if len(line) > 2}
    for name in ("GLUE", "nine numbers", "tasks here"):
        assert cells[name].endswith(" (without CoLA seeds 1, 3; RTE seed 2)"), cells
    assert "without" not in cells["GLUE-Large"]


def settings_rows(text: str) -> list[dict[str, str]]:
    """The table of settings, by the words of its header."""
    header, _, *rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.split("\n\n")[-1].splitlines()
    ]
    return [dict(zip(header, row, strict=True)) for row in rows]


def test_device_and_precision_are_those_of_the_runs(tmp_path: Path) -> None:
    record = evaluation(tmp_path, ("rte", "cola"))
    text = markdown(record.results(tmp_path))
    assert {(row["device"], row["precision"]) for row in settings_rows(text)} == {
        ("cpu", "32-true")
    }
    assert {row["dropout"] for row in settings_rows(text)} == {"0.1"}
    assert "different ways" not in text
    finish_again(tmp_path, "rte", 2, ("cuda", "bf16-mixed"))
    text = markdown(record.results(tmp_path))
    assert (
        "\n\nRTE was computed in different ways: on cpu in 32-true: seeds 1, 3; on cuda in "
        "bf16-mixed: seed 2.\n\n"
    ) in text
    cola, rte = settings_rows(text)
    assert (cola["device"], cola["precision"]) == ("cpu", "32-true")
    assert (rte["device"], rte["precision"]) == ("cpu, cuda", "32-true, bf16-mixed")


@pytest.mark.parametrize(
    ("task", "seeds", "words"),
    [
        ("rte", (2,), "RTE: the network of seed 2 has collapsed: it predicts one class"),
        ("rte", (1, 2, 3), "RTE: the networks of seeds 1, 2, 3 have collapsed: each predicts one"),
        ("mnli", (3,), "MNLI: the network of seed 3 has collapsed: it predicts one class"),
        ("stsb", (1,), "STS-B: the network of seed 1 has collapsed: it predicts one score"),
    ],
)
@pytest.mark.filterwarnings("ignore:The variance of predictions or target is close to zero")
def test_networks_that_have_collapsed_are_named(
    task: str, seeds: tuple[int, ...], words: str, tmp_path: Path
) -> None:
    record = evaluation(tmp_path, ("stsb", "mnli", "rte"))
    assert "collapsed" not in write_report(record.results(tmp_path), tmp_path)
    content = json.loads((tmp_path / "glue.json").read_text())["tasks"]
    assert [each["collapsed_seeds"] for each in content.values()] == [[], [], []]
    collapse(tmp_path, task, *seeds, constant=1)
    text = write_report(record.results(tmp_path), tmp_path)
    assert f"\n\n† {words}" in text
    marked = {
        line.split("|")[1].strip() for line in text.splitlines() if "†" in line and "|" in line
    }
    assert marked == {f"{official_name(task)} †", "tasks here †"}
    content = json.loads((tmp_path / "glue.json").read_text())["tasks"]
    assert {name: each["collapsed_seeds"] for name, each in content.items() if name != task} == {
        name: [] for name in ("stsb", "mnli", "rte") if name != task
    }
    assert content[task]["collapsed_seeds"] == [*seeds]


def test_one_prediction_for_labels_of_one_kind_is_no_collapse() -> None:
    ones, both = np.ones(4), np.array([0.0, 1, 1, 0])
    assert not has_collapsed([(ones, ones)])
    assert has_collapsed([(ones, both)])
    assert not has_collapsed([(ones, both), (0 * ones, both)])  # another class on the other split


def test_wnli_alone_is_in_no_average(tmp_path: Path) -> None:
    text = markdown(evaluation(tmp_path, ("wnli",), seeds=(1,)).results(tmp_path))
    row = next(line for line in text.splitlines() if line.startswith("| tasks here "))
    assert [cell.strip() for cell in row.split("|")[2:4]] == [
        "–",
        "mean of the scores of the tasks here, WNLI aside",
    ]


def test_what_starts_from_mnli_is_said_with_its_rows(tmp_path: Path) -> None:
    protocol = find_protocol("published", seeds=(1, 2))
    record = evaluation(tmp_path, ("rte", "cola"), seeds=(1, 2), protocol=protocol)
    finish(run_folder(tmp_path, "mnli-1"), "mnli", 1, 0.8, subset=True)
    text = markdown(record.results(tmp_path))
    assert "\n\nRTE start from one run of MNLI: the chance in that run is in no spread" in text
    settings = text.split("\n\n")[-1]
    assert "| RTE ‡ |" in settings
    assert "| mnli (rows: 1,000, 19,647) |" in settings
    assert "| CoLA  |" in settings
    assert SUBSET_NOTE in text


def test_an_average_without_an_error_says_why(tmp_path: Path) -> None:
    text = markdown(evaluation(tmp_path, seeds=(1,)).results(tmp_path))
    row = next(line for line in text.splitlines() if line.startswith("| GLUE-Large"))
    assert "; no error: one seed of MNLI, QNLI, QQP, SST-2 " in row
    assert "±" not in row


def test_an_unfinished_evaluation_is_reported_as_one(tmp_path: Path) -> None:
    record = evaluation(tmp_path, ("rte", "cola"))
    shutil.rmtree(run_folder(tmp_path, "rte-2"))
    for seed in (1, 2, 3):
        shutil.rmtree(run_folder(tmp_path, f"cola-{seed}"))
    text = markdown(record.results(tmp_path))
    assert "RTE: no result of seed 2." in text
    assert "No result of CoLA." in text
    assert "missing: CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI" in text
    (here,) = (line for line in text.splitlines() if line.startswith("| tasks here "))
    assert " (without CoLA; RTE seed 2) " in here


def test_without_any_result_there_is_no_picture(tmp_path: Path) -> None:
    record = evaluation(tmp_path, ("rte",), seeds=(1,))
    shutil.rmtree(tmp_path / "jobs")
    assert "No result of RTE." in write_report(record.results(tmp_path), tmp_path)
    assert not (tmp_path / "glue.png").exists()


def test_tables_are_aligned() -> None:
    assert table(("a", "long"), [("bbb", "c")]).splitlines() == [
        "| a   | long |",
        "| --- | ---- |",
        "| bbb | c    |",
    ]
