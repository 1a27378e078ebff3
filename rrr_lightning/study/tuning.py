"""The ranking of a study that only chooses settings: final quality by arm, the best one first."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from rrr_lightning.jobs.process import write_json
from rrr_lightning.study.points import Point
from rrr_lightning.study.settings import Study


def write_ranking(points: Sequence[Point], study: Study, home: Path) -> str:
    """Writes `report.json` and `report.md`; returns the Markdown."""
    rows = []
    for arm in study.arms:
        for steps in study.durations_of(arm):
            values = [p.quality for p in points if (p.arm, p.steps) == (arm, steps)]
            if values:
                rows.append(
                    {
                        "name": arm,
                        "steps": steps,
                        "n": len(values),
                        "quality": statistics.mean(values),
                        "spread": statistics.stdev(values) if len(values) > 1 else None,
                    }
                )
    sign = -1 if study.quality.direction == "max" else 1
    rows.sort(key=lambda row: (row["steps"], sign * row["quality"]))  # type: ignore[operator]
    write_json(home / "report.json", {"purpose": "tuning", "arms": rows}, indent=1)
    lines = [
        f"Tuning by {study.quality.metric}, the best first: no result, but a choice of settings.",
        "",
        f"| arm | steps | n | {study.quality.metric} |",
        "| --- | --- | --- | --- |",
    ]
    for row in rows:
        spread = f" ± {row['spread']:.4f}" if row["spread"] is not None else ""
        value = f"{row['quality']:.4f}{spread}"
        lines.append(f"| {row['name']} | {row['steps']} | {row['n']} | {value} |")
    text = "\n".join(lines) + "\n"
    (home / "report.md").write_text(text)
    return text
