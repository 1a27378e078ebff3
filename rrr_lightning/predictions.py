"""`predictions.csv` of `rrr predict`: one row per image, with its likeliest classes."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, distributed

from rrr_lightning.files import atomic_file

NAME = "predictions.csv"
MOST_CLASSES = 5


class PredictionsFile(Callback):
    """Writes what an `ImageClassifier` predicts for the images of an `ImageDataModule`.

    The columns are `image` (its path in its folder, or its row number), `class` and `probability`
    of the likeliest class, then `class_2`, `probability_2` and so on, for up to five classes. The
    file is written at the end, as a whole; rows are in the order of the images on any number of
    devices.

    Args:
        folder: Where to write it; made if it is not there.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / NAME
        self._batches: list[tuple[Tensor, Tensor]] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forgets an earlier run."""
        self._batches = []

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *_: Any
    ) -> None:
        """Keeps the likeliest classes of a batch of probabilities [B, K]."""
        best = outputs.float().topk(min(MOST_CLASSES, outputs.shape[1]), dim=1)
        self._batches.append((best.values.cpu(), best.indices.cpu()))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the file."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        loader: Any = trainer.predict_dataloaders
        images, start = data.predict_images, loader.batches.start
        rows = [
            [images.path(start + number), *_cells(values, classes, pl_module.class_names)]
            for number, (values, classes) in enumerate(
                pair for batch in self._batches for pair in zip(*batch, strict=True)
            )
        ]
        self._batches = []
        if trainer.world_size > 1:
            parts: list[Any] = [None] * trainer.world_size
            distributed.all_gather_object(parts, rows)
            rows = [row for part in parts for row in part]
        if trainer.is_global_zero:
            self._write(rows)
        rank_zero_info(f"{len(rows)} predictions are in {self.path}")

    def _write(self, rows: list[list[str]]) -> None:
        classes = max((len(row) // 2 for row in rows), default=1)
        header = ["image", "class", "probability"]
        for number in range(2, classes + 1):
            header += [f"class_{number}", f"probability_{number}"]
        text = io.StringIO(newline="")
        csv.writer(text, lineterminator="\n").writerows([header, *rows])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(self.path) as file:
            file.write(text.getvalue().encode(errors="surrogateescape"))


def _cells(values: Tensor, classes: Tensor, names: Any) -> list[str]:
    cells = []
    for value, index in zip(values.tolist(), classes.tolist(), strict=True):
        cells += [names[index] if names else str(index), f"{value:.6g}"]
    return cells
