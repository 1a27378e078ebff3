from __future__ import annotations

import json
import pickle
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch.utils.data import DataLoader, Dataset

from rrr_lightning import CostLedger, InputError
from rrr_lightning.distillation.pool import TeacherPool
from tests.callbacks.foreign import (
    CLASSES,
    FEATURES,
    Foreign,
    distil,
    fit,
    make_data,
    make_module,
    make_teacher,
    make_trainer,
    weights,
)

HIDDEN, TEACHER_HIDDEN, BATCH = 16, 24, 8
# Forward: two products; backward: their weights' gradients, and that of the second one's input.
STUDENT_FLOPS = 2 * BATCH * (2 * FEATURES * HIDDEN + 3 * HIDDEN * CLASSES)
TEACHER_FLOPS = 2 * BATCH * TEACHER_HIDDEN * (FEATURES + CLASSES)


def ledger_of(folder: Path) -> dict[str, Any]:
    ledger: dict[str, Any] = json.loads((folder / "ledger.json").read_text())
    return ledger


def run(folder: Path, *callbacks: Callback, ledger: CostLedger | None = None, **kwargs: Any) -> Any:
    module = kwargs.pop("module", None) or make_module()
    fit(module, ledger or CostLedger(), *callbacks, default_root_dir=str(folder), **kwargs)
    return ledger_of(folder)


class SlowSaves(Callback):
    """Saves after a batch and after a validation, and takes its time, so that it is known."""

    def __init__(self, file: Path, seconds: float) -> None:
        self.file, self.seconds = file, seconds

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 3:
            trainer.save_checkpoint(self.file)

    def on_validation_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 4:
            trainer.save_checkpoint(self.file)

    def on_save_checkpoint(self, *_: Any) -> None:
        time.sleep(self.seconds)


class Ended(Callback):
    """Notes when the run ended."""

    def teardown(self, *_: Any, **__: Any) -> None:
        self.at = time.perf_counter()


class SlowData(Dataset[Any]):
    def __init__(self, seconds: float) -> None:
        self.data, self.seconds = make_data(), seconds

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Any:
        time.sleep(self.seconds / BATCH)
        return self.data[index]


class Validated(Foreign):
    def validation_step(self, batch: Any, batch_idx: int) -> None:
        time.sleep(0.02)


# ---------------------------------------------------------------------------------- time


def test_the_phases_sum_to_the_wall_time(tmp_path: Path) -> None:
    ledger, ended = CostLedger(), Ended()
    trainer = make_trainer(12, [ledger, ended], default_root_dir=str(tmp_path))
    loader = DataLoader(SlowData(0.02), batch_size=BATCH)
    module = make_module()
    started = time.perf_counter()
    ledger.begin()
    trainer.fit(module, loader)
    wall = ended.at - started
    found = ledger_of(tmp_path)
    seconds = {name: phase["seconds"] for name, phase in found["phases"].items()}
    assert sum(seconds.values()) == pytest.approx(found["seconds"], rel=1e-6)
    assert found["seconds"] == pytest.approx(wall, rel=0.02)
    assert seconds["data_wait"] >= 12 * 0.02
    assert found["phases"]["data_wait"]["count"] == found["phases"]["student_step"]["count"] == 12


def test_validation_and_checkpoints_are_phases_of_their_own(tmp_path: Path) -> None:
    module = make_module(Validated)
    slow = SlowSaves(tmp_path / "a.ckpt", 0.03)
    trainer = make_trainer(
        8, [CostLedger(), slow], default_root_dir=str(tmp_path), val_check_interval=2
    )
    data = DataLoader(make_data(), batch_size=BATCH)
    save = trainer.save_checkpoint
    trainer.fit(module, data, DataLoader(make_data(16), batch_size=BATCH))
    assert trainer.save_checkpoint == save
    phases = ledger_of(tmp_path)["phases"]
    assert phases["validation"]["count"] == 4  # the sanity check is part of the set-up
    assert phases["validation"]["seconds"] >= 4 * 2 * 0.02
    assert phases["set_up"]["seconds"] >= 2 * 0.02
    assert phases["checkpoint"]["count"] == 2
    assert phases["checkpoint"]["seconds"] >= 2 * 0.03


