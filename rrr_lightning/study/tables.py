"""The parts of `report.md`, each a function from an analysis to Markdown, or to nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rrr_lightning.study.analysis import Analysis
from rrr_lightning.study.checks import missing_runs
from rrr_lightning.study.clocks import machines
from rrr_lightning.study.points import CLOCKS, StudyDesign
from rrr_lightning.study.words import CLOCKS as CLOCK_WORDS
from rrr_lightning.study.words import (
    NOTHING,
    charge_words,
    gain_words,
    missing_words,
    ratio_words,
    speed_up_words,
    students_words,
    table,
)

DEMONSTRATION = (
    "> **This study demonstrates the tool, not the claim.** Its task is small enough to run "
    "anywhere, and says nothing about training at scale."
)
UNLIKE = 0.01


def title(analysis: Analysis) -> str:
    """The head of the report."""
    design = analysis.design
    parts = [f"# Study: {design.name}"]
    if design.demonstration:
        parts.append(DEMONSTRATION)
    return "\n\n".join(parts)


def headline(analysis: Analysis) -> str:
    """The headline cell of every arm, with the full charge beside it."""
    design = analysis.design
    target = (
        "no target was fixed"
        if design.target is None
        else f"`{design.metric}` = {design.target:g}, fixed before the runs"
    )
    text = (
        f"Speed-up = cost of `{design.baseline}` over cost of the arm at equal quality: {target}. "
        f"Clock: {CLOCK_WORDS[design.clock]}. Headline charge: "
        f"{charge_words(design.charge, design)}. In brackets: intervals at {design.level:.0%}."
    )
    head = ["arm", f"speed-up, {charge_words(design.charge, design)}"]
    if design.charge != "full":
        head.append(f"speed-up, {charge_words('full', design)}")
    rows, whys = [], []
    for arm in design.arms:
        charges = dict.fromkeys((design.charge, "full"))
        found = [analysis.comparisons[arm, design.clock, charge].target for charge in charges]
        tried = design.settings_tried.get(arm)
        row = [arm, *map(speed_up_words, found), runs_words(analysis, arm)]
        rows.append([*row, NOTHING if tried is None else tried])
        whys += [(arm, each.why) for each in found if each.why is not None]
    parts = [text, table([*head, "runs", "settings tried"], rows), tried_words(design)]
    if whys:
        parts.append("\n".join(f"- {arm}: {why}" for arm, why in dict.fromkeys(whys)))
    return "\n\n".join(parts)


def tried_words(design: StudyDesign) -> str:
    """How much was searched, and what this does to the intervals."""
    baseline = design.settings_tried.get(design.baseline)
    told = "not stated" if baseline is None else str(baseline)
    several = (
        f" {len(design.arms)} arms are shown; each interval holds for its arm alone, not for the "
        "best of them."
    )
    return f"Settings tried for `{design.baseline}`: {told}." + several * (len(design.arms) > 1)


def runs_words(analysis: Analysis, arm: str) -> str:
    """Finished runs of an arm, of those planned."""
    design = analysis.design
    done = sum(point.arm == arm for point in analysis.points)
    planned = len(design.durations[arm]) * len(design.seeds)
    return str(done) if done == planned else f"{done} of {planned}"


def every_cell(analysis: Analysis) -> str:
    """All clocks and charges; what cannot be compared is said."""
    design = analysis.design
    head = ["arm", "clock", *(charge_words(charge, design) for charge in analysis.charges)]
    rows = []
    for arm in design.arms:
        for clock in analysis.clocks:
            cells = [analysis.comparisons[arm, clock, charge] for charge in analysis.charges]
            rows.append([arm, CLOCK_WORDS[clock], *(speed_up_words(cell.target) for cell in cells)])
    parts = ["## Every clock and charge"]
    if rows:
        parts.append(table(head, rows))
    left_out = clocks_left_out(analysis)
    return "\n\n".join([*parts, *([left_out] if left_out else [])])


def clocks_left_out(analysis: Analysis) -> str | None:
    """Which clocks cannot compare these runs, and why."""
    left = [CLOCK_WORDS[clock] for clock in CLOCKS if clock not in analysis.clocks]
    if not left or not analysis.points:
        return None
    kinds = machines(analysis.points)
    why = (
        f"the runs were made on {len(kinds)} different machines"
        if len(kinds) > 1
        else "not every run knows its cost by it"
    )
    return f"Left out: {', '.join(left)}, as {why}."


def every_duration(analysis: Analysis) -> str:
    """Quality and cost of every duration, its own speed-up, and the gain at equal cost."""
    design = analysis.design
    rows = []
    for arm, durations in design.durations.items():
        found = analysis.comparisons.get((arm, design.clock, design.charge))
        by_steps = {each.steps: each for each in found.durations} if found else {}
        costs = {cell.steps: math.exp(cell.cost) for cell in analysis.cells.get(arm, [])}
        for steps in durations:
            values = [p.quality for p in analysis.points if (p.arm, p.steps) == (arm, steps)]
            if not values:
                continue
            spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
            row = [arm, steps, len(values), f"{np.mean(values):.4f}{spread}"]
            row.append(f"{costs[steps]:.4g}" if steps in costs else NOTHING)
            each = by_steps.get(steps)
            if each is None:
                rows.append([*row, NOTHING, NOTHING])
            else:
                gain = gain_words(each.error_ratio, math.exp(each.log_error))
                rows.append([*row, speed_up_words(each.speed_up), gain])
    if not rows:
        return ""
    unit = "FLOPs" if design.clock == "flops" else "device-seconds"
    head = ["arm", "steps", "n", f"`{design.metric}`", f"cost, {unit}", "speed-up", "gain"]
    text = (
        "Means ± standard deviations over n seeds; cost without the training of teachers. The "
        "speed-up is at the quality that the runs have reached, the gain in quality is over the "
        f"baseline at the same cost ({charge_words(design.charge, design)}; positive is better). "
        "≥ and ≤ stand where the baseline has no run on the other side."
    )
    return "\n\n".join(["## Every duration", table(head, rows), text])


def teachers(analysis: Analysis) -> str:
    """How many students pay for the training of the teachers."""
    rows = [
        [arm, students_words(number), number.why or ""]
        for arm, number in analysis.break_even.items()
    ]
    if not rows:
        return ""
    text = (
        "The number of students from which on training the teachers as well costs no more than "
        f"doing without, at the target, by {CLOCK_WORDS[analysis.design.clock]}."
    )
    return "\n\n".join(["## When teachers have paid", text, table(["arm", "students", ""], rows)])


def contrasts(analysis: Analysis) -> str:
    """Pairs of arms at equal steps."""
    rows = [
        [
            f"{each.arms[0]} over {each.arms[1]}",
            ratio_words(each.error_ratio),
            NOTHING if each.cost_ratio is None else f"{each.cost_ratio:.3f}",
            len(each.steps),
            each.error_ratio.why or "",
        ]
        for each in analysis.contrasts
    ]
    if not rows:
        return ""
    head = ["arms", "ratio of errors", "ratio of costs, teachers free", "durations", ""]
    return "\n\n".join(["## Arms at equal steps", table(head, rows)])


def _growth(analysis: Analysis) -> float | None:
    """How the standard deviation over seeds runs from the cheapest to the dearest duration."""
    if analysis.spread is None or not analysis.spread.cells:
        return None
    costs = [cost for cost, _ in analysis.spread.cells]
    slope = float(analysis.spread.trend.slope[0])
    return math.exp(slope * (max(costs) - min(costs)) / 2) if slope else None


def grounds(analysis: Analysis, notes: Sequence[str]) -> str:
    """What the numbers rest on, and what is missing."""
    design, spread = analysis.design, analysis.spread
    lines = [
        f"{len(analysis.points)} runs on: "
        + (", ".join(name or "machine not named" for name in machines(analysis.points)) or NOTHING)
    ]
    if analysis.why is not None:
        lines.append(f"No speed-up yet: {analysis.why}")
    if spread is not None and spread.freedom:
        lines.append(
            f"One run's error varies by {math.sqrt(spread.quality):.1%} over seeds, its cost by "
            f"{math.sqrt(spread.cost):.1%} (standard deviations, pooled over durations and arms, "
            f"{spread.freedom} degrees of freedom)"
        )
        if spread.correlation is not None:
            lines.append(
                f"Paired runs correlate by {spread.correlation:+.2f}; "
                + ("intervals are not narrowed for it" if spread.correlation >= 0
                   else "intervals are widened for it")
            )  # fmt: skip
        if spread.unequal is not None and spread.unequal < UNLIKE:
            lines.append(
                "The spread over seeds differs between durations or arms (Bartlett's test, p = "
                f"{spread.unequal:.2g})"
            )
        if factor := _growth(analysis):
            lines.append(
                f"From the cheapest to the dearest runs this spread changes by a factor of "
                f"{factor:.2f}; intervals are widened where it is larger"
            )
    if analysis.frontier is not None and analysis.frontier.raised[0]:
        lines.append(
            f"`{design.baseline}` gets worse with cost somewhere; these durations were levelled"
        )
    shares = [each.target.coverage for each in analysis.comparisons.values()]
    known = [share for share in shares if share is not None]
    if known:
        lines.append(
            f"Simulated coverage of the intervals at the target: at least {min(known):.1%}"
        )
    lines += [
        f"Not finished: {line}" for line in missing_words(missing_runs(analysis.points, design))
    ]
    return "\n\n".join(
        ["## What this rests on", "\n".join(f"- {line}." for line in [*lines, *notes])]
    )
