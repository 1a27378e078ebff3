"""The metrics file: columns that come late, runs that are resumed, processes that were killed."""

from __future__ import annotations

from pathlib import Path

from rrr_lightning.metrics_file import MetricsFile, read_rows


def values(folder: Path, column: str) -> list[tuple[int, str]]:
    _, rows = read_rows(folder / "metrics.csv")
    return [(int(row["step"]), row[column]) for row in rows if row[column]]


def test_nothing_is_made_before_the_first_row(tmp_path: Path) -> None:
    logger = MetricsFile(tmp_path / "run")
    logger.log_hyperparams({"a": 1})
    logger.save()
    logger.finalize("success")
    assert not (tmp_path / "run").exists()


def test_a_late_metric_becomes_a_column_and_loses_no_row(tmp_path: Path) -> None:
    logger = MetricsFile(tmp_path)
    logger.log_metrics({"train/loss": 2.0}, step=0)
    logger.log_metrics({"val/loss": 3.0}, step=0)
    logger.log_metrics({"train/loss": 1.0}, step=1)
    assert values(tmp_path, "train/loss") == [(0, "2.0"), (1, "1.0")]
    assert values(tmp_path, "val/loss") == [(0, "3.0")]


def test_a_resumed_run_continues_the_file_and_drops_what_it_goes_back_over(tmp_path: Path) -> None:
    first = MetricsFile(tmp_path)
    for step in range(6):
        first.log_metrics({"train/loss": float(step)}, step=step)
    second = MetricsFile(tmp_path, from_step=4)
    second.log_metrics({"val/loss": 9.0, "train/loss": 40.0}, step=4)
    assert values(tmp_path, "train/loss") == [
        (0, "0.0"),
        (1, "1.0"),
        (2, "2.0"),
        (3, "3.0"),
        (4, "40.0"),
    ]


def test_a_fresh_run_starts_the_file_anew(tmp_path: Path) -> None:
    MetricsFile(tmp_path).log_metrics({"old": 1.0}, step=0)
    MetricsFile(tmp_path).log_metrics({"old": 2.0}, step=0)
    assert values(tmp_path, "old") == [(0, "2.0")]


def test_a_line_cut_by_a_kill_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,1.25\n1,0.7")
    assert values(tmp_path, "train/loss") == [(0, "1.25")]
    MetricsFile(tmp_path, from_step=9).log_metrics({"train/loss": 0.5}, step=9)
    assert values(tmp_path, "train/loss") == [(0, "1.25"), (9, "0.5")]
