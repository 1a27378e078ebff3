"""One arm against the baseline under one clock and charge: speed-ups, and gains at equal cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rrr_lightning.errors import InputError
from rrr_lightning.study.checks import check_durations
from rrr_lightning.study.coverage import LEAST_COVERAGE, Coverage, Simulation, fit, means
from rrr_lightning.study.frontier import Array, Frontier
from rrr_lightning.study.interval import (
    Apart,
    AtTarget,
    Cell,
    Spread,
    at_cost,
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
NOT_SEEN = "neither the baseline nor the arm has been seen at the target"
NO_TARGET = "no target was fixed beforehand"
ONE_DURATION = "the arm needs 2 durations or more to be read at the target"
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
        saved: The baseline's cost at the target less the arm's.
    """

    target: Bounded
    durations: tuple[Duration, ...] = ()
    saved: Bounded = field(default_factory=Bounded)


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
        self.spread: Spread = pool(baseline, arms)
        self.frontier: Frontier = frontier_of(baseline, self.spread.trend)
        self.why = self._refusal()
        self._ends = (
            f"than {name}'s shortest duration ({baseline[0].steps} steps), "
            "before which nothing is known",
            f"than {name}'s longest duration ({baseline[-1].steps} steps), "
            "beyond which nothing is known",
        )
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
        shares = (coverage.target, coverage.saved) if coverage else (None, None)
        durations = tuple(self._duration(cell, coverage) for cell in cells)
        if log_target is None or len(cells) < 2:
            missing = Bounded(why=NO_TARGET if log_target is None else ONE_DURATION)
            return Comparison(missing, durations, missing)
        curve = frontier_of(cells, self.spread.trend)
        found = at_target(self.frontier, curve, log_target, self._variances, self._limit)
        why = self._outside(found, cells)
        return Comparison(
            self._bounded(found.ratio, shares[0], why, math.exp),
            durations,
            self._bounded(found.saved, shares[1], why, float),
        )

    def _duration(self, cell: Cell, coverage: Coverage | None) -> Duration:
        seeds = self.spread.effective(cell)
        told = (self.frontier, cell.cost, np.array([cell.error]), seeds)
        apart = at_duration(*told, self._variances, self._limit)
        shorter, longer = self._ends
        why = {0.0: None, 1.0: f"better {longer}", -1.0: f"worse {shorter}"}[float(apart.sign[0])]
        share = coverage.by_steps[cell.steps] if coverage else None
        gain = at_cost(*told, self._variances, self._limit)
        known = coverage.gains[cell.steps] if coverage else None
        return Duration(
            cell.steps,
            len(cell.seeds),
            cell.cost,
            cell.error,
            self._bounded(apart, share, why, math.exp),
            self._bounded(gain, known, None, math.expm1),
        )

    def _outside(self, found: AtTarget, cells: Sequence[Cell]) -> str | None:
        """Says on which side of what has been seen the target lies."""
        shorter, longer = self._ends
        first, last = cells[0].steps, cells[-1].steps
        told = (
            (found.theirs.nowhere, f"better {longer}"),
            (found.theirs.at_start, f"worse {shorter}"),
            (
                found.ours.nowhere,
                f"better than the arm's longest duration ({last} steps)",
            ),
            (
                found.ours.at_start,
                f"worse than the arm's shortest duration ({first} steps)",
            ),
        )
        words = [text for flag, text in told if flag[0]]
        return f"the target is {', and '.join(words)}" if words else None

    @property
    def _variances(self) -> tuple[Array, Array]:
        widened = self.spread.quality * self.spread.widening
        return np.array([widened]), np.array([self.spread.cost])

    def _refusal(self) -> str | None:
        if self.spread.freedom == 0:
            return ONE_SEED
        return NO_SPREAD if self.spread.quality == 0 else None

    def _bounded(
        self,
        apart: Apart,
        coverage: float | None,
        outside: str | None,
        plain: Callable[[float], float],
    ) -> Bounded:
        """Returns a difference as reports show it.

        Args:
            apart: The difference, with its interval.
            coverage: The simulated coverage of that.
            outside: Why it is no more than a bound.
            plain: From the difference to what is shown.
        """
        sign = float(apart.sign[0])
        if sign not in SIGNS:
            return Bounded(why=NOT_SEEN)
        value = plain(float(apart.value[0]))
        why = self.why
        if why is None and (coverage is None or coverage < LEAST_COVERAGE):
            told = "is not known" if coverage is None else f"would be {100 * coverage:.1f} %"
            why = f"no interval: its coverage {told} at this size, under {LEAST_COVERAGE:.0%}"
        if why is not None:
            return Bounded(value, SIGNS[sign], coverage=coverage, why=_both(outside, why))
        ends = (float(apart.low[0]), float(apart.high[0]))
        low, high = (plain(end) if math.isfinite(end) else None for end in ends)
        why = _both(outside, NO_BOUND if low is None and high is None else None)
        return Bounded(value, SIGNS[sign], low, high, coverage, why)


def _both(*parts: str | None) -> str | None:
    return "; ".join(part for part in parts if part) or None
