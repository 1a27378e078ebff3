"""Pictures of what runs do: where their time goes, and how metric and weight move."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rrr_lightning.study.analysis import Analysis
from rrr_lightning.study.points import WEIGHT, Point
from rrr_lightning.study.style import INK, canvas, look, save

Kind = tuple[str, str, str]
"""Words, shade and hatch."""

PHASES: dict[Kind, tuple[str, ...]] = {
    ("student", "0.25", ""): ("student_step",),
    ("teachers' forward", "0.62", "//"): ("teacher_forward",),
    ("waiting for data", "0.92", "..."): ("data_wait",),
    ("the rest of training", "0.8", ""): ("other",),
    ("validation, checkpoints, set-up", "white", "xx"): ("validation", "checkpoint", "set_up"),
}
LEAST_SHARE = 0.005  # of the longest bar


def draw_costs(analysis: Analysis, path: Path) -> bool:
    """Draws one bar for every arm, at the longest duration that all arms have.

    Args:
        analysis: What to draw.
        path: The file to write.

    Returns:
        Whether there was anything to draw.
    """
    runs = shared_runs([point for point in analysis.points if point.phases], analysis)
    if not runs:
        return False
    share = analysis.design.amortized_over
    teachers: Kind = (f"teachers' training, shared by {share}", "white", "")
    sums: dict[str, dict[Kind, float]] = {}
    for arm, points in runs.items():
        found = {
            kind: sum(point.phases.get(phase, 0.0) for point in points for phase in phases)
            for kind, phases in PHASES.items()
        }
        found[teachers] = sum(point.teacher_costs.get("wall", 0.0) for point in points) / share
        sums[arm] = {kind: cost / len(points) for kind, cost in found.items()}
    longest = max(sum(found.values()) for found in sums.values())
    if longest <= 0:
        return False
    figure, axes = canvas(1.5 + 0.5 * len(runs))
    left = np.zeros(len(runs))
    for kind in (*PHASES, teachers):
        widths = np.array([found.get(kind, 0.0) for found in sums.values()])
        if widths.max() < LEAST_SHARE * longest:
            continue
        label, color, hatch = kind
        axes.barh(
            range(len(runs)), widths, 0.62, left, label=label, color=color, hatch=hatch,
            edgecolor=INK, linewidth=0.8,
        )  # fmt: skip
        left += widths
    axes.set_yticks(range(len(runs)), list(runs))
    axes.invert_yaxis()
    steps = next(iter(runs.values()))[0].steps
    axes.set_xlabel(f"device-seconds of a run of {steps} steps")
    axes.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.42, 1.0), ncols=2)
    save(figure, path, analysis)
    return True


def draw_curves(analysis: Analysis, path: Path) -> bool:
    """Draws metric and weight over the steps of the longest duration that all arms have.

    Args:
        analysis: What to draw.
        path: The file to write.

    Returns:
        Whether there was anything to draw.
    """
    design = analysis.design
    runs = shared_runs([point for point in analysis.points if point.curve], analysis)
    names = ("val/loss", "train/loss", design.metric)
    name = next((each for each in names if _has(runs, each)), None)
    if name is None:
        return False
    weighted = _has(runs, WEIGHT)
    figure, axes = canvas(
        4.4 if weighted else 3.2, 2 if weighted else 1, (3, 1) if weighted else None
    )
    above, below = (axes[0], axes[1]) if weighted else (axes, None)
    for arm, points in runs.items():
        style = look((design.baseline, *design.arms).index(arm))
        for panel, metric in ((above, name), (below, WEIGHT)):
            steps, values = mean_curve(points, metric)
            if panel is not None and len(steps):
                # With a few points each is marked, so that arms differ without colour.
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


def shared_runs(points: list[Point], analysis: Analysis) -> dict[str, list[Point]]:
    """Returns runs by arm at the longest duration that most arms have."""
    arms = (analysis.design.baseline, *analysis.design.arms)
    by_steps: dict[int, dict[str, list[Point]]] = {}
    for arm in arms:
        for point in points:
            if point.arm == arm:
                by_steps.setdefault(point.steps, {}).setdefault(arm, []).append(point)
    if not by_steps:
        return {}
    return by_steps[max(by_steps, key=lambda steps: (len(by_steps[steps]), steps))]


def mean_curve(points: list[Point], metric: str) -> tuple[list[float], list[float]]:
    """Returns steps and means over the runs that have the metric there."""
    values: dict[float, list[float]] = {}
    for point in points:
        for row in point.curve:
            if metric in row:
                values.setdefault(row["step"], []).append(row[metric])
    steps = sorted(values)
    return steps, [float(np.mean(values[step])) for step in steps]


def _has(runs: dict[str, list[Point]], metric: str) -> bool:
    return any(metric in row for points in runs.values() for p in points for row in p.curve)
