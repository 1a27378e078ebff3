"""A distilled run resumed in the middle of an accumulation goes on as if it had never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.distillation.pool import TeacherPool
from rrr_lightning.distillation.schedule import DistillationSchedule
from tests.data.toy import Notes, NumberedData, make_trainer

STEPS = 8
MICRO_BATCHES = 3
UNTIL = 0.7  # the weight is zero from step 6 on

# (optimizer step, teachers that ran, weight or None, sample numbers) of one micro-batch
Entry = tuple[int, list[int], float | None, list[int]]


class Journal(Callback):
    """Notes what each micro-batch was, and saves after it. Goes after the distillation callback.

    Which teachers ran comes from the networks themselves, the weight from what was logged.
    """

    def __init__(self, teachers: list[nn.Module], folder: Path | None = None) -> None:
        self.folder = folder
        self.ran: list[int] = []
        self.entries: list[Entry] = []
        for number, teacher in enumerate(teachers):
            teacher.register_forward_hook(lambda *_, number=number: self.ran.append(number))

    def on_train_batch_start(self, *_: Any) -> None:
        self.ran.clear()  # the callback has tried all teachers on the first batch

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        step, samples = pl_module.seen[-1]
        weight = trainer.callback_metrics.get("train/distillation_weight") if self.ran else None
        value = None if weight is None else float(weight)
        self.entries.append((step, list(self.ran), value, samples))
        if self.folder is not None:
            trainer.save_checkpoint(self.folder / f"{len(self.entries)}.ckpt")


def fit(folder: Path, pool: TeacherPool, checkpoint: Path | None = None) -> tuple[Notes, Journal]:
    with torch.random.fork_rng():
        torch.manual_seed(9)
        teachers: list[nn.Module] = [nn.Linear(6, 3) for _ in range(2)]
    distillation = DistillationCallback(
        teachers, schedule=DistillationSchedule(until=UNTIL), pool=pool, student_logits="net"
    )
    journal = Journal(teachers, folder if checkpoint is None else None)
    module = Notes()
    trainer = make_trainer(
        folder, STEPS, callbacks=[distillation, journal], log_every_n_steps=1, limit_val_batches=0
    )
    trainer.fit(module, datamodule=NumberedData(micro_batch_size=4), ckpt_path=checkpoint)
    return module, journal


@pytest.mark.parametrize("per_step", [1, "all"])
def test_resume_inside_a_window(tmp_path: Path, per_step: Any) -> None:
    pool = TeacherPool(per_step, seed=2)
    whole, journal = fit(tmp_path, pool)
    assert len(journal.entries) == STEPS * MICRO_BATCHES
    teachers = {tuple(ran) for _, ran, _, _ in journal.entries}
    assert teachers == ({(0,), (1,), ()} if per_step == 1 else {(0, 1), ()})
    weights = [weight for _, _, weight, _ in journal.entries[::MICRO_BATCHES]]
    assert weights[0] == pytest.approx(0.9)
    assert weights[6:] == [None, None]
    # One and two micro-batches into a step: early, later, in the last distilled one, after it.
    for done in (1, 2, 7, 11, 16, 17, 19, 23):
        resumed, rest = fit(tmp_path, pool, tmp_path / f"{done}.ckpt")
        assert rest.entries == [e for e in journal.entries if e[0] >= done // MICRO_BATCHES]
        assert torch.equal(whole.net.weight, resumed.net.weight)
        assert torch.equal(whole.net.bias, resumed.net.bias)
