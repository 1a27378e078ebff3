"""The pictures of a study: legible without colour, and at the width of a phone.

Arms differ by lightness and by marker, phases by lightness and hatch; type is large for the width.
A picture whose numbers are not there yet is not drawn.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from rrr_lightning.study.analysis import Analysis
from rrr_lightning.study.comparison import Bounded
from rrr_lightning.study.frontier import quality_of
from rrr_lightning.study.interval import Cell, Spread, quantile
from rrr_lightning.study.points import Charge
from rrr_lightning.study.run_pictures import draw_costs, draw_curves
from rrr_lightning.study.style import INK, across, canvas, look, save
from rrr_lightning.study.words import CLOCKS, charge_words, speed_up_words

FRONTIER, SPEED_UP = "frontier.png", "speed_up.png"
COSTS, CURVES = "costs.png", "curves.png"


def draw(analysis: Analysis, folder: Path) -> list[tuple[str, str]]:
    """Draws what there is; returns file names and captions, and removes what is out of date."""
    drawn = []
    for name, caption, function in (
        (SPEED_UP, "Speed-up of every arm", draw_speed_up),
        (FRONTIER, "Quality against cost, with intervals over seeds", draw_frontier),
        (COSTS, "Cost of a run by phase", draw_costs),
        (CURVES, "Metric and weight of distillation over a run", draw_curves),
    ):
        path = folder / name
        if function(analysis, path):
            drawn.append((name, caption))
        else:
            path.unlink(missing_ok=True)
    return drawn


def draw_frontier(analysis: Analysis, path: Path) -> bool:
    """Draws quality against cost: the baseline's curve, and the means of all arms.

    Args:
        analysis: What to draw.
        path: The file to write.

    Returns:
        Whether there was anything to draw.
    """
    design = analysis.design
    if not any(analysis.cells.values()):
        return False
    figure, axes = canvas(4.2)
    for number, arm in enumerate((design.baseline, *design.arms)):
        style = look(number)
        for cell in analysis.cells.get(arm, []):
            _draw_cell(axes, cell, analysis.spread, design.level, style)
        cells = analysis.cells.get(arm, [])
        axes.plot(
            [math.exp(cell.cost) for cell in cells],
            [math.exp(cell.error) for cell in cells],
            linestyle="none" if number == 0 else style.line,
            linewidth=1.2,
            color=style.color,
            marker=style.marker,
            markersize=6,
            markerfacecolor=style.fill,
            markeredgecolor=style.color,
            label=arm,
        )
    if analysis.frontier is not None:
        places = np.exp(analysis.frontier.places)
        axes.plot(places, np.exp(analysis.frontier.values[:, 0]), color=INK, linewidth=1.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    if design.target is not None:
        falling = design.direction == "min"
        error = design.target if falling else design.ceiling - design.target
        axes.axhline(error, color=INK, linewidth=1, linestyle=(0, (1, 2)))
        axes.annotate(
            f"target {design.target:g}", (0.01 if falling else 0.99, error), (0, 3),
            xycoords=across(axes), textcoords="offset points",
            ha="left" if falling else "right", fontsize=9,
        )  # fmt: skip
    _quality_ticks(axes, analysis)
    _cost_ticks(axes)
    unit = "FLOPs" if design.clock == "flops" else "device-seconds"
    axes.set_xlabel(f"cost of training, {unit} (teachers free)")
    axes.set_ylabel(design.metric)
    if design.direction == "max":
        axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=10)
    save(figure, path, analysis)
    return True


def _draw_cell(axes: Any, cell: Cell, spread: Spread | None, level: float, style: Any) -> None:
    """Single runs, and the interval of their mean."""
    axes.plot(
        np.exp(cell.log_costs), np.exp(cell.log_errors), linestyle="none", marker=".",
        markersize=4, color=style.color, alpha=0.6,
    )  # fmt: skip
    if spread is None or spread.freedom == 0:
        return
    half = quantile(level, spread.freedom) * math.sqrt(spread.quality / len(cell.seeds))
    middle = math.exp(cell.error)
    ends = [[middle - math.exp(cell.error - half)], [math.exp(cell.error + half) - middle]]
    axes.errorbar(math.exp(cell.cost), middle, ends, color=style.color, linewidth=1.4, capsize=4)


def _quality_ticks(axes: Any, analysis: Analysis) -> None:
    """Labels the axis of errors with values of the metric."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    design = analysis.design
    errors = [cell.log_errors for cells in analysis.cells.values() for cell in cells]
    values = quality_of(np.concatenate(errors), design.direction, design.ceiling)
    low, high = float(values.min()), float(values.max())
    step = 10 ** math.floor(math.log10(max(high - low, 1e-6)))
    step = next(
        step * part for part in (0.1, 0.2, 0.5, 1, 2, 5) if (high - low) / (step * part) < 7
    )
    ticks = np.arange(math.floor(low / step), math.ceil(high / step) + 1) * step
    at = ticks if design.direction == "min" else design.ceiling - ticks
    shown = at > 0
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(FixedLocator(at[shown]))
    axes.set_yticklabels([f"{tick:.6g}" for tick in ticks[shown]])


