"""The plots of a study: legible without colour, and at the width of a phone.

Arms differ by lightness and by marker, phases by lightness and hatch; type is large for the width.
A plot whose numbers are not there yet is not drawn: each function returns whether it drew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rrr_lightning.study.comparison import LEVEL, Analysis, Estimate
from rrr_lightning.study.confidence import PooledVariance, SeedGroup, quantile
from rrr_lightning.study.config import Charge, CostMetric
from rrr_lightning.study.quality_cost_curve import quality_of
from rrr_lightning.study.report import COST_METRIC_NAMES, charge_text, speed_up_text
from rrr_lightning.study.results import Result, charged, teachers_cost

FRONTIER, SPEED_UP = "frontier.png", "speed_up.png"
COSTS, CURVES = "costs.png", "curves.png"
WEIGHT = "train/distillation_weight"
INK = "#111111"
WIDTH = 5.4  # inches: ten-result type stays legible on a phone
COLORS = (INK, "#A8321A", "#4F9BD9", "#E3B505", "#6A3D9A", "#3F9E6B")
MARKERS = ("o", "s", "^", "D", "v", "P")
LINES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (3, 3)))
Kind = tuple[str, str, str]  # label, shade and hatch

PHASES: dict[Kind, tuple[str, ...]] = {
    ("student", "0.25", ""): ("student_step",),
    ("teachers' forward", "0.62", "//"): ("teacher_forward",),
    ("waiting for data", "0.92", "..."): ("data_wait",),
    ("the rest of training", "0.8", ""): ("other",),
    ("validation, checkpoints, set-up", "white", "xx"): ("validation", "checkpoint", "set_up"),
}
OPERATIONS: Kind = ("student and teachers' forward", "0.25", "")
LEAST_SHARE = 0.005  # of the longest bar


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


@dataclass(frozen=True)
class ArmStyle:
    """How one arm is drawn."""

    color: str
    fill: str
    marker: str
    line: Any


def arm_style(number: int) -> ArmStyle:
    """Returns the style of the baseline (0) or an arm; from the seventh on, markers are hollow."""
    index = number % len(COLORS)
    color = COLORS[index]
    fill = color if number < len(COLORS) else "white"
    return ArmStyle(color, fill, MARKERS[index], LINES[index])


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
    if analysis.study.purpose == "demonstration":
        figure.suptitle("demonstrates the tool, not the claim", fontsize=9, style="italic")
    figure.savefig(path, dpi=160)


def draw_frontier(analysis: Analysis, path: Path) -> bool:
    """Draws quality against cost: the baseline's curve, and the means of all arms."""
    study, quality = analysis.study, analysis.study.quality
    if not any(analysis.groups.values()):
        return False
    figure, axes = canvas(4.2)
    for number, arm in enumerate(study.arms):
        style = arm_style(number)
        for group in analysis.groups.get(arm, []):
            _draw_group(axes, group, analysis.variance, style)
        groups = analysis.groups.get(arm, [])
        axes.plot(
            [math.exp(group.cost) for group in groups],
            [math.exp(group.error) for group in groups],
            linestyle="none" if number == 0 else style.line,
            linewidth=1.2,
            color=style.color,
            marker=style.marker,
            markersize=6,
            markerfacecolor=style.fill,
            markeredgecolor=style.color,
            label=arm,
        )
    if analysis.curve is not None:
        costs = np.exp(analysis.curve.grid)
        axes.plot(costs, np.exp(analysis.curve.values[:, 0]), color=INK, linewidth=1.8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    if quality.target is not None:
        falling = quality.direction == "min"
        error = quality.target if falling else quality.ceiling - quality.target
        axes.axhline(error, color=INK, linewidth=1, linestyle=(0, (1, 2)))
        axes.annotate(
            f"target {quality.target:g}", (0.01 if falling else 0.99, error), (0, 3),
            xycoords=across(axes), textcoords="offset points",
            ha="left" if falling else "right", fontsize=9,
        )  # fmt: skip
    _quality_ticks(axes, analysis)
    _cost_ticks(axes)
    unit = "FLOPs" if study.cost_metric == "flops" else "device-seconds"
    axes.set_xlabel(f"cost of training, {unit} (teachers free)")
    axes.set_ylabel(quality.metric)
    if quality.direction == "max":
        axes.invert_yaxis()
    axes.legend(frameon=False, fontsize=10)
    save(figure, path, analysis)
    return True


def _draw_group(
    axes: Any, group: SeedGroup, variance: PooledVariance | None, style: ArmStyle
) -> None:
    """Single runs, and the interval of their mean."""
    axes.plot(
        np.exp(group.log_costs), np.exp(group.log_errors), linestyle="none", marker=".",
        markersize=4, color=style.color, alpha=0.6,
    )  # fmt: skip
    if variance is None or variance.freedom == 0:
        return
    half = quantile(LEVEL, variance.freedom) * math.sqrt(variance.quality / len(group.seeds))
    middle = math.exp(group.error)
    ends = [[middle - math.exp(group.error - half)], [math.exp(group.error + half) - middle]]
    axes.errorbar(math.exp(group.cost), middle, ends, color=style.color, linewidth=1.4, capsize=4)


def _quality_ticks(axes: Any, analysis: Analysis) -> None:
    """Labels the axis of errors with values of the metric."""
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    study = analysis.study
    errors = [group.log_errors for groups in analysis.groups.values() for group in groups]
    values = quality_of(np.concatenate(errors), *study.quality.scale)
    low, high = float(values.min()), float(values.max())
    step = 10 ** math.floor(math.log10(max(high - low, 1e-6)))
    step = next(
        step * part for part in (0.1, 0.2, 0.5, 1, 2, 5) if (high - low) / (step * part) < 7
    )
    ticks = np.arange(math.floor(low / step), math.ceil(high / step) + 1) * step
    at = ticks if study.quality.direction == "min" else study.quality.ceiling - ticks
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
    labels = [f"{tick:.6g}" if 1e-3 <= tick < 1e6 else f"{tick:.3g}" for tick in ticks]
    axes.set_xticklabels([label.replace("e+0", "e").replace("e+", "e") for label in labels])
    axes.xaxis.set_minor_formatter(NullFormatter())


def draw_speed_up(analysis: Analysis, path: Path) -> bool:
    """Draws the speed-up of every arm at the target, with the full charge below it."""
    study = analysis.study
    charges: list[Charge] = list(dict.fromkeys((study.charge, "full")))
    rows: list[tuple[float, int, Estimate]] = []
    for line, arm in enumerate(study.compared_arms):
        shown = charges if analysis.has_teachers(arm) else charges[:1]
        rows += [
            (line + 0.36 * row, row, analysis.headline(arm, charge).target)
            for row, charge in enumerate(shown)
        ]
    if all(number.value is None for _, _, number in rows):
        return False
    figure, axes = canvas(1.3 + 0.85 * len(study.compared_arms))
    axes.set_xscale("log")
    for height, row, number in rows:
        if number.value is not None:
            _draw_bounded(axes, height, number, filled=row == 0)
        elif row == 0:
            axes.annotate(
                "no number", (1, height), (6, 0), textcoords="offset points", va="center",
                fontsize=9, style="italic",
            )  # fmt: skip
    axes.axvline(1, color=INK, linewidth=1)
    axes.set_yticks(range(len(study.compared_arms)), study.compared_arms)
    axes.set_ylim(len(study.compared_arms) - 0.3, -0.6)
    _ratio_ticks(axes, [number for _, _, number in rows])
    name = COST_METRIC_NAMES[study.cost_metric]
    axes.set_xlabel(f"speed-up at {study.quality.metric} {study.quality.target:g}, {name}")
    for row, charge in enumerate(charges):
        axes.plot(
            [], [], marker="o", linestyle="none", color=INK,
            label=charge_text(charge, study.amortize_over),
            markerfacecolor=INK if row == 0 else "white",
        )  # fmt: skip
    axes.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.45, 1.0), ncols=2)
    save(figure, path, analysis)
    return True


