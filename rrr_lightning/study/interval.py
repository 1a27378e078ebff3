"""Speed-ups with intervals: how far two curves lie apart along the cost.

The speed-up of an arm is the baseline's cost at equal quality over the arm's cost. Its interval
holds every value that a t test at the pooled variance of seeds does not reject. Where the curves
are straight within the interval this is the delta method: half-width = t·s/|slope|. Where the
baseline flattens out it is wider above, and open where the baseline's last duration could be as
good as the arm, since nothing is known beyond it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bartlett
from scipy.stats import t as student

from rrr_lightning.study.frontier import Array, Crossing, Frontier, first_crossing, last_crossing

ANGLES = 9
ROUNDING = 1e-20  # a variance below is that of rounding


@dataclass(frozen=True)
class Cell:
    """The runs of one arm and duration, in the order of their seeds.

    Attributes:
        steps: The duration.
        seeds: The seeds, rising.
        log_costs: Logarithms of costs under one clock and charge.
        log_errors: Logarithms of errors.
    """

    steps: int
    seeds: tuple[int, ...]
    log_costs: Array
    log_errors: Array

    @property
    def cost(self) -> float:
        """Mean log cost."""
        return float(np.mean(self.log_costs))

    @property
    def error(self) -> float:
        """Mean log error."""
        return float(np.mean(self.log_errors))


@dataclass(frozen=True)
class Spread:
    """What one run varies by, pooled over durations and arms.

    Attributes:
        quality: Variance of the log error of one run.
        cost: Variance of its log cost.
        freedom: Degrees of freedom of both.
        correlation: Between the log errors of the baseline and of the arms, of equal steps and
            seed; None without such pairs.
        unequal: The p value of Bartlett's test that all cells vary alike; None where it is not
            defined.
    """

    quality: float
    cost: float
    freedom: int
    correlation: float | None = None
    unequal: float | None = None

    @property
    def widening(self) -> float:
        """Factor on variances: that of a difference of runs that are correlated negatively.

        A positive correlation would make intervals narrower; they are left as they are.
        """
        return 1.0 + max(0.0, -(self.correlation or 0.0))


@dataclass(frozen=True)
class Apart:
    """Log speed-ups by replicate, all of shape [R].

    Attributes:
        value: The estimate, or the bound where it is censored.
        sign: 0 where the value is one, 1 where it is a lower bound (≥), -1 where an upper one (≤),
            2 where nothing is known.
        low: The lower end of the interval; minus infinity where it is open.
        high: The upper end; infinity where it is open.
    """

    value: Array
    sign: Array
    low: Array
    high: Array


def pool(baseline: Sequence[Cell], arms: Sequence[Sequence[Cell]]) -> Spread:
    """Returns the spread of runs around the mean of their duration and arm."""
    cells = [*baseline, *(cell for arm in arms for cell in arm)]
    freedom = sum(len(cell.seeds) - 1 for cell in cells)
    if freedom == 0:
        return Spread(0.0, 0.0, 0)
    quality = sum(float(np.sum((cell.log_errors - cell.error) ** 2)) for cell in cells) / freedom
    cost = sum(float(np.sum((cell.log_costs - cell.cost) ** 2)) for cell in cells) / freedom
    quality, cost = (0.0 if each < ROUNDING else each for each in (quality, cost))
    samples = [cell.log_errors for cell in cells if len(cell.seeds) > 1]
    varied = len(samples) > 1 and all(np.ptp(sample) > 0 for sample in samples)
    unequal = float(bartlett(*samples).pvalue) if varied else None
    return Spread(quality, cost, freedom, _correlation(baseline, arms), unequal)


def _correlation(baseline: Sequence[Cell], arms: Sequence[Sequence[Cell]]) -> float | None:
    """Pooled correlation of residuals between paired runs."""
    by_steps = {cell.steps: cell for cell in baseline}
    sums = np.zeros(3)
    for cell in (cell for arm in arms for cell in arm if cell.steps in by_steps):
        other = by_steps[cell.steps]
        both = sorted(set(cell.seeds) & set(other.seeds))
        if len(both) < 2:
            continue
        x = cell.log_errors[[cell.seeds.index(seed) for seed in both]]
        y = other.log_errors[[other.seeds.index(seed) for seed in both]]
        x, y = x - x.mean(), y - y.mean()
        sums += (x @ y, x @ x, y @ y)
    product, first, second = sums
    return float(product / np.sqrt(first * second)) if first * second > 0 else None


def quantile(level: float, freedom: int) -> float:
    """Returns Student's t for a two-sided interval."""
    return float(student.ppf((1 + level) / 2, freedom))


