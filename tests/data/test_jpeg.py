from __future__ import annotations

import io
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from rrr_lightning.data.jpeg import FACTORS, Pixels, decode_jpeg, read_frame


def saved(image: Image.Image, kind: str = "JPEG", **settings: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def pillow(encoded: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"))


def waves(width: int, height: int) -> Image.Image:
    rows, columns = np.mgrid[:height, :width]
    channels = [np.sin(rows / a + columns / b) for a, b in ((7, 9), (5, -8), (3, 20))]
    return Image.fromarray((127 + 120 * np.stack(channels, axis=2)).astype(np.uint8))


def test_headers_and_pixels_of_real_photos_are_pillows(
    natural_photos: Path, imagenet_like: Path
) -> None:
    chance = random.Random(1)
    files = [*natural_photos.glob("*/*/*.jpg"), *sorted(imagenet_like.glob("val/*/*"))[::4]]
    assert len(files) == 285
    for file in files:
        encoded = file.read_bytes()
        expected, frame = pillow(encoded), read_frame(encoded)
        assert frame is not None
        assert (frame.height, frame.width) == expected.shape[:2]
        rows = chance.randint(1, frame.height)
        assert np.array_equal(decode_jpeg(encoded, frame, rows)[:rows], expected[:rows])


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("extra", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("grey", [False, True])
def test_the_rows_above_any_row_are_pillows(subsampling: str, extra: Any, grey: bool) -> None:
    image = waves(75, 97).convert("L" if grey else "RGB")
    encoded = saved(image, subsampling=subsampling, quality=85, **extra)
    frame, expected = read_frame(encoded), pillow(encoded)
    assert frame is not None
    assert frame.one_scan is ("progressive" not in extra)
    for rows in range(1, 98):
        pixels = decode_jpeg(encoded, frame, rows)
        assert np.array_equal(pixels[:rows], expected[:rows])
        if frame.one_scan:
            assert len(pixels) <= rows + 4 + 16


def test_reduced_pixels_are_close_to_averages() -> None:
    encoded = saved(waves(800, 333), quality=95)
    frame, whole = read_frame(encoded), pillow(encoded).astype(float)
    assert frame is not None
    for factor in FACTORS:
        pixels = decode_jpeg(encoded, frame, 333, factor)
        assert pixels.shape == (-(-333 // factor), 800 // factor, 3)
        rows = 333 // factor
        blocks = whole[: rows * factor].reshape(rows, factor, 800 // factor, factor, 3)
        assert abs(pixels[:rows] - blocks.mean((1, 3))).mean() < 3


def test_memory_is_used_where_it_is_large_enough() -> None:
    encoded = saved(waves(40, 30))
    frame = read_frame(encoded)
    assert frame is not None
    for size, used in ((3600, True), (3599, False)):
        memory = np.zeros(size, np.uint8)
        pixels = decode_jpeg(encoded, frame, 30, memory=memory)
        assert np.shares_memory(pixels, memory) is used
        assert np.array_equal(pixels, pillow(encoded))


def test_other_files_are_left_to_pillow() -> None:
    image, jpeg = waves(40, 30), saved(waves(40, 30))
    for other in (
        b"",
        saved(image, "PNG"),
        saved(image, "WEBP"),
        saved(image.convert("CMYK")),
        b"\0" + jpeg,
        jpeg + bytes(100),
    ):
        assert read_frame(other) is None
    for end in range(len(jpeg)):
        assert read_frame(jpeg[:end]) is None
    assert read_frame(jpeg + bytes(10)) == read_frame(jpeg)
    frame = read_frame(jpeg)
    assert frame is not None
    at = frame.height_at
    for place, value in ((at - 4, 0xC9), (at - 4, 0xC3), (at - 1, 12), (at + 1, 0), (at + 3, 0)):
        assert read_frame(jpeg[:place] + bytes([value]) + jpeg[place + 1 :]) is None


def test_no_bytes_confuse_the_header_reader() -> None:
    chance, jpeg = random.Random(2), saved(waves(40, 30))
    for _ in range(3000):
        broken = bytearray(jpeg)
        for _ in range(3):
            broken[chance.randrange(2, 640)] = chance.choice((0, 1, 0xFF, chance.randrange(256)))
        frame = read_frame(bytes(broken))
        assert frame is None or min(frame.width, frame.height, frame.block_height) > 0


def test_a_corrupt_header_is_an_error() -> None:
    jpeg = saved(waves(40, 30))
    frame = read_frame(jpeg)
    assert frame is not None
    tables = jpeg.index(b"\xff\xc4") + 5
    with pytest.raises(ValueError, match="JPEG"):
        decode_jpeg(jpeg[:tables] + bytes([255] * 16) + jpeg[tables + 16 :], frame, 30)
