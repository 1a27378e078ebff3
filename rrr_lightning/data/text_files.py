"""Documents of text files, one after the other: parquet, JSON lines, plain text.

Files may be compressed (`.gz`, `.zst`) and may lie on the hub or behind any address that `fsspec`
knows. A parquet or JSON-lines file has one document per row; in a plain text file a blank line ends
a document. Whatever is wrong with a file stops the reading with the file's name and place in it.
"""

from __future__ import annotations

import gzip
import io
import json
import logging
import os
import zlib
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import PurePosixPath
from typing import IO, Any, cast

from rrr_lightning.errors import InputError, did_you_mean

# ----------------------------------------------------------------------
# How documents lie in a file of each format; `text_files.py` opens the files.


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


SUFFIXES = (".parquet", ".jsonl", ".json", ".ndjson", ".txt")
COMPRESSIONS = (".gz", ".zst")


def kind_of(location: str) -> tuple[str, str] | None:
    """Returns the format and compression that a file's name tells, or None.

    >>> kind_of("c4-train.00000-of-01024.json.gz")
    ('.json', '.gz')
    """
    suffixes = [suffix.lower() for suffix in PurePosixPath(location).suffixes[-2:]]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else ""
    kind = suffixes[-1] if suffixes else ""
    if kind not in SUFFIXES or (kind == ".parquet" and compression):
        return None
    return kind, compression


def read_documents(location: str, column: str, start: int = 0) -> Reader:
    """Yields the documents of a file, and returns how many it has when it is through."""
    kind = kind_of(location)
    if kind is None:
        raise InputError("unknown format", key="data.source", found=location, accepted=KINDS)
    read = {".parquet": read_parquet, ".txt": read_text}.get(kind[0], read_json_lines)
    with _opened(location, kind[1]) as file:
        count = yield from read(file, location, column, start)
    if count == 0:
        raise InputError("holds no documents", key="data.source", found=location)
    return count


def sizes_of(locations: Sequence[str]) -> list[int]:
    """Returns the sizes of files in bytes; a folder that is far away is asked once."""
    listings: dict[str, dict[str, int]] = {}
    return [
        _remote_size(location, listings) if "://" in location else os.stat(location).st_size
        for location in locations
    ]


def _remote_size(location: str, listings: dict[str, dict[str, int]]) -> int:
    from fsspec.core import url_to_fs

    system, path = url_to_fs(location)
    folder = path.rpartition("/")[0]
    if folder not in listings:
        listings[folder] = {
            entry["name"]: entry["size"] for entry in system.ls(folder, detail=True)
        }
    if path not in listings[folder]:
        raise InputError("cannot be read (not found)", key="data.source", found=location)
    return listings[folder][path]


@contextmanager
def _opened(location: str, compression: str) -> Iterator[IO[bytes]]:
    import pyarrow

    damages = (EOFError, OSError, zlib.error, pyarrow.ArrowInvalid)
    with _raw(location) as raw:
        try:
            if compression == ".gz":
                yield cast("IO[bytes]", gzip.GzipFile(fileobj=raw))
            elif compression == ".zst":
                stream: Any = pyarrow.CompressedInputStream(raw, "zstd")
                yield cast("IO[bytes]", io.BufferedReader(stream, 2**18))
            else:
                yield raw
        except damages as error:
            why = str(error).partition("\n")[0] or type(error).__name__
            raise InputError(f"is corrupt ({why})", key="data.source", found=location) from error


def _raw(location: str) -> IO[bytes]:
    try:
        if "://" in location:
            import fsspec

            remote: IO[bytes] = fsspec.open(location, "rb").open()
            return remote
        return open(location, "rb")
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        why = error.strerror or "not found"
        raise InputError(f"cannot be read ({why})", key="data.source", found=location) from error
