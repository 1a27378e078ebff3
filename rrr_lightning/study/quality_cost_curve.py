"""The curve of quality against cost through the durations of an arm, and where it crosses a value.

Both axes are logarithms: of the cost, and of the error (or the loss). Every duration is one node,
the mean over its seeds, and a shape-preserving cubic (PCHIP) runs through the nodes. More training
does not make a network worse on average, so means that happen to rise with cost are first levelled
(isotonic regression, weighted by the number of seeds). Nothing is known beyond the first and the
last node, and nothing is said about it: crossings outside are reported as such.

Shapes: D durations, G points of a grid of log costs between the first and the last, R replicates
(one for a study, thousands where its coverage is simulated).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator

from rrr_lightning.errors import InputError

Direction = Literal["min", "max"]
Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

LEAST_DURATIONS = 4
GRID = 129
_STEP = 1e-5  # of log error, for the derivatives by the nodes
_ROUNDING = 1e-12


def log_error(quality: Array, direction: Direction, ceiling: float = 1.0) -> Array:
    """Returns the logarithm of the loss, or of what an accuracy lacks to `ceiling`."""
    error = np.asarray(quality, np.float64) if direction == "min" else ceiling - quality
    bad = ~((error > 0) & np.isfinite(error))
    if np.any(bad):
        raise InputError(
            "has no logarithm of its error, so that speed-ups are not defined",
            key="quality",
            found=float(np.asarray(quality)[bad][0]),
            accepted="losses above 0" if direction == "min" else f"values below {ceiling:g}",
        )
    return cast(Array, np.log(error))


def quality_of(log_errors: Array, direction: Direction, ceiling: float = 1.0) -> Array:
    """Returns the quality of logarithms of errors."""
    error = np.exp(log_errors)
    return cast(Array, error if direction == "min" else ceiling - error)


def isotonic(values: Array, weights: Array) -> Array:
    """Isotonic regression: the nearest values [D, R] that do not rise, by weights [D]."""
    count = len(values)
    zero = np.zeros((1, *values.shape[1:]))
    sums = np.concatenate([zero, np.cumsum(values * weights[:, None], axis=0)])
    totals = np.concatenate([[0.0], np.cumsum(weights)])
    result = np.empty_like(values)
    for node in range(count):
        # The min-max formula: the least over starts of the greatest mean over ends.
        greatest = [
            np.max(
                [
                    (sums[end] - sums[start]) / (totals[end] - totals[start])
                    for end in range(node + 1, count + 1)
                ],
                axis=0,
            )
            for start in range(node + 1)
        ]
        result[node] = np.min(greatest, axis=0)
    return result


@dataclass(frozen=True)
class Crossing:
    """Where a falling curve reaches a level first, by replicate.

    Attributes:
        log_cost: Shape [R]; the first or the last of the grid where the crossing is outside.
        at_start: The curve is at or below the level from the start.
        nowhere: The curve stays above the level.
    """

    log_cost: Array
    at_start: Flags
    nowhere: Flags


def first_crossing(grid: Array, curve: Array, level: Array | float) -> Crossing:
    """Returns where `curve` [G, R] on `grid` [G] is first at or below `level`, a number or [R]."""
    below = curve <= level
    nowhere: Flags = np.asarray(~below.any(axis=0))
    after = np.where(nowhere, len(grid) - 1, below.argmax(axis=0))
    before = np.maximum(after - 1, 0)
    column = np.arange(curve.shape[1])
    high, low = curve[before, column], curve[after, column]
    drop = np.where(high > low, high - low, 1.0)
    part = np.clip((high - level) / drop, 0.0, 1.0)
    log_cost = grid[before] + part * (grid[after] - grid[before])
    at_start: Flags = below[0]
    log_cost = np.where(at_start, grid[0], np.where(nowhere, grid[-1], log_cost))
    return Crossing(log_cost, at_start, nowhere)


def last_crossing(grid: Array, curve: Array, level: Array | float) -> Crossing:
    """Returns where `curve` is last at or above `level`, as seen from the end of the grid."""
    return first_crossing(grid[::-1], -curve[::-1], -level)


class QualityCostCurve:
    """The curve through the nodes of one arm, for one or many replicates.

    Args:
        log_costs: Logarithms of the mean costs, rising, shape [D].
        log_errors: Means of the logarithms of errors over seeds, shape [D, R].
        seeds: Numbers of seeds, shape [D].
        relative_variances: Of one run over the pooled variance, shape [D, R]; None means 1.

    Attributes:
        grid: Log costs, evenly spaced and the nodes, shape [G].
        values: Log errors there, shape [G, R].
        slopes: Their derivatives by log cost, shape [G, R].
        leverage: Variance of `values` in units of the variance of one run, shape [G, R].
        raised: Whether means had to be levelled, shape [R].
    """

    def __init__(
        self,
        log_costs: Array,
        log_errors: Array,
        seeds: Array,
        relative_variances: Array | None = None,
    ) -> None:
        nodes = isotonic(log_errors, seeds)
        self.raised: Flags = np.any(np.diff(log_errors, axis=0) > 0, axis=0)
        self.log_costs = log_costs
        even = np.linspace(log_costs[0], log_costs[-1], GRID)
        self.grid: Array = np.unique(np.concatenate([even, log_costs]))
        curve = PchipInterpolator(log_costs, nodes, axis=0)
        self._curve = curve
        self.values: Array = curve(self.grid)
        self.slopes: Array = curve.derivative()(self.grid)
        self.leverage: Array = np.zeros_like(self.values)
        one_run = 1.0 if relative_variances is None else relative_variances
        variances = one_run / seeds[:, None]
        for node, variance in enumerate(variances):
            moved = np.zeros_like(nodes)
            moved[node] = _STEP
            up = PchipInterpolator(log_costs, nodes + moved, axis=0)(self.grid)
            down = PchipInterpolator(log_costs, nodes - moved, axis=0)(self.grid)
            self.leverage += ((up - down) / (2 * _STEP)) ** 2 * variance

    def at(self, log_cost: float) -> tuple[Array, Array, Array]:
        """Returns value, slope and leverage at a cost inside the nodes, shape [R] each."""
        above = int(np.clip(np.searchsorted(self.grid, log_cost), 1, len(self.grid) - 1))
        left, right = self.grid[above - 1], self.grid[above]
        part = (log_cost - left) / (right - left)
        leverage = (1 - part) * self.leverage[above - 1] + part * self.leverage[above]
        return self._curve(log_cost), self._curve.derivative()(log_cost), leverage

    def reaches(self, level: Array | float) -> Crossing:
        """Returns the least cost at which the curve is as good as `level`.

        A curve that starts at the level, to rounding, is not outside.
        """
        crossing = first_crossing(self.grid, self.values, level + _ROUNDING)
        outside = crossing.at_start & (self.values[0] < level - _ROUNDING)
        return Crossing(crossing.log_cost, outside, crossing.nowhere)
