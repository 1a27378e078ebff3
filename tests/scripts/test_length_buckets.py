from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.glue_files import write_parquet
from tests.glue.tiny import write_body

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # starts a process that imports Lightning
SCRIPT = ROOT / "scripts" / "benchmarks" / "length_buckets.py"


def test_the_benchmark_runs_and_writes_its_rows(tmp_path: Path) -> None:
    # Too short to judge the goals: that is for a run with the default numbers.
    write_parquet(tmp_path / "glue", "rte", train=128, other=9)
    body, file = write_body(tmp_path / "body", max_position_embeddings=256), tmp_path / "rows.json"
    command = [sys.executable, str(SCRIPT), "--checkpoint", str(body), "--tasks", "rte"]
    found = subprocess.run(
        [*command, "--repeats", "2", "--json", str(file)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "RRR_DATA": str(tmp_path)},
    )
    assert found.returncode in (0, 1), found.stderr
    positions, seconds, score = json.loads(file.read_text())
    for row in (positions, seconds, score):
        assert {"name", "ratio", "low", "high", "goal", "n", "device", "machine"} <= set(row)
        assert (row["n"], row["steps"]) == (2, 4)
        assert row["low"] <= row["ratio"] <= row["high"]
    # Every batch of the reference is as wide as it may be: 4 steps of 32 texts of 256 tokens.
    assert [padded for _, padded in positions["pairs"]] == [4 * 32 * 256] * 2
    assert positions["ratio"] < 0.2
    assert 0 < seconds["ratio"] < 1
    assert all(0 <= each <= 1 for pair in score["pairs"] for each in pair)
