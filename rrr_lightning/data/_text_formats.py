"""How documents lie in a file of each format; `text_files.py` opens the files.

Every reader takes an open binary file, its name for messages, the column, and how many documents to
pass over; when it is through it returns how many there are, those included.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Generator
from functools import cache
from typing import IO

from rrr_lightning.errors import InputError, did_you_mean

logger = logging.getLogger(__name__)
KINDS = ".parquet, .jsonl, .json (a document a line) or .txt, the last three also as .gz or .zst"
Reader = Generator[str, None, int]
# A text file of this size without a blank line is not one document, but written one to a line.
LONGEST_DOCUMENT = 4 * 2**20


def read_parquet(file: IO[bytes], location: str, column: str, start: int) -> Reader:
    """Yields one document a row; row groups that are passed over are not read."""
    from pyarrow import parquet, types

    table = parquet.ParquetFile(file)
    check_column(column, table.schema_arrow.names, location)
    kind = table.schema_arrow.field(column).type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if not (types.is_string(kind) or types.is_large_string(kind)):
        raise _not_text(column, str(kind), location)
    row = 0
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        if row + rows <= start:
            row += rows
            continue
        for batch in table.iter_batches(row_groups=[group], columns=[column], batch_size=1024):
            try:
                documents = batch.column(0).to_pylist()
            except UnicodeDecodeError as error:
                raise _not_utf8(f"{location}, row {row} or later") from error
            for document in documents:
                if document is None:
                    raise _not_text(column, "null", f"{location}, row {row}")
                row += 1
                if row > start:
                    yield document
    return row


def read_json_lines(file: IO[bytes], location: str, column: str, start: int) -> Reader:
    """Yields one document a line that is not blank."""
    row = 0
    for number, line in enumerate(file, 1):
        if not line.strip():
            continue
        row += 1
        if row <= start:
            continue
        place = f"{location}, line {number}"
        text = _decode(line, place)
        try:
            record = json.loads(text.lstrip("\ufeff"))
        except json.JSONDecodeError as error:
            what = f"is not JSON ({error.msg})"
            raise InputError(what, key="data.source", found=place, accepted=KINDS) from error
        if not isinstance(record, dict):
            kind = type(record).__name__
            raise InputError(
                f"is a JSON {kind}",
                key="data.source",
                found=place,
                accepted="an object a line",
            )
        check_column(column, list(record), place)
        document = record[column]
        if not isinstance(document, str):
            raise _not_text(column, type(document).__name__, place)
        if "\\u" in text and any("\ud800" <= letter <= "\udfff" for letter in document):
            raise _not_utf8(place)
        yield document
    return row


def read_text(file: IO[bytes], location: str, column: str, start: int) -> Reader:
    """Yields one document a paragraph: a blank line ends it."""
    lines: list[str] = []
    count = size = length = 0
    for number, raw in enumerate(file, 1):
        line = _decode(raw, f"{location}, line {number}").lstrip("\ufeff").rstrip()
        if line:
            lines.append(line)
            length = len(lines)
            size += len(line)
            if size > LONGEST_DOCUMENT:
                raise InputError(
                    f"has {LONGEST_DOCUMENT >> 20} MiB without a blank line, which ends a document",
                    key="data.source",
                    found=f"{location}, line {number}",
                    accepted="blank lines between documents, or a .jsonl file",
                )
        elif lines:
            count += 1
            if count > start:
                yield "\n".join(lines)
            lines, size = [], 0
    if lines:
        count += 1
        if count > start:
            yield "\n".join(lines)
    if count == 1 and length > 1:
        _say_one_document(location, length)
    return count


@cache
def _say_one_document(location: str, length: int) -> None:
    logger.info(
        "%s: its %d lines are one document, as blank lines separate documents", location, length
    )


def check_column(column: str, known: list[str], place: str) -> None:
    """Refuses a column that is not there."""
    if column not in known:
        raise InputError(
            f"{place} has no such column{did_you_mean(column, known)}",
            key="data.column",
            found=column,
            accepted=", ".join(known),
        )


def _not_text(column: str, kind: str, place: str) -> InputError:
    what = f"{place}: column {column!r} is not text"
    return InputError(what, key="data.column", found=kind, accepted="a column of strings")


def _not_utf8(place: str) -> InputError:
    return InputError("is not UTF-8", key="data.source", found=place)


def _decode(line: bytes, place: str) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(place) from error
