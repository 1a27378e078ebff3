"""Files: written whole or not at all, and told apart by their SHA-256."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PART = ".part"


@contextmanager
def atomic_file(path: str | Path) -> Iterator[BinaryIO]:
    """Opens `.NAME.part` beside `path` for writing, and renames it to `path` at the end.

    A reader, and a process killed at any moment, finds either the former file or the whole new one.
    After an exception (a full disk, for example) the partial file is removed and `path` is as it
    was.

    >>> with atomic_file("/tmp/example.json") as file:  # doctest: +SKIP
    ...     file.write(b"{}")
    """
    target = Path(path)
    part = target.with_name(f".{target.name}{PART}")
    try:
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def sha256_of(path: str | Path) -> str:
    """Returns the SHA-256 of a file, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself durable, which fsync of the file does not."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
