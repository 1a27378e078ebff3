"""The ledger of a run that is interrupted: what is lost and done again is paid twice."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from rrr_lightning import CostLedger, DistillationCallback, DistillationSchedule, InputError
from rrr_lightning.study.results import phase_seconds, run_costs
from tests.data.toy import Notes, NumberedData, make_trainer

GLOBAL_BATCH = 12
FLOPS = 2 * 2 * GLOBAL_BATCH * 6 * 3  # of a step: forward, and the gradient of the weight


def save(trainer: Trainer, step: int) -> None:
    """Saves right after a step, and not once more within the next one."""
    if trainer.global_step == step and (trainer.fit_loop.batch_idx + 1) % 3 == 0:
        trainer.save_checkpoint(Path(trainer.default_root_dir, "a.ckpt"))


class Fails(Callback):
    """Saves at one step and fails at another."""

    def __init__(self, save_at: int, fail_at: int) -> None:
        self.save_at, self.fail_at = save_at, fail_at

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        save(trainer, self.save_at)
        if trainer.global_step == self.fail_at:
            raise ArithmeticError("broken")


class Killed(Callback):
    """Saves at one step, and takes a copy of what a kill at another one would leave."""

    def __init__(self, save_at: int, kill_at: int, copy: Path) -> None:
        self.save_at, self.kill_at, self.copy = save_at, kill_at, copy

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        save(trainer, self.save_at)
        if trainer.global_step == self.kill_at and not self.copy.exists():
            shutil.copytree(trainer.default_root_dir, self.copy)


def fit(
    folder: Path, *callbacks: Callback, checkpoint: Path | None = None, ledger: Any = None
) -> dict[str, Any]:
    """Trains ten steps, or to where it fails, and returns the ledger beside the run."""
    trainer = make_trainer(
        folder, 10, callbacks=[ledger or CostLedger(), *callbacks], limit_val_batches=0
    )
    data = NumberedData(micro_batch_size=4)
    with suppress(ArithmeticError):
        trainer.fit(Notes(), datamodule=data, ckpt_path=checkpoint)
    return read(folder)


def read(folder: Path) -> dict[str, Any]:
    ledger: dict[str, Any] = json.loads((folder / "ledger.json").read_text())
    return ledger


def seldom() -> CostLedger:
    """A ledger that is written at the first step, and then as seldom as possible."""
    return CostLedger(every_n_seconds=1e9)


@pytest.fixture
def failed(tmp_path: Path) -> Path:
    """A run that has saved step 4 and failed at step 7."""
    found = fit(tmp_path / "run", Fails(4, 7))
    assert (found["steps"], found["step"], found["redone_steps"]) == (7, 7, 0)
    return tmp_path / "run"


def test_work_that_is_lost_and_done_again_is_paid_twice(failed: Path) -> None:
    before = read(failed)
    after = fit(failed, checkpoint=failed / "a.ckpt")
    assert after["run"] == before["run"]
    assert (after["steps"], after["step"], after["redone_steps"]) == (7 + 6, 10, 3)
    assert after["flops"]["student"] == 13 * FLOPS
    assert run_costs(after)["flops"] == pytest.approx(10 * FLOPS)
    assert after["samples"] == 13 * GLOBAL_BATCH
    assert after["phases"]["student_step"]["count"] == 13 * 3
    assert after["phases"]["set_up"]["count"] == 2
    for name, phase in before["phases"].items():
        assert after["phases"][name]["seconds"] >= phase["seconds"]
    total = sum(phase["seconds"] for phase in after["phases"].values())
    assert after["seconds"] == pytest.approx(total)
    assert not after["mixed_hardware"]


def test_the_file_is_never_behind_a_checkpoint(tmp_path: Path) -> None:
    fit(tmp_path / "run", Killed(4, 6, tmp_path / "killed"), ledger=seldom())
    assert read(tmp_path / "killed")["steps"] == 4
    after = fit(tmp_path / "killed", checkpoint=tmp_path / "killed" / "a.ckpt")
    assert (after["steps"], after["step"], after["redone_steps"]) == (10, 10, 0)
    assert after["flops"]["student"] == 10 * FLOPS


def test_a_file_that_is_behind_its_checkpoint_is_not_gone_on_from(failed: Path) -> None:
    saved = torch.load(failed / "a.ckpt", weights_only=True)["callbacks"]["CostLedger"]
    flops = {"student": FLOPS, "teacher": 0.0}
    old = saved | {"steps": 1, "step": 1, "flops": flops, "seconds": 0.0}
    (failed / "ledger.json").write_text(json.dumps(old))
    after = fit(failed, checkpoint=failed / "a.ckpt")
    assert (after["steps"], after["step"], after["redone_steps"]) == (10, 10, 0)
    assert after["flops"]["student"] == 10 * FLOPS


@pytest.mark.parametrize("file", ["whole", "old", "gone"])
def test_a_run_that_is_killed_after_its_last_checkpoint(tmp_path: Path, file: str) -> None:
    killed = tmp_path / "killed"
    whole = fit(tmp_path / "run", Killed(10, 10, killed), ledger=seldom())
    if file == "old":
        (killed / "ledger.json").write_text(json.dumps(read(killed) | {"steps": 1, "step": 1}))
    elif file == "gone":
        (killed / "ledger.json").unlink()
    after = fit(killed, checkpoint=killed / "a.ckpt")  # there is nothing left to train
    assert (after["steps"], after["step"], after["redone_steps"]) == (10, 10, 0)
    assert after["flops"] == whole["flops"]
    assert after["run"] == whole["run"]
    assert after["phases"]["set_up"]["count"] == 2


def distil(folder: Path, *callbacks: Callback, resumes: bool = False) -> dict[str, Any]:
    """Trains ten steps, the first half of which is distilled, on from a checkpoint if there is."""
    ledger, checkpoint = CostLedger(every_n_seconds=1e-9), folder / "a.ckpt"
    if resumes and not checkpoint.exists():
        ledger.begin(resumes=True)
    distillation = DistillationCallback(
        [nn.Linear(6, 3)],
        schedule=DistillationSchedule(until=0.5),
        student_logits="net",
        allow_teacher_change=True,
    )
    callbacks = (ledger, distillation, *callbacks)
    trainer = make_trainer(folder, 10, callbacks=list(callbacks), limit_val_batches=0)
    data = NumberedData(micro_batch_size=4)
    trainer.fit(Notes(), datamodule=data, ckpt_path=checkpoint if checkpoint.exists() else None)
    return read(folder)


@pytest.mark.parametrize(
    "kills", [[(-1, 5)], [(1, 5)], [(5, 9)], [(2, 4), (6, 9)], [(-1, 3), (2, 7)]]
)
def test_the_cost_of_a_killed_run_is_about_that_of_an_undisturbed_one(
    tmp_path: Path, kills: list[tuple[int, int]]
) -> None:
    whole, folder = distil(tmp_path / "whole"), tmp_path / "0"
    for number, (save, kill) in enumerate(kills):
        killed = tmp_path / str(number + 1)
        distil(folder, Killed(save, kill, killed), resumes=number > 0)
        folder = killed
    found = distil(folder, resumes=True)
    assert found["steps"] - found["redone_steps"] == 10
    assert found["flops"]["student"] > whole["flops"]["student"]
    # Exact where all steps cost alike; here the first half costs more than the second.
    assert run_costs(found)["flops"] == pytest.approx(run_costs(whole)["flops"], rel=0.1)
    for name, seconds in phase_seconds(found).items():
        assert 0 <= seconds <= found["phases"][name]["seconds"]


def test_the_checkpoint_holds_the_ledger_in_plain_types(failed: Path) -> None:
    checkpoint = torch.load(failed / "a.ckpt", weights_only=True)
    stored = checkpoint["callbacks"]["CostLedger"]
    assert (stored["steps"], stored["version"]) == (4, 1)
    assert stored.keys() == read(failed).keys()
    assert json.loads(json.dumps(stored)) == stored


def test_without_the_file_the_checkpoint_is_gone_on_from(failed: Path, tmp_path: Path) -> None:
    found = fit(tmp_path / "elsewhere", checkpoint=failed / "a.ckpt")
    assert (found["steps"], found["redone_steps"]) == (10, 0)
    assert found["run"] == read(failed)["run"]


def test_the_file_of_another_run_is_not_gone_on_from(failed: Path, tmp_path: Path) -> None:
    other = fit(tmp_path / "other")
    found = fit(tmp_path / "other", checkpoint=failed / "a.ckpt")
    assert (found["steps"], found["redone_steps"]) == (10, 0)
    assert found["run"] != other["run"]


def test_a_run_without_a_checkpoint_goes_on_from_its_file_where_told(tmp_path: Path) -> None:
    before = fit(tmp_path, Fails(-1, 3))
    ledger = CostLedger()
    ledger.begin(resumes=True)
    after = fit(tmp_path, ledger=ledger)
    assert (after["steps"], after["redone_steps"]) == (3 + 10, 3)
    assert after["run"] == before["run"]
    assert fit(tmp_path)["steps"] == 10  # not told: another run


def test_a_run_that_has_ended_can_be_extended(tmp_path: Path) -> None:
    ledger = CostLedger()
    trainer = make_trainer(tmp_path, 4, callbacks=[ledger], limit_val_batches=0)
    module = Notes()
    trainer.fit(module, datamodule=NumberedData())
    first = read(tmp_path)
    trainer.fit_loop.epoch_loop.max_steps = 10
    trainer.fit(module, datamodule=NumberedData())
    found = read(tmp_path)
    assert (found["steps"], found["run"]) == (10, first["run"])
    assert found["seconds"] > first["seconds"]


def test_another_machine_is_told(failed: Path) -> None:
    ledger = read(failed)
    ledger["hardware"]["device"] = "another one"
    (failed / "ledger.json").write_text(json.dumps(ledger))
    assert fit(failed, checkpoint=failed / "a.ckpt")["mixed_hardware"]


@pytest.mark.parametrize(
    ("content", "line"),
    [("{", "cost.path: .*ledger.json is damaged"), ('{"version": 7}', "version; found 7")],
)
def test_a_file_that_is_no_ledger_is_refused(failed: Path, content: str, line: str) -> None:
    (failed / "ledger.json").write_text(content)
    with pytest.raises(InputError, match=line):
        fit(failed, checkpoint=failed / "a.ckpt")


class Reader(Callback):
    """Reads the file after every batch: whatever a kill leaves there must be whole."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        if not trainer.global_step:
            return  # nothing is paid until a step is done
        folder = Path(trainer.default_root_dir)
        self.steps.append(read(folder)["steps"])
        assert sorted(file.name for file in folder.iterdir()) == ["ledger.json"]


def test_the_file_is_whole_at_any_moment(tmp_path: Path) -> None:
    reader = Reader()
    fit(tmp_path, reader, ledger=CostLedger(every_n_seconds=1e-9))
    assert reader.steps[::3] == list(range(1, 11))
