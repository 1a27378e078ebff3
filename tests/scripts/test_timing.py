from __future__ import annotations

import importlib.util
import itertools
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from rrr_lightning.random import keyed_generator

FILE = Path(__file__).parents[2] / "scripts" / "benchmarks" / "_timing.py"


@pytest.fixture(scope="module")
def timing() -> ModuleType:
    spec = importlib.util.spec_from_file_location("_timing", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["_timing"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("n", "cut"), [(1, 0), (5, 0), (6, 0), (9, 1), (20, 5), (30, 9)])
def test_the_interval_cuts_as_many_values_as_the_binomial_allows(
    timing: ModuleType, n: int, cut: int
) -> None:
    median = timing.Median.of([float(value) for value in reversed(range(n))])
    assert (median.low, median.high) == (cut, n - 1 - cut)
    assert median.value == (n - 1) / 2
    assert (median.coverage >= 0.95) == (n >= 6)


def test_the_interval_covers_as_often_as_it_says(timing: ModuleType) -> None:
    draws = torch.rand(2000, 12, generator=keyed_generator("coverage")).tolist()
    medians = [timing.Median.of(row) for row in draws]
    covered = sum(median.low <= 0.5 <= median.high for median in medians) / len(medians)
    assert covered == pytest.approx(medians[0].coverage, abs=0.012)  # 3 standard errors


def test_a_block_counts_the_median_of_the_steps_after_the_warm_up(
    timing: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = timing.StepClock("cpu", warm_up=2, steps=3)
    times = iter([0.0, 10.0, 11.0, 12.0, 99.0])  # the last step was disturbed
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(times))
    for _ in range(clock.total):
        clock.tick()
    assert clock.seconds() == 1.0


def test_a_block_that_ended_early_is_not_a_result(timing: ModuleType) -> None:
    clock = timing.StepClock("cpu", warm_up=1, steps=3)
    clock.tick()
    with pytest.raises(RuntimeError, match="1 steps instead of 4"):
        clock.seconds()


def test_pairs_alternate_and_the_first_pair_does_not_count(timing: ModuleType) -> None:
    calls: list[str] = []
    seconds = itertools.chain([50.0], itertools.repeat(1.1))

    def block() -> float:
        calls.append("A")
        return next(seconds)

    def reference() -> float:
        calls.append("B")
        return 1.0

    row = timing.Comparison("a / b", block, reference, goal=1.05).run(repeats=4)
    assert "".join(calls) == "AB" + "ABBAABBA"
    assert row["ratio"] == row["high"] == pytest.approx(1.1)
    assert (row["n"], row["met"]) == (4, False)


def test_goals_are_bounds_or_values_to_contain(timing: ModuleType) -> None:
    def met(ratio: float, goal: float, rule: str) -> bool:
        found = timing.Comparison("x", lambda: ratio, lambda: 1.0, goal, rule).run(repeats=3)["met"]
        assert isinstance(found, bool)
        return found

    assert met(1.04, 1.05, "at most")
    assert not met(1.06, 1.05, "at most")
    assert met(1.0, 1.0, "contains")
    assert not met(0.9, 1.0, "contains")


def test_the_report_writes_rows_and_fails_where_a_goal_is_missed(
    timing: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = timing.Comparison("good", lambda: 1.0, lambda: 1.0, 1.05).run(repeats=2)
    bad = timing.Comparison("bad", lambda: 2.0, lambda: 1.0, 1.05).run(repeats=2)
    assert timing.report([good], None) == 0
    assert timing.report([good, bad], tmp_path / "rows.json") == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 2 goals met"
    assert json.loads((tmp_path / "rows.json").read_text()) == [good, bad]
