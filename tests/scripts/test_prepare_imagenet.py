from __future__ import annotations

import io
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

from rrr_lightning.data.image_sources import FolderImages, ImageSplits
from tests.data.pictures import waves
from tests.scripts.loading import load_script


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load_script("prepare_imagenet.py", monkeypatch)


def test_images_become_smaller_in_their_order_and_what_is_done_is_kept(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split, count in (("train", 4), ("val", 1)):
        for number, kind in enumerate(("ant", "bee")):
            (tmp_path / "in" / split / kind).mkdir(parents=True)
            for index in range(count):
                path = tmp_path / "in" / split / kind / f"{index}.jpg"
                waves(60 + 7 * index, 35 + 15 * number).save(path, quality=95)
    options = ("--source", tmp_path / "in", "--out", tmp_path / "out", "--side", 40)
    command = ["x", *map(str, options), "--per-shard", "3", "--workers", "1"]
    monkeypatch.setattr("sys.argv", command)
    assert script.main() == 0
    files = sorted((tmp_path / "out").glob("*.parquet"))
    assert len(files) == 3 + 1
    source = FolderImages(tmp_path / "in" / "train")
    written = ImageSplits(str(tmp_path / "out"), "train", None, "image", "label").train
    assert written.class_names == source.class_names == ("ant", "bee")
    assert written.labels.tolist() == source.labels.tolist()
    pairs = zip(source.encoded(range(8)), written.encoded(range(8)), strict=True)
    for index, (before, after) in enumerate(pairs):
        image = Image.open(io.BytesIO(after))
        assert image.format == "JPEG"
        if index < 4:  # small enough: the same file
            assert after == before
        else:
            assert image.size == (round((60 + 7 * (index - 4)) * 40 / 50), 40)
    times = [file.stat().st_mtime_ns for file in files[1:]]
    files[0].unlink()
    assert script.main() == 0
    assert files[0].exists()
    assert [file.stat().st_mtime_ns for file in files[1:]] == times


def test_a_missing_folder_is_one_line(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options = ("--source", str(tmp_path / "none"), "--out", str(tmp_path / "out"))
    monkeypatch.setattr("sys.argv", ["x", *options])
    assert script.main() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "data.source: cannot be read as a folder" in line
