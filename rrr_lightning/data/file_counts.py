"""The files of a stream, and how many documents each has, as soon as that is known.

A file's number of documents is known when it was read to its end once; it is kept in the cache, so
that a resumed run need not read the files that it is through with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rrr_lightning.data.cache import write_file
from rrr_lightning.data.text_files import read_documents
from rrr_lightning.errors import InputError


class FileCounts:
    """Files by number.

    Args:
        names: Paths or addresses.
        column: The column or key that holds the text.
        folder: Where the counts are kept; it stands for these very files.
    """

    def __init__(self, names: Sequence[str], column: str, folder: Path) -> None:
        self.names = tuple(names)
        self.column = column
        self.folder = folder
        self._counts: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.names)

    def known(self, file: int) -> int | None:
        """Returns the number of a file's documents, None where it is not known yet."""
        if file not in self._counts and (kept := self._kept(file)).exists():
            self._counts[file] = int(kept.read_text())
        return self._counts.get(file)

    def total(self, files: Iterable[int]) -> int | None:
        """Returns the documents of several files together, None where one was not counted yet."""
        counts = [self._counts.get(file) for file in files]
        known = [count for count in counts if count is not None]
        return sum(known) if len(known) == len(counts) else None

    def read(self, file: int, start: int) -> Iterator[tuple[int, str]]:
        """Yields the documents of a file with their numbers, and keeps their count at its end."""
        reader, row = read_documents(self.names[file], self.column, start), start
        while True:
            try:
                text = next(reader)
            except StopIteration as end:
                self._keep(file, end.value)
                return
            yield row, text
            row += 1

    def _keep(self, file: int, count: int) -> None:
        if self.known(file) not in (None, count):
            raise InputError(
                f"had {self.known(file)} documents when it was read before, and now has {count}",
                key="data.source",
                found=self.names[file],
            )
        self._counts[file] = count
        if not self._kept(file).exists():
            write_file(self._kept(file), lambda path: path.write_text(str(count)))

    def _kept(self, file: int) -> Path:
        return self.folder / f"{file}.count"
