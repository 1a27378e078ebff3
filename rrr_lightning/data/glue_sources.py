"""From `source` to the rows of a split: parquet files in a folder per task, or a hub id.

A folder holds one folder per task, named as on the hub or officially (`sst2`, `SST-2`), with
parquet files (`train.parquet`, `train-00000-of-00001.parquet`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rrr_lightning.data.glue_tasks import DIAGNOSTIC, GlueTask, plain_name
from rrr_lightning.data.splits import WORDS, role_of
from rrr_lightning.errors import InputError

# ----------------------------------------------------------------------
# The rows of one split of a task, checked: every text is text, every label one of the task's.


LOWEST_SCORE, HIGHEST_SCORE = 0.0, 5.0


@dataclass(frozen=True)
class GlueRows:
    """The rows of one split.

    Args:
        texts: One list of texts for each of the task's columns.
        labels: The ids of the classes, or the scores; None for a test split.
        where: What messages call the file or split.
    """

    texts: tuple[list[str], ...]
    labels: list[int] | list[float] | None
    where: str

    def __len__(self) -> int:
        return len(self.texts[0])

    @property
    def sha256(self) -> str:
        """The SHA-256 of texts and labels."""
        return hashlib.sha256(json.dumps([self.texts, self.labels]).encode()).hexdigest()


def check_rows(rows: GlueRows, task: GlueTask) -> GlueRows:
    """Returns the rows as they are."""
    if not len(rows):
        raise InputError(f"{rows.where} holds no rows", key="data.source")
    for column, texts in zip(task.columns, rows.texts, strict=True):
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise InputError(
                    f"{rows.where}, row {number} has no {column}",
                    key="data.source",
                    found=text if text is not None else "none",
                    accepted="a text",
                )
    accepted = ", ".join(map(str, range(len(task.labels))))
    if task.is_regression:
        accepted = f"a score from {LOWEST_SCORE:g} to {HIGHEST_SCORE:g}"
    for number, label in enumerate(rows.labels or ()):
        if not _is_label(label, task):
            raise InputError(
                f"{rows.where}, row {number} has a label that {task.name} does not have",
                key="data.source",
                found="none" if label is None else label,
                accepted=accepted,
            )
    return rows


def _is_label(label: object, task: GlueTask) -> bool:
    if task.is_regression:
        is_number = isinstance(label, int | float) and not isinstance(label, bool)
        return is_number and LOWEST_SCORE <= label <= HIGHEST_SCORE  # type: ignore[operator]
    return isinstance(label, int) and 0 <= label < len(task.labels)


HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
MOST_NAMES = 12


def read_split(source: str, task: GlueTask, split: str) -> GlueRows:
    """Returns the rows of a split of a task."""
    path = Path(source).expanduser()
    if path.is_dir():
        folder = _task_folder(path, task)
        tables = _tables(folder, split)
        if not tables:
            raise InputError(
                f"{folder} has no {split} split of {task.name}; it holds {_names_in(folder)}",
                key="data.source",
                found=source,
                accepted=f"{split}.parquet",
            )
        return _read_tables(tables, task, split)
    if path.exists() or not HUB_ID.fullmatch(source):
        raise InputError(
            "no such folder",
            key="data.source",
            found=source,
            accepted="a folder with a folder per task, or a hub id such as nyu-mll/glue",
        )
    return _read_hub(source, task, split)


def has_diagnostic(source: str) -> bool:
    """Returns whether a source has the diagnostic set."""
    path = Path(source).expanduser()
    if path.is_dir():
        return _find_folder(path, DIAGNOSTIC) is not None
    from datasets import get_dataset_config_names

    try:
        return DIAGNOSTIC.name in get_dataset_config_names(source)
    except Exception as error:  # the hub and the cache fail in many ways
        raise InputError(
            f"is no data set of the hub that can be reached ({_reason(error)})",
            key="data.source",
            found=source,
        ) from error


def _find_folder(root: Path, task: GlueTask) -> Path | None:
    folders = (folder for folder in sorted(root.iterdir()) if folder.is_dir())
    return next((folder for folder in folders if plain_name(folder.name) == task.name), None)


def _task_folder(root: Path, task: GlueTask) -> Path:
    folder = _find_folder(root, task)
    if folder is not None:
        return folder
    raise InputError(
        f"{root} has no folder of {task.name}; it holds {_names_in(root)}",
        key="data.source",
        found=str(root),
        accepted=f"a folder with {task.name}/ or {task.folder}/ in it",
    )


def _names_in(folder: Path) -> str:
    names = sorted(path.name + "/" * path.is_dir() for path in folder.iterdir())
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more if names else "nothing"


def _tables(folder: Path, split: str) -> list[Path]:
    """The parquet file of a split, or all of its parts, by any word for the split."""
    role, _, rest = split.partition("_")
    words = "|".join(WORDS[role_of(role) or "test"])
    ending = f"_{rest}" if rest else ""
    name = re.compile(rf"((?:{words}){ending})(?:-(\d+)-of-(\d+))?\.parquet", flags=re.IGNORECASE)
    found = {path: match for path in folder.iterdir() if (match := name.fullmatch(path.name))}
    files = sorted(found)
    if len({match[1] for match in found.values()}) > 1:
        raise InputError(
            f"{folder} has several names for {split}",
            key="data.source",
            found=", ".join(path.name for path in files[:MOST_NAMES]),
            accepted="one of them",
        )
    parts = [tuple(map(int, match.groups()[1:])) for match in found.values() if match[2]]
    whole = parts[0][1] if parts else 0
    if parts and (len(files) > whole or sorted(parts) != [(each, whole) for each in range(whole)]):
        raise InputError(
            f"{folder} holds too few or too many parts of {split}",
            key="data.source",
            found=", ".join(path.name for path in files[:MOST_NAMES]),
            accepted=f"{split}.parquet alone, or all parts of one set",
        )
    return files


def _read_tables(files: Sequence[Path], task: GlueTask, split: str) -> GlueRows:
    import pyarrow as pa
    import pyarrow.parquet

    parts = []
    for file in files:
        try:
            parts.append(pa.parquet.read_table(file))
        except (OSError, pa.ArrowException) as error:
            raise InputError(
                f"{file} cannot be read as parquet ({str(error).splitlines()[0]})",
                key="data.source",
            ) from error
    features = json.loads((parts[0].schema.metadata or {}).get(b"huggingface", b"{}"))
    label = features.get("info", {}).get("features", {}).get("label", {})
    try:
        table = pa.concat_tables(parts)
    except pa.ArrowException as error:
        raise InputError(
            f"{files[0].parent} holds parts of {split} with different columns", key="data.source"
        ) from error
    where = str(files[0]) if len(files) == 1 else f"{files[0].parent}, {split}"
    return _rows_of(table, label.get("names"), task, split, where)


def _read_hub(source: str, task: GlueTask, split: str) -> GlueRows:
    from datasets import load_dataset

    try:
        table = load_dataset(source, task.name, split=split)
    except Exception as error:  # the hub, the cache and the files fail in many ways
        raise InputError(
            "is neither a folder here nor a data set of the hub that can be reached and has "
            f"{task.name}, {split} ({_reason(error)})",
            key="data.source",
            found=source,
        ) from error
    names = getattr(table.features.get("label"), "names", None)
    rows = table.with_format("arrow")[:]
    return _rows_of(rows, names, task, split, f"{source}, {task.name}, {split}")


def _reason(error: BaseException) -> str:
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error) or type(error).__name__).splitlines()[0]


def _rows_of(
    table: Any, names: Sequence[str] | None, task: GlueTask, split: str, where: str
) -> GlueRows:
    is_test = split in task.test_splits
    for column in (*task.columns, *(() if is_test else ("label",))):
        if column not in table.column_names:
            raise InputError(
                f"{where} has no column {column!r}",
                key="data.source",
                found=", ".join(table.column_names),
            )
    if names is not None and tuple(names) != task.labels:
        raise InputError(
            f"{where} has other classes than {task.name}, or in another order",
            key="data.source",
            found=", ".join(names),
            accepted=", ".join(task.labels),
        )
    if is_test and "idx" in table.column_names:
        table = table.sort_by("idx")  # the number that the benchmark's server knows a row by
    texts = tuple(table.column(column).to_pylist() for column in task.columns)
    labels = None if is_test else table.column("label").to_pylist()
    return check_rows(GlueRows(texts, labels, where), task)