def test_steps_with_and_without_teachers_are_timed_apart(tmp_path: Path) -> None:
    class Slow(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_teacher()

        def forward(self, inputs: torch.Tensor) -> Any:
            time.sleep(0.01)
            return self.net(inputs)

    found = run(tmp_path, distil([Slow()], schedule={"until": 0.5}), steps=24)
    medians = found["step_seconds"]
    assert medians["distilled"] > medians["plain"] + 0.009
    assert found["phases"]["teacher_forward"]["seconds"] >= 12 * 0.01
    assert found["phases"]["teacher_forward"]["count"] == 12


# ---------------------------------------------------------------------------------- operations


def test_operations_are_those_counted_by_hand(tmp_path: Path) -> None:
    plain = run(tmp_path, steps=6)
    assert plain["flops"] == {"student": 6 * STUDENT_FLOPS, "teacher": 0.0}
    assert (plain["steps"], plain["samples"], plain["tokens"]) == (6, 6 * BATCH, None)


def test_teachers_are_counted_only_while_they_run(tmp_path: Path) -> None:
    teachers = [make_teacher(seed) for seed in (1, 2, 3)]
    found = run(tmp_path, distil(teachers, schedule={"until": 0.5}), steps=8)
    assert found["flops"] == {"student": 8 * STUDENT_FLOPS, "teacher": 4 * TEACHER_FLOPS}
    pool = TeacherPool(per_step="all")
    found = run(tmp_path, distil(teachers, schedule={"until": 0.5}, pool=pool), steps=8)
    assert found["flops"]["teacher"] == 4 * 3 * TEACHER_FLOPS
    assert found["phases"]["teacher_forward"]["flops"] == found["flops"]["teacher"]
    assert [teacher["name"] for teacher in found["teachers"]] == ["Sequential object"] * 3
    assert all(re.fullmatch("[0-9a-f]{64}", teacher["sha256"]) for teacher in found["teachers"])


def test_every_micro_batch_of_a_step_counts(tmp_path: Path) -> None:
    found = run(tmp_path, steps=3, accumulate_grad_batches=2)
    assert (found["steps"], found["samples"]) == (3, 6 * BATCH)
    assert found["flops"]["student"] == 6 * STUDENT_FLOPS
    assert found["phases"]["student_step"]["count"] == 6


def test_a_module_that_optimizes_by_hand_is_measured_too(tmp_path: Path) -> None:
    class ByHand(Foreign):
        def __init__(self) -> None:
            super().__init__()
            self.automatic_optimization = False

        def training_step(self, batch: Any, batch_idx: int) -> None:
            loss = super().training_step(batch, batch_idx)
            optimizer: Any = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()

    found = run(tmp_path, steps=6, module=make_module(ByHand))
    assert (found["steps"], found["samples"]) == (6, 6 * BATCH)
    assert found["flops"]["student"] == 6 * STUDENT_FLOPS


# ---------------------------------------------------------------------------------- no trace


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_the_run_is_the_same_to_the_last_bit(tmp_path: Path, precision: str) -> None:
    ends = []
    for callbacks in ([], [CostLedger(every_n_seconds=1e-9)]):
        module = make_module(dropout=0.3)
        distilled = distil([make_teacher(), make_teacher(2)], schedule={"until": 0.7})
        root = str(tmp_path)
        fit(module, *callbacks, distilled, steps=10, precision=precision, default_root_dir=root)
        ends.append(weights(module))
    assert torch.equal(*ends)


def test_an_exception_leaves_no_trace_and_a_ledger(tmp_path: Path) -> None:
    class Fails(Callback):
        def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, index: int) -> None:
            if index == 3:
                raise ArithmeticError("broken")

    distilled = distil([make_teacher()])
    trainer = make_trainer(6, [CostLedger(), distilled, Fails()], default_root_dir=str(tmp_path))
    loop = trainer.fit_loop.epoch_loop
    with pytest.raises(ArithmeticError, match="broken"):
        trainer.fit(make_module(), DataLoader(make_data(), batch_size=BATCH))
    assert "run" not in vars(loop.automatic_optimization)
    assert "save_checkpoint" not in vars(trainer)
    assert type(distilled.meter).__name__ == "TeacherMeter"
    found = ledger_of(tmp_path)
    assert (found["steps"], found["flops"]["student"]) == (3, 3 * STUDENT_FLOPS)


def test_a_run_that_is_refused_writes_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with pytest.raises(InputError):
        run(folder, distil([make_teacher()], student_logits="nets"))
    assert not folder.exists()


# ---------------------------------------------------------------------------------- the rest


def test_a_price_gives_money(tmp_path: Path) -> None:
    found = run(tmp_path, ledger=CostLedger(price_per_device_hour=3600.0))
    assert found["money"] == found["device_seconds"] == found["seconds"]
    assert run(tmp_path)["money"] is None


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"price_per_device_hour": -1.0}, "cost.price_per_device_hour: must not be negative"),
        ({"every_n_seconds": 0.0}, "cost.every_n_seconds: must be positive"),
    ],
)
def test_bad_values_are_refused(arguments: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError, match=re.escape(line)):
        CostLedger(**arguments)


def test_a_ledger_that_has_begun_can_be_sent_to_another_process() -> None:
    ledger = CostLedger()
    ledger.begin()
    assert pickle.loads(pickle.dumps(ledger)).path is None


@pytest.mark.gpu
def test_on_a_gpu_the_phases_sum_to_the_wall_time_and_no_bit_changes(tmp_path: Path) -> None:
    ends, data = [], DataLoader(make_data(640), batch_size=BATCH)
    for ledger in (False, True):
        module = make_module(dropout=0.3)
        callbacks: list[Any] = [*([CostLedger()] if ledger else []), distil([make_teacher()])]
        root = str(tmp_path)
        ended = Ended()
        gpu = {"accelerator": "gpu", "devices": 1, "default_root_dir": root}
        trainer = make_trainer(80, [*callbacks, ended], **gpu)
        torch.manual_seed(11)
        started = time.perf_counter()
        if ledger:
            callbacks[0].begin()
        trainer.fit(module, data)
        wall = ended.at - started
        ends.append(weights(module).cpu())
    assert torch.equal(*ends)
    found = ledger_of(tmp_path)
    assert found["seconds"] == pytest.approx(wall, rel=0.02)
    total = sum(phase["seconds"] for phase in found["phases"].values())
    assert total == pytest.approx(found["seconds"])
    assert found["flops"]["student"] == 80 * STUDENT_FLOPS
    assert found["phases"]["teacher_forward"]["seconds"] > 0
    assert found["peak_memory_bytes"] > 0
    assert "NVIDIA" in found["hardware"]["device"]
