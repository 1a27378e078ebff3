"""The page on performance shows what was measured, and commands that exist."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "performance.md").read_text()


@pytest.fixture(scope="module")
def writer() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "performance", ROOT / "scripts" / "results" / "performance.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def row(**changes: Any) -> dict[str, Any]:
    usual = {"name": "a / b", "ratio": 0.5, "low": 0.4, "high": 0.6, "goal": 0.6, "rule": "at most"}
    return {**usual, "met": True, "n": 9, "device": "cpu", "file": "a_cpu.json", **changes}


def test_its_tables_are_up_to_date(writer: ModuleType) -> None:
    expected = writer.renew(PAGE, writer.read(writer.MEASURED))
    assert expected == PAGE, "run python scripts/results/performance.py"


def test_a_missed_goal_and_a_missing_measurement_are_told(writer: ModuleType) -> None:
    table = writer.goals(
        [
            row(),
            row(name="c", goal=0.4, met=False),
            row(name="d", goal=0.995, rule="at least", ratio=0.9987, met=True),
            row(name="e", ratio=None, goal=None, met=None, note="it cannot"),
        ]
    )
    assert "| a / b | 0.500 | 0.400 – 0.600 | ≤ 0.6 | met | 9 | cpu |" in table
    assert "| c | 0.500 | 0.400 – 0.600 | ≤ 0.4 | **missed** |" in table
    assert "| d | 0.9987 | 0.4000 – 0.6000 | ≥ 0.995 | met |" in table
    assert "| e | – | – | – | not measured: it cannot |" in table
    file = "docs/results/benchmarks/step_cost_cuda.json"
    assert f"--device cuda --json {file}` | – | – | – | not measured |" in table
    assert "2 of 3 goals met" in table
    assert "| c |" not in writer.contrasts([row(name="c")])
    assert "| c | 0.500 |" in writer.contrasts([row(name="c", goal=None)])


def test_rows_carry_the_name_of_their_file(writer: ModuleType, tmp_path: Path) -> None:
    for name, ratio in (("a", 0.5), ("b", 0.4)):
        (tmp_path / f"{name}_cpu.json").write_text(json.dumps([row(ratio=ratio)]))
    found = [(each["ratio"], each["file"]) for each in writer.read(tmp_path)]
    assert found == [(0.5, "a_cpu.json"), (0.4, "b_cpu.json")]


def test_a_page_without_marks_is_refused(writer: ModuleType) -> None:
    with pytest.raises(ValueError, match="goals"):
        writer.renew("# A page", [])


def test_scripts_and_files_that_it_names_exist() -> None:
    scripts = set(re.findall(r"scripts/[\w/]+\.(?:py|sh|sbatch)", PAGE))
    assert len(scripts) > 5
    for name in scripts:
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"\]\(([\w./-]+)(?:#[\w-]+)?\)", PAGE):
        assert (ROOT / "docs" / name).exists(), name
