"""The training loss, for loggers and progress bars, without a wait for the device at every step.

A loss or weights that are not finite stop the run, and are not saved.

Lightning turns whatever it shows on a progress bar into a number after every batch, which on a GPU
waits for the whole step and keeps the host from running ahead. So the bar gets the loss at logging
steps alone.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from rrr_lightning.errors import InputError

MOST_LOSSES = 1024  # that are kept until a step that waits for the device anyway
REMEDY = "a smaller learning rate, gradient clipping (trainer.gradient_clip_val), or other data"


class Diverged(InputError):
    """The training has diverged, which it would do again with the same settings."""


def is_logging_step(trainer: Trainer) -> bool:
    """Returns whether the trainer will hand the metrics of this step to its loggers."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    done = trainer.fit_loop.epoch_loop._batches_that_stepped
    return every > 0 and (done + 1) % every == 0


def check_loss(losses: Iterable[tuple[int, Tensor]]) -> float | None:
    """Returns the last of several losses, None without any; waits for the device."""
    found = list(losses)
    values = torch.stack([loss.float().sum() for _, loss in found]).tolist() if found else []
    for (step, _), value in zip(found, values, strict=True):
        if not math.isfinite(value):
            raise Diverged(
                f"the task's loss is not finite at step {step}, so the run has diverged",
                key="loss",
                found=value,
                accepted=REMEDY,
            )
    return values[-1] if values else None


def check_weights(trainer: Trainer, module: LightningModule) -> None:
    """Refuses trained weights that are not finite; waits for the device once."""
    named = [(n, p) for n, p in module.named_parameters() if p.is_floating_point() and p.numel()]
    # The largest magnitude, which no precision overflows; NaN is passed on.
    largest = torch._foreach_norm([p.detach() for _, p in named], math.inf) if named else ()
    if not largest:
        return
    device = largest[0].device
    fine = torch.stack([each.to(device).float() for each in largest]).isfinite().tolist()
    for (name, _), is_fine in zip(named, fine, strict=True):
        if not is_fine:
            raise Diverged(
                f"the weights {name!r} are not finite after {trainer.global_step} steps, so the "
                "run has diverged",
                key="model",
                accepted=f"{REMEDY}; the last checkpoint is left as it is",
            )


class TrainingLoss(LightningModule):
    """Mix-in for a LightningModule that logs `train/loss`, and stops where it is not finite."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._recent_losses: deque[tuple[int, Tensor]] = deque(maxlen=MOST_LOSSES)

    def log_training_loss(self, loss: Tensor, rows: int) -> None:
        """Logs the mean loss over some rows as `train/loss`."""
        loss = loss.detach()
        if self._trainer is not None:
            self._recent_losses.append((self.trainer.global_step, loss))
        self.log("train/loss", loss, batch_size=rows)

    def check_loss(self) -> float | None:
        """Returns the last loss, and refuses those since the last call that are not finite."""
        losses = list(self._recent_losses)
        self._recent_losses.clear()
        return check_loss(losses)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Looks at the losses, and shows the last on progress bars, at logging steps."""
        if not is_logging_step(self.trainer):
            return
        loss = self.check_loss()
        if loss is not None:
            self.trainer.progress_bar_metrics["train/loss"] = loss

    def on_train_end(self) -> None:
        """Refuses to end as if all were well where loss or weights are not finite."""
        self.check_loss()
        check_weights(self.trainer, self)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses to save a run that has diverged, so that the last good checkpoint stays."""
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING:
            self.check_loss()
            check_weights(self.trainer, self)
