"""One arm against the baseline under one clock and charge: speed-ups, and gains at equal cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rrr_lightning.errors import InputError
from rrr_lightning.study.checks import check_durations
from rrr_lightning.study.coverage import LEAST_COVERAGE, Simulation, fit, means
from rrr_lightning.study.frontier import Array, Frontier
from rrr_lightning.study.interval import (
    Apart,
    Cell,
    Spread,
    at_duration,
    at_target,
    frontier_of,
    pool,
    quantile,
)

SIGNS = {0.0: "", 1.0: ">=", -1.0: "<="}
ONE_SEED = "no interval: one seed per duration says nothing of the spread over seeds"
NO_SPREAD = "no interval: all seeds ended alike, so that their spread is not known"
NO_SLOPE = "no interval: the baseline does not get better with cost"
NO_BOUND = "the seeds vary too much to bound it on either side"


@dataclass(frozen=True)
class Bounded:
    """A number with its interval, as reports show it.

    Attributes:
        value: The estimate; None where there is none.
        sign: `>=` or `<=` where the value is a bound, for nothing is known beyond the frontier.
        low: The lower end of the interval; None where it is open or there is no interval.
        high: The upper end, likewise.
        coverage: Simulated coverage of the interval.
        why: Why something is missing.
    """

    value: float | None = None
    sign: str = ""
    low: float | None = None
    high: float | None = None
    coverage: float | None = None
    why: str | None = None

    def as_json(self, name: str) -> dict[str, Any]:
        """Returns plain types, the value under `name`."""
        return {
            name: self.value,
            "censored": self.sign or None,
            "low": self.low,
            "high": self.high,
            "coverage": self.coverage,
            "why": self.why,
        }


@dataclass(frozen=True)
class Duration:
    """One duration of an arm.

    Attributes:
        steps: Its optimizer steps.
        seeds: The number of its seeds.
        log_cost: Mean log cost.
        log_error: Mean log error.
        speed_up: The baseline's cost at equal quality over the arm's.
        error_ratio: The baseline's error at equal cost over the arm's, less one.
    """

    steps: int
    seeds: int
    log_cost: float
    log_error: float
    speed_up: Bounded
    error_ratio: Bounded


@dataclass(frozen=True)
class Comparison:
    """An arm against the baseline.

    Attributes:
        target: The speed-up at the target.
        durations: Every duration of the arm.
        baseline_cost: The baseline's cost at the target; None where there is no value.
    """

    target: Bounded
    durations: tuple[Duration, ...] = ()
    baseline_cost: float | None = None


class Comparer:
    """The baseline under one clock, against which arms are held.

    Args:
        baseline: The baseline's runs.
        arms: The runs of all arms, over which variances are pooled.
        level: Nominal coverage of intervals.
        name: The baseline's name, for messages.
        planned: The baseline's planned durations.

    Raises:
        InputError: The baseline has fewer than 4 durations, or two of equal cost.
    """

    def __init__(
        self,
        baseline: Sequence[Cell],
        arms: Sequence[Sequence[Cell]],
        level: float,
        name: str = "baseline",
        planned: Sequence[int] = (),
    ) -> None:
        check_durations([cell.steps for cell in baseline], name, planned)
        costs, errors = means(baseline)
        if np.any(np.diff(costs) <= 0):
            raise InputError(
                "two durations have the same cost", key=name, found=np.exp(costs).tolist()
            )
        self.frontier: Frontier = frontier_of(baseline)
        self.spread: Spread = pool(baseline, arms)
        self.why = self._refusal()
        self._limit = quantile(level, self.spread.freedom) if self.spread.freedom else math.nan
        truth = fit(costs, errors)
        self._simulation = None
        if self.why is None and truth is None:
            self.why = NO_SLOPE
        elif self.why is None and truth is not None:
            self._simulation = Simulation(baseline, truth, self.spread, level)

    def compare(self, cells: Sequence[Cell], log_target: float | None) -> Comparison:
        """Returns the comparison of an arm.

        Args:
            cells: The arm's runs, in the order of their costs.
            log_target: The log error at which costs are compared.
        """
        coverage = self._simulation.of(cells, log_target) if self._simulation else None
        durations = []
        for cell in cells:
            apart = at_duration(
                self.frontier,
                cell.cost,
                np.array([cell.error]),
                len(cell.seeds),
                self._variances,
                self._limit,
            )
            share = coverage.by_steps[cell.steps] if coverage else None
            durations.append(
                Duration(
                    cell.steps,
                    len(cell.seeds),
                    cell.cost,
                    cell.error,
                    self._bounded(apart, share),
                    self._gain(cell),
                )
            )
        if log_target is None:
            missing = Bounded(why="no target was fixed beforehand")
            return Comparison(missing, tuple(durations))
        if len(cells) < 2:
            missing = Bounded(why="the arm needs 2 durations or more to be read at the target")
            return Comparison(missing, tuple(durations))
        apart = at_target(
            self.frontier, frontier_of(cells), log_target, self._variances, self._limit
        )
        bounded = self._bounded(apart, coverage.target if coverage else None)
        cost = float(np.exp(self.frontier.reaches(log_target).place[0]))
        return Comparison(bounded, tuple(durations), None if bounded.value is None else cost)

    @property
    def _variances(self) -> tuple[Array, Array]:
        widened = self.spread.quality * self.spread.widening
        return np.array([widened]), np.array([self.spread.cost])

    def _refusal(self) -> str | None:
        if self.spread.freedom == 0:
            return ONE_SEED
        return NO_SPREAD if self.spread.quality == 0 else None

    def _bounded(self, apart: Apart, coverage: float | None) -> Bounded:
        sign = float(apart.sign[0])
        if sign not in SIGNS:
            return Bounded(why="neither the baseline nor the arm has been seen at the target")
        value = math.exp(float(apart.value[0]))
        if self.why is not None:
            return Bounded(value, SIGNS[sign], why=self.why)
        if coverage is None or coverage < LEAST_COVERAGE:
            told = "is not known" if coverage is None else f"would be {100 * coverage:.1f} %"
            why = f"no interval: its coverage {told} at this size, under {LEAST_COVERAGE:.0%}"
            return Bounded(value, SIGNS[sign], coverage=coverage, why=why)
        low, high = (_finite(float(end[0])) for end in (apart.low, apart.high))
        open_ended = NO_BOUND if low is None and high is None else None
        return Bounded(value, SIGNS[sign], low, high, coverage, open_ended)

    def _gain(self, cell: Cell) -> Bounded:
        """The baseline's error at the arm's cost over the arm's error, less one."""
        costs = self.frontier.log_costs
        inside = min(max(cell.cost, float(costs[0])), float(costs[-1]))
        # A longer baseline would have been at least as good, a shorter one at most.
        sign = "<=" if cell.cost > costs[-1] else ">=" if cell.cost < costs[0] else ""
        value, slope, leverage = self.frontier.at(inside)
        gain = value - cell.error
        if self.why in (ONE_SEED, NO_SPREAD):
            return Bounded(math.expm1(gain), sign, why=self.why)
        quality, cost = (float(variance[0]) for variance in self._variances)
        error = math.sqrt((quality + slope**2 * cost) * (leverage + 1 / len(cell.seeds)))
        low, high = gain - self._limit * error, gain + self._limit * error
        return Bounded(
            math.expm1(gain),
            sign,
            None if sign == "<=" else math.expm1(low),
            None if sign == ">=" else math.expm1(high),
        )


def _finite(log: float) -> float | None:
    return math.exp(log) if math.isfinite(log) else None
