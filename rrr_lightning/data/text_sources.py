"""From `source` to the documents of a training split and of a validation split.

A source is the embedded prose, a file, a folder of files, or a hub id, which is downloaded as a
whole or read as a stream of its files.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rrr_lightning.data._text_formats import KINDS
from rrr_lightning.data.documents import (
    Documents,
    FileDocuments,
    FirstDocuments,
    TableDocuments,
    TuningDocuments,
)
from rrr_lightning.data.prose import EmbeddedProse
from rrr_lightning.data.splits import (
    check_not_saved_to_disk,
    choose_splits,
    is_hidden,
    is_ignored,
    say_unused,
    split_files,
)
from rrr_lightning.data.text_files import kind_of
from rrr_lightning.errors import InputError

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
