"""Speed-ups, bounds where nothing is known, and no interval where it could not be trusted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from rrr_lightning.errors import InputError
from rrr_lightning.study.calibration import PowerLaw
from rrr_lightning.study.comparison import (
    NO_BOUND,
    NO_SLOPE,
    NO_SPREAD,
    NOT_CHEAPER,
    ONE_SEED,
    Analysis,
    Comparer,
    Comparison,
    Estimate,
    analyse,
    break_even,
    contrast,
)
from rrr_lightning.study.confidence import (
    HOMOSCEDASTIC,
    PooledVariance,
    SeedGroup,
    VarianceTrend,
    at_target,
    quantile,
)
from rrr_lightning.study.config import CHARGES, COST_METRICS
from rrr_lightning.study.quality_cost_curve import QualityCostCurve
from rrr_lightning.study.results import Result, seed_groups
from tests.study.made import DURATIONS, LAW, STUDY, judged_by, runs, study

TARGET = math.log(1 - 0.84)


def groups(results: Sequence[Result], arm: str) -> list[SeedGroup]:
    return seed_groups(results, STUDY, arm, "flops", "free")


def compare(results: Sequence[Result], target: float | None = TARGET) -> Comparison:
    taught = groups(results, "taught")
    return Comparer(groups(results, "plain"), [taught], "plain").compare(taught, target)


@pytest.mark.parametrize("speed_up", [0.8, 1.0, 1.4, 1.96])
def test_without_noise(speed_up: float) -> None:
    results = [*runs("plain", DURATIONS, noise=0)]
    results += runs("taught", (3, 6, 12, 20), speed_up=speed_up, noise=0)
    found = compare(results)
    assert found.target.value == pytest.approx(speed_up, rel=0.01)
    assert found.target.why == NO_SPREAD
    inside = [each.speed_up for each in found.durations if not each.speed_up.sign]
    assert inside
    for each in inside:
        assert each.value == pytest.approx(speed_up, rel=0.01)


def test_an_arm_equal_to_the_baseline() -> None:
    found = compare([*runs("plain", DURATIONS), *runs("taught", DURATIONS)])
    target = found.target
    assert target.low is not None
    assert target.high is not None
    assert target.low < 1 < target.high
    assert target.coverage is not None
    assert target.coverage >= 0.93
    copied = [*runs("plain", DURATIONS)]
    copied += [Result("taught", p.steps, p.seed, p.quality, p.costs) for p in copied]
    same = compare(copied)
    assert same.target.value == pytest.approx(1)
    for each in same.durations:
        assert each.speed_up.value == pytest.approx(1)
        assert each.speed_up.sign == ""
        assert each.error_ratio.value == pytest.approx(0, abs=1e-9)


def test_a_frontier_that_saturates_gives_a_bound() -> None:
    flat = PowerLaw(0.2, math.log(0.4), 1.5)
    better = PowerLaw(0.1, math.log(0.4), 1.0)
    results = runs("plain", DURATIONS, law=flat, noise=0.01)
    results += runs("taught", (3, 6, 12), law=better, noise=0.01)
    found = compare(results, math.log(0.17))
    longest = found.durations[-1].speed_up
    for each in (found.target, longest):
        assert each.sign == ">="
        assert each.value is not None
        assert each.value < 20 / 3
        assert each.high is None
        assert each.low is not None
        assert each.low <= each.value


def test_worse_than_the_whole_frontier() -> None:
    results = [*runs("plain", DURATIONS), *runs("taught", (3, 6, 12), speed_up=0.1)]
    found = compare(results)
    assert found.target.sign == "<="
    assert found.target.low is None
    first = found.durations[0].speed_up
    assert first.sign == "<="
    assert first.value == pytest.approx(1.0)
    assert first.low is None
    assert first.high is not None
    beyond = "than plain's shortest duration (3 steps), before which nothing is known"
    assert first.why == f"worse {beyond}"
    assert found.target.why == ("the target is better than the arm's longest duration (12 steps)")
    easy = compare(results, math.log(0.4)).target
    assert easy.sign == "<="
    assert str(easy.why).startswith(f"the target is worse {beyond}")


def test_better_than_the_whole_frontier() -> None:
    results = [*runs("plain", DURATIONS), *runs("taught", (3, 6, 12), speed_up=20)]
    found = compare(results)
    assert found.target.sign == ">="
    assert found.target.high is None
    assert [each.speed_up.sign for each in found.durations] == [">="] * 3
    assert found.durations[0].speed_up.value == pytest.approx(20 / 3)
    beyond = "better than plain's longest duration (20 steps), beyond which nothing is known"
    assert found.durations[0].speed_up.why == beyond
    assert found.target.why == "the target is worse than the arm's shortest duration (3 steps)"
    hard = compare(results, float(LAW.log_error(np.array(math.log(50))))).target
    assert hard.sign == ">="
    assert str(hard.why).startswith(f"the target is {beyond}")


def test_neither_has_been_seen_at_the_target() -> None:
    results = [*runs("plain", DURATIONS), *runs("taught", DURATIONS)]
    found = compare(results, math.log(0.01))
    assert found.target.value is None
    assert found.saved.value is None
    assert "neither the baseline nor the arm" in str(found.target.why)


@pytest.mark.parametrize(
    ("seeds", "noise", "why"), [((1,), 0.02, ONE_SEED), ((1, 2, 3), 0.0, NO_SPREAD)]
)
def test_no_interval_without_spread(seeds: tuple[int, ...], noise: float, why: str) -> None:
    results = [*runs("plain", DURATIONS, seeds, noise=noise)]
    results += runs("taught", (3, 6, 12), seeds, 1.4, noise)
    found = compare(results)
    numbers = [found.target, *(each.speed_up for each in found.durations)]
    for each in [*numbers, *(each.error_ratio for each in found.durations)]:
        assert each.value is not None
        assert (each.low, each.high) == (None, None)
        assert str(each.why).endswith(why)


def test_no_interval_where_the_baseline_gets_worse() -> None:
    worse = [
        Result("plain", steps, seed, 0.8 - 0.01 * steps + 0.001 * seed, {"flops": float(steps)})
        for steps in DURATIONS
        for seed in (1, 2, 3)
    ]
    found = compare([*worse, *runs("taught", (3, 6, 12))], math.log(0.23))
    assert found.target.value is not None
    assert str(found.target.why).endswith(NO_SLOPE)
    assert (found.target.low, found.target.high) == (None, None)
    for each in found.durations:
        assert str(each.speed_up.why).endswith(NO_SLOPE)
        assert str(each.error_ratio.why) == NO_SLOPE
        assert (each.error_ratio.low, each.error_ratio.high) == (None, None)


def test_no_interval_under_the_least_coverage() -> None:
    law = PowerLaw(0.1, -0.7, 1.0)
    results = runs("plain", (1, 2, 4, 8), law=law, noise=0.002)
    results += runs("taught", (1, 6), law=law, noise=0.002, speed_up=1.4)
    found = compare(results, float(law.log_error(np.array(math.log(3.5)))))
    assert found.target.value is not None
    assert found.target.coverage is not None
    assert found.target.coverage < 0.93
    assert (found.target.low, found.target.high) == (None, None)
    assert "under 93%" in str(found.target.why)


def test_so_much_noise_that_nothing_is_bounded() -> None:
    results = runs("plain", DURATIONS, (1, 2), noise=1.0)
    results += runs("taught", (3, 6, 12), (1, 2), noise=1.0)
    for each in compare(results).durations:
        assert str(each.speed_up.why).endswith((NO_BOUND, NO_SLOPE))


def test_targets_that_an_arm_cannot_be_read_at() -> None:
    results = [*runs("plain", DURATIONS), *runs("taught", (6,))]
    assert "2 durations or more" in str(compare(results).target.why)
    assert "no target" in str(compare(results, None).target.why)
    assert compare(results, None).durations[0].speed_up.value is not None


def test_gain_at_equal_cost() -> None:
    results = runs("plain", DURATIONS, noise=0.002)
    results += runs("taught", (2, 4, 8, 30), noise=0.002, speed_up=1.4)
    found = {each.steps: each.error_ratio for each in compare(results).durations}
    for steps in (4, 8):
        place = np.array(math.log(steps))
        true = math.exp(float(LAW.log_error(place) - LAW.log_error(place + math.log(1.4)))) - 1
        low, high = found[steps].low, found[steps].high
        assert low is not None
        assert high is not None
        assert low < true < high
        assert found[steps].sign == ""
    assert (found[2].sign, found[2].high) == (">=", None)
    assert (found[30].sign, found[30].low) == ("<=", None)


def test_what_is_saved_at_the_target() -> None:
    results = runs("plain", DURATIONS, noise=0.005)
    results += runs("taught", (3, 6, 12), noise=0.005, speed_up=1.4)
    found, cost = compare(results).saved, math.exp(LAW.log_cost(TARGET))
    true = 1e9 * cost * (1 - 1 / 1.4)
    assert found.value == pytest.approx(true, rel=0.2)
    assert found.low is not None
    assert found.high is not None
    assert found.low < true < found.high
    assert found.coverage is not None
    assert found.coverage >= 0.93


def test_a_gain_is_gated_by_its_own_coverage() -> None:
    """Between two durations far apart the frontier is not where the baseline would be."""
    law = PowerLaw(0.1, 0.7, 2.0)
    results = runs("plain", (1, 12, 14, 16), law=law, noise=0.002)
    results += runs("taught", (3, 4), law=law, noise=0.002, speed_up=1.4)
    found = compare(results).durations[0].error_ratio
    assert found.coverage is not None
    assert found.coverage < 0.93
    assert (found.low, found.high) == (None, None)
    assert "under 93%" in str(found.why)


def test_too_few_durations_say_what_is_missing() -> None:
    results = [*runs("plain", (3, 6, 12)), *runs("taught", (3, 6))]
    with pytest.raises(InputError, match=r"my baseline: .*at least 4 durations; missing: 20;"):
        Comparer(groups(results, "plain"), [], "my baseline", DURATIONS)


def test_durations_of_equal_cost() -> None:
    results = [Result("plain", p.steps, p.seed, p.quality, {"flops": 1.0})
              for p in runs("plain", DURATIONS)]  # fmt: skip
    with pytest.raises(InputError, match="two durations have the same cost"):
        Comparer(groups(results, "plain"), [])


def test_plain_types() -> None:
    found = compare([*runs("plain", DURATIONS), *runs("taught", (3, 6, 12))]).target
    assert list(found.as_json("speed_up")) == [
        "speed_up", "censored", "low", "high", "coverage", "why",
    ]  # fmt: skip


ARMS = ("random", "average")


def group(steps: int, error: float, cost: float, seeds: int = 3) -> SeedGroup:
    return SeedGroup(steps, tuple(range(seeds)), np.full(seeds, cost), np.full(seeds, error))


def test_ratios() -> None:
    first = [group(1, -1.0, 0.0), group(2, -1.5, 1.0), group(9, -9.0, 9.0)]
    second = [group(1, -1.1, 0.5), group(2, -1.7, 1.7)]
    found = contrast(ARMS, first, second, PooledVariance(1e-4, 0.0, 10))
    assert found.steps == (1, 2)
    assert found.error_ratio.value == pytest.approx(math.exp(0.15))
    assert found.cost_ratio == pytest.approx(math.exp(-0.6))
    assert found.error_ratio.low is not None
    half = quantile(0.95, 10) * math.sqrt(1e-4 * (2 / 3 + 2 / 3) / 4)
    assert found.error_ratio.low == pytest.approx(math.exp(0.15 - half))
    assert found.as_json()["arms"] == list(ARMS)


def test_coverage_of_a_contrast() -> None:
    random, held, freedom = np.random.default_rng(0), 0, 12
    for _ in range(1000):
        means = random.normal(0, 0.02 / math.sqrt(3), (2, 3))
        variance = 0.02**2 * random.chisquare(freedom) / freedom
        first, second = ([group(n, float(m), 0.0) for n, m in enumerate(row)] for row in means)
        found = contrast(ARMS, first, second, PooledVariance(variance, 0.0, freedom)).error_ratio
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 1 <= found.high
    assert held >= 930


def test_durations_that_vary_more_widen() -> None:
    first, second = [group(1, -1.0, 0.0)], [group(1, -1.1, 0.0)]
    noisy = VarianceTrend(np.array([-1.0]), np.array([-math.log(4)]))
    plain, wide = (
        contrast(ARMS, first, second, PooledVariance(1e-4, 0.0, 10, trend=trend)).error_ratio
        for trend in (HOMOSCEDASTIC, noisy)
    )
    assert wide.high is not None
    assert plain.high is not None
    assert math.log(wide.high) - 0.1 == pytest.approx(2 * (math.log(plain.high) - 0.1))


def test_a_contrast_without_interval() -> None:
    pair = [group(1, -1.0, 0.0)], [group(1, -1.1, 0.5)]
    assert contrast(ARMS, *pair, PooledVariance(0.0, 0.0, 0)).error_ratio.why == ONE_SEED
    assert contrast(ARMS, *pair, PooledVariance(0.0, 0.0, 4)).error_ratio.why == NO_SPREAD
    apart = contrast(ARMS, pair[0], [group(2, -1.0, 0.0)], PooledVariance(1e-4, 0.0, 4))
    assert apart.error_ratio.value is None
    assert "no duration in common" in str(apart.error_ratio.why)


def test_both_ways_cost_the_same() -> None:
    baseline, student, teacher = 12.0, 8.0, 30.0
    found = break_even(Estimate(baseline - student, low=3.0, high=5.0, coverage=0.95), teacher)
    assert found.value is not None
    assert found.value * baseline == pytest.approx(teacher + found.value * student)
    assert (found.low, found.high, found.coverage) == (30 / 5, 30 / 3, 0.95)


def test_open_ends() -> None:
    never = break_even(Estimate(4.0, low=-1.0, high=5.0), 30.0)
    assert (never.low, never.high) == (6.0, None)
    bound = break_even(Estimate(4.0, ">=", low=3.0, why="beyond"), 30.0)
    assert (bound.sign, bound.low, bound.high, bound.why) == ("<=", None, 10.0, "beyond")
    no_interval = break_even(Estimate(4.0, why="one seed"), 30.0)
    assert (no_interval.low, no_interval.high, no_interval.why) == (None, None, "one seed")


def test_no_number() -> None:
    assert break_even(Estimate(-1.0, low=-2.0, high=1.0), 30.0).why == NOT_CHEAPER
    assert break_even(Estimate(-1.0, ">=", why="beyond"), 30.0).why == "beyond"
    assert break_even(Estimate(why="not yet"), 30.0).why == "not yet"
    assert "not known" in str(break_even(Estimate(4.0), None).why)


@pytest.mark.parametrize("noise", [0.01, 0.03])
def test_coverage_of_the_break_even(noise: float) -> None:
    """The costs of both, baseline and arm, are uncertain."""
    random, replicates, speed_up, teacher = np.random.default_rng(0), 1000, 1.5, 30.0
    counts = [np.full(4, 3.0), np.full(3, 3.0)]
    costs = [np.log([3.0, 6, 12, 20]), np.log([3.0, 6, 12])]
    curves = []
    for place, count, moved in zip(costs, counts, (0.0, math.log(speed_up)), strict=True):
        means = noise / math.sqrt(3) * random.normal(size=(len(place), replicates))
        curves.append(QualityCostCurve(place, LAW.log_error(place + moved)[:, None] + means, count))
    variance = noise**2 * random.chisquare(14, replicates) / 14
    limit, cost = quantile(0.95, 14), 9.0
    target = float(LAW.log_error(np.array(math.log(cost))))
    saved = at_target(*curves, target, (variance, np.zeros(1)), limit).saved
    true, held = teacher / (cost - cost / speed_up), 0
    for value, low, high in zip(saved.value, saved.low, saved.high, strict=True):
        ends = (float(end) if math.isfinite(end) else None for end in (low, high))
        found = break_even(Estimate(float(value), "", *ends), teacher)
        never = found.why == NOT_CHEAPER
        held += never or (found.low or 0.0) <= true <= (found.high or math.inf)
    assert held >= 0.93 * replicates


def test_every_cell(whole_study: Analysis) -> None:
    assert whole_study.cost_metrics == ["flops", "wall", "wall_without_data"]
    assert whole_study.charges == CHARGES
    for arm, true in (("taught", 1.4), ("averaged", 1.2)):
        for clock in COST_METRICS:
            targets = [whole_study.comparisons[arm, clock, charge].target for charge in CHARGES]
            assert targets[0].low is not None
            assert targets[0].high is not None
            assert targets[0].low < true < targets[0].high
            values = [target.value or 0.0 for target in targets]
            assert values == sorted(values, reverse=True)
            assert values[-1] < 1 < values[0]
        assert whole_study.has_teachers(arm)
        students = whole_study.break_even[arm].value
        assert students is not None
        assert students > 1
    assert not whole_study.has_teachers("plain")
    # At the break-even number of students the amortized cost equals the baseline's.
    share = round(whole_study.break_even["taught"].value or 0)
    again = analyse(
        [result for result in whole_study.results if result.arm != "averaged"],
        replace(judged_by(charge="amortized"), amortize_over=share),
    )
    assert again.headline("taught").target.value == pytest.approx(1, rel=0.05)
    assert whole_study.contrasts[0].cost_ratio == pytest.approx(2 / 3)


def test_half_finished() -> None:
    results = [result for result in study() if (result.arm, result.steps) not in {("plain", 20)}]
    found = analyse(results, STUDY)
    assert found.curve is None
    assert "at least 4 durations; missing: 20" in str(found.why)
    assert found.headline("taught").target.why == found.why
    nothing = analyse([], STUDY)
    assert "missing: 3, 6, 12, 20" in str(nothing.why)
    assert nothing.break_even == {}
    lone = analyse([result for result in study() if result.arm == "plain"], STUDY)
    assert lone.curve is not None
    assert lone.headline("taught").target.why == "none of its runs has finished"


def test_one_bad_run_spoils_its_arm_alone() -> None:
    results = [replace(p, quality=1.0) if p.arm == "taught" and p.steps == 12 else p
              for p in study()]  # fmt: skip
    found = analyse(results, STUDY)
    assert found.curve is not None
    assert "taught, 12 steps: " in str(found.headline("taught").target.why)


def test_unknown_teachers_leave_what_is_free() -> None:
    results = [replace(p, teacher_costs={}, has_teachers=p.arm == "taught") for p in study()]
    found = analyse(results, STUDY)
    assert found.headline("taught").target.value is not None
    why = str(found.headline("taught", "full").target.why)
    assert "training of its teachers is not known" in why
    assert "not known" in str(found.break_even["taught"].why)


def test_an_arm_without_teachers_costs_the_same_under_every_charge() -> None:
    results = [replace(p, teacher_costs={}, has_teachers=False) for p in study()]
    found = analyse(results, STUDY)
    values = {found.headline("taught", charge).target.value for charge in CHARGES}
    assert len(values) == 1
    assert found.break_even == {}


def test_mixed_machines() -> None:
    first, *rest = study()
    results = [replace(first, machine="another"), *rest]
    assert analyse(results, STUDY).cost_metrics == ["flops"]
    found = analyse(results, judged_by("wall"))
    assert (found.study.cost_metric, found.cost_metrics) == ("flops", ["flops"])
    assert found.headline("taught").target.value is not None


def test_teachers_of_another_machine() -> None:
    results = [replace(result, teacher_machines=("another",)) for result in study()]
    found = analyse(results, judged_by("wall"))
    assert found.study.cost_metric == "wall"
    assert found.headline("taught").target.value is not None
    assert "took place on another" in str(found.headline("taught", "full").target.why)
    assert found.comparisons["taught", "flops", "full"].target.value is not None
    assert found.break_even["taught"].value is None


def test_a_clock_that_some_runs_do_not_know() -> None:
    first, *rest = study()
    results = [replace(first, costs={"wall": 36.0, "wall_without_data": 30.0}), *rest]
    found = analyse(results, STUDY)
    assert found.cost_metrics == ["wall", "wall_without_data"]
    assert "not known by the clock flops" in str(found.headline("taught").target.why)
    assert found.comparisons["taught", "wall", "free"].target.value is not None
