"""Differences are paired, their intervals cover, and one seed is said to be one seed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import t as student

from rrr_lightning.errors import InputError
from rrr_lightning.glue import compare as module
from rrr_lightning.glue.compare import Difference, compare, folders_of
from rrr_lightning.glue.plan import PREDICTIONS, Plan
from rrr_lightning.glue.protocol import find_protocol
from tests.glue.made import evaluation, run_folder


def two(
    tmp_path: Path, tasks: tuple[str, ...], better: float, seeds: tuple[int, ...] = (1, 2, 3)
) -> tuple[list[Difference], list[Difference]]:
    homes = (tmp_path / "first", tmp_path / "second")
    plans = [evaluation(homes[0], tasks, 0.7, seeds), evaluation(homes[1], tasks, better, seeds)]
    return compared(plans, homes)


def compared(
    plans: Sequence[Plan], homes: tuple[Path, Path]
) -> tuple[list[Difference], list[Difference]]:
    first, second = (plan.results(home) for plan, home in zip(plans, homes, strict=True))
    return compare(first, second, (folders_of(plans[0], homes[0]), folders_of(plans[1], homes[1])))


def test_a_checkpoint_against_itself_differs_by_nothing(tmp_path: Path) -> None:
    tasks, averages = two(tmp_path, ("rte", "stsb", "mnli"), 0.7)
    assert [each.name for each in tasks] == ["stsb", "mnli", "rte"]
    for each in (*tasks, *averages):
        assert each.value == 0
        assert each.interval == (0, 0)


def test_a_better_checkpoint_is_seen_to_be_better(tmp_path: Path) -> None:
    tasks, averages = two(tmp_path, ("cola", "mrpc", "stsb"), 0.95)
    for each in (*tasks, *averages):
        low, high = each.interval
        assert 0 < low < each.value < high
        assert each.over == "rows and seeds"
    assert averages[-1].name == "tasks here"
    assert averages[-1].value == pytest.approx(np.mean([each.value for each in tasks]))
    wide = max(high - low for low, high in (each.interval for each in tasks))
    low, high = averages[-1].interval
    assert high - low < wide


def test_one_seed_leaves_its_own_chance_unknown(tmp_path: Path) -> None:
    (task,), _ = two(tmp_path, ("rte",), 0.8, (1,))
    assert task.over == "rows alone"
    assert task.seeds_variance == 0
    low, high = task.interval
    assert (high - low) / 2 == pytest.approx(1.96 * task.rows_variance**0.5, rel=1e-3)


def test_few_seeds_widen_the_interval() -> None:
    narrow = Difference("rte", 0.0, 1e-4, 0.0, 0.0, 1).interval[1]
    wide = Difference("rte", 0.0, 0.0, 1e-4, 1.0, 2).interval[1]
    assert narrow == pytest.approx(0.0196, abs=1e-4)
    assert wide == pytest.approx(0.12706, abs=1e-4)  # Student's t with one degree of freedom


@pytest.mark.parametrize("seeds", [2, 4])
@pytest.mark.parametrize("common", [True, False], ids=["hard rows", "errors of their own"])
def test_intervals_cover(monkeypatch: pytest.MonkeyPatch, common: bool, seeds: int) -> None:
    # 200 rows whose labels two networks with true accuracies 0.70 and 0.76 get right in pairs; the
    # accuracy of each seed moves by 0.02. All seeds find the same rows hard, or each its own.
    monkeypatch.setattr(module, "RESAMPLES", 30)
    random = np.random.default_rng(5)
    hits, trials, rows = 0, 120, 200
    values, halves = [], []
    for _ in range(trials):
        ease = random.random(rows)
        pairs = []
        for _ in range(seeds):
            labels = np.ones(rows)
            ease = ease if common else random.random(rows)
            both = ((ease < level + 0.02 * random.normal()).astype(float) for level in (0.70, 0.76))
            first, second = ({"validation": each} for each in both)
            pairs.append((first, second, {"validation": labels}))
        difference = module._difference("rte", pairs)
        low, high = difference.interval
        hits += low <= 0.06 <= high
        values.append(difference.value)
        halves.append((high - low) / 2)
    assert 0.90 <= hits / trials <= 0.99
    # Not much wider than an interval that knows the spread and need not learn it from few seeds.
    knowing = float(student.ppf(0.975, seeds - 1)) if not common or seeds == 2 else 1.4 * 1.96
    assert np.mean(halves) < knowing * np.std(values, ddof=1)


def test_seeds_that_agree_by_chance_do_not_end_the_doubt() -> None:
    # Two seeds get different rows right, and yet both differ by 0.1.
    right = [(slice(0, 70), slice(20, 100)), (slice(30, 100), slice(0, 80))]
    pairs = []
    for first, second in right:
        both = np.zeros((2, 100))
        both[0, first] = both[1, second] = 1
        labels = {"validation": np.ones(100)}
        pairs.append(({"validation": both[0]}, {"validation": both[1]}, labels))
    difference = module._difference("rte", pairs)
    assert difference.value == pytest.approx(0.1)
    low, high = difference.interval
    assert low < 0 < 0.1 < high


@pytest.mark.parametrize("rows", [150, 250])
def test_seeds_that_were_judged_on_different_rows_are_refused(tmp_path: Path, rows: int) -> None:
    folders = (tmp_path / "first", tmp_path / "second")
    plans = [evaluation(each, ("rte",), 0.7, (1, 2)) for each in folders]
    for each in folders:
        path = run_folder(each, "rte-2") / PREDICTIONS
        arrays = {name: np.resize(array, rows) for name, array in np.load(path).items()}
        np.savez(path, **arrays)
    line = "--compare: rte was evaluated on other rows with seed 2 than with seed 1"
    with pytest.raises(InputError, match=line):
        compared(plans, folders)


def test_other_rows_are_refused(tmp_path: Path) -> None:
    folders = (tmp_path / "first", tmp_path / "second")
    plans = [evaluation(folder, ("rte",), 0.7, (1,)) for folder in folders]
    path = run_folder(folders[1], "rte-1") / PREDICTIONS
    arrays = dict(np.load(path))
    arrays["validation.labels"] = 1 - arrays["validation.labels"]
    np.savez(path, **arrays)
    with pytest.raises(InputError, match="--compare: rte was evaluated on other rows there"):
        compared(plans, folders)


def test_one_start_of_all_seeds_is_said_to_be_one(tmp_path: Path) -> None:
    folders = (tmp_path / "first", tmp_path / "second")
    protocol = find_protocol("published", seeds=(1, 2))
    plans = [
        evaluation(folder, ("rte", "cola"), 0.7, (1, 2), protocol=protocol) for folder in folders
    ]
    tasks, averages = compared(plans, folders)
    assert {each.name: each.over for each in (*tasks, *averages)} == {
        "cola": "rows and seeds",
        "rte": "rows and seeds, after one run of MNLI",
        "tasks here": "rows and seeds, after one run of MNLI",
    }
