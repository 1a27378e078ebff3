"""What the trainer is told about endless training data: accumulation, validation, and an end.

Lightning's own epoch is not used, as it never ends. `max_steps` bounds the run, and a fractional
`val_check_interval` is taken as a fraction of the data's epoch, rounded to whole optimizer steps.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from rrr_lightning.data.sampling import EndlessBatches
from rrr_lightning.errors import InputError


def pace(trainer: Trainer, batches: EndlessBatches) -> dict[str, Any]:
    """Sets accumulation and validation interval; returns the former values by attribute name."""
    finite_epochs = isinstance(trainer.limit_train_batches, int)
    _refuse_contradictions(trainer, batches)
    if not finite_epochs:
        _refuse_fraction(trainer)
        _refuse_unbounded(trainer, batches)
    settings: dict[str, Any] = {"accumulate_grad_batches": batches.plan.accumulation}
    timed = getattr(trainer, "_val_check_time_interval", None) is not None
    if not timed and not finite_epochs and isinstance(trainer.val_check_interval, float):
        if batches.steps_per_epoch is not None:
            steps = max(1, round(trainer.val_check_interval * batches.steps_per_epoch))
            steps *= trainer.check_val_every_n_epoch or 1
            settings["val_check_interval"] = steps * batches.plan.accumulation
            settings["check_val_every_n_epoch"] = None
        elif trainer.limit_val_batches:
            raise InputError(
                "cannot be a fraction, as the length of streamed data is not known",
                key="trainer.val_check_interval",
                found=trainer.val_check_interval,
                accepted="a whole number of micro-batches",
            )
    former = {name: getattr(trainer, name) for name in settings}
    for name, value in settings.items():
        setattr(trainer, name, value)
    return former


def _refuse_contradictions(trainer: Trainer, batches: EndlessBatches) -> None:
    if overfit := getattr(trainer, "overfit_batches", 0):
        raise InputError(
            "cannot be used with keyed batches",
            key="trainer.overfit_batches",
            found=overfit,
            accepted="0.0",
        )
    callbacks = getattr(trainer, "callbacks", [])
    if any(isinstance(callback, GradientAccumulationScheduler) for callback in callbacks):
        raise InputError(
            "GradientAccumulationScheduler changes what a step sees; accumulation follows from "
            "data.global_batch_size and data.micro_batch_size",
            key="trainer.callbacks",
            accepted="leave it out",
        )
    if trainer.accumulate_grad_batches not in (1, batches.plan.accumulation):
        raise InputError(
            f"is {batches.plan.accumulation} by data.global_batch_size and data.micro_batch_size",
            key="trainer.accumulate_grad_batches",
            found=trainer.accumulate_grad_batches,
            accepted="leave it out",
        )


def _refuse_fraction(trainer: Trainer) -> None:
    limit = trainer.limit_train_batches
    if isinstance(limit, float) and limit != 1.0:
        raise InputError(
            "cannot be a fraction, as the training data never end",
            key="trainer.limit_train_batches",
            found=limit,
            accepted="1.0, or a whole number of micro-batches",
        )


def _refuse_unbounded(trainer: Trainer, batches: EndlessBatches) -> None:
    steps = batches.steps_per_epoch
    epoch = f"an epoch has {'an unknown number of' if steps is None else steps} optimizer steps"
    if trainer.max_steps == -1:
        raise InputError(
            f"must be set, as the training data never end; {epoch}",
            key="trainer.max_steps",
            found=trainer.max_steps,
            accepted="a whole number from 1",
        )
    if trainer.max_epochs not in (None, -1):
        raise InputError(
            f"must be -1, as trainer.max_steps ends the run; {epoch}",
            key="trainer.max_epochs",
            found=trainer.max_epochs,
            accepted="-1",
        )
