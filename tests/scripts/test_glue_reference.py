"""The comparison with another library: what is told to both, and the pooled difference."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook

from rrr_lightning.glue.fine_tune import settings_of
from tests.data.glue_files import write_parquet
from tests.glue.tiny import write_body

FOLDER = Path(__file__).parents[2] / "scripts" / "results"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    spec = importlib.util.spec_from_file_location("glue_reference", FOLDER / "glue_reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "glue_reference", module)
    spec.loader.exec_module(module)
    return module


def runs(script: ModuleType, shift: float) -> list[dict[str, Any]]:
    return [
        {"task": task, "way": way, "score": 0.5 + 0.01 * seed + shift * (way == "ours")}
        for task in script.COMPARED
        for way in ("ours", "theirs")
        for seed in script.SEEDS
    ]


@pytest.mark.parametrize(("shift", "inside"), [(0.0, True), (0.01, True), (0.1, False)])
def test_the_interval_of_the_pooled_difference(
    shift: float, inside: bool, script: ModuleType
) -> None:
    *_, last = script.table(runs(script, shift)).splitlines()
    mean, low, high = map(float, re.findall(r"[+-]\d+\.\d+", last))
    assert mean == pytest.approx(100 * shift)
    # Two tasks, three runs each way, all with a deviation of 1: 2.306 standard errors.
    assert high - low == pytest.approx(2 * 2.306 * (2 * 2 / 3) ** 0.5 / 2, abs=0.02)
    assert (low < 0 < high) == inside


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("task", ["mrpc", "stsb"])
def test_both_are_trained_by_the_same_settings(
    task: str, script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs it")
    monkeypatch.setenv("RRR_DATA", str(tmp_path))
    write_parquet(tmp_path / "glue", task, train=64, other=9)
    told = script.settings_of(task, 1, write_body(tmp_path / "body"))
    assert (told["max_length"], told["learning_rate"]) == (script.LENGTH, 1e-3)
    (tmp_path / "a").mkdir()
    ours, found = steps_of(lambda: script.ours(told, tmp_path / "a"))
    theirs, reference = steps_of(lambda: script.theirs(told, tmp_path / "b"))
    assert set(found) == set(reference)
    assert all(-1 <= value <= 1 for value in (*found.values(), *reference.values()))
    # Equally many steps of the same batch size, warmed up and slowed down alike.
    assert len(ours) == len(theirs) == settings_of(told).steps(64) == 10
    for mine, other in zip(ours, theirs, strict=True):
        for name in ("lr", "betas", "eps"):
            values = [each[name] for each in (*mine, *other)]
            assert all(value == pytest.approx(values[0], rel=1e-6) for value in values), name
    assert max(group["lr"] for groups in ours for group in groups) == pytest.approx(1e-3)
    # The Trainer leaves biases and norms without decay.
    assert {group["weight_decay"] for groups in ours for group in groups} == {told["weight_decay"]}
    decays = {group["weight_decay"] for groups in theirs for group in groups}
    assert decays == {told["weight_decay"], 0.0}


def steps_of(run: Callable[[], dict[str, float]]) -> tuple[list[list[dict[str, Any]]], Any]:
    """What the optimizer of a training is told at every step, and what the training returns."""
    steps: list[list[dict[str, Any]]] = []
    names = ("lr", "betas", "eps", "weight_decay")

    def note(optimizer: Any, *_: Any) -> None:
        steps.append([{name: group[name] for name in names} for group in optimizer.param_groups])

    handle = register_optimizer_step_pre_hook(note)
    try:
        return steps, run()
    finally:
        handle.remove()
