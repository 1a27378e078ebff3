"""Intervals of differences and of shares, in rows like those of ratios."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from scipy import stats


def difference_row(
    name: str, pairs: Sequence[Sequence[float]], goal: float | None = 0.0
) -> dict[str, Any]:
    """Returns the mean of first minus second with its 95 % interval by Student's t.

    Args:
        name: What the difference says.
        pairs: Two numbers for every seed.
        goal: 0 where chance alone should make the difference, None where it stands for contrast.
    """
    found = [mine - other for mine, other in pairs]
    middle, n = statistics.mean(found), len(found)
    half = math.inf
    if n > 1:
        half = float(stats.t.ppf(0.975, n - 1)) * statistics.stdev(found) / math.sqrt(n)
    return {
        **{"name": name, "ratio": middle, "low": middle - half, "high": middle + half},
        **{"goal": goal, "rule": "contains", "met": None if goal is None else abs(middle) <= half},
        **{"n": n, "coverage": 0.95, "pairs": [list(pair) for pair in pairs]},
    }


def wilson(successes: float, count: float, z: float = 1.96) -> tuple[float, float]:
    """Returns the Wilson interval of a share, by default at 95 %."""
    share, shrunk = successes / count, 1 + z**2 / count
    middle = (share + z**2 / (2 * count)) / shrunk
    half = z / shrunk * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return middle - half, middle + half
