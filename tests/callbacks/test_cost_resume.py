"""The ledger of a run that is interrupted: what is lost and done again is paid twice."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from rrr_lightning import CostLedger, InputError
from tests.data.toy import Notes, NumberedData, make_trainer

GLOBAL_BATCH = 12
FLOPS = 2 * 2 * GLOBAL_BATCH * 6 * 3  # of a step: forward, and the gradient of the weight


class Fails(Callback):
    """Saves at one step and fails at another."""

    def __init__(self, save_at: int, fail_at: int) -> None:
        self.save_at, self.fail_at = save_at, fail_at

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == self.save_at:
            trainer.save_checkpoint(Path(trainer.default_root_dir, "a.ckpt"))
        if trainer.global_step == self.fail_at:
            raise ArithmeticError("broken")


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
    assert after["samples"] == 13 * GLOBAL_BATCH
    assert after["phases"]["student_step"]["count"] == 13 * 3
    assert after["phases"]["set_up"]["count"] == 2
    for name, phase in before["phases"].items():
        assert after["phases"][name]["seconds"] >= phase["seconds"]
    total = sum(phase["seconds"] for phase in after["phases"].values())
    assert after["seconds"] == pytest.approx(total)
    assert not after["mixed_hardware"]


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
