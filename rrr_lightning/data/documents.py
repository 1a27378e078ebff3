"""Documents: texts in one fixed order, that can be read any number of times.

They say what determines them (`fingerprint`), so that what is made of them can be kept and found
again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rrr_lightning.data._text_formats import check_column
from rrr_lightning.data.masking import random_words
from rrr_lightning.data.text_files import read_documents
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
