"""The benchmarks without goals run and write rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # each test starts a process that imports Lightning


@pytest.mark.parametrize(
    ("script", "options", "rows"),
    [
        ("scaling", ("--only", "vocabulary of 2,000"), 1),
        ("throughput", (), 4),
    ],
)
def test_the_benchmark_runs_and_writes_its_rows(
    tmp_path: Path, script: str, options: tuple[str, ...], rows: int
) -> None:
    file = tmp_path / "rows.json"
    command = [sys.executable, str(ROOT / "scripts" / "benchmarks" / f"{script}.py")]
    size = ("--device", "cpu", "--repeats", "1", "--steps", "1", "--json", str(file))
    found = subprocess.run([*command, *size, *options], capture_output=True, text=True, cwd=ROOT)
    assert found.returncode == 0, found.stderr
    written = json.loads(file.read_text())
    assert len(written) == rows
    for row in written:
        assert row["goal"] is None
        assert row["ratio"] > 0
        assert row["device"] == "cpu"
