from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
LOGS = ROOT / "docs" / "results" / "bert-text"
ARMS = ("baseline", "until-0.3", "until-1.0")


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "results"))
    return importlib.import_module


def test_the_picture_is_drawn_from_the_raw_logs(load: Any, tmp_path: Path) -> None:
    curves = load("bert_text")
    results = shutil.copytree(LOGS, tmp_path / "logs", ignore=shutil.ignore_patterns("*.png"))
    assert curves.draw(results).read_bytes().startswith(b"\x89PNG")
    for folder in results.glob("*-*"):
        steps, seconds, losses = curves.curve(folder)
        assert steps == list(range(200, 2001, 200))
        assert seconds == sorted(seconds)
        assert 4 < losses[-1] < losses[0] < 9


def test_the_page_says_what_the_raw_logs_say(load: Any) -> None:
    runs = load("_runs")
    rows = runs.table(LOGS, ARMS, (1, 2)).splitlines()[2:]
    page = (LOGS.parent / "bert-text.md").read_text()
    assert len(rows) == 4
    assert all(row in page for row in rows)
    assert f"({LOGS.name}/curves.png)" in page
