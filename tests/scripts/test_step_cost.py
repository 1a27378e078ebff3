from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # each test starts a process that imports Lightning
SCRIPT = ROOT / "scripts" / "benchmarks" / "step_cost.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def rows_of(tmp_path: Path, only: str) -> list[dict[str, Any]]:
    # Too short to judge the goals: that is for a run with the default numbers.
    file = tmp_path / "rows.json"
    size = ("--repeats", "2", "--steps", "4")
    found = run("--device", "cpu", *size, "--only", only, "--json", str(file))
    assert found.returncode in (0, 1), found.stderr
    rows: list[dict[str, Any]] = json.loads(file.read_text())
    assert found.stdout.splitlines()[-1].endswith(f"of {len(rows)} goals met")
    return rows


@pytest.mark.parametrize("network", ["ResNet", "BERT"])
def test_the_benchmark_runs_and_writes_its_rows(tmp_path: Path, network: str) -> None:
    (row,) = rows_of(tmp_path, f"{network}: distilled step")
    assert {"name", "ratio", "low", "high", "goal", "n", "device", "machine"} <= set(row)
    assert 0.5 < row["low"] <= row["ratio"] <= row["high"] < 2.0
    assert (row["n"], row["device"], row["goal"]) == (2, "cpu", 1.03)


def test_what_is_allocated_after_the_window_is_what_was_without_it(tmp_path: Path) -> None:
    (row,) = rows_of(tmp_path, "allocated")
    assert row["met"]
    assert row["reference_bytes"] > 1e6


def test_bad_numbers_are_refused_before_anything_runs() -> None:
    found = run("--repeats", "0")
    assert found.returncode == 2
    assert "--repeats and --steps must be at least 1" in found.stderr
