"""Documents read from a stream of files: which ones a step reads is a function of (seed, step).

A file's number of documents is known when it was read to its end once; it is kept in the cache, so
that a resumed run need not read the files that it has finished.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from rrr_lightning.data.preparation import write_file
from rrr_lightning.data.sampling import BatchPlan, EndlessBatches, Key
from rrr_lightning.data.text_files import read_documents
from rrr_lightning.errors import InputError
from rrr_lightning.keyed_rng import keyed_permutation


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


# ----------------------------------------------------------------------
# A stream as lanes of files: what a step reads is a function of (seed, step), with nothing saved.


MOST_LANES = 32  # a lane is an open file and a block of documents
TOLERATED_IMBALANCE = 0.05
BLOCK_DOCUMENTS = 1024
MOST_DOCUMENTS = 2**40  # of a file; a document's number holds its file's and its own in that file


def deal_files(sizes: Sequence[int], global_batch_size: int) -> list[list[int]]:
    """Returns the numbers of each lane's files: as many lanes as divide a batch and are balanced.

    A lane that is shorter than another begins its next epoch earlier, so their sizes may differ by
    5 % at most; one lane is always possible.

    >>> deal_files([10, 10, 10, 10], global_batch_size=6)
    [[0, 2], [1, 3]]
    """
    largest_first = sorted(range(len(sizes)), key=lambda file: (-sizes[file], file))
    for number in range(min(len(sizes), MOST_LANES), 1, -1):
        if global_batch_size % number:
            continue
        lanes: list[list[int]] = [[] for _ in range(number)]
        loads = [0] * number
        for file in largest_first:
            lightest = loads.index(min(loads))
            lanes[lightest].append(file)
            loads[lightest] += sizes[file]
        if max(loads) <= (1 + TOLERATED_IMBALANCE) * min(loads):
            return lanes
    return [largest_first]


class StreamedBatches(EndlessBatches):
    """Micro-batches of (lane, position) keys.

    Args:
        lanes: Number of lanes; divides the global batch size.
        plan: The shares of ranks and micro-batches.
        seed: Seed of the order.
        step: Returns the optimizer step to continue from; called when an iteration starts.
    """

    steps_per_epoch = None

    def __init__(self, lanes: int, plan: BatchPlan, seed: int, step: Callable[[], int]) -> None:
        super().__init__(plan, seed, step)
        self.lanes = lanes

    def micro_batch(self, step: int, number: int) -> list[Key]:
        """Returns which document of which lane each place of a micro-batch holds."""
        width = self.plan.global_batch_size // self.lanes
        return [
            (place // width, step * width + place % width) for place in self.plan.places(number)
        ]


class Found(NamedTuple):
    """A document of a stream, and the (epoch, index) that names this view of it."""

    key: Key
    text: str


class Lane:
    """The documents of some files in keyed order, again and again.

    Documents are to be asked for in the order of their positions, or nearly so: asking for one that
    lies behind starts the reading anew.

    Args:
        number: The number of the lane.
        files: The files of the stream; dealt to the lanes by key.
        lanes: The number of lanes.
        seed: Seed of the order.
    """

    def __init__(self, number: int, members: Sequence[int], files: FileCounts, seed: int) -> None:
        self.number = number
        self.members = members
        self.files = files
        self.seed = seed
        self._place = (-1, -1)  # the epoch and block of the documents at hand
        self._documents: list[Found] = []
        self._reader: Iterator[Found] = iter(())

    def __getitem__(self, position: int) -> Found:
        while True:  # twice, when only the end of an epoch tells its length
            epoch, place = self._locate(position)
            block, place = divmod(place, BLOCK_DOCUMENTS)
            self._read(epoch, block)
            if place < len(self._documents):
                return self._documents[place]

    def _locate(self, position: int) -> tuple[int, int]:
        """The epoch and the position in it; while its length is not known it is the first."""
        length = self.files.total(self.members)
        return (0, position) if length is None else divmod(position, length)

    def _read(self, epoch: int, block: int) -> None:
        """Brings a block of documents to hand, in their keyed order."""
        if self._place == (epoch, block):
            return
        if self._place != (epoch, block - 1):
            self._reader = self._from(epoch, block * BLOCK_DOCUMENTS)
        found = list(islice(self._reader, BLOCK_DOCUMENTS))
        order = keyed_permutation(len(found), self.seed, "block", self.number, epoch, block)
        self._documents = [found[place] for place in order.tolist()]
        self._place = (epoch, block)

    def _from(self, epoch: int, skip: int) -> Iterator[Found]:
        """The documents of an epoch from a position on; tells each file's length at its end."""
        order = keyed_permutation(len(self.members), self.seed, "files", self.number, epoch)
        for file in (self.members[place] for place in order.tolist()):
            known = self.files.known(file)
            if known is not None and skip >= known:
                skip -= known
                continue
            for row, text in self.files.read(file, skip):
                yield Found((epoch, file * MOST_DOCUMENTS + row), text)
            skip = max(0, skip - (self.files.known(file) or 0))
