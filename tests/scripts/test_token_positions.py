from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.glue_files import write_parquet, write_tokenizer

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # starts a process that imports Lightning
SCRIPT = ROOT / "scripts" / "benchmarks" / "token_positions.py"


def test_the_positions_of_random_batches_and_of_buckets_are_counted(tmp_path: Path) -> None:
    write_parquet(tmp_path / "glue", "rte", train=160, other=9)
    folder, file = write_tokenizer(tmp_path / "tokenizer"), tmp_path / "rows.json"
    command = [sys.executable, str(SCRIPT), "--tokenizer", str(folder), "--tasks", "rte"]
    found = subprocess.run(
        [*command, "--repeats", "2", "--json", str(file)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "RRR_DATA": str(tmp_path)},
    )
    assert found.returncode == 0, found.stderr
    random, buckets = json.loads(file.read_text())
    assert random["name"].startswith("token positions, random batches / padding to 256, rte")
    tokens = []
    for row in (random, buckets):
        assert (row["n"], row["batch_size"], row["tokenizer"]) == (2, 16, "tokenizer")
        positions = zip(row["padding"], row["ratios"], strict=True)
        tokens += [(1 - left) * ratio for left, ratio in positions]
    assert tokens == pytest.approx([tokens[0]] * 4)  # whatever is padding
    assert 0 < buckets["ratio"] < random["ratio"] < 0.2
