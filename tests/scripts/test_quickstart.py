"""The quickstart, as its reader runs it: three rows of results and a picture."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_prints_three_rows_and_draws_the_curves(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, ROOT / "scripts" / "quickstart.py", "--out", tmp_path / "out"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    row = r"^(teacher|baseline|distill) .* +([\d.]+) +([\d.]+)% +[\d.]+$"
    rows = re.findall(row, run.stdout, re.MULTILINE)
    assert [name for name, _, _ in rows] == ["teacher", "baseline", "distill"], run.stdout
    assert all(float(loss) < 1 and float(accuracy) > 80 for _, loss, accuracy in rows), rows
    assert (tmp_path / "out" / "quickstart.png").read_bytes().startswith(PNG)