def frontier_of(cells: Sequence[Cell]) -> Frontier:
    """Returns the curve through the means of one arm."""
    return Frontier(
        np.array([cell.cost for cell in cells]),
        np.array([[cell.error] for cell in cells]),
        np.array([len(cell.seeds) for cell in cells], np.float64),
    )


class _Side:
    """Which places of one curve a level may belong to."""

    def __init__(
        self, curve: Frontier, level: Array, quality: Array, cost: Array, own: float
    ) -> None:
        """`own` is the variance of the level in units of the variance of one run."""
        self.places = curve.places
        variance = (quality + curve.slopes**2 * cost) * (curve.leverage + own)
        # Without any variance the interval is the point itself.
        self.test: Array = (curve.values - level) / np.sqrt(np.maximum(variance, 1e-30))

    def low(self, limit: float) -> Crossing:
        return first_crossing(self.places, self.test, limit)

    def high(self, limit: float) -> Crossing:
        return last_crossing(self.places, self.test, -limit)


def at_duration(
    baseline: Frontier,
    log_cost: float,
    log_errors: Array,
    seeds: int,
    variances: tuple[Array, Array],
    limit: float,
) -> Apart:
    """Compares one duration of an arm with the baseline's cost at the same quality.

    Args:
        baseline: The baseline's curve.
        log_cost: Mean log cost of the arm's runs.
        log_errors: Their mean log error, shape [R].
        seeds: Their number.
        variances: Of the log error and of the log cost of one run, shape [R] each.
        limit: Student's t.
    """
    reached = baseline.reaches(log_errors)
    side = _Side(baseline, log_errors, *variances, own=1 / seeds)
    low, high = side.low(limit), side.high(limit)
    return Apart(
        reached.place - log_cost,
        np.where(reached.nowhere, 1.0, np.where(reached.at_start, -1.0, 0.0)),
        np.where(low.at_start, -np.inf, low.place - log_cost),
        np.where(high.at_start, np.inf, high.place - log_cost),
    )


def at_target(
    baseline: Frontier,
    arm: Frontier,
    log_target: float,
    variances: tuple[Array, Array],
    limit: float,
) -> Apart:
    """Compares the costs at which both curves reach a quality that was fixed beforehand.

    The interval is over all pairs of places that the target may belong to, with the squares of
    both test statistics adding up to at most that of `limit`.
    """
    theirs, ours = baseline.reaches(log_target), arm.reaches(log_target)
    above = theirs.nowhere | ours.at_start
    below = theirs.at_start | ours.nowhere
    sign = np.where(above & below, 2.0, np.where(above, 1.0, np.where(below, -1.0, 0.0)))
    level = np.full(len(sign), log_target)
    first = _Side(baseline, level, *variances, own=0.0)
    second = _Side(arm, level, *variances, own=0.0)
    low, high = np.full(len(sign), np.inf), np.full(len(sign), -np.inf)
    for angle in np.linspace(0, np.pi / 2, ANGLES):
        here, there = limit * float(np.cos(angle)), limit * float(np.sin(angle))
        low = np.minimum(low, first.low(here).place - second.high(there).place)
        high = np.maximum(high, first.high(here).place - second.low(there).place)
    open_low = first.low(limit).at_start | second.high(limit).at_start
    open_high = first.high(limit).at_start | second.low(limit).at_start
    return Apart(
        theirs.place - ours.place,
        sign,
        np.where(open_low, -np.inf, low),
        np.where(open_high, np.inf, high),
    )
