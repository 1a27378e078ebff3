from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # starts a process that imports Lightning
SCRIPT = ROOT / "scripts" / "benchmarks" / "tokenize_text.py"


def test_the_benchmark_runs_and_writes_its_rows(tmp_path: Path, rrr_data: Path) -> None:
    # Too short to judge the goals: that is for a run with the default numbers.
    file = tmp_path / "rows.json"
    command = [sys.executable, str(SCRIPT), "--repeats", "2", "--documents", "300"]
    found = subprocess.run(
        [*command, "--json", str(file)], capture_output=True, text=True, cwd=ROOT
    )
    assert found.returncode in (0, 1), found.stderr
    assert found.stdout.splitlines()[-1].endswith("of 2 goals met")
    for row in json.loads(file.read_text()):
        assert {"name", "ratio", "low", "high", "goal", "n", "device", "machine"} <= set(row)
        assert 0 < row["low"] <= row["ratio"] <= row["high"]
        assert row["documents_per_second"] == pytest.approx(300 / row["seconds"])
