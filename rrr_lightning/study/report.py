"""The report of a study: `report.json`, `report.md` and pictures, also of a half-finished one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rrr_lightning.jobs.process import write_json
from rrr_lightning.study import tables
from rrr_lightning.study.analysis import Analysis, analyse
from rrr_lightning.study.checks import missing_runs
from rrr_lightning.study.clocks import machines
from rrr_lightning.study.comparison import Bounded, Duration
from rrr_lightning.study.pictures import draw
from rrr_lightning.study.points import Point, StudyDesign

JSON, MARKDOWN = "report.json", "report.md"


def build_report(
    points: Sequence[Point], design: StudyDesign, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """Returns everything of `report.json` as plain types.

    Args:
        points: The finished runs; there may be any number.
        design: What the study has fixed beforehand.
        notes: Sentences for the reader, without full stops.

    Raises:
        InputError: The design can never be judged, or a run is not part of it.
    """
    return as_json(analyse(points, design), notes)


def write_report(
    points: Sequence[Point], design: StudyDesign, folder: Path, notes: Sequence[str] = ()
) -> str:
    """Writes `report.json`, `report.md` and the pictures; returns the Markdown.

    Args:
        points: The finished runs; there may be any number.
        design: What the study has fixed beforehand.
        folder: Where to write.
        notes: Sentences for the reader, without full stops.

    Raises:
        InputError: The design can never be judged, or a run is not part of it.
    """
    analysis = analyse(points, design)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / JSON, as_json(analysis, notes), indent=1)
    text = markdown(analysis, notes, draw(analysis, folder))
    (folder / MARKDOWN).write_text(text)
    return text


def markdown(
    analysis: Analysis, notes: Sequence[str] = (), pictures: Sequence[tuple[str, str]] = ()
) -> str:
    """Returns the report as Markdown.

    Args:
        analysis: What to report.
        notes: Sentences for the reader.
        pictures: File names and captions.
    """
    shown = "\n\n".join(f"![{caption}]({name})" for name, caption in pictures)
    parts = [
        tables.title(analysis),
        tables.headline(analysis),
        shown,
        tables.every_cell(analysis),
        tables.every_duration(analysis),
        tables.teachers(analysis),
        tables.contrasts(analysis),
        tables.grounds(analysis, notes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def as_json(analysis: Analysis, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Returns an analysis as plain types."""
    design, spread = analysis.design, analysis.spread
    planned = sum(len(steps) for steps in design.durations.values()) * len(design.seeds)
    missing = missing_runs(analysis.points, design)
    return {
        "version": 1,
        "study": design.name,
        "demonstration": design.demonstration,
        "metric": design.metric,
        "direction": design.direction,
        "baseline": design.baseline,
        "target": design.target,
        "clock": design.clock,
        "charge": design.charge,
        "amortized_over": design.amortized_over,
        "level": design.level,
        "settings_tried": dict(design.settings_tried),
        "arms": [_arm(analysis, arm) for arm in design.arms],
        "contrasts": [each.as_json() for each in analysis.contrasts],
        "runs": {
            "done": len(analysis.points),
            "planned": planned,
            "missing": [
                {"arm": arm, "steps": steps, "seeds": seeds}
                for arm, durations in missing.items()
                for steps, seeds in durations.items()
            ],
        },
        "machines": machines(analysis.points),
        "noise": None
        if spread is None
        else {
            "log_error_std": math.sqrt(spread.quality),
            "log_cost_std": math.sqrt(spread.cost),
            "degrees_of_freedom": spread.freedom,
            "pair_correlation": spread.correlation,
            "unequal_p": spread.unequal,
            "trend": float(spread.trend.slope[0]),
        },
        "frontier": _frontier(analysis),
        "why": analysis.why,
        "notes": list(notes),
    }


def _arm(analysis: Analysis, arm: str) -> dict[str, Any]:
    design = analysis.design
    head = analysis.headline(arm)
    runs = [point for point in analysis.points if point.arm == arm]
    seeds = [each.seeds for each in head.durations]
    number = analysis.break_even.get(arm)
    return {
        "name": arm,
        **head.target.as_json("speed_up"),
        "target": design.target,
        "clock": design.clock,
        "charge": design.charge,
        "n": min(seeds) if seeds else 0,
        "runs": len(runs),
        "settings_tried": design.settings_tried.get(arm),
        "full_charge": analysis.headline(arm, "full").target.as_json("speed_up"),
        "cells": [
            {
                "clock": clock,
                "charge": charge,
                **analysis.comparisons[arm, clock, charge].target.as_json("speed_up"),
            }
            for clock in analysis.clocks
            for charge in analysis.charges
        ],
        "durations": [_duration(analysis, arm, each) for each in head.durations],
        "break_even_students": None if number is None else number.as_json("students"),
    }


def _duration(analysis: Analysis, arm: str, duration: Duration) -> dict[str, Any]:
    values = [
        point.quality
        for point in analysis.points
        if point.arm == arm and point.steps == duration.steps
    ]
    error, ratio = math.exp(duration.log_error), duration.error_ratio

    def scaled(end: float | None) -> float | None:
        return None if end is None else end * error

    ends = scaled(ratio.low), scaled(ratio.high)
    gain = Bounded(scaled(ratio.value), ratio.sign, *ends, ratio.coverage, ratio.why)
    return {
        "steps": duration.steps,
        "n": duration.seeds,
        "quality": float(np.mean(values)),
        "cost": math.exp(duration.log_cost),
        **duration.speed_up.as_json("speed_up"),
        "gain_at_equal_cost": gain.as_json("gain"),
    }


def _frontier(analysis: Analysis) -> list[dict[str, Any]]:
    """The baseline's durations."""
    design = analysis.design
    found = []
    for cell in analysis.cells.get(design.baseline, []):
        runs = [
            point.quality
            for point in analysis.points
            if (point.arm, point.steps) == (design.baseline, cell.steps)
        ]
        found.append(
            {
                "steps": cell.steps,
                "n": len(cell.seeds),
                "cost": math.exp(cell.cost),
                "quality": float(np.mean(runs)),
            }
        )
    return found
