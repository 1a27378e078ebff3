from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from rrr_lightning.data.image_sources import FolderImages
from rrr_lightning.data.images import SmallImages, ViewedImages, decode
from rrr_lightning.data.transforms import EvaluationView, ShiftedViews, TrainingView, decoded_view
from rrr_lightning.errors import InputError


class Drawn:
    """Images made up in memory: every pixel of image i is i."""

    class_names = None

    def __init__(self, sizes: Sequence[tuple[int, int]]) -> None:
        self.labels = torch.arange(len(sizes))
        self.sizes = sizes

    def encoded(self, indices: Sequence[int]) -> list[bytes]:
        return [encode(Image.new("L", self.sizes[index], index)) for index in indices]

    def name(self, index: int) -> str:
        return f"image {index}"


def encode(image: Image.Image, format: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "format"),
    [("L", "JPEG"), ("CMYK", "JPEG"), ("RGBA", "PNG"), ("P", "GIF"), ("1", "PNG")],
)
def test_every_mode_becomes_rgb(mode: str, format: str) -> None:
    image = decode(encode(Image.new(mode, (6, 4)), format), "image 0")
    assert (image.mode, image.size) == ("RGB", (6, 4))


@pytest.mark.parametrize(
    "encoded", [b"", b"not an image", encode(Image.effect_noise((64, 64), 90), "JPEG")[:900]]
)
def test_a_corrupt_image_is_named(encoded: bytes) -> None:
    with pytest.raises(InputError, match=r"^data.source: image 7, a/b.jpg cannot be decoded \("):
        decode(encoded, "image 7, a/b.jpg")


def test_batches_hold_the_chosen_images_in_the_order_of_the_keys() -> None:
    images = ViewedImages(Drawn([(8, 6)] * 9), torch.tensor([2, 5, 8]), EvaluationView(4, 4))
    pixels, labels = images[[(0, 2), (0, 0)]]
    assert len(images) == 3
    assert (pixels.shape, pixels.dtype) == ((2, 3, 4, 4), torch.uint8)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert pixels[:, 1, 2, 2].tolist() == labels.tolist() == [8, 2]


def test_views_are_keyed_by_the_place_in_the_set(imagenet_like: Path) -> None:
    source, view = FolderImages(imagenet_like / "val"), TrainingView(32, 0.08, seed=1)
    images = ViewedImages(source, torch.arange(10, 40), view)
    pixels, _ = images[[(3, 4)]]
    encoded = source.encoded([14])[0]
    expected = decoded_view(encoded, str, lambda width, height: view(width, height, 3, 4))
    assert torch.equal(pixels[0], expected.permute(2, 0, 1))


def test_small_images_are_decoded_once_and_shifted() -> None:
    source, chosen = Drawn([(6, 6)] * 20), torch.arange(5, 20)
    still = SmallImages(source, chosen, None)
    moved = SmallImages(source, chosen, ShiftedViews(15, seed=1))
    keys = [(0, 3), (2, 14)]
    pixels, labels = still[keys]
    assert pixels[:, 0, 3, 3].tolist() == labels.tolist() == [8, 19]
    assert still.decode() is still.decode()
    shifted, _ = moved[keys]
    views = ShiftedViews(15, seed=1)
    epochs, indices = torch.tensor(keys).unbind(1)
    assert torch.equal(shifted, views(still.decode()[indices], epochs, indices).permute(0, 3, 1, 2))


def test_small_images_must_have_one_size() -> None:
    images = SmallImages(Drawn([(6, 6), (6, 6), (6, 5)]), torch.arange(3), None)
    line = (
        r"here that of the first, \(6, 6\); image 2 has another; found \(6, 5\); accepted: imagenet"
    )
    with pytest.raises(InputError, match=line):
        images.decode()
