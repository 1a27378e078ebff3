"""The training loss, for loggers and progress bars, without a wait for the device at every step.

Lightning turns whatever it shows on a progress bar into a number after every batch, which on a GPU
waits for the whole step and keeps the host from running ahead. So the bar gets the loss at logging
steps alone.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor


def is_logging_step(trainer: Trainer) -> bool:
    """Returns whether the trainer will hand the metrics of this step to its loggers."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    done = trainer.fit_loop.epoch_loop._batches_that_stepped
    return every > 0 and (done + 1) % every == 0


class TrainingLoss(LightningModule):
    """Mix-in for a LightningModule that logs `train/loss`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._last_loss: Tensor | None = None

    def log_training_loss(self, loss: Tensor, rows: int) -> None:
        """Logs the mean loss over some rows as `train/loss`."""
        self._last_loss = loss.detach()
        self.log("train/loss", self._last_loss, batch_size=rows)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Shows the loss on progress bars, at logging steps."""
        loss, self._last_loss = self._last_loss, None
        if loss is not None and is_logging_step(self.trainer):
            self.trainer.progress_bar_metrics["train/loss"] = loss.item()
