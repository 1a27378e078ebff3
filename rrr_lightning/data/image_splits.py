"""From `source` to splits: a folder of class folders, parquet files, or a `datasets` hub id."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from rrr_lightning.data.image_sources import (
    FolderImages,
    ImageSource,
    TableImages,
    visible_entries,
)
from rrr_lightning.errors import InputError, did_you_mean

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
USUAL_NAMES = ("val", "validation", "test")
Open = Callable[[str], ImageSource]


def open_splits(
    source: str, train_split: str, val_split: str | None, image_column: str, label_column: str
) -> tuple[ImageSource, ImageSource | None]:
    """Returns the training split and the validation split, which is None where there is none.

    Args:
        source: Folder with one folder per split, folder of parquet files (`train.parquet`,
            `train-00000-of-00002.parquet`), one parquet file (a training split), or hub id.
        train_split: Name of the training split.
        val_split: Name of the validation split; None takes the first of val, validation and test.
        image_column: Column of images in tables.
        label_column: Column of labels in tables.

    Raises:
        InputError: The source or a split is not there, or the splits do not have the same classes.
    """
    names, open_split = _find(Path(source), source, image_column, label_column)
    if train_split not in names:
        raise _no_split("train_split", train_split, source, names)
    if val_split is not None and val_split not in names:
        raise _no_split("val_split", val_split, source, names)
    if val_split is None:
        val_split = next((name for name in USUAL_NAMES if name in names), None)
    train = open_split(train_split)
    if val_split is None:
        return train, None
    validation = open_split(val_split)
    _check_classes(train, train_split, validation, val_split)
    return train, validation


def _find(path: Path, source: str, *columns: str) -> tuple[Sequence[str], Open]:
    if path.is_dir():
        tables = sorted([*path.glob("*.parquet"), *path.glob("data/*.parquet")])
        if tables:
            return _parquet(tables, columns)
        folders = [entry.name for entry in visible_entries(path) if entry.is_dir()]
        if not folders:
            raise InputError(
                "holds neither folders nor parquet files", key="data.source", found=source
            )
        return folders, lambda split: FolderImages(path / split)
    if path.is_file() and path.suffix == ".parquet":
        return ["train"], lambda split: _open_parquet([path], columns)
    if path.exists() or not HUB_ID.fullmatch(source):
        raise InputError(
            "is not a parquet file" if path.exists() else "no such file or folder",
            key="data.source",
            found=source,
            accepted="a folder of class folders, parquet files, or a hub id such as owner/name",
        )
    return _hub(source, columns)


def _parquet(tables: list[Path], columns: Sequence[str]) -> tuple[Sequence[str], Open]:
    splits: dict[str, list[Path]] = {}
    for table in tables:
        splits.setdefault(re.split(r"[-_.]", table.name)[0], []).append(table)
    return list(splits), lambda split: _open_parquet(splits[split], columns)


def _open_parquet(files: list[Path], columns: Sequence[str]) -> TableImages:
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    where = str(files[0]) if len(files) == 1 else f"{files[0]} and {len(files) - 1} more"
    try:
        table = Dataset.from_parquet([str(file) for file in files])
    except (DatasetGenerationError, OSError, ValueError) as error:
        raise InputError(
            f"cannot be read as parquet ({_reason(error)})", key="data.source", found=where
        ) from error
    return TableImages(table, where, *columns)


def _hub(source: str, columns: Sequence[str]) -> tuple[Sequence[str], Open]:
    from datasets import get_dataset_split_names, load_dataset

    try:
        names = get_dataset_split_names(source)
    except Exception as error:
        raise InputError(
            f"is neither here nor a data set of the hub that can be reached ({_reason(error)})",
            key="data.source",
            found=source,
        ) from error
    return names, lambda split: TableImages(
        load_dataset(source, split=split), f"{source} {split}", *columns
    )


def _reason(error: BaseException) -> str:
    """The first line of the innermost error's message."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error) or type(error).__name__).splitlines()[0]


def _no_split(key: str, split: str, source: str, names: Sequence[str]) -> InputError:
    return InputError(
        f"{source} has no such split{did_you_mean(split, names)}",
        key=f"data.{key}",
        found=split,
        accepted=", ".join(names),
    )


def _check_classes(
    train: ImageSource, train_split: str, validation: ImageSource, val_split: str
) -> None:
    known, other = train.class_names or (), validation.class_names or ()
    if known == other:
        return
    for have, where, lack, there in (
        (known, train_split, other, val_split),
        (other, val_split, known, train_split),
    ):
        missing = [name for name in have if name not in lack]
        if missing:
            raise InputError(
                f"class {missing[0]!r} is in {where} but not in {there}"
                + (f", nor are {len(missing) - 1} more" if missing[1:] else ""),
                key="data.source",
            )
    raise InputError(
        f"the classes of {val_split} are in another order than those of {train_split}",
        key="data.source",
        found=other,
        accepted=str(known),
    )
