"""What callbacks need to log at the end of a training batch, without a trace on other steps."""

from __future__ import annotations

from collections.abc import Iterable

from lightning.pytorch import Trainer


def is_logging_step(trainer: Trainer) -> bool:
    """Returns whether the trainer will hand the metrics of this step to its loggers."""
    every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
    done = trainer.fit_loop.epoch_loop._batches_that_stepped
    return every > 0 and (done + 1) % every == 0


def forget_logged(trainer: Trainer, names: Iterable[str]) -> None:
    """Keeps Lightning from repeating the last values in every later row of an epoch."""
    if trainer._results is not None:
        for name in names:
            trainer._results.pop(f"on_train_batch_end.{name}", None)
