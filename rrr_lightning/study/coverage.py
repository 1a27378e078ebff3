"""How often the intervals of a study would hold the truth, by simulation at its own size.

The truth of the simulation is smooth: a power law with a floor, error = floor + scale·cost^-power,
fitted to the study's means. Its runs have the study's own costs, numbers of seeds and variances,
with normal noise that follows the study's trend. So the coverage includes what the interpolation
misses between the nodes, what few seeds do to the variance and its trend, and noise that differs
between durations. It leaves out what no study can tell of itself: noise of another kind and costs
that drift between arms.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np

from rrr_lightning.study.frontier import Array, Frontier
from rrr_lightning.study.interval import (
    Apart,
    Cell,
    Spread,
    at_cost,
    at_duration,
    at_target,
    quantile,
)
from rrr_lightning.study.noise import LEVEL, Trend, trend_of

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
    """Fractions of simulated intervals that hold the true speed-up.

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

    Args:
        cells: The baseline's runs.
        truth: The baseline's true curve.
        spread: The variances of one run.
        level: Nominal coverage.
        replicates: The number of simulated studies; None means 2000.
    """

    def __init__(
        self,
        cells: Sequence[Cell],
        truth: PowerLaw,
        spread: Spread,
        level: float,
        replicates: int | None = None,
    ) -> None:
        self._random = np.random.default_rng(0)
        self._truth = truth
        self._spread = spread
        self._size = REPLICATES if replicates is None else replicates
        self._limit = quantile(level, spread.freedom)
        quality, self._trend = self._draw_variances()
        chance = self._random.chisquare(spread.freedom, self._size) / spread.freedom
        self._variances = (quality, spread.cost * chance)
        self._frontier = self._draw(cells, truth)

    def of(
        self, cells: Sequence[Cell], log_target: float | None, truth: PowerLaw | None = None
    ) -> Coverage:
        """Returns the coverage of an arm's intervals.

        Args:
            cells: The arm's runs.
            log_target: The log error at which costs are compared.
            truth: The arm's true curve; None fits one: its own where it has 3 durations, and the
                baseline's at the mean distance of the arm where it has fewer.
        """
        truth = self._fit(cells) if truth is None else truth
        by_steps, gains = {}, {}
        for cell in cells:
            error = float(truth.log_error(np.array(cell.cost)))
            place = self._truth.log_cost(error)
            errors = self._errors(cell, error, place)
            seeds = len(cell.seeds) / self._trend.widened(np.array(cell.cost))
            drawn = (self._frontier, cell.cost, errors, seeds, self._variances, self._limit)
            by_steps[cell.steps] = _share(at_duration(*drawn), place - cell.cost)
            gain = float(self._truth.log_error(np.array(cell.cost))) - error
            gains[cell.steps] = _share(at_cost(*drawn), gain)
        if log_target is None or len(cells) < 2:
            return Coverage(by_steps, gains=gains)
        theirs, ours = self._truth.log_cost(log_target), truth.log_cost(log_target)
        if not np.isfinite(theirs) and not np.isfinite(ours):
            return Coverage(by_steps, gains=gains)
        curve = self._draw(cells, truth)
        found = at_target(self._frontier, curve, log_target, self._variances, self._limit)
        saved = float(np.exp(theirs) - np.exp(ours))
        return Coverage(
            by_steps, _share(found.ratio, theirs - ours), gains, _share(found.saved, saved)
        )

    def _draw_variances(self) -> tuple[Array, Trend]:
        """Pooled variances as studies of this size would estimate them, and their trends."""
        spread = self._spread
        if not spread.cells:
            chance = self._random.chisquare(spread.freedom, self._size) / spread.freedom
            return spread.quality * chance, LEVEL
        places, freedoms = np.array(spread.cells).T
        chance = self._random.chisquare(freedoms[:, None], (len(places), self._size))
        variances = spread.quality * spread.trend.relative(places) * chance / freedoms[:, None]
        pooled = np.average(variances, axis=0, weights=freedoms)
        return pooled, trend_of(places, variances, freedoms)

    def _fit(self, cells: Sequence[Cell]) -> PowerLaw:
        costs, errors = means(cells)
        places = np.array([self._truth.log_cost(float(error)) for error in errors])
        reached = bool(np.isfinite(places).all())
        # Two durations tell of no curvature: that of the baseline is the best guess.
        own = None if reached and len(cells) < 3 else fit(costs, errors)
        distance = float(np.mean(places - costs)) if reached else 0.0
        return self._truth.moved(distance) if own is None else own

    def _draw(self, cells: Sequence[Cell], truth: PowerLaw) -> Frontier:
        """Noisy means around a curve; noise of costs acts through its slope."""
        costs, _ = means(cells)
        seeds = np.array([len(cell.seeds) for cell in cells], np.float64)
        variance = self._variance(costs, truth.slope(costs))
        noise = self._random.standard_normal((len(cells), self._size))
        nodes = truth.log_error(costs)[:, None] + noise * np.sqrt(variance / seeds)[:, None]
        return Frontier(costs, nodes, seeds, self._trend.widened(costs))

    def _variance(self, log_costs: Array, slopes: Array | float) -> Array:
        """The true variance of one run, noise of costs acting through the slope."""
        own = self._spread.quality * self._spread.trend.relative(log_costs)[..., 0]
        return own + slopes**2 * self._spread.cost

    def _errors(self, cell: Cell, error: float, place: float) -> Array:
        """Noisy means of one duration of the arm."""
        slope = float(self._truth.slope(np.array(place))) if np.isfinite(place) else 0.0
        variance = self._variance(np.array(cell.cost), slope) / len(cell.seeds)
        return error + self._random.standard_normal(self._size) * np.sqrt(variance)


def means(cells: Sequence[Cell]) -> tuple[Array, Array]:
    """Returns log costs and log errors by duration."""
    return (
        np.array([cell.cost for cell in cells]),
        np.array([cell.error for cell in cells]),
    )


def _share(apart: Apart, truth: float) -> float:
    """Fraction of the intervals that hold a log speed-up."""
    return float(np.mean((apart.low <= truth) & (truth <= apart.high)))
