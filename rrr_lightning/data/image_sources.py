"""Encoded images and their labels: from class folders, or from the tables of `datasets`.

A source knows how many images there are, their labels, the names of the classes, what to call an
image in an error message, and how to fetch the encoded bytes. Nothing is decoded here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch

from rrr_lightning.errors import InputError, did_you_mean

ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")


class ImageSource(Protocol):
    """One split: labels (int64 of shape [N]), class names where known, and encoded images."""

    labels: torch.Tensor
    class_names: tuple[str, ...] | None

    def encoded(self, indices: Sequence[int]) -> list[bytes]:
        """Returns the encoded bytes of images."""

    def name(self, index: int) -> str:
        """Returns what to call an image, with its index."""


class FolderImages:
    """`<root>/<class>/<image>`, one folder per class; classes and images in alphabetical order.

    Args:
        root: Folder of one split.

    Raises:
        InputError: No such folder, no class folders, a class without images, or a file that is not
            an image by its ending. Names that start with a dot are passed over.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.class_names: tuple[str, ...] | None
        names = [entry.name for entry in visible_entries(root) if entry.is_dir()]
        if not names:
            raise InputError(
                "holds no class folders",
                key="data.source",
                found=str(root),
                accepted="one folder of images per class",
            )
        self.class_names = tuple(names)
        self.paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(names):
            found = _images_in(root / name)
            self.paths += found
            labels += [label] * len(found)
        self.labels = torch.tensor(labels)

    def encoded(self, indices: Sequence[int]) -> list[bytes]:
        """Reads image files."""
        folder = f"{self.root}{os.sep}"
        return [_read(folder + self.paths[index], partial(self.name, index)) for index in indices]

    def name(self, index: int) -> str:
        """Returns the path of an image, with its index."""
        return f"image {index}, {self.root / self.paths[index]}"


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


def visible_entries(folder: Path) -> list[os.DirEntry[str]]:
    """Returns what a folder holds, by name, without names that start with a dot.

    Raises:
        InputError: It cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            visible = [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(
            f"cannot be read as a folder ({error.strerror})", key="data.source", found=str(folder)
        ) from error
    return sorted(visible, key=lambda entry: entry.name)


def _images_in(folder: Path) -> list[str]:
    """Paths of a class's images relative to the split's folder, sub-folders included."""
    found: list[str] = []
    for entry in visible_entries(folder):
        if entry.is_dir():
            found += [f"{folder.name}/{path}" for path in _images_in(Path(entry.path))]
        elif entry.name.lower().endswith(ENDINGS):
            found.append(f"{folder.name}/{entry.name}")
        else:
            raise InputError(
                "is not an image by its ending",
                key="data.source",
                found=entry.path,
                accepted=", ".join(ENDINGS),
            )
    if not found:
        raise InputError("holds no images", key="data.source", found=str(folder))
    return found


def _read(path: str, name: Callable[[], str]) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise InputError(
            f"{name()} cannot be read ({error.strerror})", key="data.source"
        ) from error
