"""Confidence intervals of speed-ups, from the pooled variance over seeds.

The speed-up of an arm is the baseline's cost at equal quality over the arm's cost. Its interval
has every value that a t test at the pooled variance of seeds does not reject. Where the curves
are straight within the interval this is the delta method: half-width = t·s/|slope|. Where the
baseline flattens out it is wider above, and open where the baseline's last duration could be as
good as the arm, since nothing is known beyond it.

The variance may depend on the cost: a straight line goes through the logarithms of variances,
against that of the cost. Few seeds say little about a variance, and so about the line: intervals
get wider where it is above its mean, never narrower where it is below.

Shapes: K groups of seeds, R replicates (one for a study, thousands where coverage is simulated).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from scipy.special import digamma, polygamma
from scipy.stats import bartlett
from scipy.stats import t as student

from rrr_lightning.study.quality_cost_curve import (
    Array,
    Crossing,
    QualityCostCurve,
    first_crossing,
    last_crossing,
)

ANGLES = 9
LEAST_GROUPS = 3
ROUNDING = 1e-20  # a variance below is that of rounding


@dataclass(frozen=True)
class VarianceTrend:
    """variance of a run at log cost x = pooled variance · exp(slope · x - level), by replicate.

    Attributes:
        slope: Shape [R]; negative where longer runs vary less.
        level: Shape [R].
    """

    slope: Array
    level: Array

    def relative(self, log_costs: Array) -> Array:
        """Returns variances over the pooled one, shape [..., R]."""
        return cast(Array, np.exp(np.asarray(log_costs)[..., None] * self.slope - self.level))

    def widened(self, log_costs: Array) -> Array:
        """Returns the same where it is above 1: intervals get wider by it, never narrower."""
        return np.maximum(1.0, self.relative(log_costs))


HOMOSCEDASTIC = VarianceTrend(np.zeros(1), np.zeros(1))


def variance_trend(log_costs: Array, variances: Array, freedoms: Array) -> VarianceTrend:
    """Fits a trend to variances [K, R] at log costs [K], with degrees of freedom [K]."""
    known = (freedoms > 0) & (variances > ROUNDING).all(axis=1)
    log_costs, freedoms = log_costs[known], freedoms[known]
    weights = 1 / polygamma(1, freedoms / 2)  # of the logarithm of a variance
    if known.sum() < LEAST_GROUPS or np.ptp(log_costs) == 0:
        return VarianceTrend(*np.zeros((2, variances.shape[1])))
    bias = digamma(freedoms / 2) - np.log(freedoms / 2)
    logs = np.log(variances[known]) - bias[:, None]
    centred = log_costs - np.average(log_costs, weights=weights)
    slope = (weights * centred) @ logs / float(np.sum(weights * centred**2))
    mean = np.average(np.exp(log_costs[:, None] * slope), axis=0, weights=freedoms)
    return VarianceTrend(slope, np.log(mean))


@dataclass(frozen=True)
class SeedGroup:
    """The runs of one arm and duration, in the order of their seeds, and their logarithms."""

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
class PooledVariance:
    """The variance over seeds of one run, pooled over durations and arms.

    Attributes:
        quality: Variance of the log error of one run.
        cost: Variance of its log cost.
        freedom: Degrees of freedom of both.
        correlation: Between the log errors of the baseline and of the arms, of equal steps and
            seed; None without such pairs.
        unequal: The p value of Bartlett's test that all groups vary alike; None where undefined.
        trend: How the variance of the log error depends on the log cost.
        groups: Log costs and degrees of freedom of what was pooled.
    """

    quality: float
    cost: float
    freedom: int
    correlation: float | None = None
    unequal: float | None = None
    trend: VarianceTrend = HOMOSCEDASTIC
    groups: tuple[tuple[float, int], ...] = ()

    @property
    def widening(self) -> float:
        """Factor on variances: that of a difference of runs that are correlated negatively.

        A positive correlation would make intervals narrower; they are left as they are.
        """
        return 1.0 + max(0.0, -(self.correlation or 0.0))

    def effective_seeds(self, group: SeedGroup) -> float:
        """Returns the number of seeds of a group, fewer where runs vary more than elsewhere."""
        return len(group.seeds) / float(self.trend.widened(np.array(group.cost))[0])


@dataclass(frozen=True)
class Difference:
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


def pool(baseline: Sequence[SeedGroup], arms: Sequence[Sequence[SeedGroup]]) -> PooledVariance:
    """Pools the variance of runs around the mean of their duration and arm."""
    groups = [*baseline, *(group for arm in arms for group in arm)]
    freedom = sum(len(group.seeds) - 1 for group in groups)
    if freedom == 0:
        return PooledVariance(0.0, 0.0, 0)
    quality = sum(float(np.sum((each.log_errors - each.error) ** 2)) for each in groups) / freedom
    cost = sum(float(np.sum((each.log_costs - each.cost) ** 2)) for each in groups) / freedom
    quality, cost = (0.0 if each < ROUNDING else each for each in (quality, cost))
    several = [group for group in groups if len(group.seeds) > 1]
    samples = [group.log_errors for group in several]
    varied = len(samples) > 1 and all(np.ptp(sample) > 0 for sample in samples)
    unequal = float(bartlett(*samples).pvalue) if varied else None
    pooled = tuple((group.cost, len(group.seeds) - 1) for group in several)
    log_costs, freedoms = np.array(pooled, np.float64).T
    variances = np.array([[np.var(sample, ddof=1)] for sample in samples])
    trend = variance_trend(log_costs, variances, freedoms) if quality else HOMOSCEDASTIC
    correlation = _correlation(baseline, arms)
    return PooledVariance(quality, cost, freedom, correlation, unequal, trend, pooled)


def _correlation(
    baseline: Sequence[SeedGroup], arms: Sequence[Sequence[SeedGroup]]
) -> float | None:
    """Pooled correlation of residuals between paired runs."""
    by_steps = {group.steps: group for group in baseline}
    sums = np.zeros(3)
    for group in (group for arm in arms for group in arm if group.steps in by_steps):
        other = by_steps[group.steps]
        both = sorted(set(group.seeds) & set(other.seeds))
        if len(both) < 2:
            continue
        x = group.log_errors[[group.seeds.index(seed) for seed in both]]
        y = other.log_errors[[other.seeds.index(seed) for seed in both]]
        x, y = x - x.mean(), y - y.mean()
        sums += (x @ y, x @ x, y @ y)
    product, first, second = sums
    return float(product / np.sqrt(first * second)) if first * second > 0 else None


def quantile(level: float, freedom: int) -> float:
    """Returns Student's t for a two-testd interval."""
    return float(student.ppf((1 + level) / 2, freedom))


