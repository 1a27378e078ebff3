from __future__ import annotations

import io
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rrr_lightning.data import image_decoding
from rrr_lightning.data.image_cuts import Cut
from rrr_lightning.data.image_decoding import Decoder, decode
from rrr_lightning.data.image_sets import SmallImages
from rrr_lightning.data.image_sources import FolderImages
from rrr_lightning.data.image_splits import open_splits
from rrr_lightning.data.image_views import EvaluationView, TrainingView, View
from rrr_lightning.errors import InputError
from tests.data.test_jpeg import pillow, saved, waves

VIEWS: list[View] = [TrainingView(96, 0.08, seed=1), EvaluationView(110, 96)]


def name() -> str:
    return "image 7, cat.jpg"


def keyed(view: View, index: int) -> Callable[[int, int], Cut]:
    return lambda width, height: view(width, height, 2, index)


@pytest.mark.parametrize("view", VIEWS)
def test_views_of_photos_are_those_of_pillows_pixels(natural_photos: Path, view: View) -> None:
    decoder, photos = Decoder(), FolderImages(natural_photos / "train")
    for index, encoded in enumerate(photos.encoded(range(len(photos.labels)))):
        pixels = np.array(decode(encoded, name()))
        expected = view(pixels.shape[1], pixels.shape[0], 2, index).of(pixels)
        assert torch.equal(decoder.view(encoded, name, keyed(view, index)), expected)


@pytest.mark.parametrize("view", VIEWS)
def test_odd_files_are_decoded_as_by_pillow(view: View) -> None:
    image, exif = waves(150, 130), Image.Exif()
    exif[0x0112] = 6  # turned; nobody looks at it
    files = [
        saved(image, "PNG"),
        saved(image.convert("P"), "GIF"),
        saved(image.convert("1"), "PNG"),
        saved(image.convert("CMYK")),
        saved(image.convert("L")),
        saved(image, progressive=True),
        saved(image, exif=exif),
        saved(image, keep_rgb=True),
        saved(image) + bytes(1000),
    ]
    for index, encoded in enumerate(files):
        pixels = pillow(encoded).copy()
        expected = view(150, 130, 2, index).of(pixels)
        assert torch.equal(Decoder().view(encoded, name, keyed(view, index)), expected)


def test_what_cannot_be_decoded_is_named(natural_photos: Path) -> None:
    whole = next(natural_photos.glob("train/*/*.jpg")).read_bytes()
    png = saved(waves(40, 30), "PNG")
    for encoded in (b"", b"no image", whole[:-200], whole[:3000], whole[:30], png[:200]):
        with pytest.raises(InputError) as caught:
            Decoder().view(encoded, name, keyed(VIEWS[0], 0))
        assert str(caught.value).startswith("data.source: image 7, cat.jpg cannot be decoded (")


def test_damaged_files_are_decoded_or_refused_as_by_pillow() -> None:
    # Where the damage is below a training view, nothing of it is seen.
    chance, encoded, refused = random.Random(5), saved(waves(150, 130)), 0
    for index in range(200):
        broken = bytearray(encoded)
        for _ in range(2):
            broken[chance.randrange(2, len(encoded) - 2)] = chance.randrange(256)
        view = VIEWS[index % 2]
        try:
            pixels = np.array(decode(bytes(broken), name()))
        except InputError:
            refused += 1
            if isinstance(view, EvaluationView):
                with pytest.raises(InputError):
                    Decoder().view(bytes(broken), name, keyed(view, index))
            continue
        expected = view(pixels.shape[1], pixels.shape[0], 2, index).of(pixels)
        assert torch.equal(Decoder().view(bytes(broken), name, keyed(view, index)), expected)
    assert 0 < refused < 100


def test_large_images_are_reduced_before_they_are_resized(
    natural_photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = Image.open(sorted(natural_photos.glob("train/*/*.jpg"))[0])
    encoded = saved(photo.resize((2000, 1500), Image.Resampling.BICUBIC), quality=90)
    for index, view in enumerate(VIEWS):
        reduced = Decoder().view(encoded, name, keyed(view, index))
        with monkeypatch.context() as patch:
            patch.setattr(image_decoding, "MANY_PIXELS", 10**9)
            plain = Decoder().view(encoded, name, keyed(view, index))
        assert not torch.equal(reduced, plain)
        assert (reduced.int() - plain.int()).abs().float().mean() < 2


def test_images_that_pillow_finds_suspiciously_large_are_left_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="cannot be decoded"):
        Decoder().view(saved(waves(150, 130)), name, keyed(VIEWS[0], 0))


def test_small_images_are_pillows_pixels_to_the_last_bit(cifar: Path) -> None:
    source, _ = open_splits(str(cifar), "train", None, "image", "label")
    small = SmallImages(source, torch.arange(240), None)
    files = [Image.open(io.BytesIO(encoded)) for encoded in source.encoded(range(240))]
    expected = np.stack([np.asarray(file.convert("RGB")) for file in files])
    assert np.array_equal(small.decode().numpy(), expected)
