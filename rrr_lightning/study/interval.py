"""Speed-ups with intervals: how far two curves lie apart along the cost.

The speed-up of an arm is the baseline's cost at equal quality over the arm's cost. Its interval
holds every value that a t test at the pooled variance of seeds does not reject. Where the curves
are straight within the interval this is the delta method: half-width = t·s/|slope|. Where the
baseline flattens out it is wider above, and open where the baseline's last duration could be as
good as the arm, since nothing is known beyond it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bartlett
from scipy.stats import t as student

from rrr_lightning.study.frontier import Array, Crossing, Frontier, first_crossing, last_crossing
from rrr_lightning.study.noise import LEVEL, ROUNDING, Trend, trend_of

ANGLES = 9


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
        trend: How the variance of the log error runs with the log cost.
        cells: Log costs and degrees of freedom of what was pooled.
    """

    quality: float
    cost: float
    freedom: int
    correlation: float | None = None
    unequal: float | None = None
    trend: Trend = LEVEL
    cells: tuple[tuple[float, int], ...] = ()

    @property
    def widening(self) -> float:
        """Factor on variances: that of a difference of runs that are correlated negatively.

        A positive correlation would make intervals narrower; they are left as they are.
        """
        return 1.0 + max(0.0, -(self.correlation or 0.0))

    def effective(self, cell: Cell) -> float:
        """Returns the number of seeds of a cell, fewer where one run varies more than elsewhere."""
        return len(cell.seeds) / float(self.trend.widened(np.array(cell.cost))[0])


@dataclass(frozen=True)
class Apart:
    """Differences by replicate, such as log speed-ups, all of shape [R].

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
    varying = tuple((cell.cost, len(cell.seeds) - 1) for cell in cells if len(cell.seeds) > 1)
    places, freedoms = np.array(varying, np.float64).T
    variances = np.array([[np.var(sample, ddof=1)] for sample in samples])
    trend = trend_of(places, variances, freedoms) if quality else LEVEL
    return Spread(quality, cost, freedom, _correlation(baseline, arms), unequal, trend, varying)


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


def frontier_of(cells: Sequence[Cell], trend: Trend = LEVEL) -> Frontier:
    """Returns the curve through the means of one arm."""
    costs = np.array([cell.cost for cell in cells])
    seeds = np.array([len(cell.seeds) for cell in cells], np.float64)
    means = np.array([[cell.error] for cell in cells])
    return Frontier(costs, means, seeds, trend.widened(costs))


class _Side:
    """Which places of one curve a level may belong to."""

    def __init__(
        self, curve: Frontier, level: Array, quality: Array, cost: Array, own: float | Array
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
    seeds: float | Array,
    variances: tuple[Array, Array],
    limit: float,
) -> Apart:
    """Compares one duration of an arm with the baseline's cost at the same quality: log speed-ups.

    Args:
        baseline: The baseline's curve.
        log_cost: Mean log cost of the arm's runs.
        log_errors: Their mean log error, shape [R].
        seeds: Their number; an effective one where they vary more than others.
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


def at_cost(
    baseline: Frontier,
    log_cost: float,
    log_errors: Array,
    seeds: float | Array,
    variances: tuple[Array, Array],
    limit: float,
) -> Apart:
    """Compares one duration of an arm with the baseline's quality at the same cost: log errors.

    Arguments are those of `at_duration`.
    """
    first, last = float(baseline.log_costs[0]), float(baseline.log_costs[-1])
    value, slope, leverage = baseline.at(min(max(log_cost, first), last))
    quality, cost = variances
    half = limit * np.sqrt((quality + slope**2 * cost) * (leverage + 1 / seeds))
    gain = value - log_errors
    # A longer baseline would have been at least as good, a shorter one at most.
    sign = -1.0 if log_cost > last else 1.0 if log_cost < first else 0.0
    return Apart(
        gain,
        np.full(len(gain), sign),
        np.full(len(gain), -np.inf) if sign < 0 else gain - half,
        np.full(len(gain), np.inf) if sign > 0 else gain + half,
    )


@dataclass(frozen=True)
class AtTarget:
    """Both curves at one quality.

    Attributes:
        ratio: Log speed-ups.
        saved: The baseline's cost less the arm's.
        theirs: Where the baseline reaches it.
        ours: Where the arm does.
    """

    ratio: Apart
    saved: Apart
    theirs: Crossing
    ours: Crossing


def at_target(
    baseline: Frontier,
    arm: Frontier,
    log_target: float,
    variances: tuple[Array, Array],
    limit: float,
) -> AtTarget:
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
    lows, highs = [], []
    for angle in np.linspace(0, np.pi / 2, ANGLES):
        here, there = limit * float(np.cos(angle)), limit * float(np.sin(angle))
        lows.append((first.low(here).place, second.high(there).place))
        highs.append((first.high(here).place, second.low(there).place))
    open_low = first.low(limit).at_start | second.high(limit).at_start
    open_high = first.high(limit).at_start | second.low(limit).at_start

    def apart(difference: Callable[[Array, Array], Array]) -> Apart:
        least = np.min([difference(*pair) for pair in lows], axis=0)
        most = np.max([difference(*pair) for pair in highs], axis=0)
        return Apart(
            difference(theirs.place, ours.place),
            sign,
            np.where(open_low, -np.inf, least),
            np.where(open_high, np.inf, most),
        )

    ratio, saved = apart(lambda x, y: x - y), apart(lambda x, y: np.exp(x) - np.exp(y))
    return AtTarget(ratio, saved, theirs, ours)
