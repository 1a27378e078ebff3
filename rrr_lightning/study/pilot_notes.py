"""What a pilot run tells besides its ledger: its metrics, and how large a validation is."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from rrr_lightning.jobs.process import write_json
from rrr_lightning.study.records import NOTES


class PilotNotes(Callback):
    """Writes `notes.json` into the run folder at every validation."""

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the names of the metrics, and how many batches were and would be validated."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        loader = trainer.val_dataloaders
        try:
            batches = None if loader is None else len(loader)
        except TypeError:  # a stream
            batches = None
        used = sum(int(each) for each in trainer.num_val_batches)
        notes = {"metrics": sorted(trainer.callback_metrics), "batches": batches, "used": used}
        write_json(Path(trainer.default_root_dir, NOTES), notes)
