"""The look of the pictures: one canvas, and one line, marker and shade for every arm."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrr_lightning.study.analysis import Analysis

INK = "#111111"
WIDTH = 5.4  # inches: ten-point type stays legible on a phone
COLORS = (INK, "#A8321A", "#4F9BD9", "#E3B505", "#6A3D9A", "#3F9E6B")
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 3)))


@dataclass(frozen=True)
class Look:
    """How one arm is drawn."""

    color: str
    fill: str
    marker: str
    line: Any


def look(number: int) -> Look:
    """Returns the look of the baseline (0) or an arm; from the seventh on, markers are hollow."""
    place = number % len(COLORS)
    color = COLORS[place]
    fill = color if number < len(COLORS) else "white"
    return Look(color, fill, MARKERS[place], LINES[place])


def canvas(height: float, rows: int = 1, ratios: tuple[float, ...] | None = None) -> Any:
    """Returns a figure of one column, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, 1, sharex=rows > 1, height_ratios=ratios)
    for each in axes if rows > 1 else [axes]:
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(labelsize=10)
        each.xaxis.label.set_size(10.5)
        each.yaxis.label.set_size(10.5)
    return figure, axes


def across(axes: Any) -> Any:
    """Returns coordinates: x as a part of the axes, y in data."""
    return axes.get_yaxis_transform()


def save(figure: Any, path: Path, analysis: Analysis) -> None:
    """Writes a figure; that of a demonstration says so."""
    if analysis.design.demonstration:
        figure.suptitle("demonstrates the tool, not the claim", fontsize=9, style="italic")
    figure.savefig(path, dpi=160)
