"""Checksums in safetensors files of this library, which have none of their own.

The SHA-256 of header and tensors stands in the metadata of the header, where other readers of the
format pass it over.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from rrr_lightning.files import atomic_file

MOST_JSON = 16 << 20  # bytes of a safetensors header or an index, for 100,000 tensors or more
_DIGEST = "rrr_lightning.sha256"


class Damaged(Exception):
    """A file that contradicts itself; the text is for the message."""


def add_checksum(path: Path, name: str = "") -> None:
    """Writes the SHA-256 of a safetensors file's tensors into its metadata, for later readers."""
    with open(path, "rb") as file:
        _, header = _header(file, path)
        metadata, start = dict(header.pop("__metadata__", None) or {}), file.tell()
        metadata[_DIGEST] = _digest(file, header, name)
        text = json.dumps({"__metadata__": metadata, **header}).encode()
        text += b" " * (-len(text) % 8)
        file.seek(start)
        with atomic_file(path) as target:
            target.write(struct.pack("<Q", len(text)) + text)
            shutil.copyfileobj(file, target, 1 << 20)


def check_checksum(path: Path, name: str = "") -> None:
    """Refuses a safetensors file that is not as it was written, as far as it has a checksum."""
    with open(path, "rb") as file:
        try:
            _, header = _header(file, path)
            stated = dict(header.pop("__metadata__", None) or {}).get(_DIGEST)
        except (ValueError, TypeError, struct.error, RecursionError) as error:
            raise Damaged("it has no header of safetensors") from error
        if (stated is not None or name) and stated != _digest(file, header, name):
            raise Damaged("its checksum is wrong" + " for a file of this name" * bool(name))


def _header(file: BinaryIO, path: Path) -> tuple[int, dict[str, Any]]:
    """The length of a safetensors header and what it says."""
    length = struct.unpack("<Q", file.read(8))[0]
    if length > min(path.stat().st_size - 8, MOST_JSON):
        raise Damaged(f"its header states {length} bytes")
    return length, dict(json.loads(file.read(length)))


def _digest(file: BinaryIO, header: Mapping[str, Any], name: str) -> str:
    digest = hashlib.sha256(name.encode() + json.dumps(header, sort_keys=True).encode())
    while chunk := file.read(1 << 20):
        digest.update(chunk)
    return digest.hexdigest()
