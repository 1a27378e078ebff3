from __future__ import annotations

import importlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from rrr_lightning.distillation.losses import kl_divergence

SCRIPTS = Path(__file__).parents[2] / "scripts" / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(SCRIPTS))
    return importlib.import_module("mlm_step")


@pytest.fixture
def work(benchmark: Any) -> Any:
    """A workload of the same kind, in a moment."""
    return replace(benchmark.WORKLOADS["cpu"], samples=2, tokens=16)


def test_both_ways_compute_the_same_loss(benchmark: Any, work: Any) -> None:
    model, teacher = work.build(0), work.teacher()
    batch = next(iter(work.batches(1)))
    labels = batch["labels"]
    given = {name: tensor for name, tensor in batch.items() if name != "labels"}
    rows, targets = model.eval().logits(batch), teacher.logits(batch)
    task = F.cross_entropy(rows, labels[labels != -100])
    network = model.network.network
    found = benchmark.loss_of_all(network, None, given, labels, False)
    torch.testing.assert_close(found, task, rtol=1e-5, atol=0.0)
    expected = 0.1 * task + 0.9 * kl_divergence(rows, targets, temperature=4.0)
    found = benchmark.loss_of_all(network, teacher.network.network, given, labels, False)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0.0)


@pytest.mark.filterwarnings("ignore")
def test_the_trainer_learns_what_the_loop_learns(
    benchmark: Any, work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs it")
    still = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    work = replace(work, network={**work.network, **still})
    students = []

    def student(each: Any) -> Any:
        students.append(each.build(-1))
        return students[-1]

    monkeypatch.setattr(type(work), "student", student)
    for name in ("distilled every", "distilled Trainer"):
        benchmark.ARMS[name](work, benchmark.Untimed("cpu"))
    before = work.build(-1).state_dict()
    by_hand, by_trainer = (each.state_dict() for each in students)
    moved = max(float((by_hand[name] - before[name]).abs().max()) for name in before)
    apart = max(float((by_hand[name] - by_trainer[name]).abs().max()) for name in before)
    assert apart < 1e-3 * moved


@pytest.mark.filterwarnings("ignore")
def test_the_trainers_teacher_runs_in_the_precision_of_its_student(
    benchmark: Any, work: Any
) -> None:
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs it")
    half = replace(work, precision="bf16-mixed")
    seen: dict[str, set[torch.dtype]] = {"student": set(), "teacher": set()}

    def noted(whose: str, network: Any) -> Any:
        linear = network.bert.encoder.layer[0].output.dense
        linear.register_forward_hook(lambda *args: seen[whose].add(args[-1].dtype))
        return network

    class Noted(type(half)):  # type: ignore[misc]
        def student(self) -> Any:
            model = super().student()
            noted("student", model.network.network)
            return model

    arm = importlib.import_module("_peer_loops").transformers_text
    teacher = noted("teacher", half.teacher().network.network)
    arm(Noted(**vars(half)), benchmark.Untimed("cpu"), teacher)
    assert seen == {"student": {torch.bfloat16}, "teacher": {torch.bfloat16}}


@pytest.mark.filterwarnings("ignore")
def test_every_way_runs_and_every_pair_is_reported(benchmark: Any, work: Any) -> None:
    rows = list(benchmark.time_rows(work, repeats=1, steps=1))
    assert [row["goal"] for row in rows] == [0.2, 0.2, 0.34, 0.34]
    for row in rows:
        assert {"name", "ratio", "low", "high", "goal", "n", "rule", "met"} <= set(row)
        assert row["ratio"] > 0


@pytest.mark.filterwarnings("ignore")
def test_a_process_tells_what_its_steps_needed(
    benchmark: Any, work: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    benchmark.print_memory_of(work, "distilled full")
    held = json.loads(capsys.readouterr().out.splitlines()[-1])
    # Linux rounds its count of pages, and this process has held more before.
    assert 0 < held["before"] <= 1.01 * held["peak"]


def test_memory_is_the_ratio_of_what_the_steps_needed(benchmark: Any, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import json, sys; print(json.dumps({'before': 1, 'peak': int(sys.argv[1])}))"
    )
    arm, reference = (benchmark.memory_of(str(script), peak) for peak in ("3", "11"))
    row = benchmark.memory_row("memory", [arm] * 3, [reference] * 3, goal=0.25)
    assert (row["ratio"], row["low"], row["high"], row["n"], row["met"]) == (0.2, 0.2, 0.2, 3, True)
    assert row["reference_bytes"] == [{"before": 1, "peak": 11}] * 3


@pytest.mark.slow
def test_bad_numbers_are_refused_before_anything_runs() -> None:
    command = [sys.executable, str(SCRIPTS / "mlm_step.py"), "--steps", "0"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 2
    assert "--repeats and --steps must be at least 1" in found.stderr
