"""Tokenized documents as they lie on the disk, in Arrow files that are mapped into memory.

A file holds one part of the samples in one list column. It is read through the system's page cache,
so processes share it, and only what is asked for is read.

Suffixes: B batch, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rrr_lightning.data.masking import Tokens
from rrr_lightning.errors import InputError, check
from rrr_lightning.files import content_of, read_json

SUMMARY = "prepared.json"
KEY = "data.cache_dir"


def write_part(
    path: Path, ids: npt.NDArray[Any], lengths: npt.NDArray[np.int64], counts: Mapping[str, int]
) -> None:
    """Writes an Arrow file."""
    import pyarrow

    offsets = np.concatenate([[0], lengths.cumsum()]).astype(np.int32)
    samples = pyarrow.ListArray.from_arrays(offsets, pyarrow.array(ids))
    metadata = {name: str(count) for name, count in counts.items()}
    schema = pyarrow.schema([("ids", samples.type)], metadata=metadata)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, schema) as writer:
        writer.write_batch(pyarrow.record_batch([samples], schema=schema))


def describe_part(path: Path) -> dict[str, Any]:
    """Returns the name, size, number of samples and metadata of a file."""
    import pyarrow

    with pyarrow.memory_map(str(path)) as file:
        reader = pyarrow.ipc.open_file(file)
        return {
            "file": path.name,
            "bytes": path.stat().st_size,
            "samples": reader.get_batch(0).num_rows,
            **{name.decode(): int(count) for name, count in reader.schema.metadata.items()},
        }


class MappedSamples:
    """The samples of a prepared folder; nothing is read before it is asked for.

    Args:
        folder: What `prepare` returned.

    Raises:
        InputError: A file is missing or is not as it was written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.summary: dict[str, Any] = read_json(folder / SUMMARY, KEY)
        with content_of(folder / SUMMARY, KEY):
            self._parts = [_open(folder, part) for part in self.summary["parts"]]
            lengths = [len(offsets) - 1 for _, offsets in self._parts]
            stated = [part["samples"] for part in self.summary["parts"]]
            check(stated == lengths, KEY, stated, str(lengths), "states other numbers of samples")
        self._starts = np.cumsum([0, *lengths])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __reduce__(self) -> tuple[type[MappedSamples], tuple[Path]]:
        return MappedSamples, (self.folder,)

    def padded(
        self, indices: Sequence[int], length: int, padding: int
    ) -> tuple[Tokens, npt.NDArray[np.int64]]:
        """Returns samples as rows of one length, and how long each is."""
        ids_BT = np.full((len(indices), length), padding, dtype=np.int64)
        lengths_B = np.zeros(len(indices), dtype=np.int64)
        parts = np.searchsorted(self._starts, indices, side="right") - 1
        for row, (index, part) in enumerate(zip(indices, parts.tolist(), strict=True)):
            ids, offsets = self._parts[part]
            place = index - self._starts[part]
            start, end = offsets[place], offsets[place + 1]
            ids_BT[row, : end - start] = ids[start:end]
            lengths_B[row] = end - start
        return ids_BT, lengths_B


def _open(folder: Path, part: dict[str, Any]) -> tuple[npt.NDArray[Any], npt.NDArray[np.int32]]:
    import pyarrow

    check(Path(part["file"]).name == part["file"], KEY, part["file"], "a name", "leaves its folder")
    path = folder / part["file"]
    size = path.stat().st_size if path.exists() else None
    if size != part["bytes"]:
        raise InputError(
            "is not as it was written" if path.exists() else "is missing",
            key=KEY,
            found=str(path),
            accepted=f"remove {folder}, and it is prepared again",
        )
    with pyarrow.memory_map(str(path)) as file:  # closing it keeps what the arrays refer to
        samples = pyarrow.ipc.open_file(file).get_batch(0).column(0)
    return samples.values.to_numpy(zero_copy_only=True), samples.offsets.to_numpy()
