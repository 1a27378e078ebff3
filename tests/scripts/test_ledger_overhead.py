from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # each test starts a process that imports Lightning
SCRIPT = ROOT / "scripts" / "benchmarks" / "ledger_overhead.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_the_benchmark_runs_and_writes_its_rows(tmp_path: Path) -> None:
    # Too short to judge the goals: that is for a run with the default numbers.
    file = tmp_path / "rows.json"
    found = run("--device", "cpu", "--repeats", "2", "--steps", "4", "--json", str(file))
    assert found.returncode in (0, 1), found.stderr
    assert found.stdout.splitlines()[-1].endswith("of 6 goals met")
    rows = json.loads(file.read_text())
    assert [row["goal"] for row in rows] == [1.02, 1.005, 1.005] * 2
    for real, added, counted in (rows[:3], rows[3:]):
        assert 0.5 < real["ratio"] < 2.0
        expected = 1 + added["seconds_added"] / real["reference_seconds"]
        assert added["ratio"] == pytest.approx(expected)
        assert added["low"] <= added["ratio"] <= added["high"]
        assert counted["ratio"] == pytest.approx(1 + (counted["counted_step_ratio"] - 1) / 64)


def test_bad_numbers_are_refused_before_anything_runs() -> None:
    found = run("--repeats", "0")
    assert found.returncode == 2
    assert "--repeats and --steps must be at least 1" in found.stderr
