"""The benchmarks of stored targets run and write their rows; too short to judge the goals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts" / "benchmarks"
pytestmark = pytest.mark.slow  # each test starts a process that imports Lightning


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPTS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=SCRIPTS.parents[1])


def test_the_cost_of_a_step(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    found = run("stored_targets.py", "--repeats", "2", "--steps", "2", "--json", str(file))
    assert found.returncode in (0, 1), found.stderr
    assert found.stdout.splitlines()[-1].endswith("of 2 goals met")
    rows = json.loads(file.read_text())
    for row in rows:
        assert {"name", "ratio", "low", "high", "goal", "n", "device", "machine"} <= set(row)
        assert 0.5 < row["low"] <= row["ratio"] <= row["high"] < 2.0


@pytest.mark.parametrize("data", ["digits", "prose"])
def test_the_quality_of_students(tmp_path: Path, data: str) -> None:
    file = tmp_path / "quality.json"
    size = ("--seeds", "2", "--steps", "5", "--teacher-steps", "5")
    found = run("target_quality.py", "--data", data, *size, "--json", str(file))
    assert found.returncode in (0, 1), found.stderr
    assert found.stdout.count("'arm': ") == 1 + 2 * 4
    rows = json.loads(file.read_text())
    assert len(rows) == 3 * 2
    for row in rows:
        assert row["name"].startswith(f"{data}: ")
        assert row["low"] <= row["ratio"] <= row["high"]
        assert row["goal"] == (0.0 if "stored" in row["name"] else None)
        assert len(row["pairs"]) == row["n"] == 2


def test_bad_numbers_are_refused_before_anything_runs() -> None:
    found = run("target_quality.py", "--seeds", "1")
    assert found.returncode == 2
    assert "--seeds must be at least 2" in found.stderr
