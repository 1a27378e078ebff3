from __future__ import annotations

from pathlib import Path

import pytest

from rrr_lightning.data.streaming import FileCounts
from rrr_lightning.errors import InputError


def files(folder: Path, *sizes: int) -> FileCounts:
    for file, size in enumerate(sizes):
        (folder / f"{file}.txt").write_text("\n\n".join(f"{file}-{row}" for row in range(size)))
    (folder / "cache").mkdir(exist_ok=True)
    names = [str(folder / f"{file}.txt") for file in range(len(sizes))]
    return FileCounts(names, "text", folder / "cache")


def test_a_count_is_known_and_kept_once_a_file_was_read_to_its_end(tmp_path: Path) -> None:
    counts = files(tmp_path, 3, 2)
    assert counts.known(0) is None
    assert counts.total([0, 1]) is None
    assert list(counts.read(0, 1)) == [(1, "0-1"), (2, "0-2")]
    assert counts.known(0) == 3
    assert counts.total([0]) == 3
    assert counts.total([0, 1]) is None
    assert list(counts.read(1, 5)) == []
    assert counts.total([0, 1]) == 5
    again = files(tmp_path, 3, 2)
    assert (again.known(0), again.known(1)) == (3, 2)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["0.count", "1.count"]


def test_a_reading_that_is_left_keeps_nothing(tmp_path: Path) -> None:
    counts = files(tmp_path, 3)
    assert next(counts.read(0, 0)) == (0, "0-0")
    assert counts.known(0) is None


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    counts = files(tmp_path, 0)
    with pytest.raises(InputError, match="holds no documents"):
        list(counts.read(0, 0))


def test_a_file_that_changed_is_told(tmp_path: Path) -> None:
    list(files(tmp_path, 3).read(0, 0))
    line = r"had 3 documents when it was read before, and now has 2; found '.*0.txt'"
    with pytest.raises(InputError, match=line):
        list(files(tmp_path, 2).read(0, 0))
