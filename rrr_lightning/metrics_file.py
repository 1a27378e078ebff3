"""`metrics.csv` of a run: one row per logged step, continued when the run is resumed.

Lightning's `CSVLogger` deletes the file of a folder that is used a second time; here the rows of
the steps that the run goes back over are dropped, and the rest is kept.
"""

from __future__ import annotations

import csv
import io
import itertools
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from rrr_lightning.errors import InputError
from rrr_lightning.files import atomic_file, read_text

NAME = "metrics.csv"
MOST_BYTES = 2**31


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
            if self.from_step == 0:
                _keep_former(path)
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
        with atomic_file(path) as file:
            text = io.TextIOWrapper(file, newline="", write_through=True)
            writer = csv.DictWriter(text, columns, lineterminator="\n")
            if columns:
                writer.writeheader()
            writer.writerows(rows)
            text.detach()


def _keep_former(path: Path) -> None:
    """Renames the file of an earlier run in the folder, which has left no checkpoint."""
    if not path.exists():
        return
    number = next(n for n in itertools.count(1) if not path.with_stem(f"{path.stem}-{n}").exists())
    path.rename(path.with_stem(f"{path.stem}-{number}"))
    rank_zero_info(f"{path} of an earlier run is kept as {path.stem}-{number}{path.suffix}")


def read_rows(path: str | Path) -> tuple[list[str], list[dict[str, str]]]:
    """Returns the columns and rows of a metrics file; a last line that a kill cut is left out."""
    path = Path(path)
    if not path.exists():
        return [], []
    whole = read_text(path, most=MOST_BYTES).rpartition("\n")[0]
    try:
        reader = csv.DictReader(io.StringIO(whole), strict=True)
        rows = list(reader)
        if reader.fieldnames and "step" not in reader.fieldnames:
            raise ValueError("the header has no step")
        for row in rows:
            int(row["step"])
            if None in row or None in row.values():
                raise ValueError("a row has another number of cells than the header")
    except (csv.Error, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} is damaged ({error})", accepted="the file as a run has written it, or none"
        ) from error
    return list(reader.fieldnames or []), rows
