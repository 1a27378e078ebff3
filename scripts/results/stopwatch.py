"""A callback that leaves the seconds of a run in `seconds.json`: training, validation apart."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer


class Stopwatch(Callback):
    """Counts from the first to the last step, on the main process.

    The file holds the seconds of `training` and of `validation`, and in `at` for every validation
    the optimizer steps done and the seconds of training that they took.
    """

    def __init__(self) -> None:
        self._started = self._paused = 0.0
        self._validation = 0.0
        self._at: list[tuple[int, float]] = []

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        """Starts."""
        self._started = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        """Starts to count validation."""
        self._paused = time.perf_counter()
        if not trainer.sanity_checking:
            trained = self._paused - self._started - self._validation
            self._at.append((trainer.global_step, trained))

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        """Ends to count validation, the sanity check before training aside."""
        if not trainer.sanity_checking:
            self._validation += time.perf_counter() - self._paused

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        """Writes the file."""
        total = time.perf_counter() - self._started
        seconds = {
            "training": total - self._validation,
            "validation": self._validation,
            "at": self._at,
        }
        Path(trainer.default_root_dir, "seconds.json").write_text(json.dumps(seconds))
