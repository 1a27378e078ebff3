"""The comparison with another library: what is told to both, and the pooled difference."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from torch.optim.optimizer import register_optimizer_step_pre_hook

from rrr_lightning.files import read_json
from rrr_lightning.glue.fine_tune import settings_of
from rrr_lightning.metrics_file import read_rows
from tests.data.glue_files import write_parquet
from tests.glue.tiny import write_body
from tests.scripts.loading import load_script


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("results/glue_reference.py", monkeypatch)


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


def test_scores_and_logs_of_all_runs_are_left(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, other = tmp_path / "a.ckpt", tmp_path / "b.ckpt"
    for path in (checkpoint, other):
        path.write_text(path.name)
    called = []

    def export(checkpoint: Path, folder: Path) -> None:
        folder.mkdir(parents=True)

    def run(told: dict[str, Any], folder: Path) -> dict[str, float]:
        called.append(folder)
        (folder / "metrics.csv").write_text(f"step,loss\n1,{told['seed']}\n")
        return {metric.name: 0.5 for metric in script.REPORTED[told["task"]]}

    monkeypatch.setattr(script, "export_checkpoint", export)
    monkeypatch.setattr(script, "ours", run)
    monkeypatch.setattr(script, "theirs", run)
    out, results = tmp_path / "runs", tmp_path / "results" / "against-trainer"

    def call(path: Path) -> None:
        options = ["--checkpoint", path, "--out", out, "--results", tmp_path / "results"]
        monkeypatch.setattr("sys.argv", ["glue_reference.py", *map(str, options)])
        script.main()

    call(checkpoint)
    names = {
        f"{way}-{task}-{seed}.csv"
        for way in ("ours", "theirs")
        for task in script.COMPARED
        for seed in script.SEEDS
    }
    assert {path.name for path in results.iterdir()} == {"runs.json", "table.md", *names}
    assert (results / "theirs-stsb-3.csv").read_text() == "step,loss\n1,3\n"
    assert read_json(results / "runs.json")["checkpoint"] == "a.ckpt"
    # Finished runs are kept, unless they are of a version that kept no log.
    (out / "ours-mrpc-1" / "metrics.csv").unlink()
    call(checkpoint)
    assert len(called) == len(names) + 1
    with pytest.raises(SystemExit, match="holds runs of another checkpoint"):
        call(other)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("task", ["mrpc", "stsb"])
def test_both_are_trained_by_the_same_settings(
    task: str, script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs it")
    monkeypatch.setenv("RRR_DATA", str(tmp_path))
    write_parquet(tmp_path / "glue", task, train=64, other=9)
    told = script.settings_of(
        task, 1, write_body(tmp_path / "body", max_position_embeddings=64, hidden_dropout_prob=0.0)
    )
    assert (told["max_length"], told["learning_rate"], told["dropout"]) == (32, 1e-3, 0.1)
    (tmp_path / "a").mkdir()
    ours, found = steps_of(lambda: script.ours(told, tmp_path / "a"))
    theirs, reference = steps_of(lambda: script.theirs(told, tmp_path / "b"))
    assert set(found) == set(reference)
    for folder, name in (("a", "train/loss"), ("b", "loss")):
        _, rows = read_rows(tmp_path / folder / "metrics.csv")
        assert len([row for row in rows if row[name]]) == 10
    assert all(-1 <= value <= 1 for value in (*found.values(), *reference.values()))
    # Equally many steps of the same batch size, warmed up and slowed down alike.
    assert len(ours) == len(theirs) == settings_of(told).steps(64) == 10
    for mine, other in zip(ours, theirs, strict=True):
        for name in ("lr", "betas", "eps", "weight_decay"):
            values = [each[name] for each in (*mine, *other)]
            assert all(value == pytest.approx(values[0], rel=1e-6) for value in values), name
    assert max(group["lr"] for groups in ours for group in groups) == pytest.approx(1e-3)


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
