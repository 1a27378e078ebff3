"""What a stream reads, followed by its keys; an uninterrupted reading is the reference."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice
from pathlib import Path

import pytest

from rrr_lightning.data import streaming
from rrr_lightning.data.sampling import BatchPlan
from rrr_lightning.data.streaming import FileCounts, Found, Lane, StreamedBatches, deal_files

SIZES = (7, 3, 12, 5, 1, 9, 4)
WHOLE = {f"{file}-{row}" for file, size in enumerate(SIZES) for row in range(size)}
BATCH = 12


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "BLOCK_DOCUMENTS", 4)


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for file, size in enumerate(SIZES):
        text = "\n\n".join(f"{file}-{row}" for row in range(size))
        (tmp_path / f"{file}.txt").write_text(text)
    return [str(tmp_path / f"{file}.txt") for file in range(len(SIZES))]


class Reader:
    """What a process reads: lanes of its own, over files whose counts are kept in a folder."""

    def __init__(self, files: list[str], cache: Path, number: int = 3, seed: int = 1) -> None:
        cache.mkdir(exist_ok=True)
        self.counts = FileCounts(files, "text", cache)
        deal = [list(range(lane, len(files), number)) for lane in range(number)]
        self.lanes = [Lane(lane, its, self.counts, seed) for lane, its in enumerate(deal)]

    def read(self, keys: Iterable[tuple[int, int]]) -> list[Found]:
        return [self.lanes[lane][position] for lane, position in keys]


def batches(step: int = 0, plan: BatchPlan | None = None, seed: int = 1) -> StreamedBatches:
    return StreamedBatches(3, plan or BatchPlan(BATCH), seed, step=lambda: step)


def test_there_are_as_many_lanes_as_divide_a_batch() -> None:
    cases = {(1, 8): 1, (7, 12): 1, (7, 7): 7, (5, 7): 1, (1024, 4096): 32, (40, 40): 20, (8, 6): 2}
    for (files, batch), expected in cases.items():
        assert len(deal_files([100] * files, batch)) == expected


def test_lanes_hold_every_file_once_and_are_balanced() -> None:
    sizes = [1000 + 7 * (file * 37 % 50) for file in range(96)]
    dealt = deal_files(sizes, 64)
    assert len(dealt) == 32
    assert sorted(chain(*dealt)) == list(range(96))
    loads = [sum(sizes[file] for file in files) for files in dealt]
    assert max(loads) <= 1.05 * min(loads)


def test_a_file_that_is_much_smaller_gets_no_lane_of_its_own() -> None:
    assert len(deal_files([1_000_000, 10], 8)) == 1
    assert len(deal_files([500, 1000, 500], 8)) == 2


def test_every_document_is_read_once_in_every_epoch(files: list[str], tmp_path: Path) -> None:
    keys = chain.from_iterable(islice(batches(), 20))
    found = Reader(files, tmp_path / "cache").read(keys)
    assert len({view.key for view in found}) == len(found)
    for epoch in range(3):
        texts = [view.text for view in found if view.key[0] == epoch]
        assert len(texts) == len(set(texts))
        assert set(texts) == WHOLE
    orders = [[view.text for view in found if view.key[0] == epoch] for epoch in range(2)]
    assert orders[0] != orders[1]


def test_the_index_of_a_document_names_its_file_and_place(files: list[str], tmp_path: Path) -> None:
    for (_, index), text in Reader(files, tmp_path / "cache").read(next(iter(batches()))):
        assert text == "-".join(map(str, divmod(index, streaming.MOST_DOCUMENTS)))


@pytest.mark.parametrize("kept", [True, False], ids=["counts kept", "counts lost"])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 7, 10, 15])
def test_reading_goes_on_at_any_step(
    files: list[str], tmp_path: Path, step: int, kept: bool
) -> None:
    whole = Reader(files, tmp_path / "cache").read(chain.from_iterable(islice(batches(), 18)))
    again = Reader(files, tmp_path / ("cache" if kept else "new"))
    rest = again.read(chain.from_iterable(islice(batches(step), 18 - step)))
    assert rest == whole[step * BATCH :]


def test_files_that_a_resumed_run_is_through_with_are_not_opened(
    files: list[str], tmp_path: Path
) -> None:
    first = Reader(files, tmp_path / "cache", number=1)
    whole = first.read((0, position) for position in range(len(WHOLE)))
    order = list(dict.fromkeys(int(view.text.split("-")[0]) for view in whole))
    position = sum(SIZES[file] for file in order[:3])
    for file in order[:3]:
        Path(files[file]).unlink()
    again = Reader(files, tmp_path / "cache", number=1)
    start = position // 4 * 4  # a block is read as a whole
    if start == position:
        assert again.read([(0, position)]) == whole[position : position + 1]
    later = position + 4
    assert again.read([(0, later)]) == whole[later : later + 1]


@pytest.mark.parametrize(("micro", "world"), [(6, 1), (4, 1), (1, 1), (None, 2), (3, 2), (2, 3)])
def test_the_set_of_a_step_does_not_depend_on_the_split(
    files: list[str], tmp_path: Path, micro: int | None, world: int
) -> None:
    alone = Reader(files, tmp_path / "cache")
    plans = [BatchPlan(BATCH, micro, world, rank) for rank in range(world)]
    readers = [Reader(files, tmp_path / f"{rank}") for rank in range(world)]
    for step in range(12):
        expected = alone.read(batches().micro_batch(step, 0))
        parts = [
            reader.read(batches(plan=plan).micro_batch(step, number))
            for plan, reader in zip(plans, readers, strict=True)
            for number in range(plan.accumulation)
        ]
        seen = list(chain(*parts))
        assert len({view.key for view in seen}) == BATCH
        assert sorted(seen) == sorted(expected)


def test_ranks_that_hold_whole_lanes_read_different_files(files: list[str], tmp_path: Path) -> None:
    opened = []
    for rank in range(3):
        reader = Reader(files, tmp_path / f"{rank}")
        plan = BatchPlan(BATCH, None, 3, rank)
        reader.read(chain.from_iterable(islice(batches(plan=plan), 30)))
        opened.append({file for file in range(len(SIZES)) if reader.counts.known(file)})
    assert set.union(*opened) == set(range(len(SIZES)))
    assert sum(map(len, opened)) == len(SIZES)


def test_seeds_give_orders_of_their_own(files: list[str], tmp_path: Path) -> None:
    keys = [(0, position) for position in range(8)]
    one, two = (Reader(files, tmp_path / "cache", seed=seed).read(keys) for seed in (1, 2))
    assert [view.text for view in one] != [view.text for view in two]


def test_neighbours_are_mixed(files: list[str], tmp_path: Path) -> None:
    (tmp_path / "long.txt").write_text("\n\n".join(map(str, range(40))))
    reader = Reader([str(tmp_path / "long.txt")], tmp_path / "cache", number=1)
    numbers = [int(view.text) for view in reader.read((0, position) for position in range(40))]
    assert numbers != sorted(numbers)
    assert all(sorted(numbers[at : at + 4]) == list(range(at, at + 4)) for at in range(0, 40, 4))
