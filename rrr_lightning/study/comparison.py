"""Arms compared with the baseline: speed-ups, gains at equal cost, break-even points, contrasts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rrr_lightning.errors import InputError, check, refuse
from rrr_lightning.study.calibration import LEAST_COVERAGE, Coverage, Simulation, fit, means
from rrr_lightning.study.confidence import (
    Difference,
    PooledVariance,
    SeedGroup,
    TargetComparison,
    at_cost,
    at_duration,
    at_target,
    curve_of,
    pool,
    quantile,
)
from rrr_lightning.study.config import CHARGES, COST_METRICS, Charge, CostMetric, Study
from rrr_lightning.study.quality_cost_curve import (
    LEAST_DURATIONS,
    Array,
    QualityCostCurve,
    log_error,
)
from rrr_lightning.study.results import (
    Result,
    comparable,
    seed_groups,
    teachers_cost,
    usable_cost_metrics,
)

LEVEL = 0.95
SIGNS = {0.0: "", 1.0: ">=", -1.0: "<="}
MIRRORED = {"": "", ">=": "<=", "<=": ">="}
ONE_SEED = "no interval: one seed per duration says nothing of the spread over seeds"
NO_SPREAD = "no interval: all seeds ended alike, so that their spread is not known"
NO_SLOPE = "no interval: the baseline does not get better with cost"
NOT_SEEN = "neither the baseline nor the arm has been seen at the target"
NO_TARGET = "no target was fixed beforehand"
ONE_DURATION = "the arm needs 2 durations or more to be read at the target"
NO_BOUND = "the seeds vary too much to bound it on either side"
NOT_CHEAPER = "never: at the target a student costs no less than the baseline, teachers aside"


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval, as reports show it.

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
    """One duration of an arm, with means over its seeds.

    Attributes:
        seeds: Their number.
        speed_up: The baseline's cost at equal quality over the arm's.
        error_ratio: The baseline's error at equal cost over the arm's, less one.
    """

    steps: int
    seeds: int
    log_cost: float
    log_error: float
    speed_up: Estimate
    error_ratio: Estimate


@dataclass(frozen=True)
class Comparison:
    """An arm and the baseline: the speed-up at the target, every duration, and the cost saved."""

    target: Estimate
    durations: tuple[Duration, ...] = ()
    saved: Estimate = field(default_factory=Estimate)


@dataclass(frozen=True)
class Contrast:
    """The first arm over the second at equal steps: geometric means over common durations."""

    arms: tuple[str, str]
    steps: tuple[int, ...]
    error_ratio: Estimate
    cost_ratio: float | None

    def as_json(self) -> dict[str, Any]:
        """Returns plain types."""
        return {
            "arms": list(self.arms),
            "steps": list(self.steps),
            "cost_ratio": self.cost_ratio,
            **self.error_ratio.as_json("error_ratio"),
        }


class Comparer:
    """The baseline under one cost metric and charge, with which arms are compared.

    Variances are pooled over the runs of all arms; messages have the baseline's name and its
    planned durations, of which fewer than 4, or two of equal cost, are refused.
    """

    def __init__(
        self,
        baseline: Sequence[SeedGroup],
        arms: Sequence[Sequence[SeedGroup]],
        name: str = "baseline",
        planned: Sequence[int] = (),
    ) -> None:
        _check_durations([group.steps for group in baseline], name, planned)
        costs, errors = means(baseline)
        rising, found = bool(np.all(np.diff(costs) > 0)), np.exp(costs).tolist()
        check(rising, name, found, "different costs", "two durations have the same cost")
        self.variance: PooledVariance = pool(baseline, arms)
        self.curve: QualityCostCurve = curve_of(baseline, self.variance.trend)
        self._ends = (
            f"than {name}'s shortest duration ({baseline[0].steps} steps), "
            "before which nothing is known",
            f"than {name}'s longest duration ({baseline[-1].steps} steps), "
            "beyond which nothing is known",
        )
        freedom = self.variance.freedom
        self._limit = quantile(LEVEL, freedom) if freedom else math.nan
        truth = fit(costs, errors)
        self.why = _no_interval(self.variance) or (NO_SLOPE if truth is None else None)
        self._simulation = None
        if self.why is None and truth is not None:
            self._simulation = Simulation(baseline, truth, self.variance, LEVEL)

    def compare(self, groups: Sequence[SeedGroup], log_target: float | None) -> Comparison:
        """Compares an arm, its runs in the order of their costs, also at the target's log error."""
        coverage = self._simulation.coverage(groups, log_target) if self._simulation else None
        shares = (coverage.target, coverage.saved) if coverage else (None, None)
        durations = tuple(self._duration(group, coverage) for group in groups)
        if log_target is None or len(groups) < 2:
            missing = Estimate(why=NO_TARGET if log_target is None else ONE_DURATION)
            return Comparison(missing, durations, missing)
        curve = curve_of(groups, self.variance.trend)
        found = at_target(self.curve, curve, log_target, self._variances, self._limit)
        why = self._outside(found, groups)
        return Comparison(
            self._estimate(found.ratio, shares[0], why, math.exp),
            durations,
            self._estimate(found.saved, shares[1], why, float),
        )

    def _duration(self, group: SeedGroup, coverage: Coverage | None) -> Duration:
        seeds = self.variance.effective_seeds(group)
        runs = (self.curve, group.cost, np.array([group.error]), seeds)
        ratio = at_duration(*runs, self._variances, self._limit)
        shorter, longer = self._ends
        why = {0.0: None, 1.0: f"better {longer}", -1.0: f"worse {shorter}"}[float(ratio.sign[0])]
        share = coverage.by_steps[group.steps] if coverage else None
        gain = at_cost(*runs, self._variances, self._limit)
        gain_share = coverage.gains[group.steps] if coverage else None
        return Duration(
            group.steps,
            len(group.seeds),
            group.cost,
            group.error,
            self._estimate(ratio, share, why, math.exp),
            self._estimate(gain, gain_share, None, math.expm1),
        )

    def _outside(self, found: TargetComparison, groups: Sequence[SeedGroup]) -> str | None:
        """Says on which side of the durations that were run the target lies."""
        shorter, longer = self._ends
        first, last = groups[0].steps, groups[-1].steps
        sides = (
            (found.theirs.nowhere, f"better {longer}"),
            (found.theirs.at_start, f"worse {shorter}"),
            (found.ours.nowhere, f"better than the arm's longest duration ({last} steps)"),
            (found.ours.at_start, f"worse than the arm's shortest duration ({first} steps)"),
        )
        reasons = [text for flag, text in sides if flag[0]]
        return f"the target is {', and '.join(reasons)}" if reasons else None

    @property
    def _variances(self) -> tuple[Array, Array]:
        widened = self.variance.quality * self.variance.widening
        return np.array([widened]), np.array([self.variance.cost])

    def _estimate(
        self,
        difference: Difference,
        coverage: float | None,
        outside: str | None,
        plain: Callable[[float], float],
    ) -> Estimate:
        """Returns a difference as reports show it.

        `coverage` is the simulated one of its interval, `outside` says why it is only a bound, and
        `plain` computes the number to show from the difference.
        """
        sign = float(difference.sign[0])
        if sign not in SIGNS:
            return Estimate(why=NOT_SEEN)
        value = plain(float(difference.value[0]))
        why = self.why
        if why is None and (coverage is None or coverage < LEAST_COVERAGE):
            found = "is not known" if coverage is None else f"would be {100 * coverage:.1f} %"
            why = f"no interval: its coverage {found} at this size, under {LEAST_COVERAGE:.0%}"
        if why is not None:
            return Estimate(value, SIGNS[sign], coverage=coverage, why=_both(outside, why))
        ends = (float(difference.low[0]), float(difference.high[0]))
        low, high = (plain(end) if math.isfinite(end) else None for end in ends)
        why = _both(outside, NO_BOUND if low is None and high is None else None)
        return Estimate(value, SIGNS[sign], low, high, coverage, why)


