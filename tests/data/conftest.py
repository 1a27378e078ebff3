"""Real images: the archives unpacked once, and a few rows of CIFAR-10-JPEG as parquet files."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest


def unpack(archive: Path, folder: Path) -> Path:
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder


@pytest.fixture(scope="session")
def imagenet_like(rrr_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(rrr_data / "imagenet_like.tar", tmp_path_factory.mktemp("imagenet_like"))


@pytest.fixture(scope="session")
def natural_photos(rrr_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack(rrr_data / "natural_photos.tar", tmp_path_factory.mktemp("natural_photos"))


@pytest.fixture(scope="session")
def cifar(rrr_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 240 training and 60 test images, in two and one files."""
    from datasets import Dataset

    folder = tmp_path_factory.mktemp("cifar")
    rows = Dataset.from_parquet(str(rrr_data / "cifar10" / "test.parquet"))
    rows.select(range(140)).to_parquet(str(folder / "train-00000-of-00002.parquet"))
    rows.select(range(140, 240)).to_parquet(str(folder / "train-00001-of-00002.parquet"))
    rows.select(range(240, 300)).to_parquet(str(folder / "test.parquet"))
    return folder
