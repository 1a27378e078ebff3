"""Calibration: the coverage of a study's intervals, simulated at its own size.

The truth of the simulation is smooth: a power law with a floor, error = floor + scale·cost^-power,
fitted to the study's means. Its runs have the study's own costs, numbers of seeds and variances,
with normal noise that follows the study's variance trend. So the coverage includes the error of the
interpolation between the nodes, the uncertainty of a variance and trend from few seeds, and noise
that differs between durations. It leaves out what a study cannot know: noise of another kind, and
costs that drift between arms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from rrr_lightning.study.confidence import (
    HOMOSCEDASTIC,
    Difference,
    PooledVariance,
    SeedGroup,
    VarianceTrend,
    at_cost,
    at_duration,
    at_target,
    quantile,
    variance_trend,
)
from rrr_lightning.study.quality_cost_curve import Array, QualityCostCurve

REPLICATES = 2000
LEAST_COVERAGE = 0.93
_FLOORS = np.concatenate([[0.0], 1 - np.geomspace(1.0, 1e-3, 200)])


@dataclass(frozen=True)
class PowerLaw:
    """error = floor + exp(log_scale - power · log_cost)."""

    floor: float
    log_scale: float
    power: float

    def log_error(self, log_cost: Array) -> Array:
        """Returns log errors."""
        return cast(Array, np.log(self.floor + np.exp(self.log_scale - self.power * log_cost)))

    def slope(self, log_cost: Array) -> Array:
        """Returns derivatives of log errors by log costs."""
        rest = np.exp(self.log_scale - self.power * log_cost)
        return -self.power * rest / (self.floor + rest)

    def log_cost(self, log_error: float) -> float:
        """Returns the cost of an error; infinity below the floor."""
        rest = float(np.exp(log_error)) - self.floor
        return (self.log_scale - float(np.log(rest))) / self.power if rest > 0 else float(np.inf)

    def moved(self, distance: float) -> PowerLaw:
        """Returns the curve of an arm whose log speed-up is `distance` everywhere."""
        return PowerLaw(self.floor, self.log_scale - self.power * distance, self.power)


def fit(log_costs: Array, log_errors: Array) -> PowerLaw | None:
    """Returns the best power law with a floor, or None where errors do not fall with cost.

    The floor is searched on a grid below the least error; the rest is a straight line.
    """
    if len(log_costs) < 2:
        return None
    floors = _FLOORS * float(np.exp(log_errors.min())) * (1 - 1e-6)
    rest = np.log(np.exp(log_errors)[:, None] - floors)
    slopes, offsets = np.polyfit(log_costs, rest, 1)
    laws = [
        PowerLaw(float(floor), float(offset), float(-slope))
        for floor, slope, offset in zip(floors, slopes, offsets, strict=True)
        if slope < 0
    ]
    squares = [float(np.sum((law.log_error(log_costs) - log_errors) ** 2)) for law in laws]
    return laws[int(np.argmin(squares))] if laws else None


@dataclass(frozen=True)
class Coverage:
    """Fractions of simulated intervals that contain the true speed-up.

    Attributes:
        by_steps: For each duration of the arm.
        target: At the target; None where there is none that the curves can reach, or where the
            arm has one duration.
        gains: Of the gain at equal cost, for each duration.
        saved: Of the cost that is saved at the target.
    """

    by_steps: dict[int, float]
    target: float | None = None
    gains: dict[int, float] = field(default_factory=dict)
    saved: float | None = None


class Simulation:
    """Replicates of a study's baseline, with which arms are compared.

    `truth` is the baseline's true curve, `level` the nominal coverage; by default there are 2000
    replicates.
    """

    def __init__(
        self,
        groups: Sequence[SeedGroup],
        truth: PowerLaw,
        variance: PooledVariance,
        level: float,
        replicates: int | None = None,
    ) -> None:
        self._random = np.random.default_rng(0)
        self._truth = truth
        self._pooled = variance
        self._size = REPLICATES if replicates is None else replicates
        self._limit = quantile(level, variance.freedom)
        quality, self._trend = self._draw_variances()
        ratio = self._random.chisquare(variance.freedom, self._size) / variance.freedom
        self._variances = (quality, variance.cost * ratio)
        self._curve = self._draw(groups, truth)

    def coverage(
        self, groups: Sequence[SeedGroup], log_target: float | None, truth: PowerLaw | None = None
    ) -> Coverage:
        """Simulates the coverage of an arm's intervals, also at the log error of the target.

        Unless the arm's true curve is passed, one is fitted: its own where it has 3 durations, and
        the baseline's at the mean distance of the arm where it has fewer.
        """
        truth = self._fit(groups) if truth is None else truth
        by_steps, gains = {}, {}
        for group in groups:
            error = float(truth.log_error(np.array(group.cost)))
            equal_cost = self._truth.log_cost(error)
            errors = self._errors(group, error, equal_cost)
            seeds = len(group.seeds) / self._trend.widened(np.array(group.cost))
            drawn = (self._curve, group.cost, errors, seeds, self._variances, self._limit)
            by_steps[group.steps] = _fraction(at_duration(*drawn), equal_cost - group.cost)
            gain = float(self._truth.log_error(np.array(group.cost))) - error
            gains[group.steps] = _fraction(at_cost(*drawn), gain)
        if log_target is None or len(groups) < 2:
            return Coverage(by_steps, gains=gains)
        theirs, ours = self._truth.log_cost(log_target), truth.log_cost(log_target)
        if not np.isfinite(theirs) and not np.isfinite(ours):
            return Coverage(by_steps, gains=gains)
        curve = self._draw(groups, truth)
        found = at_target(self._curve, curve, log_target, self._variances, self._limit)
        saved = float(np.exp(theirs) - np.exp(ours))
        return Coverage(
            by_steps, _fraction(found.ratio, theirs - ours), gains, _fraction(found.saved, saved)
        )

    def _draw_variances(self) -> tuple[Array, VarianceTrend]:
        """Pooled variances as studies of this size would estimate them, and their trends."""
        variance = self._pooled
        if not variance.groups:
            ratio = self._random.chisquare(variance.freedom, self._size) / variance.freedom
            return variance.quality * ratio, HOMOSCEDASTIC
        log_costs, freedoms = np.array(variance.groups).T
        ratio = self._random.chisquare(freedoms[:, None], (len(log_costs), self._size))
        relative = variance.trend.relative(log_costs)
        variances = variance.quality * relative * ratio / freedoms[:, None]
        pooled = np.average(variances, axis=0, weights=freedoms)
        return pooled, variance_trend(log_costs, variances, freedoms)

    def _fit(self, groups: Sequence[SeedGroup]) -> PowerLaw:
        costs, errors = means(groups)
        equal_costs = np.array([self._truth.log_cost(float(error)) for error in errors])
        reached = bool(np.isfinite(equal_costs).all())
        # Two durations say nothing about the curvature: that of the baseline is the best guess.
        own = None if reached and len(groups) < 3 else fit(costs, errors)
        distance = float(np.mean(equal_costs - costs)) if reached else 0.0
        return self._truth.moved(distance) if own is None else own

    def _draw(self, groups: Sequence[SeedGroup], truth: PowerLaw) -> QualityCostCurve:
        """Noisy means around a curve; noise of costs acts through its slope."""
        costs, _ = means(groups)
        seeds = np.array([len(group.seeds) for group in groups], np.float64)
        variance = self._variance(costs, truth.slope(costs))
        noise = self._random.standard_normal((len(groups), self._size))
        nodes = truth.log_error(costs)[:, None] + noise * np.sqrt(variance / seeds)[:, None]
        return QualityCostCurve(costs, nodes, seeds, self._trend.widened(costs))

    def _variance(self, log_costs: Array, slopes: Array | float) -> Array:
        """The true variance of one run, noise of costs acting through the slope."""
        own = self._pooled.quality * self._pooled.trend.relative(log_costs)[..., 0]
        return own + slopes**2 * self._pooled.cost

    def _errors(self, group: SeedGroup, error: float, equal_cost: float) -> Array:
        """Noisy means of one duration of the arm."""
        inside = np.isfinite(equal_cost)
        slope = float(self._truth.slope(np.array(equal_cost))) if inside else 0.0
        variance = self._variance(np.array(group.cost), slope) / len(group.seeds)
        return error + self._random.standard_normal(self._size) * np.sqrt(variance)


def means(groups: Sequence[SeedGroup]) -> tuple[Array, Array]:
    """Returns log costs and log errors by duration."""
    return np.array([each.cost for each in groups]), np.array([each.error for each in groups])


def _fraction(difference: Difference, truth: float) -> float:
    """Fraction of the intervals that contain a log speed-up."""
    return float(np.mean((difference.low <= truth) & (truth <= difference.high)))