def curve_of(groups: Sequence[SeedGroup], trend: VarianceTrend = HOMOSCEDASTIC) -> QualityCostCurve:
    """Returns the curve through the means of one arm."""
    costs = np.array([group.cost for group in groups])
    seeds = np.array([len(group.seeds) for group in groups], np.float64)
    means = np.array([[group.error] for group in groups])
    return QualityCostCurve(costs, means, seeds, trend.widened(costs))


class _TestCurve:
    """The t statistic along a curve for "the curve equals this level here".

    The log costs that the test does not reject are the confidence set of the crossing. `own` is the
    variance of the level in units of the variance of one run.
    """

    def __init__(
        self,
        curve: QualityCostCurve,
        level: Array,
        quality: Array,
        cost: Array,
        own: float | Array,
    ) -> None:
        self.grid = curve.grid
        variance = (quality + curve.slopes**2 * cost) * (curve.leverage + own)
        # Without any variance the interval is the point itself.
        self.statistic: Array = (curve.values - level) / np.sqrt(np.maximum(variance, 1e-30))

    def low(self, limit: float) -> Crossing:
        return first_crossing(self.grid, self.statistic, limit)

    def high(self, limit: float) -> Crossing:
        return last_crossing(self.grid, self.statistic, -limit)


def at_duration(
    baseline: QualityCostCurve,
    log_cost: float,
    log_errors: Array,
    seeds: float | Array,
    variances: tuple[Array, Array],
    limit: float,
) -> Difference:
    """Compares a duration of an arm with the baseline's cost at equal quality: log speed-ups."""
    reached = baseline.reaches(log_errors)
    test = _TestCurve(baseline, log_errors, *variances, own=1 / seeds)
    low, high = test.low(limit), test.high(limit)
    return Difference(
        reached.log_cost - log_cost,
        np.where(reached.nowhere, 1.0, np.where(reached.at_start, -1.0, 0.0)),
        np.where(low.at_start, -np.inf, low.log_cost - log_cost),
        np.where(high.at_start, np.inf, high.log_cost - log_cost),
    )