def _draw_bounded(axes: Any, height: float, number: Estimate, filled: bool) -> None:
    """A marker, its interval, arrows where it is open, and the number."""
    value = number.value or 1.0
    low, high = number.low or value, number.high or value
    axes.plot([min(low, value), max(high, value)], [height] * 2, color=INK, linewidth=1.6)
    marker = {"": "o", ">=": ">", "<=": "<"}[number.sign]
    axes.plot(
        value, height, marker=marker, markersize=8, color=INK,
        markerfacecolor=INK if filled else "white",
    )  # fmt: skip
    axes.annotate(
        speed_up_text(number.as_json("speed_up")), (value, height), (0, 7),
        textcoords="offset points", ha="center", fontsize=9, zorder=4,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8},
    )  # fmt: skip


def _ratio_ticks(axes: Any, numbers: list[Estimate]) -> None:
    """Plain numbers, and room for the labels."""
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


def cost_parts(analysis: Analysis) -> dict[str, dict[Kind, float]]:
    """Returns the mean cost of a run by arm and part, in the unit of the headline."""
    study = analysis.study
    unit: CostMetric = "flops" if study.cost_metric == "flops" else "wall"
    teachers: Kind = (f"teachers' training, shared by {study.amortize_over}", "white", "")
    parts: dict[str, dict[Kind, float]] = {}
    for arm, results in shared_runs(_with_costs(analysis), analysis).items():
        if unit == "flops":
            sums = {OPERATIONS: sum(result.costs["flops"] for result in results)}
        else:
            sums = {
                kind: sum(result.phases.get(phase, 0.0) for result in results for phase in phases)
                for kind, phases in PHASES.items()
            }
        spent = sum(teachers_cost(result, unit) or 0.0 for result in results)
        sums[teachers] = spent / study.amortize_over
        parts[arm] = {kind: cost / len(results) for kind, cost in sums.items()}
    return parts