def _both(*parts: str | None) -> str | None:
    return "; ".join(part for part in parts if part) or None


def _no_interval(variance: PooledVariance) -> str | None:
    """Says why the variance over seeds gives no interval."""
    if variance.freedom == 0:
        return ONE_SEED
    return NO_SPREAD if variance.quality == 0 else None


def _check_durations(found: Sequence[int], baseline: str, planned: Sequence[int]) -> None:
    """Refuses fewer than 4 durations of the baseline, and names the planned ones that lack."""
    if len(found) < LEAST_DURATIONS:
        missing = [steps for steps in planned if steps not in found]
        named = ", ".join(map(str, missing)) or f"{LEAST_DURATIONS - len(found)} more"
        what = f"the frontier of the baseline needs at least {LEAST_DURATIONS} durations; missing: "
        refuse(baseline, sorted(found), None, what + named)


def contrast(
    arms: tuple[str, str],
    first: Sequence[SeedGroup],
    second: Sequence[SeedGroup],
    variance: PooledVariance,
) -> Contrast:
    """Compares two arms duration by duration, and averages.

    It answers whether an arm is as good as another at a fraction of its cost, as one teacher drawn
    at random is claimed to be compared with the average of all of them.
    """
    others = {group.steps: group for group in second}
    pairs = [(group, others[group.steps]) for group in first if group.steps in others]
    steps = tuple(group.steps for group, _ in pairs)
    if not pairs:
        return Contrast(arms, (), Estimate(why="they have no duration in common"), None)
    count = len(pairs)
    errors = sum(one.error - other.error for one, other in pairs) / count
    costs = sum(one.cost - other.cost for one, other in pairs) / count
    value = math.exp(errors)
    why = _no_interval(variance)
    if why is not None:
        return Contrast(arms, steps, Estimate(value, why=why), math.exp(costs))
    seeds = [variance.effective_seeds(group) for pair in pairs for group in pair]
    shares = sum(1 / each for each in seeds) / count**2
    error = math.sqrt(variance.quality * variance.widening * shares)
    half = quantile(LEVEL, variance.freedom) * error
    ratio = Estimate(value, "", math.exp(errors - half), math.exp(errors + half))
    return Contrast(arms, steps, ratio, math.exp(costs))


