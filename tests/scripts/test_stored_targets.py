"""The benchmark of stored targets runs and writes its rows; too short to judge the goals."""

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
