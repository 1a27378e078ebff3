from __future__ import annotations

import io
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from rrr_lightning.data import transforms
from rrr_lightning.data.image_sources import FolderImages, ImageSplits
from rrr_lightning.data.images import SmallImages
from rrr_lightning.data.transforms import (
    FACTORS,
    Cut,
    EvaluationView,
    TrainingView,
    View,
    decode,
    decode_jpeg,
    decoded_view,
)
from rrr_lightning.errors import InputError
from tests.data.pictures import pillow, saved, tiff, waves

VIEWS: list[View] = [TrainingView(96, 0.08, seed=1), EvaluationView(110, 96)]


def name() -> str:
    return "image 7, cat.jpg"


def keyed(view: View, index: int) -> Callable[[int, int], Cut]:
    return lambda width, height: view(width, height, 2, index)


def test_pixels_of_real_photos_are_pillows(natural_photos: Path, imagenet_like: Path) -> None:
    files = [*natural_photos.glob("*/*/*.jpg"), *sorted(imagenet_like.glob("val/*/*"))[::4]]
    assert len(files) == 285
    for file in files:
        encoded = file.read_bytes()
        expected = pillow(encoded)
        assert np.array_equal(decode_jpeg(encoded, *expected.shape[:2]), expected)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("extra", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("grey", [False, True])
def test_pixels_of_all_kinds_are_pillows(subsampling: str, extra: Any, grey: bool) -> None:
    image = waves(75, 97).convert("L" if grey else "RGB")
    encoded = saved(image, subsampling=subsampling, quality=85, **extra)
    assert np.array_equal(decode_jpeg(encoded, 97, 75), pillow(encoded))


def test_reduced_pixels_are_close_to_averages() -> None:
    encoded = saved(waves(800, 333), quality=95)
    whole = pillow(encoded).astype(float)
    for factor in FACTORS:
        pixels = decode_jpeg(encoded, 333, 800, factor)
        assert pixels.shape == (-(-333 // factor), 800 // factor, 3)
        rows = 333 // factor
        blocks = whole[: rows * factor].reshape(rows, factor, 800 // factor, factor, 3)
        assert abs(pixels[:rows] - blocks.mean((1, 3))).mean() < 3


@pytest.mark.parametrize("view", VIEWS)
def test_views_of_photos_are_those_of_pillows_pixels(natural_photos: Path, view: View) -> None:
    photos = FolderImages(natural_photos / "train")
    for index, encoded in enumerate(photos.encoded(range(len(photos.labels)))):
        pixels = np.array(decode(encoded, name()))
        expected = view(pixels.shape[1], pixels.shape[0], 2, index).of(pixels)
        assert torch.equal(decoded_view(encoded, name, keyed(view, index)), expected)


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
        assert torch.equal(decoded_view(encoded, name, keyed(view, index)), expected)


def test_what_cannot_be_decoded_is_named(natural_photos: Path) -> None:
    whole = next(natural_photos.glob("train/*/*.jpg")).read_bytes()
    png = saved(waves(40, 30), "PNG")
    for encoded in (b"", b"no image", whole[:-200], whole[:3000], whole[:30], png[:200]):
        with pytest.raises(InputError) as caught:
            decoded_view(encoded, name, keyed(VIEWS[0], 0))
        assert str(caught.value).startswith("data.source: image 7, cat.jpg cannot be decoded (")


def test_damaged_files_are_decoded_or_refused_as_by_pillow() -> None:
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
            with pytest.raises(InputError):
                decoded_view(bytes(broken), name, keyed(view, index))
            continue
        expected = view(pixels.shape[1], pixels.shape[0], 2, index).of(pixels)
        assert torch.equal(decoded_view(bytes(broken), name, keyed(view, index)), expected)
    assert 0 < refused < 100


def test_large_images_are_reduced_before_they_are_resized(
    natural_photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo = Image.open(sorted(natural_photos.glob("train/*/*.jpg"))[0])
    encoded = saved(photo.resize((2000, 1500), Image.Resampling.BICUBIC), quality=90)
    for index, view in enumerate(VIEWS):
        reduced = decoded_view(encoded, name, keyed(view, index))
        with monkeypatch.context() as patch:
            patch.setattr(transforms, "MANY_PIXELS", 10**9)
            plain = decoded_view(encoded, name, keyed(view, index))
        assert not torch.equal(reduced, plain)
        assert (reduced.int() - plain.int()).abs().float().mean() < 2


def test_images_that_pillow_finds_suspiciously_large_are_left_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(InputError, match="cannot be decoded"):
        decoded_view(saved(waves(150, 130)), name, keyed(VIEWS[0], 0))


def test_small_images_are_pillows_pixels_to_the_last_bit(cifar: Path) -> None:
    source = ImageSplits(str(cifar), "train", None, "image", "label").train
    small = SmallImages(source, torch.arange(240), None)
    files = [Image.open(io.BytesIO(encoded)) for encoded in source.encoded(range(240))]
    expected = np.stack([np.asarray(file.convert("RGB")) for file in files])
    assert np.array_equal(small.decode().numpy(), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled(kind: str) -> None:
    ramp = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    pixels = np.asarray(decode(saved(Image.fromarray(ramp), kind), name()))
    assert np.array_equal(pixels[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_32_bits_are_refused(dtype: Any) -> None:
    encoded = saved(Image.fromarray(np.ones((4, 4), dtype)), "TIFF")
    with pytest.raises(InputError, match=r"image 7, cat.jpg cannot be decoded .* 8 or 16 bits"):
        decode(encoded, name())


@pytest.mark.parametrize("encoded", [b"", b"no image"])
def test_no_image_is_named_without_an_address(encoded: bytes) -> None:
    with pytest.raises(InputError, match=r"cat.jpg cannot be decoded") as caught:
        decode(encoded, name())
    assert "0x" not in str(caught.value)


@pytest.mark.parametrize("mode", ["LA", "RGBA", "P"])
def test_alpha_is_not_used(mode: str) -> None:
    image = waves(8, 8).convert(mode)
    assert np.array_equal(np.asarray(decode(saved(image, "PNG"), name())), image.convert("RGB"))


def test_12_bit_grey_is_scaled() -> None:
    values = (np.arange(256) * 4095 / 255).round().astype(int)
    packed = b"".join(
        bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in values.reshape(-1, 2).tolist()
    )
    pixels = np.asarray(decode(tiff(16, 12, 1, packed), name()))
    assert np.array_equal(pixels[..., 0].ravel(), np.arange(256))


@pytest.mark.parametrize(("bits", "step"), [(8, 1), (16, 257)])
def test_white_may_be_zero(bits: int, step: int) -> None:
    ramp = (np.arange(256) * step).astype(f"<u{bits // 8}")
    pixels = np.asarray(decode(tiff(16, bits, 0, ramp.tobytes()), name()))
    assert np.array_equal(pixels[..., 0].ravel(), 255 - np.arange(256))


@pytest.mark.parametrize("kind", ["AVIF", "WEBP", "JPEG2000", "TGA", "QOI", "PPM", "ICO"])
def test_other_formats_of_pillow_are_decoded(kind: str) -> None:
    encoded = saved(waves(64, 64), kind)
    assert np.array_equal(np.asarray(decode(encoded, name())), pillow(encoded))


@pytest.mark.parametrize(
    "encoded",
    [
        saved(waves(8, 8), "EPS"),
        saved(waves(8, 8), "PDF"),
        b"\xd7\xcd\xc6\x9a\0\0" + bytes(16) + b"\x01\0\t\0" + bytes(40),
        b"\x01\0\0\0" + bytes(36) + b" EMF" + bytes(60),
    ],
    ids=["eps", "pdf", "wmf", "emf"],
)
def test_formats_that_start_a_program_or_hold_no_pixels_are_refused(encoded: bytes) -> None:
    with pytest.raises(InputError, match=r"cat.jpg cannot be decoded \(no image of a known format"):
        decode(encoded, name())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_turned_image_is_said_once(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    exif = Image.Exif()
    exif[transforms.ORIENTATION] = 6
    transforms._say.cache_clear()
    with caplog.at_level(logging.INFO):
        decoded_view(saved(waves(50, 40), kind), name, keyed(VIEWS[1], 0))
        assert caplog.messages == []
        for index in range(3):
            decoded_view(saved(waves(50, 40), kind, exif=exif), name, keyed(VIEWS[1], index))
    assert caplog.messages == [transforms.TURNED]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_alpha_that_is_not_used_is_said_once(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    transforms._say.cache_clear()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            decode(saved(waves(8, 8), "PNG"), name())
            decode(saved(waves(8, 8).convert(mode), "PNG"), name())
    (line,) = caplog.messages
    assert line.startswith("images with an alpha channel: ")
