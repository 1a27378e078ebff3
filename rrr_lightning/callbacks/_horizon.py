"""How many optimizer steps a run has: what `until`, a fraction of training, refers to."""

from __future__ import annotations

import math

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import GradientAccumulationScheduler, StochasticWeightAveraging

from rrr_lightning.errors import InputError, check


def require_bound(trainer: Trainer) -> None:
    """Refuses a run that nothing bounds, as early as the trainer's arguments can tell."""
    if trainer.max_steps < 0 and trainer.max_epochs in (None, -1):
        raise _unbounded()


def count_steps(trainer: Trainer, at_least: int = 0) -> int:
    """Returns the number of optimizer steps of the whole run: `max_steps`, or epochs x batches.

    Reads the number of batches, so it can be called from `on_train_start` on.
    """
    bounds: list[int] = []
    if trainer.max_steps >= 0:
        bounds.append(trainer.max_steps)
    epochs, batches = _epochs(trainer), trainer.num_training_batches
    if epochs is not None and epochs >= 0 and math.isfinite(batches):
        factors = _accumulation(trainer, epochs)
        bounds.append(sum(math.ceil(batches / factor) for factor in factors))
    if not bounds:
        raise _unbounded()
    if min(bounds) < at_least:
        raise InputError(
            "is less than the checkpoint's, which would move the end of distillation",
            key="trainer.max_steps",
            found=min(bounds),
            accepted=f"{at_least} as in the checkpoint, or more",
        )
    return min(bounds)


def step_bounds(trainer: Trainer) -> dict[str, int | None]:
    """Returns what decides the number of steps, by key, as far as it must not change in a run."""
    found = {"max_steps": trainer.max_steps, "max_epochs": trainer.max_epochs}
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    if not any(isinstance(each, GradientAccumulationScheduler) for each in callbacks):
        found["accumulate_grad_batches"] = trainer.accumulate_grad_batches
    return found


def check_bounds(trainer: Trainer, before: dict[str, int | None]) -> None:
    """Refuses a run whose number of steps was changed after it had started."""
    now = step_bounds(trainer)
    for name in now:
        check(
            now[name] == before[name],
            f"trainer.{name}",
            now[name],
            f"{before[name]}, as when training started",
            "was changed during the run, which moves the end of distillation",
        )


def _epochs(trainer: Trainer) -> int | None:
    """The epochs that train; weight averaging adds one that only updates batch norms."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, StochasticWeightAveraging) and callback._max_epochs >= 0:
            return callback._max_epochs
    return trainer.max_epochs


def _accumulation(trainer: Trainer, epochs: int) -> list[int]:
    """The micro-batches of a step, by epoch."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, GradientAccumulationScheduler):
            return [callback.get_accumulate_grad_batches(epoch) for epoch in range(epochs)]
    return [trainer.accumulate_grad_batches] * epochs


def _unbounded() -> InputError:
    return InputError(
        "the run has no bound in steps, so `until` would be a fraction of nothing",
        key="trainer.max_steps",
        found=-1,
        accepted="a number of optimizer steps, or max_epochs over data of known length",
    )
