from __future__ import annotations

import io
import json
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from rrr_lightning.data.image_shards import (
    Resizing,
    check_room,
    cut_into_shards,
    predict_bytes,
    prepare_shards,
    verify_shards,
)
from rrr_lightning.data.image_sources import FolderImages
from rrr_lightning.data.image_splits import open_splits
from rrr_lightning.errors import InputError
from tests.data.test_jpeg import saved, waves

SMALL = Resizing(side=40, quality=80)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    for split, each in (("train", 4), ("val", 1)):
        for number, kind in enumerate(("ant", "bee")):
            (root / split / kind).mkdir(parents=True)
            for place in range(each):
                image = waves(60 + 7 * place, 50 + number)
                image.save(root / split / kind / f"{place}.jpg", quality=95)
    return root


def prepared(source: Path, out: Path, resizing: Resizing = SMALL) -> list[str]:
    out.mkdir(exist_ok=True)
    shards = cut_into_shards(source, ["train", "val"], per_shard=3)
    return [name for name, _ in prepare_shards(shards, out, resizing, workers=1)]


def test_images_larger_than_the_side_become_smaller_and_others_stay() -> None:
    large = saved(waves(120, 80))
    image = Image.open(io.BytesIO(SMALL(large, "x")))
    assert (image.size, image.format) == ((60, 40), "JPEG")
    small = saved(waves(100, 40))
    assert SMALL(small, "x") == small
    for other in (saved(waves(30, 20), "PNG"), saved(waves(30, 20).convert("CMYK"))):
        image = Image.open(io.BytesIO(SMALL(other, "x")))
        assert (image.size, image.format, image.mode) == ((30, 20), "JPEG", "RGB")
    with pytest.raises(InputError, match=r"cat.jpg cannot be decoded"):
        SMALL(large[:-100], "cat.jpg")


def test_shards_are_a_source_with_the_same_order(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = prepared(source, out)
    assert sorted(names) == [
        "train-00000-of-00003.parquet",
        "train-00001-of-00003.parquet",
        "train-00002-of-00003.parquet",
        "val-00000-of-00001.parquet",
    ]
    train, validation = open_splits(str(out), "train", None, "image", "label")
    folder = FolderImages(source / "train")
    assert validation is not None
    assert train.class_names == ("ant", "bee")
    assert torch.equal(train.labels, folder.labels)
    expected = [SMALL(encoded, "x") for encoded in folder.encoded(range(8))]
    assert train.encoded(range(8)) == expected
    assert validation.labels.tolist() == [0, 1]


def test_finished_shards_are_kept_and_lost_ones_written_again(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    names = prepared(source, out)
    times = {name: (out / name).stat().st_mtime_ns for name in names}
    lost, cut = sorted(names)[1:3]
    (out / lost).unlink()
    (out / cut).write_bytes((out / cut).read_bytes()[:-1])
    (out / f".{lost}.part").write_bytes(b"left by a process that was killed")
    assert sorted(prepared(source, out)) == [lost, cut]
    for name in set(names) - {lost, cut}:
        assert (out / name).stat().st_mtime_ns == times[name]
    assert prepared(source, out) == []
    assert not list(out.glob(".*.part"))
    shards = cut_into_shards(source, ["train", "val"], per_shard=3)
    assert verify_shards(shards, out) == 10


def test_other_settings_or_images_are_refused(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepared(source, out)
    with pytest.raises(InputError, match="--out: holds shards that were made from other resizing"):
        prepared(source, out, Resizing(side=41, quality=80))
    (source / "val" / "bee" / "1.jpg").write_bytes(saved(waves(10, 10)))
    with pytest.raises(InputError, match="--out: holds shards that were made from other images"):
        prepared(source, out)


def test_verification_finds_what_changed(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepared(source, out)
    shards = cut_into_shards(source, ["train", "val"], per_shard=3)
    path = out / shards[1].name
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    line = r"1 of 4 files are not .*; found 'train-00001-of-00003.parquet'; accepted: the same com"
    with pytest.raises(InputError, match=line):
        verify_shards(shards, out)
    with pytest.raises(InputError, match="is missing or not finished"):
        verify_shards(shards, out)
    assert prepared(source, out) == [path.name], "the next preparation mends it"
    assert path.read_bytes() == whole
    assert verify_shards(shards, out) == 10
    path.unlink()
    with pytest.raises(InputError, match="is missing"):
        verify_shards(shards, out)
    (out / "prepared.json").write_text("{")
    with pytest.raises(InputError, match=r"cannot be read as JSON; found '.*prepared.json'"):
        verify_shards(shards, out)


def test_verification_against_another_source_drops_nothing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepared(source, out)
    (source / "train" / "ant" / "0.jpg").unlink()
    shards = cut_into_shards(source, ["train", "val"], per_shard=3)
    before = (out / "prepared.json").read_bytes()
    with pytest.raises(InputError, match="--out: has other images than the source; found"):
        verify_shards(shards, out)
    assert (out / "prepared.json").read_bytes() == before


def test_a_corrupt_image_is_named_and_the_rest_is_kept(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    broken = source / "val" / "bee" / "0.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:100] + bytes(len(whole) - 100))
    with pytest.raises(InputError, match=r"val/bee/0.jpg cannot be decoded"):
        prepared(source, out)
    assert len(json.loads((out / "prepared.json").read_text())["shards"]) == 3


def test_the_size_is_predicted_and_room_asked_for(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = cut_into_shards(source, ["train"], per_shard=8)
    images = FolderImages(source / "train")
    sizes = [len(SMALL(encoded, "x")) for encoded in images.encoded(range(8))]
    assert predict_bytes(shards, SMALL) == pytest.approx(sum(sizes), rel=0.05)
    usage: Any = namedtuple("usage", "total used free")(0, 0, 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    check_room(tmp_path, 900_000_000)
    with pytest.raises(InputError, match=r"--out: needs about 1.1 GB; found '1.0 GB free at"):
        check_room(tmp_path, 1_000_000_000)
