"""Two ranks: what they do is summed, and so are their devices; the wall time is that of one."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from torch import nn

from rrr_lightning import CostLedger, DistillationCallback, DistillationSchedule
from tests.data.toy import Notes, NumberedData, make_trainer

STEPS, GLOBAL_BATCH = 6, 12
FLOPS = 2 * GLOBAL_BATCH * 6 * 3  # of a forward of the global batch

pytestmark = pytest.mark.ddp


class Unequal(Callback):
    """One rank takes longer to save, and says how long the whole run took."""

    def on_save_checkpoint(self, trainer: Trainer, *_: Any) -> None:
        time.sleep(0.2 * trainer.global_rank)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 4:
            trainer.save_checkpoint(Path(trainer.default_root_dir, "a.ckpt"))


def run(folder: Path, ranks: int) -> dict[str, Any]:
    folder.mkdir()
    window = DistillationSchedule(until=0.5)
    teacher = DistillationCallback([nn.Linear(6, 3)], schedule=window, student_logits="net")
    devices = {"devices": 2, "strategy": "ddp_fork"} if ranks == 2 else {}
    callbacks = [CostLedger(price_per_device_hour=3600.0), teacher, Unequal()]
    trainer = make_trainer(folder, STEPS, callbacks=callbacks, limit_val_batches=0, **devices)
    trainer.fit(Notes(), datamodule=NumberedData())
    found: dict[str, Any] = json.loads((folder / "ledger.json").read_text())
    return found


def test_work_is_summed_and_time_is_not(tmp_path: Path) -> None:
    alone, both = run(tmp_path / "alone", 1), run(tmp_path / "both", 2)
    for found in (alone, both):
        assert found["flops"] == {"student": 2 * STEPS * FLOPS, "teacher": STEPS // 2 * FLOPS}
        assert (found["steps"], found["samples"]) == (STEPS, STEPS * GLOBAL_BATCH)
        total = sum(phase["seconds"] for phase in found["phases"].values())
        assert total == pytest.approx(found["seconds"])
        assert found["money"] == found["device_seconds"]
    assert (alone["world_size"], both["world_size"]) == (1, 2)
    assert both["device_seconds"] == pytest.approx(2 * both["seconds"])
    assert both["phases"]["student_step"]["count"] == STEPS
    stored = torch.load(tmp_path / "both" / "a.ckpt", weights_only=True)["callbacks"]["CostLedger"]
    assert (stored["steps"], stored["samples"]) == (4, 4 * GLOBAL_BATCH)
    assert stored["flops"]["student"] == 2 * 4 * FLOPS