def break_even(saved: Estimate, teachers: float | None) -> Estimate:
    """Returns the number of students at which training the teachers has paid for itself.

    Without teachers N students cost N · B; with them they cost T + N · A, for the costs B and A of
    the baseline and of a student at the target, excluding teacher training. Both are equal at
    N = T / (B - A), for `teachers` = T and `saved` = B - A.
    """

    def students(cost: float | None) -> float | None:
        return None if cost is None or cost <= 0 or teachers is None else teachers / cost

    if teachers is None:
        return Estimate(why="the cost of training the teachers is not known")
    if saved.value is None:
        return Estimate(why=saved.why)
    value = students(saved.value)
    if value is None:
        return Estimate(why=NOT_CHEAPER if saved.sign != ">=" else saved.why)
    ends = students(saved.high), students(saved.low)
    return Estimate(value, MIRRORED[saved.sign], *ends, saved.coverage, saved.why)


@dataclass
class Analysis:
    """All comparisons of a study, as far as its finished runs allow.

    Attributes:
        study: The study; by FLOPs where its runs are from several machines.
        results: Its finished runs, by arm, duration and seed.
        cost_metrics: Those by which the runs can be compared, that of the headline first.
        charges: The charges, that of the headline first.
        comparisons: By arm, cost metric and charge.
        groups: The runs by arm, under the headline's cost metric, excluding teacher training.
        curve: The baseline's, under the headline's cost metric; None where it is not there yet.
        variance: That of one run, under the headline's cost metric and charge.
        break_even: The number of students at which the teachers have paid, by arm with teachers.
        contrasts: Pairs of arms at equal steps.
        why: Why there is no curve.
    """

    study: Study
    results: Sequence[Result]
    cost_metrics: Sequence[CostMetric]
    charges: Sequence[Charge]
    comparisons: dict[tuple[str, CostMetric, Charge], Comparison] = field(default_factory=dict)
    groups: dict[str, list[SeedGroup]] = field(default_factory=dict)
    curve: QualityCostCurve | None = None
    variance: PooledVariance | None = None
    break_even: dict[str, Estimate] = field(default_factory=dict)
    contrasts: list[Contrast] = field(default_factory=list)
    why: str | None = None

    def headline(self, arm: str, charge: Charge | None = None) -> Comparison:
        """Returns an arm in the headline cell, or beside it under another charge."""
        return self.comparisons[arm, self.study.cost_metric, charge or self.study.charge]

    def has_teachers(self, arm: str) -> bool:
        """Whether the training of teachers may be charged to an arm."""
        return any(result.has_teachers for result in self.results if result.arm == arm)

    def qualities(self, arm: str, steps: int) -> list[float]:
        """Returns the quality of an arm's runs of one duration, by seed."""
        return [each.quality for each in self.results if (each.arm, each.steps) == (arm, steps)]


