from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from rrr_lightning.data.image_sources import FolderImages, TableImages, UnlabelledImages
from rrr_lightning.errors import InputError


def make_folder(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(root / path)
    return root


def test_classes_and_images_come_in_alphabetical_order(tmp_path: Path) -> None:
    make_folder(tmp_path, "wolf/2.png", "cat/b.JPEG", "cat/a.png", "wolf/more/1.jpg")
    (tmp_path / "README.md").write_text("files beside the class folders are not looked at")
    (tmp_path / "cat" / ".DS_Store").write_text("nor are hidden ones")
    images = FolderImages(tmp_path)
    assert images.class_names == ("cat", "wolf")
    assert images.paths == ["cat/a.png", "cat/b.JPEG", "wolf/2.png", "wolf/more/1.jpg"]
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert images.encoded([3, 0])[1] == (tmp_path / "cat" / "a.png").read_bytes()
    assert images.name(3) == f"image 3, {tmp_path}/wolf/more/1.jpg"


def test_endings_of_all_formats_that_pillow_reads(tmp_path: Path) -> None:
    paths = ["cat/a.jfif", "cat/b.AVIF", "cat/c.tga", "cat/d.jp2", "cat/e.webp", "cat/f.ppm"]
    images = FolderImages(make_folder(tmp_path, *paths))
    assert images.paths == paths
    assert [len(each) > 0 for each in images.encoded(range(6))] == [True] * 6


@pytest.mark.parametrize("name", ["a.eps", "a.wmf", "a.pdf", "a.csv"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    make_folder(tmp_path, "cat/b.png")
    (tmp_path / "cat" / name).write_bytes(b"%!PS")
    with pytest.raises(InputError, match=f"is not an image by its ending; found '.*/cat/{name}'"):
        FolderImages(tmp_path)


@pytest.mark.parametrize("name", ["b.png", "b.JPEG", "b.avif"])
def test_an_image_outside_of_the_class_folders_is_refused(tmp_path: Path, name: str) -> None:
    make_folder(tmp_path, "cat/a.png", name)
    with pytest.raises(InputError, match=f"outside of the class folders; found '{tmp_path}/{name}"):
        FolderImages(tmp_path)


def test_a_folder_without_labels(tmp_path: Path) -> None:
    images = UnlabelledImages(make_folder(tmp_path, "b.png", "a/2.png", "a/b/1.jpg"))
    assert (images.paths, images.labels, len(images)) == (
        ["a/2.png", "a/b/1.jpg", "b.png"],
        None,
        3,
    )
    assert images.encoded([2]) == [(tmp_path / "b.png").read_bytes()]
    assert images.name(1) == f"image 1, {tmp_path}/a/b/1.jpg"


def test_real_folders_are_read_whole(imagenet_like: Path) -> None:
    images = FolderImages(imagenet_like / "train")
    assert len(images.paths) == len(images.labels) == 1680
    assert images.labels.bincount().tolist() == [168] * 10


def test_bad_folders_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(line: str) -> None:
        with pytest.raises(InputError) as caught:
            FolderImages(tmp_path)
        assert line in str(caught.value)

    refused(f"data.source: holds no class folders; found '{tmp_path}'")
    (tmp_path / "cat").mkdir()
    refused(f"data.source: holds no images; found '{tmp_path}/cat'")
    make_folder(tmp_path, "cat/a.png")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    refused(
        f"is not an image by its ending; found '{tmp_path}/cat/notes.txt'; accepted: what Pillow"
    )

    def deny(folder: Any) -> Any:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", deny)
    refused(f"cannot be read as a folder (Permission denied); found '{tmp_path}'")


def test_a_file_that_went_away_is_named(tmp_path: Path) -> None:
    images = FolderImages(make_folder(tmp_path, "cat/a.png", "cat/b.png"))
    (tmp_path / "cat" / "b.png").unlink()
    with pytest.raises(InputError, match=r"image 1, .*/cat/b.png cannot be read \(No such file"):
        images.encoded([0, 1])


def table(**columns: Any) -> Any:
    from datasets import ClassLabel, Dataset, Features, Image, Value

    kinds = {
        "image": Image(),
        "raw": Value("binary"),
        "plain": {"bytes": Value("binary"), "path": Value("string")},
        "label": ClassLabel(names=["cat", "dog"]),
        "number": Value("int32"),
        "text": Value("string"),
    }
    return Dataset.from_dict(columns, Features({name: kinds[name] for name in columns}))


def test_tables_give_bytes_from_every_kind_of_column(tmp_path: Path) -> None:
    make_folder(tmp_path, "a.png")
    data = (tmp_path / "a.png").read_bytes()
    rows = [{"bytes": data, "path": None}, {"bytes": None, "path": str(tmp_path / "a.png")}]
    for column, values in (("image", rows), ("plain", rows), ("raw", [data, data])):
        images = TableImages(table(**{column: values}, label=[1, 0]), "table", column, "label")
        assert images.encoded([1, 0]) == [data, data]
        assert images.labels.tolist() == [1, 0]
        assert images.class_names == ("cat", "dog")
    numbered = TableImages(table(raw=[data], number=[6]), "table", "raw", "number")
    assert numbered.class_names is None
    assert numbered.name(0) == "image 0 of table"


@pytest.mark.parametrize(
    ("columns", "image", "label", "line"),
    [
        (
            {"raw": [b""], "label": [0]},
            "image",
            "label",
            "data.image_column: table has no such column; found 'image'; accepted: raw, label",
        ),
        (
            {"raw": [b""], "label": [0]},
            "raw",
            "labels",
            "data.label_column: table has no such column; did you mean 'label'?; found 'labels'",
        ),
        (
            {"text": ["a"], "label": [0]},
            "text",
            "label",
            "data.image_column: table has no images in this column but Value('string')",
        ),
        (
            {"raw": [b""], "text": ["a"]},
            "raw",
            "text",
            "data.label_column: table has no class labels in this column but Value('string')",
        ),
        ({"raw": [], "label": []}, "raw", "label", "data.source: holds no images; found 'table'"),
        (
            {"raw": [b"", b""], "number": [3, -1]},
            "raw",
            "number",
            "data.label_column: image 1 of table has a label that names no class; found -1",
        ),
        (
            {"raw": [b"", b""], "label": [1, -1]},
            "raw",
            "label",
            "image 1 of table has a label that names no class; found -1; accepted: 0 to 1",
        ),
    ],
)
def test_bad_tables_are_refused(columns: dict[str, Any], image: str, label: str, line: str) -> None:
    with pytest.raises(InputError) as caught:
        TableImages(table(**columns), "table", image, label)
    assert line in str(caught.value)


def test_a_row_without_an_image_is_named() -> None:
    images = TableImages(table(image=[None], label=[0]), "table", "image", "label")
    with pytest.raises(InputError, match="image 0 of table is missing"):
        images.encoded([0])
