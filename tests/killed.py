"""For runs that are killed: a callback that notes every step and kills its process where told,
and a network with dropout, so that a resumed run must draw the same masks.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from rrr_lightning.models.image_networks import CifarResNet


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Journal(Callback):
    """Appends (step, micro-batch, digest of the batch) as JSON lines.

    Args:
        file: Where to; the rank is added to the name.
        kill_at: Optimizer step and micro-batch at whose start the process is killed.
        kill_in_save: Optimizer step in whose save the process is killed, half of the file written.
    """

    def __init__(
        self, file: str, kill_at: list[int] | None = None, kill_in_save: int | None = None
    ) -> None:
        self.file = file
        self.kill_at = kill_at
        self.kill_in_save = kill_in_save

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        step, micro = trainer.global_step, batch_idx % trainer.accumulate_grad_batches
        if self.kill_at == [step, micro]:
            die()
        if self.kill_in_save == step:
            torch.save = self._half_a_save
        images, labels = batch
        digest = hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()
        line = json.dumps([step, micro, digest])
        with Path(f"{self.file}.rank{trainer.global_rank}").open("a") as file:
            file.write(line + "\n")

    @staticmethod
    def _half_a_save(checkpoint: Any, file: Any) -> None:
        whole = io.BytesIO()
        torch.serialization.save(checkpoint, whole)
        content = whole.getvalue()
        file.write(content[: len(content) // 2])
        file.flush()
        die()


class Dropping(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.2)
        self.body = CifarResNet(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        output: Tensor = self.body(self.dropout(images))
        return output
