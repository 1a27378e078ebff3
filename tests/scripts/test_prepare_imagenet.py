from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.test_jpeg import waves

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "prepare_imagenet.py"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # starts processes


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def test_a_preparation_goes_on_after_it_was_killed(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for kind in "ab":
            (tmp_path / "in" / split / kind).mkdir(parents=True)
            for place in range(10):
                waves(450, 401 + place).save(tmp_path / "in" / split / kind / f"{place}.jpg")
    arguments = ("--source", tmp_path / "in", "--out", tmp_path / "out", "--per-shard", 1)
    command = [sys.executable, str(SCRIPT), *map(str, arguments), "--workers", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        process.kill()
    assert lines[0].startswith("40 images, about 0.00")
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.parquet")}
    assert 2 <= len(before) < 40
    again = run(*arguments, "--workers", 2)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == "40 images, 40 files as they were written"
    written = {line.partition(":")[0] for line in again.stdout.splitlines()[1:-1]}
    kept = set(before) - written
    assert len(kept) >= 2
    assert all((tmp_path / "out" / name).stat().st_mtime_ns == before[name] for name in kept)


def test_errors_are_one_line(tmp_path: Path) -> None:
    refused = run("--source", tmp_path / "none", "--out", tmp_path / "out")
    assert refused.returncode == 2
    assert refused.stderr.splitlines() == [
        f"error: data.source: cannot be read as a folder (No such file or directory); "
        f"found '{tmp_path}/none/train'"
    ]
