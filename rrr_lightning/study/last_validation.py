"""Validates a run once more where it ends, so that its quality is that of its last step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from rrr_lightning.jobs.process import write_json
from rrr_lightning.study.records import VALIDATED


class LastValidation(Callback):
    """Makes the last step one that is validated, whatever `val_check_interval` is.

    Under `rrr validate`, the metrics go to `validated.json` in the run folder: for a run that was
    killed between its last checkpoint and its last validation.
    """

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Stops at the last step by the door that leads past validation."""
        if trainer.global_step >= trainer.max_steps:
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leaves the metrics of a validation outside of training."""
        if trainer.state.fn == "validate" and trainer.is_global_zero:
            metrics = {key: float(value) for key, value in trainer.callback_metrics.items()}
            write_json(Path(trainer.default_root_dir, VALIDATED), metrics)
