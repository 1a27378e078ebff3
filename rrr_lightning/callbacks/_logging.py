"""What callbacks log at the end of a training batch leaves no trace on other steps."""

from __future__ import annotations

from collections.abc import Iterable

from lightning.pytorch import Trainer


def forget_logged(trainer: Trainer, names: Iterable[str]) -> None:
    """Keeps Lightning from repeating the last values in every later row of an epoch."""
    if trainer._results is not None:
        for name in names:
            trainer._results.pop(f"on_train_batch_end.{name}", None)