def analyse(results: Sequence[Result], study: Study) -> Analysis:
    """Computes everything that reports show, from any number of finished runs of a study."""
    study = comparable(results, study)
    head = study.cost_metric
    usable = usable_cost_metrics(results, (head, *(c for c in COST_METRICS if c != head)))
    charges = (study.charge, *(c for c in CHARGES if c != study.charge))
    order = list(study.arms)
    results = sorted(results, key=lambda each: (order.index(each.arm), each.steps, each.seed))
    analysis = Analysis(study, results, usable, charges)
    target = None
    if study.quality.target is not None:
        target = float(log_error(np.array([study.quality.target]), *study.quality.scale)[0])
    for cost_metric in dict.fromkeys((head, *usable)):
        for charge in charges:
            _compare(analysis, cost_metric, charge, target)
    for arm in study.compared_arms:
        if analysis.has_teachers(arm):
            costs = [teachers_cost(each, head) for each in results if each.arm == arm]
            known = [cost for cost in costs if cost is not None]
            teachers = float(np.mean(known)) if len(known) == len(costs) else None
            saved = analysis.headline(arm, "free").saved
            analysis.break_even[arm] = break_even(saved, teachers)
    if analysis.variance is not None:
        for pair in study.contrasts:
            first, second = (analysis.groups.get(arm, []) for arm in pair)
            analysis.contrasts.append(contrast(pair, first, second, analysis.variance))
    return analysis


def _compare(
    analysis: Analysis, cost_metric: CostMetric, charge: Charge, target: float | None
) -> None:
    """Fills in one cost metric and charge for all arms."""
    study = analysis.study
    refused: dict[str, str] = {}
    groups: dict[str, list[SeedGroup]] = {}
    for arm in study.arms:
        try:
            groups[arm] = seed_groups(analysis.results, study, arm, cost_metric, charge)
            if not groups[arm]:
                refused[arm] = "none of its runs has finished"
        except InputError as error:
            refused[arm] = str(error)
    comparer, problem = None, None
    try:
        if study.baseline not in groups:
            raise InputError(refused[study.baseline])
        arms = [groups[arm] for arm in study.compared_arms if arm in groups]
        planned = study.durations_of(study.baseline)
        comparer = Comparer(groups[study.baseline], arms, study.baseline, planned)
    except InputError as error:
        problem = str(error)
    if cost_metric == study.cost_metric and charge == study.charge:
        analysis.why = problem
        if comparer is not None:
            analysis.curve, analysis.variance = comparer.curve, comparer.variance
    if cost_metric == study.cost_metric and charge == "free":
        analysis.groups = groups
    for arm in study.compared_arms:
        key = (arm, cost_metric, charge)
        if comparer is None or arm in refused:
            missing = Estimate(why=refused.get(arm) or problem)
            analysis.comparisons[key] = Comparison(missing, saved=missing)
        elif charge != analysis.charges[0] and not analysis.has_teachers(arm):
            analysis.comparisons[key] = analysis.comparisons[arm, cost_metric, analysis.charges[0]]
        else:
            analysis.comparisons[key] = comparer.compare(groups[arm], target)
