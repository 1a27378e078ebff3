from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rrr_lightning.data.image_sources import ImageSource, ImageSplits
from rrr_lightning.errors import InputError
from tests.data.test_image_sources import make_folder, table

COLUMNS = ("image", "label")


def open_splits(
    source: str, train: str, validation: str | None, *columns: str
) -> tuple[ImageSource, ImageSource | None]:
    splits = ImageSplits(source, train, validation, columns[0], columns[1])
    return splits.train, splits.validation


def refused(source: object, *splits: str | None) -> str:
    names = splits or ("train", None)
    with pytest.raises(InputError) as caught:
        open_splits(str(source), *names, *COLUMNS)
    return str(caught.value)


def test_a_folder_of_class_folders(imagenet_like: Path) -> None:
    train, validation = open_splits(str(imagenet_like), "train", None, *COLUMNS)
    assert validation is not None
    assert (len(train.labels), len(validation.labels)) == (1680, 500)
    assert train.class_names == validation.class_names
    assert open_splits(str(imagenet_like), "val", "train", *COLUMNS)[0].labels.shape == (500,)


def test_a_folder_of_parquet_files(cifar: Path) -> None:
    train, validation = open_splits(str(cifar), "train", None, *COLUMNS)
    assert validation is not None
    assert (len(train.labels), len(validation.labels)) == (240, 60)
    assert (train.class_names or ())[:2] == ("airplane", "automobile")
    assert train.encoded([239])[0][:2] == b"\xff\xd8"


def test_one_parquet_file_is_a_training_split(cifar: Path) -> None:
    train, validation = open_splits(str(cifar / "test.parquet"), "train", None, *COLUMNS)
    assert (len(train.labels), validation) == (60, None)


def test_a_data_set_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    rows = {
        "train": table(image=[None, None], label=[0, 1]),
        "test": table(image=[None], label=[1]),
    }
    asked: list[tuple[Any, ...]] = []

    def load_dataset(source: str, split: str) -> Any:
        asked.append((source, split))
        return rows[split]

    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda source: list(rows))
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    train, validation = open_splits("owner/pets", "train", None, *COLUMNS)
    assert asked == [("owner/pets", "train"), ("owner/pets", "test")]
    assert validation is not None
    assert (train.labels.tolist(), validation.labels.tolist()) == ([0, 1], [1])
    assert train.name(1) == "image 1 of owner/pets train"


def test_sources_that_are_not_there_are_refused(tmp_path: Path) -> None:
    line = f"data.source: no such file or folder; found '{tmp_path}/nowhere'; accepted: a folder"
    assert refused(tmp_path / "nowhere").startswith(line)
    line = refused("nobody/nothing")
    assert line.startswith("data.source: is neither here nor a data set of the hub that can be ")
    assert "\n" not in line
    (tmp_path / "images.tar").write_text("")
    assert "is not a parquet file; found" in refused(tmp_path / "images.tar")
    (tmp_path / "broken.parquet").write_text("no parquet")
    assert "cannot be read as parquet (" in refused(tmp_path / "broken.parquet")
    (tmp_path / "empty").mkdir()
    assert "holds neither folders nor parquet files" in refused(tmp_path / "empty")


def test_splits_that_are_not_there_list_those_that_are(tmp_path: Path, cifar: Path) -> None:
    make_folder(tmp_path, "train/cat/a.png", "val/cat/a.png")
    line = f"data.val_split: {tmp_path} has no such split; did you mean 'val'?; found 'vall'"
    assert refused(tmp_path, "train", "vall") == f"{line}; accepted: train, val"
    assert refused(cifar, "first", None).endswith("found 'first'; accepted: test, train")


def test_splits_must_have_the_same_classes(tmp_path: Path, cifar: Path) -> None:
    make_folder(tmp_path, "train/cat/a.png", "train/dog/a.png", "train/ox/a.png", "val/cat/a.png")
    line = "data.source: class 'dog' is in train but not in val, nor are 1 more"
    assert refused(tmp_path) == line
    make_folder(tmp_path, "val/dog/a.png", "val/ox/a.png", "val/yak/a.png")
    assert refused(tmp_path) == "data.source: class 'yak' is in val but not in train"
    (tmp_path / "val" / "yak" / "a.png").unlink()
    assert "holds no images" in refused(tmp_path)


def test_classes_in_another_order_are_refused(tmp_path: Path) -> None:
    from datasets import ClassLabel

    rows = table(raw=[b"", b""], label=[0, 1])
    rows.to_parquet(tmp_path / "train.parquet")
    turned = rows.cast_column("label", ClassLabel(names=["dog", "cat"]))
    turned.to_parquet(tmp_path / "val.parquet")
    with pytest.raises(InputError, match="the classes of val are in another order than those of"):
        open_splits(str(tmp_path), "train", None, "raw", "label")


def test_parquet_files_beside_folders_are_refused(tmp_path: Path, cifar: Path) -> None:
    for inside in ("", "data/"):
        root = make_folder(tmp_path / f"x{len(inside)}", "train/cat/a.png")
        (root / inside).mkdir(exist_ok=True)
        (root / inside / "train.parquet").write_bytes((cifar / "test.parquet").read_bytes())
        line = f"holds both parquet files and folders; found '{inside}train.parquet, train/'"
        assert line in refused(root)
