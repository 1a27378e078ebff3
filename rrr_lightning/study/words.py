"""How numbers, intervals, clocks and charges are written in reports and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rrr_lightning.study.break_even import whole
from rrr_lightning.study.comparison import Bounded
from rrr_lightning.study.points import StudyDesign

CLOCKS = {
    "wall": "device time",
    "wall_without_data": "device time without waiting for data",
    "flops": "FLOPs",
}
SIGNS = {"": "", ">=": "≥ ", "<=": "≤ "}
NOTHING = "–"


def charge_words(charge: str, design: StudyDesign) -> str:
    """Returns a charge in words."""
    if charge == "free":
        return "teachers free"
    if charge == "full":
        return "teachers' training in full"
    return f"teachers' training shared by {design.amortized_over} students"


def speed_up_words(number: Bounded) -> str:
    """Returns a speed-up as `1.38× (1.21 to 1.57)`."""
    if number.value is None:
        return NOTHING
    return f"{SIGNS[number.sign]}{number.value:.2f}×{_interval(number, '.2f')}"


def gain_words(number: Bounded, error: float) -> str:
    """Returns a gain in quality at equal cost, positive where the arm is better.

    Args:
        number: The baseline's error over the arm's, less one.
        error: The arm's error.
    """
    if number.value is None:
        return NOTHING
    low, high = (None if end is None else end * error for end in (number.low, number.high))
    scaled = Bounded(number.value * error, number.sign, low, high, why=number.why)
    return f"{SIGNS[number.sign]}{scaled.value:+.4f}{_interval(scaled, '+.4f')}"


def students_words(number: Bounded) -> str:
    """Returns a number of students."""
    if number.value is None:
        return NOTHING
    low, high = number.low, number.high
    if low is None and high is None:
        return f"{SIGNS[number.sign]}{whole(number.value)}"
    ends = f"{1 if low is None else whole(low)} to {'never' if high is None else whole(high)}"
    return f"{SIGNS[number.sign]}{whole(number.value)} ({ends})"


def ratio_words(number: Bounded) -> str:
    """Returns a ratio as `0.98 (0.94 to 1.03)`."""
    if number.value is None:
        return NOTHING
    return f"{number.value:.3f}{_interval(number, '.3f')}"


def missing_words(missing: Mapping[str, Mapping[int, Sequence[int]]]) -> list[str]:
    """Returns one line for each arm with runs that have not finished."""
    lines = []
    for arm, durations in missing.items():
        parts = [
            f"{steps} steps (seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))})"
            for steps, seeds in durations.items()
        ]
        lines.append(f"{arm}: {', '.join(parts)}")
    return lines


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Returns a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|")


def _interval(number: Bounded, form: str) -> str:
    if number.low is None and number.high is None:
        return " (no interval)" if number.why else ""
    if number.high is None:
        return f" (from {number.low:{form}})"
    if number.low is None:
        return f" (up to {number.high:{form}})"
    return f" ({number.low:{form}} to {number.high:{form}})"