def _cost_ticks(axes: Any) -> None:
    """A few plain numbers: logarithmic axes over less than a decade have none of their own."""
    from matplotlib.ticker import FixedLocator, NullFormatter

    low, high = axes.get_xlim()
    decades = [
        10.0**power for power in range(math.floor(math.log10(low)), 1 + int(math.log10(high)))
    ]
    for parts in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        ticks = [part * decade for decade in decades for part in parts]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 3:
            break
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    words = [f"{tick:.6g}" if 1e-3 <= tick < 1e6 else f"{tick:.3g}" for tick in ticks]
    axes.set_xticklabels([word.replace("e+0", "e").replace("e+", "e") for word in words])
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw_speed_up(analysis: Analysis, path: Path) -> bool:
    """Draws the speed-up of every arm at the target, with the full charge below it.

    Args:
        analysis: What to draw.
        path: The file to write.

    Returns:
        Whether there was anything to draw.
    """
    design = analysis.design
    charges: list[Charge] = list(dict.fromkeys((design.charge, "full")))
    rows: list[tuple[float, int, Bounded]] = []
    for line, arm in enumerate(design.arms):
        shown = charges if analysis.taught(arm) else charges[:1]
        rows += [
            (line + 0.36 * place, place, analysis.headline(arm, charge).target)
            for place, charge in enumerate(shown)
        ]
    if all(number.value is None for _, _, number in rows):
        return False
    figure, axes = canvas(1.3 + 0.85 * len(design.arms))
    axes.set_xscale("log")
    for height, place, number in rows:
        if number.value is not None:
            _draw_bounded(axes, height, number, filled=place == 0)
        elif place == 0:
            axes.annotate(
                "no number", (1, height), (6, 0), textcoords="offset points", va="center",
                fontsize=9, style="italic",
            )  # fmt: skip
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_yticks(range(len(design.arms)), design.arms)
    axes.set_ylim(len(design.arms) - 0.3, -0.6)
    _ratio_ticks(axes, [number for _, _, number in rows])
    axes.set_xlabel(f"speed-up at {design.metric} {design.target:g}, {CLOCKS[design.clock]}")
    for place, charge in enumerate(charges):
        axes.plot(
            [], [], marker="o", linestyle="none", color=INK, label=charge_words(charge, design),
            markerfacecolor=INK if place == 0 else "white",
        )  # fmt: skip
    axes.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=2)
    save(figure, path, analysis)
    return True


def _draw_bounded(axes: Any, height: float, number: Bounded, filled: bool) -> None:
    """A marker, its interval, arrows where it is open, and the words."""
    value = number.value or 1.0
    low, high = number.low or value, number.high or value
    axes.plot([min(low, value), max(high, value)], [height] * 2, color=INK, linewidth=1.6)
    marker = {"": "o", ">=": ">", "<=": "<"}[number.sign]
    axes.plot(
        value, height, marker=marker, markersize=8, color=INK,
        markerfacecolor=INK if filled else "white",
    )  # fmt: skip
    axes.annotate(
        speed_up_words(number), (value, height), (0, 7), textcoords="offset points",
        ha="center", fontsize=9, zorder=4,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
    )  # fmt: skip


def _ratio_ticks(axes: Any, numbers: list[Bounded]) -> None:
    """Plain numbers, and room for the words."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    ends = [end for n in numbers for end in (n.value, n.low, n.high) if end is not None]
    low, high = min(1.0, *ends), max(1.0, *ends)
    room = max((high / low) ** 0.35, 1.25)
    low, high = low / room, high * room
    all_ticks = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.7, 1, 1.25, 1.5, 2, 3, 5, 10, 20, 50, 100)
    ticks = [tick for tick in all_ticks if low <= tick <= high]
    if len(ticks) > 7:
        ticks = [tick for tick in ticks if tick not in (0.7, 1.25, 1.5, 3)]
    axes.set_xlim(low, high)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.set_xticklabels([f"{tick:g}×" for tick in ticks])
