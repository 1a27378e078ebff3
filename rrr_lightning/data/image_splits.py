"""From `source` to splits: a folder of class folders, parquet files, or a `datasets` hub id."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from rrr_lightning.data.image_sources import (
    FolderImages,
    ImageSource,
    TableImages,
    files_and_folders,
)
from rrr_lightning.data.splits import (
    check_not_saved_to_disk,
    choose_splits,
    say_unused,
    split_files,
)
from rrr_lightning.errors import InputError

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
Open = Callable[[str], ImageSource]


class ImageSplits:
    """The splits of a source, opened when asked for.

    Args:
        source: Folder with one folder per split, folder of parquet files (`train.parquet`,
            `train-00000-of-00002.parquet`), one parquet file (a training split), or hub id.
        train_split: Name of the training split; `train` stands for any word for training.
        val_split: Name of the validation split; None for any word for it, or else the test split.
        image_column: Column of images in tables.
        label_column: Column of labels in tables.

    Raises:
        InputError: The source or a split is not there, or there are two for one role.
    """

    def __init__(
        self,
        source: str,
        train_split: str,
        val_split: str | None,
        image_column: str,
        label_column: str,
    ) -> None:
        asked = (train_split, val_split)
        self.names, self._open = _find(Path(source), source, asked, image_column, label_column)
        self.chosen = choose_splits(self.names, source, train_split, val_split)
        self._opened: dict[str, ImageSource] = {}

    def open(self, split: str) -> ImageSource:
        """Returns a split."""
        if split not in self._opened:
            found = self._open(split)
            if split != self.chosen.train:
                _check_classes(self.open(self.chosen.train), self.chosen.train, found, split)
            self._opened[split] = found
        return self._opened[split]

    @property
    def train(self) -> ImageSource:
        """The training split."""
        return self.open(self.chosen.train)

    @property
    def validation(self) -> ImageSource | None:
        """The validation split, if there is one."""
        return None if self.chosen.validation is None else self.open(self.chosen.validation)

    @property
    def test(self) -> ImageSource | None:
        """The test split, if there is one."""
        return None if self.chosen.test is None else self.open(self.chosen.test)


def _find(
    path: Path, source: str, asked: Sequence[str | None], *columns: str
) -> tuple[Sequence[str], Open]:
    if path.is_dir():
        check_not_saved_to_disk(path)
        files, folders = files_and_folders(path)
        tables = [name for name in files if name.endswith(".parquet")]
        if "data" in folders:
            inner = sorted((path / "data").glob("*.parquet"))
            tables += [f"data/{file.name}" for file in inner]
            folders = [name for name in folders if name != "data" or not inner]
        say_unused(source, [name for name in files if name not in tables])
        if tables and folders:
            raise InputError(
                "holds both parquet files and folders",
                key="data.source",
                found=", ".join([*tables[:3], *(f"{name}/" for name in folders[:3])]),
                accepted="one of the two",
            )
        if tables:
            return _parquet(path, tables, asked, columns)
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


def _parquet(
    folder: Path, tables: list[str], asked: Sequence[str | None], columns: Sequence[str]
) -> tuple[Sequence[str], Open]:
    splits: dict[str, list[Path]] = {}
    for split, names in split_files(tables, asked).items():
        for name in names:
            stem = split or re.split(r"[-_.]", Path(name).name)[0]
            splits.setdefault(stem, []).append(folder / name)
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
