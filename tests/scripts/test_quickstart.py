"""The README's first command, as its reader runs it: a table, a picture, and what it is worth."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "README.md").read_text()
COMMAND = r"rrr (study run study/quickstart\.yaml --out [\w/]+)"


def test_the_script_runs_the_command_of_the_page() -> None:
    first = re.search(COMMAND, PAGE)
    assert first is not None
    assert first.group(1) in (ROOT / "scripts" / "quickstart.sh").read_text()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_ends_with_the_table_and_the_picture(tmp_path: Path) -> None:
    found = re.search(COMMAND, PAGE)
    assert found is not None
    *arguments, out = found.group(1).split()
    run = subprocess.run(
        [sys.executable, "-m", "rrr_lightning", *arguments, str(tmp_path / out)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    assert re.search(r"^\| distilled \| .*× ", run.stdout, re.MULTILINE), run.stdout
    assert run.stdout.rstrip().endswith(".png")
    home = tmp_path / out
    assert "demonstrates the tool" in (home / "report.md").read_text()
    (arm,) = json.loads((home / "report.json").read_text())["arms"]
    assert arm["n"] == 3
    assert arm["low"] is not None, arm["why"]
