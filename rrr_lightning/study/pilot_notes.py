"""What a pilot run tells besides its ledger: metrics, sizes, and what teachers take of a step."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from rrr_lightning.jobs.process import write_json
from rrr_lightning.study.records import NOTES

WARM_UP_STEPS = 3  # distilled ones, which the median leaves out
LONG_RUN = 1000


class PilotNotes(Callback):
    """Writes `notes.json` into the run folder at every validation."""

    def __init__(self) -> None:
        self._step = 0
        self._paid = 0.0
        self._by_teachers: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Takes down what the teachers, however many, took of a distilled optimizer step."""
        step, self._step = self._step, trainer.global_step
        ledger = _find(trainer, "CostLedger")
        if step == trainer.global_step or ledger is None:
            return
        before, self._paid = self._paid, ledger.state_dict()["phases"]["teacher_forward"]["seconds"]
        distillation = _find(trainer, "DistillationCallback")
        if distillation and distillation.schedule.at_step(step, trainer.max_steps) > 0:
            self._by_teachers.append(self._paid - before)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the names of the metrics, and how many batches were and would be validated."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        loader = trainer.val_dataloaders
        try:
            batches = None if loader is None else len(loader)
        except TypeError:  # a stream
            batches = None
        taught = self._by_teachers[WARM_UP_STEPS:] or self._by_teachers
        notes = {
            "metrics": sorted(trainer.callback_metrics),
            "batches": batches,
            "used": sum(int(each) for each in trainer.num_val_batches),
            "accumulation": trainer.accumulate_grad_batches,
            "share": _share(_find(trainer, "DistillationCallback")),
            "teacher_seconds": statistics.median(taught) if taught else 0.0,
        }
        write_json(Path(trainer.default_root_dir, NOTES), notes)


def _find(trainer: Trainer, key: str) -> Any:
    """Returns the callback whose state has this key in checkpoints, None without one."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return next((each for each in callbacks if each.state_key == key), None)


def _share(distillation: Any) -> float:
    """Returns the part of the steps of a long run that are distilled."""
    if distillation is None:
        return 0.0
    schedule = distillation.schedule
    taught = [step for step in range(LONG_RUN) if schedule.at_step(step, LONG_RUN) > 0]
    return len(taught) / LONG_RUN
