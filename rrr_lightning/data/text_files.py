"""Documents of text files, one after the other: parquet, JSON lines, plain text.

Files may be compressed (`.gz`, `.zst`) and may lie on the hub or behind any address that `fsspec`
knows. A parquet or JSON-lines file has one document per row; in a plain text file a blank line ends
a document. Whatever is wrong with a file stops the reading with the file's name and place in it.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any, cast

from rrr_lightning.data._text_formats import KINDS, Reader, read_json_lines, read_parquet, read_text
from rrr_lightning.errors import InputError

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
