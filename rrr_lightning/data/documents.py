"""The documents of a source, in one fixed order: embedded prose, files, a folder, or a hub id.

Documents say what determines them (`fingerprint`), so that what is made of them can be kept and
found again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rrr_lightning.data.embedded import EmbeddedProse
from rrr_lightning.data.masking import random_words
from rrr_lightning.data.splits import (
    check_not_saved_to_disk,
    choose_splits,
    is_hidden,
    is_ignored,
    say_unused,
    split_files,
)
from rrr_lightning.data.text_files import KINDS, check_column, kind_of, read_documents
from rrr_lightning.errors import InputError

TUNING_SEED, BLOCK = 1, 4096


class Documents(Protocol):
    """Texts in a fixed order, what to call them in messages, and what determines them."""

    name: str

    def __iter__(self) -> Iterator[str]: ...

    def fingerprint(self) -> dict[str, Any]:
        """Returns what determines the documents, in plain types."""


class FileDocuments:
    """The documents of files, one file after the other.

    Args:
        files: Paths or addresses.
        column: The column or key that holds the text.
    """

    def __init__(self, files: Sequence[str], column: str) -> None:
        self.files = tuple(files)
        self.column = column
        self.name = files[0] + (f" and {len(files) - 1} more" if files[1:] else "")

    def __iter__(self) -> Iterator[str]:
        for file in self.files:
            yield from read_documents(file, self.column)

    def fingerprint(self) -> dict[str, Any]:
        """Returns names, sizes and times of change; an address stands for itself."""
        return {"files": [_identity(file) for file in self.files], "column": self.column}


class TableDocuments:
    """The documents of a downloaded data set.

    Args:
        table: A `datasets.Dataset`.
        name: What to call it in messages.
        column: The column that holds the text.
    """

    def __init__(self, table: Any, name: str, column: str) -> None:
        check_column(column, list(table.features), name)
        if "string" not in str(getattr(table.features[column], "dtype", "")):
            raise InputError(
                f"{name}: column {column!r} is not text",
                key="data.column",
                found=str(table.features[column]),
                accepted="a column of strings",
            )
        self.table = table.select_columns([column])
        self.column = column
        self.name = name

    def __iter__(self) -> Iterator[str]:
        for row, document in enumerate(
            text for part in self.table.iter(batch_size=1000) for text in part[self.column]
        ):
            if document is None:
                raise InputError("is null", key="data.column", found=f"row {row} of {self.name}")
            yield document

    def fingerprint(self) -> dict[str, Any]:
        """Returns the fingerprint that `datasets` gives the table."""
        return {"table": self.table._fingerprint, "column": self.column}


class FirstDocuments:
    """The first so many of some documents.

    Args:
        documents: Where they come from.
        limit: At most so many.
    """

    def __init__(self, documents: Documents, limit: int) -> None:
        self.documents = documents
        self.limit = limit
        self.name = documents.name

    def __iter__(self) -> Iterator[str]:
        return islice(self.documents, self.limit)

    def fingerprint(self) -> dict[str, Any]:
        """Returns the fingerprint of all, and how many these are."""
        return {**self.documents.fingerprint(), "limit": self.limit}


class TuningDocuments:
    """One side of a split by position, the same for every seed.

    Args:
        documents: Where they come from.
        fraction: The part that is held out, in (0, 1).
        held_out: Whether this is that part, or the rest.
    """

    def __init__(self, documents: Documents, fraction: float, held_out: bool) -> None:
        self.documents = documents
        self.fraction = fraction
        self.held_out = held_out
        self.name = f"{documents.name} ({'held out' if held_out else 'not held out'})"

    def __iter__(self) -> Iterator[str]:
        remaining, bound = iter(self.documents), np.uint64(self.fraction * 2**64)
        for block in count():
            draws = random_words(TUNING_SEED, [(0, block)], BLOCK)[0]
            texts = list(islice(remaining, BLOCK))
            for text, held_out in zip(texts, draws < bound, strict=False):
                if held_out == self.held_out:
                    yield text
            if len(texts) < BLOCK:
                return

    def fingerprint(self) -> dict[str, Any]:
        """Returns the fingerprint of all, and which part this is."""
        part = {"fraction": self.fraction, "held_out": self.held_out}
        return {**self.documents.fingerprint(), **part}


def _identity(file: str) -> list[Any]:
    if "://" in file:
        return [file]
    state = Path(file).stat()
    return [Path(file).name, state.st_size, state.st_mtime_ns]


# ----------------------------------------------------------------------
# From `source` to the documents of a training split and of a validation split.


EMBEDDED = "embedded"
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
DATA_SUFFIXES = (".csv", ".tsv", ".xz", ".bz2", ".lz4", ".zip", ".tar", ".7z")
Open = Callable[[str], Documents]


def open_documents(
    source: str,
    config: str | None,
    train_split: str,
    val_split: str | None,
    column: str,
    streaming: bool,
) -> tuple[Documents, Documents | None, Documents | None]:
    """Returns the documents of the training split, and of validation and test split if there."""
    path = Path(source).expanduser()
    if config is not None and (source == EMBEDDED or path.exists()):
        raise InputError("is for data sets on the hub", key="data.config", found=config)
    if source == EMBEDDED:
        return EmbeddedProse("train"), EmbeddedProse("validation"), None
    if path.is_file():
        if kind_of(path.name) is None:
            raise InputError("unknown format", key="data.source", found=source, accepted=KINDS)
        return FileDocuments([str(path)], column), None, None
    if path.is_dir():
        names, open_split = _folder(path, train_split, val_split, column)
    elif HUB_ID.fullmatch(source) and kind_of(source) is None:
        names, open_split = (hub_files if streaming else hub_tables)(source, config, column)
    else:
        raise InputError(
            "no such file or folder",
            key="data.source",
            found=source,
            accepted="embedded, a file, a folder, or a hub id such as allenai/c4",
        )
    train, validation, test = choose_splits(names, source, train_split, val_split)
    used = dict.fromkeys(split for split in (train, validation, test) if split)
    parts = {split: open_split(split) for split in used}
    return parts[train], parts.get(validation or ""), parts.get(test or "")


def choose_documents(
    train: Documents,
    validation: Documents | None,
    tuning_fraction: float = 0.0,
    most: int | None = None,
    most_of_validation: int | None = None,
) -> tuple[Documents, Documents]:
    """Returns the documents to train on and to validate on."""
    whole = train if most is None else FirstDocuments(train, most)
    if tuning_fraction:
        train = TuningDocuments(whole, tuning_fraction, held_out=False)
        validation = TuningDocuments(whole, tuning_fraction, held_out=True)
    elif validation is None:
        raise InputError(
            f"nothing to validate on: {train.name} has no validation or test split",
            key="data.tuning_fraction",
            found=tuning_fraction,
            accepted="a fraction above 0 and below 1",
        )
    else:
        train = whole
    if most_of_validation is not None:
        validation = FirstDocuments(validation, most_of_validation)
    return train, validation


def hub_tables(source: str, config: str | None, column: str) -> tuple[Sequence[str], Open]:
    """Returns the names of the splits and how to open one; the data set is downloaded."""
    from datasets import get_dataset_split_names, load_dataset

    names = _ask_hub(source, config, get_dataset_split_names)

    def open_split(split: str) -> Documents:
        table = _ask_hub(source, config, lambda *where: load_dataset(*where, split=split))
        return TableDocuments(table, f"{source}, {split}", column)

    return names, open_split


def hub_files(source: str, config: str | None, column: str) -> tuple[Sequence[str], Open]:
    """Returns the names of the splits and how to open one; files stay where they are."""
    from datasets import load_dataset_builder

    splits = _ask_hub(source, config, load_dataset_builder).config.data_files or {}
    files = {str(split): [str(file) for file in found] for split, found in splits.items()}
    for file in (file for found in files.values() for file in found):
        if kind_of(file) is None:
            raise InputError(
                "cannot be streamed", key="data.streaming", found=file, accepted=f"files: {KINDS}"
            )
    return list(files), lambda split: FileDocuments(files[split], column)


def _ask_hub(source: str, config: str | None, question: Callable[..., Any]) -> Any:
    try:
        return question(source, config)
    except (OSError, ValueError) as error:
        reason: BaseException = error
        while reason.__cause__ is not None:
            reason = reason.__cause__
        raise InputError(
            "is neither here nor a data set of the hub that can be reached "
            f"({(str(reason) or type(reason).__name__).splitlines()[0]})",
            key="data.source",
            found=source if config is None else f"{source}, {config}",
        ) from error


def _folder(
    folder: Path, train_split: str, val_split: str | None, column: str
) -> tuple[Sequence[str], Open]:
    """Files by split; all are training data where no name has anything to do with a split."""
    check_not_saved_to_disk(folder)
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    files = [
        path.as_posix()
        for path in paths
        if not is_ignored(path.name) and not any(is_hidden(part) for part in path.parts)
    ]
    if not any(map(kind_of, files)):
        raise InputError(
            "holds no text files", key="data.source", found=str(folder), accepted=KINDS
        )
    groups = split_files(files, (train_split, val_split))
    rest = groups.pop(None, [])
    other = [name for name in rest if not kind_of(name)]
    for name in (name for found in groups.values() for name in found if not kind_of(name)):
        raise InputError("unknown format", key="data.source", found=name, accepted=KINDS)
    for name in (name for name in other if name.lower().endswith(DATA_SUFFIXES)):
        raise InputError("unknown format", key="data.source", found=name, accepted=KINDS)
    if not groups:
        groups, rest = {train_split: [name for name in rest if kind_of(name)]}, other
    say_unused(str(folder), rest)
    splits = {split: [str(folder / name) for name in found] for split, found in groups.items()}
    return [str(split) for split in splits], lambda split: FileDocuments(splits[split], column)
