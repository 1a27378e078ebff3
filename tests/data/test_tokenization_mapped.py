from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from rrr_lightning.data.tokenization import SUMMARY, MappedSamples, describe_part, write_part
from rrr_lightning.errors import InputError

SAMPLES = [[2, 7, 3], [2, 65_535, 5, 3], [2, 3], [2, 9, 9, 9, 9, 3]]


def folder_of(folder: Path, *parts: list[list[int]]) -> Path:
    for number, samples in enumerate(parts):
        ids = np.array([token for ids in samples for token in ids], dtype=np.uint16)
        lengths = np.array([len(ids) for ids in samples], dtype=np.int64)
        write_part(folder / f"{number}.arrow", ids, lengths, {"documents": len(samples)})
    files = [folder / f"{number}.arrow" for number in range(len(parts))]
    (folder / SUMMARY).write_text(json.dumps({"parts": [describe_part(file) for file in files]}))
    return folder


def rows(samples: MappedSamples, indices: list[int]) -> list[list[int]]:
    ids, lengths = samples.padded(indices, 8, padding=0)
    assert ids.dtype == np.int64
    assert all((row[length:] == 0).all() for row, length in zip(ids, lengths, strict=True))
    return [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]


def test_samples_of_several_parts_in_any_order(tmp_path: Path) -> None:
    samples = MappedSamples(folder_of(tmp_path, SAMPLES[:1], [], SAMPLES[1:]))
    assert len(samples) == 4
    for order in ([0, 1, 2, 3], [3, 0, 3], [2]):
        assert rows(samples, order) == [SAMPLES[index] for index in order]


def test_the_files_are_mapped_not_read(tmp_path: Path) -> None:
    samples = MappedSamples(folder_of(tmp_path, SAMPLES))
    ids, _ = samples._parts[0]
    assert not ids.flags.owndata
    assert not ids.flags.writeable
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(tmp_path / "0.arrow") in maps.read_text()


def test_a_copy_in_another_process_opens_the_files_itself(tmp_path: Path) -> None:
    samples = MappedSamples(folder_of(tmp_path, SAMPLES))
    text = pickle.dumps(samples)
    assert len(text) < 500
    assert rows(pickle.loads(text), [1]) == [SAMPLES[1]]


def test_a_part_that_is_missing_or_cut_is_named(tmp_path: Path) -> None:
    file = folder_of(tmp_path, SAMPLES) / "0.arrow"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"not as it was written; found '.*0.arrow'; .* remove"):
        MappedSamples(tmp_path)
    file.unlink()
    with pytest.raises(InputError, match=r"data.cache_dir: is missing; found '.*0.arrow'"):
        MappedSamples(tmp_path)


@pytest.mark.parametrize(
    "summary",
    [
        "",
        "[]",
        "{}",
        '{"parts": 1}',
        '{"parts": [{"file": "0.arrow"}]}',
        '{"parts": [{"file": "../0.arrow", "bytes": 1, "samples": 4}]}',
        '{"parts": [], "parts": []}',
    ],
)
def test_a_damaged_summary_is_refused_in_one_line(tmp_path: Path, summary: str) -> None:
    folder = folder_of(tmp_path, SAMPLES)
    (folder / SUMMARY).write_text(summary)
    with pytest.raises(InputError, match=r"damaged|leaves its folder"):
        MappedSamples(folder)


def test_a_summary_with_another_number_of_samples_is_refused(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, SAMPLES)
    content = json.loads((folder / SUMMARY).read_text())
    for number in (3, 10**9, "4", None):
        content["parts"][0]["samples"] = number
        (folder / SUMMARY).write_text(json.dumps(content))
        with pytest.raises(InputError, match="numbers of samples"):
            MappedSamples(folder)
