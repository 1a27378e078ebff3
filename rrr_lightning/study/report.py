"""The report of a study: `report.json`, and `report.md` made from it; also of a half-finished one.

A study that only chooses settings gets a ranking of its arms instead, the best one first.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rrr_lightning.jobs.process import write_json
from rrr_lightning.study.comparison import LEVEL, Analysis, Duration, Estimate
from rrr_lightning.study.config import COST_METRICS, Study
from rrr_lightning.study.results import Result, machines, missing_runs

JSON, MARKDOWN = "report.json", "report.md"
COST_METRIC_NAMES = {
    "wall": "device time",
    "wall_without_data": "device time without waiting for data",
    "flops": "FLOPs",
}
SIGNS = {None: "", ">=": "≥ ", "<=": "≤ "}
NOTHING = "–"
UNEQUAL = 0.01  # p value of Bartlett's test
DEMONSTRATION = (
    "> **This study demonstrates the tool, not the claim.** Its task is small enough to run "
    "anywhere, and says nothing about training at scale."
)
Content = Mapping[str, Any]
Pictures = Sequence[tuple[str, str]]


def write_report(
    analysis: Analysis, name: str, folder: Path, notes: Sequence[str] = (), pictures: Pictures = ()
) -> str:
    """Writes `report.json` and `report.md`; returns the Markdown.

    `notes` are sentences for the reader, without full stops; `pictures` file names and captions.
    """
    content = as_json(analysis, name, notes)
    write_json(folder / JSON, content, indent=1)
    text = markdown(content, analysis, pictures)
    (folder / MARKDOWN).write_text(text)
    return text


def as_json(analysis: Analysis, name: str, notes: Sequence[str] = ()) -> dict[str, Any]:
    """Returns everything of `report.json` as plain types."""
    study, variance = analysis.study, analysis.variance
    missing = missing_runs(analysis.results, study)
    return {
        "version": 1,
        "study": name,
        "demonstration": study.purpose == "demonstration",
        "metric": study.quality.metric,
        "direction": study.quality.direction,
        "baseline": study.baseline,
        "target": study.quality.target,
        "clock": study.cost_metric,
        "charge": study.charge,
        "amortized_over": study.amortize_over,
        "level": LEVEL,
        "settings_tried": dict(study.settings_tried),
        "arms": [_arm(analysis, arm) for arm in study.compared_arms],
        "contrasts": [each.as_json() for each in analysis.contrasts],
        "runs": {
            "done": len(analysis.results),
            "planned": sum(len(study.durations_of(arm)) for arm in study.arms) * len(study.seeds),
            "missing": [
                {"arm": arm, "steps": steps, "seeds": seeds}
                for arm, durations in missing.items()
                for steps, seeds in durations.items()
            ],
        },
        "machines": machines(analysis.results),
        "noise": None
        if variance is None
        else {
            "log_error_std": math.sqrt(variance.quality),
            "log_cost_std": math.sqrt(variance.cost),
            "degrees_of_freedom": variance.freedom,
            "pair_correlation": variance.correlation,
            "unequal_p": variance.unequal,
            "trend": float(variance.trend.slope[0]),
        },
        "frontier": [
            {
                "steps": group.steps,
                "n": len(group.seeds),
                "cost": math.exp(group.cost),
                "quality": float(np.mean(analysis.qualities(study.baseline, group.steps))),
            }
            for group in analysis.groups.get(study.baseline, [])
        ],
        "why": analysis.why,
        "notes": list(notes),
    }


def _arm(analysis: Analysis, arm: str) -> dict[str, Any]:
    study, head = analysis.study, analysis.headline(arm)
    number = analysis.break_even.get(arm)
    return {
        "name": arm,
        **head.target.as_json("speed_up"),
        "target": study.quality.target,
        "clock": study.cost_metric,
        "charge": study.charge,
        "n": min((each.seeds for each in head.durations), default=0),
        "runs": sum(result.arm == arm for result in analysis.results),
        "settings_tried": study.settings_tried.get(arm),
        "full_charge": analysis.headline(arm, "full").target.as_json("speed_up"),
        "cells": [
            {
                "clock": cost_metric,
                "charge": charge,
                **analysis.comparisons[arm, cost_metric, charge].target.as_json("speed_up"),
            }
            for cost_metric in analysis.cost_metrics
            for charge in analysis.charges
        ],
        "durations": [_duration(analysis, arm, each) for each in head.durations],
        "break_even_students": None if number is None else number.as_json("students"),
    }


def _duration(analysis: Analysis, arm: str, duration: Duration) -> dict[str, Any]:
    error, ratio = math.exp(duration.log_error), duration.error_ratio
    value, low, high = (
        None if end is None else end * error for end in (ratio.value, ratio.low, ratio.high)
    )
    gain = Estimate(value, ratio.sign, low, high, ratio.coverage, ratio.why)
    return {
        "steps": duration.steps,
        "n": duration.seeds,
        "quality": float(np.mean(analysis.qualities(arm, duration.steps))),
        "cost": math.exp(duration.log_cost),
        **duration.speed_up.as_json("speed_up"),
        "gain_at_equal_cost": gain.as_json("gain"),
    }


def markdown(content: Content, analysis: Analysis, pictures: Pictures = ()) -> str:
    """Returns the report as Markdown; what `report.json` leaves out comes from the analysis."""
    parts = [
        f"# Study: {content['study']}",
        DEMONSTRATION if content["demonstration"] else "",
        _headline(content),
        "\n\n".join(f"![{caption}]({name})" for name, caption in pictures),
        _every_cell(content, analysis.charges),
        _every_duration(content, analysis),
        _teachers(content),
        _contrasts(content),
        _basis(content, analysis),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _headline(content: Content) -> str:
    """The headline cell of every arm, with the full charge beside it."""
    charge = charge_text(content["charge"], content["amortized_over"])
    target = (
        "no target was fixed"
        if content["target"] is None
        else f"`{content['metric']}` = {content['target']:g}, fixed before the runs"
    )
    text = (
        f"Speed-up = cost of `{content['baseline']}` over cost of the arm at equal quality: "
        f"{target}. Clock: {COST_METRIC_NAMES[content['clock']]}. Headline charge: {charge}. In "
        f"brackets: intervals at {content['level']:.0%}."
    )
    head = ["arm", f"speed-up, {charge}"]
    if content["charge"] != "full":
        head.append(f"speed-up, {charge_text('full', 0)}")
    rows, reasons = [], []
    for arm in content["arms"]:
        found = [arm] if content["charge"] == "full" else [arm, arm["full_charge"]]
        missing = [each for each in content["runs"]["missing"] if each["arm"] == arm["name"]]
        planned = arm["runs"] + sum(len(each["seeds"]) for each in missing)
        runs = f"{arm['runs']} of {planned}" if missing else arm["runs"]
        tried = NOTHING if arm["settings_tried"] is None else arm["settings_tried"]
        rows.append([arm["name"], *map(speed_up_text, found), runs, tried])
        reasons += [f"- {arm['name']}: {each['why']}" for each in found if each["why"]]
    tried = content["settings_tried"].get(content["baseline"], "not stated")
    below = f"Settings tried for `{content['baseline']}`: {tried}."
    if len(content["arms"]) > 1:
        below += (
            f" {len(content['arms'])} arms are shown; each interval holds for its arm alone, not "
            "for the best of them."
        )
    parts = [text, table([*head, "runs", "settings tried"], rows), below]
    return "\n\n".join([*parts, *filter(None, ["\n".join(dict.fromkeys(reasons))])])


def _every_cell(content: Content, charges: Sequence[str]) -> str:
    """All cost metrics and charges, and why some cost metrics cannot compare these runs."""
    head = ["arm", "clock", *(charge_text(each, content["amortized_over"]) for each in charges)]
    rows, shown = [], []
    for arm in content["arms"]:
        shown = list(dict.fromkeys(cell["clock"] for cell in arm["cells"]))
        for cost_metric in shown:
            cells = [cell for cell in arm["cells"] if cell["clock"] == cost_metric]
            rows.append([arm["name"], COST_METRIC_NAMES[cost_metric], *map(speed_up_text, cells)])
    parts = ["## Every clock and charge"]
    if rows:
        parts.append(table(head, rows))
    left_out = [COST_METRIC_NAMES[each] for each in COST_METRICS if each not in shown]
    if left_out and content["runs"]["done"]:
        count = len(content["machines"])
        made = f"the runs were made on {count} different machines"
        why = made if count > 1 else "not every run knows its cost by it"
        parts.append(f"Left out: {', '.join(left_out)}, as {why}.")
    return "\n\n".join(parts)


def _every_duration(content: Content, analysis: Analysis) -> str:
    """Quality and cost of every duration, its own speed-up, and the gain at equal cost."""
    compared = {
        (arm["name"], each["steps"]): each for arm in content["arms"] for each in arm["durations"]
    }
    rows = []
    for arm in analysis.study.arms:
        costs = {group.steps: math.exp(group.cost) for group in analysis.groups.get(arm, [])}
        for steps in analysis.study.durations_of(arm):
            values = analysis.qualities(arm, steps)
            if not values:
                continue
            spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
            row = [arm, steps, len(values), f"{np.mean(values):.4f}{spread}"]
            row.append(f"{costs[steps]:.4g}" if steps in costs else NOTHING)
            each = compared.get((arm, steps))
            gain = each and estimate_text(each["gain_at_equal_cost"], "gain", "+.4f")
            rows.append([*row, speed_up_text(each) if each else NOTHING, gain or NOTHING])
    if not rows:
        return ""
    unit = "FLOPs" if content["clock"] == "flops" else "device-seconds"
    head = ["arm", "steps", "n", f"`{content['metric']}`", f"cost, {unit}", "speed-up", "gain"]
    charge = charge_text(content["charge"], content["amortized_over"])
    text = (
        "Means ± standard deviations over n seeds; cost without the training of teachers. The "
        "speed-up is at the quality that the runs have reached, the gain in quality is over the "
        f"baseline at the same cost ({charge}; positive is better). "
        "≥ and ≤ stand where the baseline has no run on the other side."
    )
    return "\n\n".join(["## Every duration", table(head, rows), text])


def _teachers(content: Content) -> str:
    """How many students pay for the training of the teachers."""
    numbers = [(arm["name"], arm["break_even_students"]) for arm in content["arms"]]
    rows = [[arm, students_text(each), each["why"] or ""] for arm, each in numbers if each]
    if not rows:
        return ""
    text = (
        "The number of students from which on training the teachers as well costs no more than "
        f"doing without, at the target, by {COST_METRIC_NAMES[content['clock']]}."
    )
    return "\n\n".join(["## When teachers have paid", text, table(["arm", "students", ""], rows)])


def _contrasts(content: Content) -> str:
    """Pairs of arms at equal steps."""
    rows = [
        [
            " over ".join(each["arms"]),
            estimate_text(each, "error_ratio", ".3f"),
            NOTHING if each["cost_ratio"] is None else f"{each['cost_ratio']:.3f}",
            len(each["steps"]),
            each["why"] or "",
        ]
        for each in content["contrasts"]
    ]
    if not rows:
        return ""
    head = ["arms", "ratio of errors", "ratio of costs, teachers free", "durations", ""]
    return "\n\n".join(["## Arms at equal steps", table(head, rows)])


def _basis(content: Content, analysis: Analysis) -> str:
    """What the numbers rest on, and what is missing."""
    names = ", ".join(name or "machine not named" for name in content["machines"])
    lines = [f"{content['runs']['done']} runs on: {names or NOTHING}"]
    if content["why"] is not None:
        lines.append(f"No speed-up yet: {content['why']}")
    lines += _variance_lines(content["noise"] or {}, analysis)
    if analysis.curve is not None and analysis.curve.raised[0]:
        lines.append(
            f"`{content['baseline']}` gets worse with cost somewhere; these durations were levelled"
        )
    shares = [each.target.coverage for each in analysis.comparisons.values()]
    known = [share for share in shares if share is not None]
    if known:
        lines.append(
            f"Simulated coverage of the intervals at the target: at least {min(known):.1%}"
        )
    missing: dict[str, list[str]] = {}
    for each in content["runs"]["missing"]:
        seeds = f"seed{'s' * (len(each['seeds']) > 1)} {', '.join(map(str, each['seeds']))}"
        missing.setdefault(each["arm"], []).append(f"{each['steps']} steps ({seeds})")
    lines += [f"Not finished: {arm}: {', '.join(parts)}" for arm, parts in missing.items()]
    lines += content["notes"]
    return "\n\n".join(["## What this rests on", "\n".join(f"- {line}." for line in lines)])


def _variance_lines(noise: Content, analysis: Analysis) -> Iterator[str]:
    """How much runs vary over seeds."""
    if not noise.get("degrees_of_freedom"):
        return
    yield (
        f"One run's error varies by {noise['log_error_std']:.1%} over seeds, its cost by "
        f"{noise['log_cost_std']:.1%} (standard deviations, pooled over durations and arms, "
        f"{noise['degrees_of_freedom']} degrees of freedom)"
    )
    correlation, unequal = noise["pair_correlation"], noise["unequal_p"]
    if correlation is not None:
        effect = "not narrowed" if correlation >= 0 else "widened"
        yield f"Paired runs correlate by {correlation:+.2f}; intervals are {effect} for it"
    if unequal is not None and unequal < UNEQUAL:
        yield (
            "The spread over seeds differs between durations or arms (Bartlett's test, p = "
            f"{unequal:.2g})"
        )
    if noise["trend"] and analysis.variance is not None and analysis.variance.groups:
        costs = [cost for cost, _ in analysis.variance.groups]
        growth = math.exp(noise["trend"] * (max(costs) - min(costs)) / 2)
        yield (
            f"From the cheapest to the dearest runs this spread changes by a factor of "
            f"{growth:.2f}; intervals are widened where it is larger"
        )


def charge_text(charge: str, students: int) -> str:
    """Returns a charge in words."""
    if charge == "free":
        return "teachers free"
    if charge == "full":
        return "teachers' training in full"
    return f"teachers' training shared by {students} students"


def speed_up_text(number: Content) -> str:
    """Returns a speed-up as `1.38× (1.21 to 1.57)`."""
    return estimate_text(number, "speed_up", ".2f", "×")


def estimate_text(number: Content, name: str, form: str, unit: str = "") -> str:
    """Returns an estimate in its JSON form with its interval, as `0.98 (0.94 to 1.03)`."""
    value, low, high = number[name], number["low"], number["high"]
    if value is None:
        return NOTHING
    text = f"{SIGNS[number['censored']]}{value:{form}}{unit}"
    if low is None and high is None:
        return text + (" (no interval)" if number["why"] else "")
    if high is None:
        return f"{text} (from {low:{form}})"
    return (
        f"{text} (up to {high:{form}})"
        if low is None
        else f"{text} ({low:{form}} to {high:{form}})"
    )


def students_text(number: Content) -> str:
    """Returns a number of students, rounded up."""
    value, low, high = (
        None if end is None else math.ceil(end - 1e-9)
        for end in (number["students"], number["low"], number["high"])
    )
    if value is None:
        return NOTHING
    ends = f" ({1 if low is None else low} to {'never' if high is None else high})"
    known = low is not None or high is not None
    return f"{SIGNS[number['censored']]}{value}{ends if known else ''}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    cells = ([str(value).replace("|", "\\|") for value in line] for line in lines)
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)


def write_ranking(results: Sequence[Result], study: Study, folder: Path) -> str:
    """Writes the report of a study that chooses settings; returns the Markdown."""
    rows: list[dict[str, Any]] = []
    for arm in study.arms:
        for steps in study.durations_of(arm):
            values = [each.quality for each in results if (each.arm, each.steps) == (arm, steps)]
            if values:
                spread = statistics.stdev(values) if len(values) > 1 else None
                quality = statistics.mean(values)
                row = {"name": arm, "steps": steps, "n": len(values)}
                rows.append({**row, "quality": quality, "spread": spread})
    sign = -1 if study.quality.direction == "max" else 1
    rows.sort(key=lambda row: (row["steps"], sign * row["quality"]))
    write_json(folder / JSON, {"purpose": "tuning", "arms": rows}, indent=1)
    metric, cells = study.quality.metric, []
    for row in rows:
        text = f"{row['quality']:.4f}"
        text += "" if row["spread"] is None else f" ± {row['spread']:.4f}"
        cells.append([row["name"], row["steps"], row["n"], text])
    text = (
        f"Tuning by {metric}, the best first: no result, but a choice of settings.\n\n"
        f"{table(['arm', 'steps', 'n', metric], cells)}\n"
    )
    (folder / MARKDOWN).write_text(text)
    return text
