from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # starts a process and prepares text
SCRIPT = ROOT / "scripts" / "benchmarks" / "loader.py"


def test_the_benchmark_runs_and_writes_its_rows(tmp_path: Path, rrr_data: Path) -> None:
    # Too short to judge the goals: that is for a run with the default numbers.
    file = tmp_path / "rows.json"
    command = [sys.executable, str(SCRIPT), "--repeats", "1", "--json", str(file)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert found.returncode in (0, 1), found.stderr
    assert found.stdout.splitlines()[-1].endswith("of 8 goals met")
    rows = json.loads(file.read_text())
    assert len(rows) == 8
    for row in rows:
        assert {"name", "ratio", "low", "high", "goal", "n", "device", "machine"} <= set(row)
        assert 0 < row["low"] <= row["ratio"] <= row["high"]
    assert rows[-1]["sequences_per_second"] == pytest.approx(900 / rows[-1]["ratio"])
