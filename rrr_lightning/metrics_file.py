"""`metrics.csv` of a run: one row per logged step, continued when the run is resumed.

Lightning's `CSVLogger` deletes the file of a folder that is used a second time; here the rows of
the steps that the run goes back over are dropped, and the rest is kept.
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_only

NAME = "metrics.csv"


class MetricsFile(Logger):
    """Logs to `metrics.csv` in a folder.

    Args:
        folder: The run folder.
        from_step: First step that this run logs; rows of earlier steps are kept. Nothing is touched
            before the first row is logged.
    """

    def __init__(self, folder: str | Path, from_step: int = 0) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.from_step = from_step
        self._columns: list[str] | None = None

    @property
    def name(self) -> str:
        """The same for every run: the folder tells them apart."""
        return ""

    @property
    def version(self) -> str:
        """The same for every run: the folder tells them apart."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder, where the configuration is saved too."""
        return str(self.folder)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Writes nothing: `config.yaml` holds them."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Appends one row; a metric not seen before becomes a new column."""
        path = self.folder / NAME
        if self._columns is None:
            self._columns, rows = read_rows(path)
            kept = [row for row in rows if int(row["step"]) < self.from_step]
            self.folder.mkdir(parents=True, exist_ok=True)
            self._rewrite(path, self._columns, kept)
        row = {"step": step, **{key: float(value) for key, value in metrics.items()}}
        new = [key for key in row if key not in self._columns]
        if new:
            _, rows = read_rows(path)
            self._columns += new
            self._rewrite(path, self._columns, rows)
        with path.open("a", newline="") as file:
            csv.DictWriter(file, self._columns, lineterminator="\n").writerow(row)

    @staticmethod
    def _rewrite(path: Path, columns: list[str], rows: list[dict[str, str]]) -> None:
        part = path.with_name(f".{path.name}.part")
        with part.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns, lineterminator="\n")
            if columns:
                writer.writeheader()
            writer.writerows(rows)
        os.replace(part, path)


def read_rows(path: str | Path) -> tuple[list[str], list[dict[str, str]]]:
    """Returns the columns and rows of a metrics file; a last line that a kill cut is left out."""
    path = Path(path)
    if not path.exists():
        return [], []
    whole = path.read_text().rpartition("\n")[0]
    reader = csv.DictReader(io.StringIO(whole))
    rows = list(reader)
    return list(reader.fieldnames or []), rows