def at_cost(
    baseline: QualityCostCurve,
    log_cost: float,
    log_errors: Array,
    seeds: float | Array,
    variances: tuple[Array, Array],
    limit: float,
) -> Difference:
    """Compares it with the baseline's quality at the same cost instead: log errors."""
    first, last = float(baseline.log_costs[0]), float(baseline.log_costs[-1])
    value, slope, leverage = baseline.at(min(max(log_cost, first), last))
    quality, cost = variances
    half = limit * np.sqrt((quality + slope**2 * cost) * (leverage + 1 / seeds))
    gain = value - log_errors
    # A longer baseline would have been at least as good, a shorter one at most.
    sign = -1.0 if log_cost > last else 1.0 if log_cost < first else 0.0
    return Difference(
        gain,
        np.full(len(gain), sign),
        np.full(len(gain), -np.inf) if sign < 0 else gain - half,
        np.full(len(gain), np.inf) if sign > 0 else gain + half,
    )


@dataclass(frozen=True)
class TargetComparison:
    """Both curves at one quality: log speed-ups, the cost saved, and where each reaches it."""

    ratio: Difference
    saved: Difference
    theirs: Crossing
    ours: Crossing


def at_target(
    baseline: QualityCostCurve,
    arm: QualityCostCurve,
    log_target: float,
    variances: tuple[Array, Array],
    limit: float,
) -> TargetComparison:
    """Compares the costs at which both curves reach a quality that was fixed beforehand.

    The interval is over all pairs of log costs at which the curves may cross the target, with the
    squares of both test statistics adding up to at most that of `limit`.
    """
    theirs, ours = baseline.reaches(log_target), arm.reaches(log_target)
    above = theirs.nowhere | ours.at_start
    below = theirs.at_start | ours.nowhere
    sign = np.where(above & below, 2.0, np.where(above, 1.0, np.where(below, -1.0, 0.0)))
    level = np.full(len(sign), log_target)
    first = _TestCurve(baseline, level, *variances, own=0.0)
    second = _TestCurve(arm, level, *variances, own=0.0)
    lows, highs = [], []
    for angle in np.linspace(0, np.pi / 2, ANGLES):
        here, there = limit * float(np.cos(angle)), limit * float(np.sin(angle))
        lows.append((first.low(here).log_cost, second.high(there).log_cost))
        highs.append((first.high(here).log_cost, second.low(there).log_cost))
    open_low = first.low(limit).at_start | second.high(limit).at_start
    open_high = first.high(limit).at_start | second.low(limit).at_start

    def estimate(difference: Callable[[Array, Array], Array]) -> Difference:
        least = np.min([difference(*pair) for pair in lows], axis=0)
        most = np.max([difference(*pair) for pair in highs], axis=0)
        return Difference(
            difference(theirs.log_cost, ours.log_cost),
            sign,
            np.where(open_low, -np.inf, least),
            np.where(open_high, np.inf, most),
        )

    ratio = estimate(lambda x, y: x - y)
    saved = estimate(lambda x, y: np.exp(x) - np.exp(y))
    return TargetComparison(ratio, saved, theirs, ours)
