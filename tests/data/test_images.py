from __future__ import annotations

import shutil
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from rrr_lightning.data.images import ImageDataModule
from rrr_lightning.errors import InputError
from tests.data.test_image_sources import make_folder
from tests.data.toy import Notes, make_trainer

SMALL = {"crop_size": 32, "resize_size": 36, "num_workers": 0}


def train_batches(source: Path, count: int, **settings: Any) -> list[torch.Tensor]:
    data = ImageDataModule(str(source), global_batch_size=16, seed=1, **settings)
    data.setup("fit")
    loader: Any = data.train_dataloader()
    batches = [images for images, _ in islice(loader, count)]
    loader.close()
    return batches


@pytest.mark.parametrize("transform", ["imagenet", "cifar"])
def test_views_do_not_depend_on_workers_or_micro_batches(cifar: Path, transform: str) -> None:
    settings: dict[str, Any] = {**SMALL, "transform": transform}
    alone = train_batches(cifar, 17, **settings)  # into the second epoch of 15 steps
    shared = train_batches(cifar, 17, **{**settings, "num_workers": 2})
    parts = train_batches(cifar, 34, micro_batch_size=8, **settings)
    whole = torch.cat(alone)
    assert whole.shape == (17 * 16, 3, 32, 32)
    assert torch.equal(whole, torch.cat(shared))
    assert torch.equal(whole, torch.cat(parts))


def test_real_photos_of_all_sizes_make_batches_of_one(natural_photos: Path) -> None:
    data = ImageDataModule(str(natural_photos), global_batch_size=20, seed=1, **SMALL)
    data.setup("fit")
    images, labels = next(iter(data.train_dataloader()))
    assert (images.shape, images.dtype) == ((20, 3, 32, 32), torch.uint8)
    assert images.is_contiguous(memory_format=torch.channels_last)
    assert labels.dtype == torch.int64
    assert data.class_names == ("ants", "bees")
    assert [len(labels) for _, labels in data.val_dataloader()] == [20, 20]


def test_greyscale_images_are_part_of_imagenet_like(imagenet_like: Path) -> None:
    data = ImageDataModule(str(imagenet_like), eval_batch_size=100, seed=1, **SMALL)
    data.setup("validate")
    images = torch.cat([images for images, _ in data.val_dataloader()])
    grey = (images[:, 0] == images[:, 1]).flatten(1).all(1)
    assert len(images) == 500
    assert grey.any()
    assert data.num_classes == 10


def test_tuning_images_come_from_train_by_key_and_test_keeps_the_rest(cifar: Path) -> None:
    def module(seed: int, fraction: float) -> ImageDataModule:
        settings = {"global_batch_size": 8, "tuning_fraction": fraction, "transform": "cifar"}
        return ImageDataModule(str(cifar), seed=seed, **settings)  # type: ignore[arg-type]

    first, second = module(1, 0.25), module(2, 0.25)
    train, tuning = (part.chosen.tolist() for part in first.load())
    assert (len(train), len(tuning)) == (180, 60)
    assert sorted(train + tuning) == list(range(240))
    assert second.load()[1].chosen.tolist() == tuning
    first.setup("test")
    assert sum(len(labels) for _, labels in first.test_dataloader()) == 60
    held_out = torch.cat([labels for _, labels in first.val_dataloader()])
    tested = torch.cat([labels for _, labels in first.test_dataloader()])
    assert not torch.equal(held_out, tested)
    plain = module(1, 0.0)
    assert torch.equal(torch.cat([labels for _, labels in plain.test_dataloader()]), tested)


def test_one_file_needs_a_tuning_fraction(cifar: Path) -> None:
    source = str(cifar / "test.parquet")
    data = ImageDataModule(source, global_batch_size=8, transform="cifar")
    line = "data.tuning_fraction: .* has no validation or test split to validate on"
    with pytest.raises(InputError, match=line):
        data.setup("fit")
    data = ImageDataModule(source, global_batch_size=8, transform="cifar", tuning_fraction=0.001)
    with pytest.raises(InputError, match="takes 0 of 60 samples"):
        data.setup("fit")
    data = ImageDataModule(source, global_batch_size=8, transform="cifar", tuning_fraction=0.5)
    data.setup("test")
    assert sum(len(labels) for _, labels in data.val_dataloader()) == 30
    with pytest.raises(InputError, match=r"no test split with labels; .* or `validate`"):
        data.test_dataloader()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_corrupt_image_ends_the_run_with_its_name(tmp_path: Path, workers: int) -> None:
    names = [f"{split}/{name}/{i}.png" for split in ("train", "val") for name in "ab" for i in "12"]
    make_folder(tmp_path, *names)
    path = tmp_path / "train" / "b" / "1.png"
    path.write_bytes(path.read_bytes()[:40])
    settings = {**SMALL, "num_workers": workers}
    data = ImageDataModule(str(tmp_path), global_batch_size=4, **settings)
    with pytest.raises(InputError) as caught:
        make_trainer(tmp_path, 2).fit(Notes(), datamodule=data)
    assert str(caught.value).startswith(f"data.source: image 2, {path} cannot be decoded (")
    assert "Traceback" not in str(caught.value)


