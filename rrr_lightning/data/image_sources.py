"""Encoded images and their labels: from class folders, or from the tables of `datasets`.

A source knows how many images there are, their labels, the names of the classes, what to call an
image in an error message, and how to fetch the encoded bytes. Nothing is decoded here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from rrr_lightning.data.splits import (
    check_not_saved_to_disk,
    choose_splits,
    is_hidden,
    is_ignored,
    say_unused,
    split_files,
)
from rrr_lightning.errors import InputError, did_you_mean

# Of the raster formats that Pillow reads by itself: no EPS, which starts another program.
ENDINGS = (
    *(".apng", ".avif", ".avifs", ".bmp", ".bw", ".dds", ".dib", ".fit", ".fits", ".flc", ".fli"),
    *(".gif", ".icns", ".ico", ".im", ".j2c", ".j2k", ".jfif", ".jp2", ".jpc", ".jpe", ".jpeg"),
    *(".jpf", ".jpg", ".jpx", ".mpo", ".msp", ".pbm", ".pcx", ".pfm", ".pgm", ".png", ".pnm"),
    *(".ppm", ".psd", ".qoi", ".ras", ".rgb", ".rgba", ".sgi", ".tga", ".tif", ".tiff", ".webp"),
    *(".xbm", ".xpm"),
)


class Images(Protocol):
    """Encoded images, with labels (int64 of shape [N]) where they have any."""

    @property
    def labels(self) -> torch.Tensor | None:
        """The labels."""

    def __len__(self) -> int: ...

    def encoded(self, indices: Sequence[int]) -> list[bytes]:
        """Returns the encoded bytes of images."""

    def name(self, index: int) -> str:
        """Returns what to call an image, with its index."""

    def path(self, index: int) -> str:
        """Returns where an image lies, relative to its split or folder; or its index."""


class ImageSource(Images, Protocol):
    """One split: labels (int64 of shape [N]), class names where known, and encoded images."""

    labels: torch.Tensor
    class_names: tuple[str, ...] | None


class _ImageFiles:
    """Images in files: paths relative to a folder."""

    root: Path
    paths: list[str]

    def __len__(self) -> int:
        return len(self.paths)

    def encoded(self, indices: Sequence[int]) -> list[bytes]:
        """Reads image files."""
        folder = f"{self.root}{os.sep}"
        return [_read(folder + self.paths[index], partial(self.name, index)) for index in indices]

    def name(self, index: int) -> str:
        """Returns the path of an image, with its index."""
        return f"image {index}, {self.root / self.paths[index]}"

    def path(self, index: int) -> str:
        """Returns the path of an image, relative to the folder."""
        return self.paths[index]


class UnlabelledImages(_ImageFiles):
    """All images of a folder and its sub-folders, in alphabetical order.

    Args:
        root: The folder.

    Raises:
        InputError: It holds no images, or a file that is not an image by its ending.
    """

    labels = None

    def __init__(self, root: Path) -> None:
        self.root = root
        self.paths = [path.partition("/")[2] for path in _images_in(root)]


class FolderImages(_ImageFiles):
    """`<root>/<class>/<image>`, one folder per class; classes and images in alphabetical order.

    Args:
        root: Folder of one split.

    Raises:
        InputError: No such folder, no class folders, a class without images, or a file that is not
            an image by its ending. Hidden files, READMEs, licences and the like are passed over.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.class_names: tuple[str, ...] | None
        files, names = files_and_folders(root)
        if not names:
            raise InputError(
                "holds no class folders",
                key="data.source",
                found=str(root),
                accepted="one folder of images per class",
            )
        for file in (file for file in files if file.lower().endswith(ENDINGS)):
            raise InputError(
                "is an image outside of the class folders",
                key="data.source",
                found=str(root / file),
                accepted="one folder of images per class",
            )
        say_unused(str(root), files)
        self.class_names = tuple(names)
        self.paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(names):
            found = _images_in(root / name)
            self.paths += found
            labels += [label] * len(found)
        self.labels = torch.tensor(labels)


