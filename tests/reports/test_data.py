"""Data that people have had: how it lies in its folder, and what becomes of it here."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rrr_lightning.data.documents import open_documents
from rrr_lightning.data.image_sources import ImageSplits
from rrr_lightning.data.transforms import decode
from rrr_lightning.errors import InputError
from tests.data.test_image_sources import make_folder


def test_data_of_one_file_are_for_training(tmp_path: Path) -> None:
    """datasets#3788: a single file whose name has `dev` in it becomes the validation split."""
    (tmp_path / "developers.txt").write_text("one")
    train, validation, test = open_documents(str(tmp_path), None, "train", None, "text", False)
    assert list(train) == ["one"]
    assert (validation, test) == (None, None)


def test_val_is_a_validation_split(tmp_path: Path) -> None:
    """datasets#4839: an image folder's `val` is not read as the validation split."""
    for word in ("val", "valid", "dev"):
        folder = make_folder(tmp_path / word, "train/x/1.png", f"{word}/x/2.png", "test/x/3.png")
        splits = ImageSplits(str(folder), "train", None, "image", "label")
        assert splits.validation is splits.open(word)


def test_a_file_that_belongs_to_no_split_is_not_lost_in_silence(tmp_path: Path) -> None:
    """torchgeo#1452: files whose names the reader does not expect are left out without a word."""
    (tmp_path / "train.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "train-1.jsonl.xz").write_bytes(b"")
    with pytest.raises(InputError, match=r"unknown format; found 'train-1\.jsonl\.xz'"):
        open_documents(str(tmp_path), None, "train", None, "text", False)


def test_a_16_bit_image_keeps_its_levels() -> None:
    """vision#2218: 16-bit grey images are clipped to white when they are made RGB."""
    file = io.BytesIO()
    Image.fromarray((np.arange(64, dtype=np.uint16) * 1024).reshape(8, 8)).save(file, "PNG")
    assert len(np.unique(np.asarray(decode(file.getvalue(), "ramp.png")))) == 64