def test_a_corrupt_small_image_is_found_in_setup(tmp_path: Path, natural_photos: Path) -> None:
    make_folder(tmp_path, "train/a/1.png", "train/a/2.png", "val/a/1.png")
    (tmp_path / "train" / "a" / "2.png").write_bytes(b"broken")
    data = ImageDataModule(str(tmp_path), global_batch_size=1, transform="cifar")
    with pytest.raises(InputError, match=r"image 1, .*/train/a/2.png cannot be decoded"):
        data.setup("fit")
    data = ImageDataModule(str(natural_photos), global_batch_size=1, transform="cifar")
    with pytest.raises(InputError, match="cifar needs images of one size"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        (
            {"transform": "mnist"},
            "data.transform: unknown; found 'mnist'; accepted: imagenet, cifar",
        ),
        ({"crop_size": 300}, "data.crop_size: out of range; found 300; accepted: 1 to data.resize"),
        ({"min_scale": 0.0}, "data.min_scale: out of range; found 0.0; accepted: (0, 1]"),
        (
            {"tuning_fraction": 1.0},
            "data.tuning_fraction: out of range; found 1.0; accepted: [0, 1)",
        ),
        ({"tuning_fraction": -0.1}, "data.tuning_fraction: out of range; found -0.1"),
        ({"num_workers": -1}, "data.num_workers: must not be negative; found -1"),
    ],
)
def test_bad_arguments_are_refused_when_made(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as caught:
        ImageDataModule("somewhere", **settings)
    assert str(caught.value).startswith(line)


def test_a_batch_must_fit_the_data_set_and_divide(tmp_path: Path, cifar: Path) -> None:
    def refused(**settings: Any) -> str:
        data = ImageDataModule(str(cifar), transform="cifar", **settings)
        with pytest.raises(InputError) as caught:
            make_trainer(tmp_path, 2).fit(Notes(), datamodule=data)
        return str(caught.value)

    line = "data.global_batch_size: is larger than the data set of 240 samples; found 256"
    assert refused().startswith(line)
    line = "data.micro_batch_size: does not divide the 48 samples of a rank's share"
    assert refused(global_batch_size=48, micro_batch_size=20).startswith(line)


def test_images_without_class_names_are_counted_by_label(cifar: Path, tmp_path: Path) -> None:
    from datasets import Dataset, Value

    for split in ("train-00000-of-00002", "test"):
        rows = Dataset.from_parquet(str(cifar / f"{split}.parquet"))
        rows = rows.cast_column("label", Value("int64")).rename_column("label", "kind")
        rows.to_parquet(tmp_path / f"{split}.parquet")
    data = ImageDataModule(str(tmp_path), label_column="kind")
    assert (data.class_names, data.num_classes) == (None, 10)


def test_the_folder_may_be_deleted_after_small_images_are_decoded(tmp_path: Path) -> None:
    root = make_folder(
        tmp_path / "pets", "train/a/1.png", "train/b/1.png", "val/a/1.png", "val/b/1.png"
    )
    data = ImageDataModule(str(root), global_batch_size=2, transform="cifar")
    data.setup("fit")
    shutil.rmtree(root)
    images, _ = next(iter(data.train_dataloader()))
    assert images.shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    ("asked", "paths"),
    [
        (None, ["x/5.png", "y/6.png"]),  # the test split
        ("val", ["x/3.png", "y/4.png"]),
        ("train", ["x/1.png", "y/2.png"]),
        ("new", ["7.png", "deep/8.jpg"]),
    ],
)
def test_what_predict_uses(tmp_path: Path, asked: str | None, paths: list[str]) -> None:
    root = make_folder(
        tmp_path / "pets",
        *("train/x/1.png", "train/y/2.png", "val/x/3.png", "val/y/4.png"),
        *("test/x/5.png", "test/y/6.png"),
    )
    make_folder(tmp_path, "new/7.png", "new/deep/8.jpg")
    asked = str(tmp_path / "new") if asked == "new" else asked
    data = ImageDataModule(str(root), global_batch_size=2, predict_source=asked, **SMALL)
    data.setup("predict")
    assert [data.predict_images.path(index) for index in range(2)] == paths
    (batch,) = data.predict_dataloader()
    images = batch if isinstance(batch, torch.Tensor) else batch[0]
    assert images.shape == (2, 3, 32, 32)
    assert isinstance(batch, torch.Tensor) == ("7.png" in paths)


def test_a_predict_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets", "train/x/1.png", "val/x/3.png")
    for asked in ("tset", "train/x/1.png", str(root / "train/x/1.png")):
        data = ImageDataModule(str(root), predict_source=asked, **SMALL)
        with pytest.raises(
            InputError, match=r"data.predict_source: is neither a split nor a folde"
        ):
            data.predict_dataloader()