class TableImages:
    """A `datasets.Dataset` with a column of images and a column of labels.

    Args:
        table: The data set.
        where: What to call it in messages.
        image_column: Column of encoded images: an `Image` feature, or binary.
        label_column: Column of labels: a `ClassLabel` feature, or whole numbers from 0.

    Raises:
        InputError: A column is missing or of another kind, or the table is empty.
    """

    def __init__(self, table: Any, where: str, image_column: str, label_column: str) -> None:
        from datasets import ClassLabel, Image, Value

        for argument, column in (("image_column", image_column), ("label_column", label_column)):
            if column not in table.features:
                raise InputError(
                    f"{where} has no such column{did_you_mean(column, table.features)}",
                    key=f"data.{argument}",
                    found=column,
                    accepted=", ".join(table.features),
                )
        image, label = table.features[image_column], table.features[label_column]
        binary = isinstance(image, Value) and "binary" in image.dtype
        if not binary and not isinstance(image, Image) and set(_names(image)) != {"bytes", "path"}:
            raise InputError(
                f"{where} has no images in this column but {image}",
                key="data.image_column",
                found=image_column,
                accepted="a column of encoded images",
            )
        whole = isinstance(label, Value) and "int" in label.dtype
        if not whole and not isinstance(label, ClassLabel):
            raise InputError(
                f"{where} has no class labels in this column but {label}",
                key="data.label_column",
                found=label_column,
                accepted="a column of class labels or whole numbers",
            )
        if len(table) == 0:
            raise InputError("holds no images", key="data.source", found=where)
        self.where = where
        self.column = image_column
        self.class_names = tuple(label.names) if isinstance(label, ClassLabel) else None
        self.labels = torch.tensor(table.with_format("arrow")[label_column][:].to_pylist())
        if isinstance(image, Image):
            table = table.cast_column(image_column, Image(decode=False))
        self.table = table.select_columns([image_column])
        self._check_labels(label_column)

    def encoded(self, indices: Sequence[int]) -> list[bytes]:
        """Reads rows of the table; an image that is stored as a path is read from its file."""
        rows = self.table[list(indices)][self.column]
        images = []
        for index, row in zip(indices, rows, strict=True):
            stored = row["bytes"] if isinstance(row, dict) else row
            if stored is None and isinstance(row, dict) and row["path"]:
                stored = _read(row["path"], partial(self.name, index))
            if stored is None:
                raise InputError(f"{self.name(index)} is missing", key="data.source")
            images.append(stored)
        return images

    def __len__(self) -> int:
        return len(self.labels)

    def path(self, index: int) -> str:
        """Returns the index of an image."""
        return str(index)

    def name(self, index: int) -> str:
        """Returns the index of an image and the name of the table."""
        return f"image {index} of {self.where}"

    def _check_labels(self, label_column: str) -> None:
        classes = len(self.class_names) if self.class_names else None
        bad = self.labels < 0 if classes is None else (self.labels < 0) | (self.labels >= classes)
        if bad.any():
            index = int(bad.nonzero()[0])
            raise InputError(
                f"{self.name(index)} has a label that names no class",
                key="data.label_column",
                found=int(self.labels[index]),
                accepted=f"0 to {classes - 1}" if classes else "whole numbers from 0",
            )


def _names(feature: Any) -> Sequence[str]:
    return list(feature) if isinstance(feature, dict) else []


def files_and_folders(folder: Path) -> tuple[list[str], list[str]]:
    """Returns the names of files and of folders in a folder, without those that are no data."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_dir()) for entry in entries)
    except OSError as error:
        raise InputError(
            f"cannot be read as a folder ({error.strerror})", key="data.source", found=str(folder)
        ) from error
    files = [name for name, is_folder in found if not is_folder]
    images = [name for name in files if name.lower().endswith(ENDINGS) and not is_hidden(name)]
    others = [name for name in files if not name.lower().endswith(ENDINGS) and not is_ignored(name)]
    folders = [name for name, is_folder in found if is_folder and not is_hidden(name)]
    return sorted(images + others), folders


def _images_in(folder: Path) -> list[str]:
    """Paths of a class's images relative to the split's folder, sub-folders included."""
    files, folders = files_and_folders(folder)
    for name in (name for name in files if not name.lower().endswith(ENDINGS)):
        raise InputError(
            "is not an image by its ending",
            key="data.source",
            found=str(folder / name),
            accepted="what Pillow reads, such as .jpg, .png, .tif, .webp, .avif",
        )
    found: list[str] = []
    inner = set(folders)
    for name in sorted(files + folders):
        found += _images_in(folder / name) if name in inner else [name]
    if not found:
        raise InputError("holds no images", key="data.source", found=str(folder))
    return [f"{folder.name}/{path}" for path in found]


def _read(path: str, name: Callable[[], str]) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(
            f"{name()} cannot be read ({error.strerror})", key="data.source"
        ) from error


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
