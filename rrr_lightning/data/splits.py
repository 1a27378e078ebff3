"""Which folder, file or hub split is for training, validation or testing: one rule for all readers.

`train` and `training` are for training; `val`, `valid`, `validation`, `dev` and `eval` for
validation; `test` for testing; in any case. What a reader does not use is named in the log.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from rrr_lightning.errors import InputError, check, did_you_mean, refuse

WORDS = {
    "training": ("train", "training"),
    "validation": ("val", "valid", "validation", "dev", "eval"),
    "test": ("test",),
}
IGNORED_STEMS = ("readme", "license", "licence", "citation", "notice", "changelog")
IGNORED_NAMES = ("thumbs.db", "desktop.ini", "dataset_infos.json", "prepared.json")
SAVED_TO_DISK = ("dataset_info.json", "dataset_dict.json", "state.json")
MOST_NAMES = 8
logger = logging.getLogger(__name__)


class Chosen(NamedTuple):
    """The names of the splits that are used, as the source has them."""

    train: str
    validation: str | None
    test: str | None


def role_of(name: str) -> str | None:
    """Returns `training`, `validation` or `test` for the name of a split, or None.

    A number at its end does not count, so that `train2` beside `train` is noticed.

    >>> role_of("Dev"), role_of("train2"), role_of("trainer")
    ('validation', 'training', None)
    """
    word = name.lower().rstrip("0123456789")
    return next((role for role, words in WORDS.items() if word in words), None)


def choose_splits(
    names: Sequence[str], source: str, train_split: str = "train", val_split: str | None = None
) -> Chosen:
    """Returns which of a source's splits are for training, validation and testing."""
    train = _by_role(names, source, "training") if train_split == "train" else None
    train = train or _by_name(names, source, "train_split", train_split)
    if val_split is not None:
        validation: str | None = _by_name(names, source, "val_split", val_split)
    else:
        validation = _by_role(names, source, "validation")
    test = _by_role(names, source, "test")
    test = None if test == train else test
    if validation is None and test is not None:
        logger.info("%s has no validation split: validation uses %r", source, test)
        validation = test
    say_unused(source, [name for name in names if name not in (train, validation, test)])
    return Chosen(train, validation, test)


def _by_role(names: Sequence[str], source: str, role: str) -> str | None:
    found = [name for name in names if role_of(name) == role]
    if len(found) > 1:
        refuse(
            "data.source",
            ", ".join(found),
            "one of them, or names that are no word for a split",
            f"{source} has several splits for {role}",
        )
    return found[0] if found else None


def _by_name(names: Sequence[str], source: str, key: str, split: str) -> str:
    what = f"{source} has no such split{did_you_mean(split, names)}"
    check(split in names, f"data.{key}", split, ", ".join(names), what)
    return split


def split_files(paths: Iterable[str], asked: Sequence[str | None]) -> dict[str | None, list[str]]:
    """Groups relative paths of files by the split that a folder or file name in them names.

    The outermost folder or name with a word for a split decides; words end at `-`, `_` and `.`.
    """
    groups: dict[str | None, list[str]] = {}
    forms: dict[str, str] = {}
    for path in paths:
        parts = PurePosixPath(path).parts
        found = [_split_in(part, path, asked) for part in parts]
        place = next((place for place, split in enumerate(found) if split is not None), None)
        split = None if place is None else found[place]
        groups.setdefault(split, []).append(path)
        if split is not None and place is not None:
            form = "a folder" if place < len(parts) - 1 else "a file"
            if forms.setdefault(split, form) != form:
                refuse("data.source", path, "one of them", f"{split} is both folder and file")
    return groups


def _split_in(part: str, path: str, asked: Sequence[str | None]) -> str | None:
    words = [word for word in re.split(r"[-_.]", part) if word in asked or role_of(word)]
    if len({role_of(word) or word for word in words}) > 1:
        refuse("data.source", path, "a name with a word for one of them", "names two splits")
    return words[0] if words else None


def is_hidden(name: str) -> bool:
    """Returns whether a file or folder is hidden, or one that macOS adds to its archives."""
    return name.startswith(".") or name == "__MACOSX"


def is_ignored(name: str) -> bool:
    """Returns whether a file is no data by its name: hidden, a README, a licence and the like."""
    low = PurePosixPath(name.lower())
    return (
        is_hidden(name)
        or low.suffix == ".md"
        or low.name in IGNORED_NAMES
        or (low.stem in IGNORED_STEMS and low.suffix in ("", ".txt", ".rst", ".cff", ".pdf"))
    )


def check_not_saved_to_disk(folder: Path) -> None:
    """Refuses a folder that `save_to_disk` of `datasets` has written."""
    if any((folder / name).is_file() for name in SAVED_TO_DISK):
        raise InputError(
            "is a folder that save_to_disk of datasets has written",
            key="data.source",
            found=str(folder),
            accepted="parquet files (to_parquet), one or more for each split",
        )


def say_unused(source: str, names: Sequence[str]) -> None:
    """Names in one line of the log what there is in a source and is not used."""
    if names:
        more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
        shown = ", ".join(names[:MOST_NAMES])
        logger.warning("%s: not used, by their names: %s%s", source, shown, more)
