from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from rrr_lightning.keyed_rng import keyed_generator

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


def arm(seconds: list[float], now: list[float], log: list[str], name: str) -> Callable[..., None]:
    """An arm whose steps take the given seconds of a clock that stands still otherwise."""

    def run(clock: Any) -> None:
        for took in seconds[: clock.total]:
            now[0] += took
            log.append(name)
            clock.tick()

    return run


@pytest.fixture
def now(timing: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    time = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: time[0])
    return time


def test_steps_alternate_and_waiting_does_not_count(timing: ModuleType, now: list[float]) -> None:
    log: list[str] = []
    arms = arm([1.0, 2.0, 3.0], now, log, "A"), arm([10.0, 20.0, 30.0], now, log, "B")
    timed = timing.time_in_turns(arms, "cpu", 3)
    assert "".join(log) == "ABABAB"
    assert [times[1:] for times in timed] == [[2.0, 3.0], [20.0, 30.0]]


def test_a_repeat_is_the_median_of_neighbouring_ratios(
    timing: ModuleType, now: list[float]
) -> None:
    log: list[str] = []
    slow = arm([9.0, 3.0, 3.0, 99.0], now, log, "A")  # warm-up first, a disturbance last
    fast = arm([1.0, 2.0, 2.0, 2.0], now, log, "B")
    row = timing.Comparison("a / b", slow, fast, goal=1.6).run("cpu", repeats=3, warm_up=1, steps=3)
    assert "".join(log) == "ABABABAB" + "BABABABA" + "ABABABAB"
    assert (row["ratio"], row["low"], row["high"]) == (1.5, 1.5, 1.5)
    assert (row["seconds"], row["reference_seconds"]) == (3.0, 2.0)
    assert (row["n"], row["steps"], row["met"]) == (3, 3, True)


@pytest.mark.parametrize("broken", [0, 1])
def test_an_error_in_one_arm_ends_both(timing: ModuleType, now: list[float], broken: int) -> None:
    def fail(clock: Any) -> None:
        clock.tick()
        raise ArithmeticError("broken")

    arms = [arm([1.0] * 3, now, [], "A")] * 2
    arms[broken] = fail
    with pytest.raises(ArithmeticError, match="broken"):
        timing.time_in_turns(tuple(arms), "cpu", 3)


def test_an_arm_that_ends_early_is_not_a_result(timing: ModuleType, now: list[float]) -> None:
    arms = arm([1.0] * 3, now, [], "A"), arm([1.0] * 2, now, [], "B")
    with pytest.raises(RuntimeError, match="2 steps instead of 3"):
        timing.time_in_turns(arms, "cpu", 3)


def compare(
    timing: ModuleType, now: list[float], ratio: float, goal: float, rule: str = "at most"
) -> dict[str, Any]:
    first, second = arm([ratio] * 4, now, [], "A"), arm([1.0] * 4, now, [], "B")
    compared = timing.Comparison("x", first, second, goal, rule)
    row: dict[str, Any] = compared.run("cpu", repeats=2, warm_up=1, steps=3)
    return row


def test_goals_are_bounds_or_values_to_contain(timing: ModuleType, now: list[float]) -> None:
    assert compare(timing, now, 1.0, 1.05)["met"]
    assert not compare(timing, now, 1.5, 1.05)["met"]
    assert compare(timing, now, 1.0, 1.0, "contains")["met"]
    assert not compare(timing, now, 0.5, 1.0, "contains")["met"]


def test_the_report_writes_rows_and_fails_where_a_goal_is_missed(
    timing: ModuleType, now: list[float], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = compare(timing, now, 1.0, 1.05), compare(timing, now, 2.0, 1.05)
    assert timing.report([good], None) == 0
    assert timing.report([good, bad], tmp_path / "rows.json") == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 of 2 goals met"
    about = {"device": "cpu", "machine": timing.describe_machine("cpu")}
    written = json.loads((tmp_path / "rows.json").read_text())
    assert written == [good | about, bad | about]


def test_rows_are_printed_as_they_come(
    timing: ModuleType, now: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    def rows() -> Iterator[Any]:
        yield compare(timing, now, 1.0, 1.05)
        assert "x: 1.000" in capsys.readouterr().out

    assert timing.report(rows(), None) == 0
