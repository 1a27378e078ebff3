"""The report shows every metric, seed, spread and row count, and marks what is a subset."""

from __future__ import annotations

import shutil
from pathlib import Path

from rrr_lightning.glue.protocol import find_protocol
from rrr_lightning.glue.report import SUBSET_NOTE, markdown, table, write_report
from tests.glue.made import evaluation, finish


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


def test_what_starts_from_mnli_is_said_with_its_rows(tmp_path: Path) -> None:
    protocol = find_protocol("published", seeds=(1, 2))
    record = evaluation(tmp_path, ("rte", "cola"), seeds=(1, 2), protocol=protocol)
    finish(tmp_path / "jobs" / "mnli-1", "mnli", 1, 0.8, subset=True)
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
    shutil.rmtree(tmp_path / "jobs" / "rte-2")
    for seed in (1, 2, 3):
        shutil.rmtree(tmp_path / "jobs" / f"cola-{seed}")
    text = markdown(record.results(tmp_path))
    assert "RTE: no result of seed 2." in text
    assert "No result of CoLA." in text
    assert "missing: CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI" in text


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