def _with_costs(analysis: Analysis) -> list[Result]:
    if analysis.study.cost_metric == "flops":
        return [result for result in analysis.results if "flops" in result.costs]
    return [result for result in analysis.results if result.phases]


def draw_costs(analysis: Analysis, path: Path) -> bool:
    """Draws one bar for every arm, and on it the headline's cost with its spread over seeds."""
    study, sums = analysis.study, cost_parts(analysis)
    runs = shared_runs(_with_costs(analysis), analysis)
    if not runs:
        return False
    longest = max(sum(found.values()) for found in sums.values())
    if longest <= 0:
        return False
    figure, axes = canvas(1.5 + 0.5 * len(runs))
    left = np.zeros(len(runs))
    for kind in next(iter(sums.values())):
        widths = np.array([found.get(kind, 0.0) for found in sums.values()])
        if widths.max() < LEAST_SHARE * longest:
            continue
        label, color, hatch = kind
        axes.barh(
            range(len(runs)), widths, 0.62, left, label=label, color=color, hatch=hatch,
            edgecolor=INK, linewidth=0.8,
        )  # fmt: skip
        left += widths
    for row, results in enumerate(runs.values()):
        costs = [charged(each, study.cost_metric, study.charge, study.amortize_over)
                 for each in results]  # fmt: skip
        known = [cost for cost in costs if cost is not None]
        if known:
            deviation = float(np.std(known, ddof=1)) if len(known) > 1 else 0.0
            axes.errorbar(
                np.mean(known), row, xerr=deviation, marker="D", markersize=5, capsize=4,
                color=INK, markerfacecolor="white", label="headline, ± sd over seeds"
                if row == 0 else None,
            )  # fmt: skip
    axes.set_yticks(range(len(runs)), list(runs))
    axes.invert_yaxis()
    steps = next(iter(runs.values()))[0].steps
    unit = "FLOPs" if study.cost_metric == "flops" else "device-seconds"
    axes.set_xlabel(f"{unit} of a run of {steps} steps")
    axes.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.42, 1.0), ncols=2)
    save(figure, path, analysis)
    return True


def draw_curves(analysis: Analysis, path: Path) -> bool:
    """Draws metric and weight over the steps of the longest duration that all arms have."""
    study = analysis.study
    runs = shared_runs([result for result in analysis.results if result.curve], analysis)
    names = (study.quality.metric, "val/loss", "train/loss")
    name = next((each for each in names if _has(runs, each)), None)
    if name is None:
        return False
    weighted = _has(runs, WEIGHT)
    figure, axes = canvas(
        4.4 if weighted else 3.2, 2 if weighted else 1, (3, 1) if weighted else None
    )
    above, below = (axes[0], axes[1]) if weighted else (axes, None)
    for arm, results in runs.items():
        style = arm_style(list(study.arms).index(arm))
        for panel, metric in ((above, name), (below, WEIGHT)):
            steps, values = mean_curve(results, metric)
            if panel is not None and len(steps):
                # With a few results each is marked, so that arms differ without colour.
                every = max(1, len(steps) // 8)
                panel.plot(
                    steps, values, color=style.color, linestyle=style.line, linewidth=1.6,
                    marker=style.marker, markersize=5, markevery=every,
                    markerfacecolor=style.fill, label=arm,
                )  # fmt: skip
    above.set_ylabel(name)
    above.legend(frameon=False, fontsize=10)
    if below is not None:
        below.set_ylabel("weight")
        below.set_ylim(bottom=0)
    (below or above).set_xlabel("optimizer steps")
    save(figure, path, analysis)
    return True


def shared_runs(results: list[Result], analysis: Analysis) -> dict[str, list[Result]]:
    """Returns runs by arm at the longest duration that most arms have."""
    by_steps: dict[int, dict[str, list[Result]]] = {}
    for arm in analysis.study.arms:
        for result in results:
            if result.arm == arm:
                by_steps.setdefault(result.steps, {}).setdefault(arm, []).append(result)
    if not by_steps:
        return {}
    return by_steps[max(by_steps, key=lambda steps: (len(by_steps[steps]), steps))]


def mean_curve(results: list[Result], metric: str) -> tuple[list[float], list[float]]:
    """Returns steps and means over the runs that have the metric there."""
    values: dict[float, list[float]] = {}
    for result in results:
        for row in result.curve:
            if metric in row:
                values.setdefault(row["step"], []).append(row[metric])
    steps = sorted(values)
    return steps, [float(np.mean(values[step])) for step in steps]


def _has(runs: dict[str, list[Result]], metric: str) -> bool:
    return any(metric in row for results in runs.values() for p in results for row in p.curve)
