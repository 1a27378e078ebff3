from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rrr_lightning.data.transforms import FACTORS, Cut, Pixels, decode_jpeg, random_box
from tests.data.pictures import saved

# Largest differences of byte pixels, on a scale of 0 to 255.
PILLOW_MOST, PILLOW_MEAN = 2, 0.1
REDUCED_MEAN = 3.0


@pytest.fixture(scope="module")
def photos(natural_photos: Path) -> list[Pixels]:
    paths = sorted(natural_photos.glob("train/*/*.jpg"))[::6]
    return [np.array(Image.open(path).convert("RGB")) for path in paths]


def test_pixels_are_torchvisions_on_tensors_and_close_to_those_on_images(
    photos: list[Pixels],
) -> None:
    from torchvision.transforms.v2 import functional

    chance, differences = random.Random(3), []
    for photo in photos:
        for side in (224, 96):
            left, upper, right, lower = random_box(photo.shape[1], photo.shape[0], 0.08, chance)
            box = (upper, left, lower - upper, right - left)
            view = Cut((left, upper, right, lower), (side, side)).of(photo)
            assert view.is_contiguous()
            tensor = torch.from_numpy(photo).permute(2, 0, 1)
            same = functional.resized_crop(tensor, *box, [side, side], antialias=True)
            assert torch.equal(view.permute(2, 0, 1), same)
            near = np.array(functional.resized_crop(Image.fromarray(photo), *box, [side, side]))
            differences.append(np.abs(view.numpy().astype(int) - near))
    assert max(gap.max() for gap in differences) <= PILLOW_MOST
    assert np.mean([gap.mean() for gap in differences]) <= PILLOW_MEAN


def test_a_window_and_a_flip_are_taken_of_the_resized_box(photos: list[Pixels]) -> None:
    plain = Cut((10, 5, 110, 75), (50, 40)).of(photos[0])
    assert plain.shape == (40, 50, 3)
    window = Cut((10, 5, 110, 75), (50, 40), window=(3, 4, 33, 20)).of(photos[0])
    assert torch.equal(window, plain[4:20, 3:33])
    flipped = Cut((10, 5, 110, 75), (50, 40), window=(3, 4, 33, 20), flip=True).of(photos[0])
    assert torch.equal(flipped, window.flip(1))


def test_a_view_has_memory_of_its_own(photos: list[Pixels]) -> None:
    photo = photos[0].copy()
    view = Cut((0, 0, 60, 50), (60, 50)).of(photo)
    before = view.clone()
    photo[:] = 0
    assert torch.equal(view, before)


@pytest.mark.parametrize(
    ("box", "factor"),
    [
        ((0, 0, 223, 900), 1),
        ((0, 0, 447, 900), 1),
        ((7, 7, 455, 455), 2),
        ((0, 0, 4000, 895), 2),
        ((0, 0, 896, 896), 4),
        ((0, 0, 9000, 9000), 8),
    ],
)
def test_a_reduced_image_is_never_enlarged(box: tuple[int, int, int, int], factor: int) -> None:
    assert Cut(box, (224, 224)).reduction() == factor


def test_views_of_reduced_images_are_close(natural_photos: Path) -> None:
    chance, differences = random.Random(4), []
    for path in sorted(natural_photos.glob("train/*/*.jpg"))[::6]:
        encoded = saved(Image.open(path).resize((1003, 801)), quality=92)
        whole = decode_jpeg(encoded, 801, 1003)
        for factor in FACTORS:
            reduced = decode_jpeg(encoded, 801, 1003, factor)
            cut = Cut(random_box(1003, 801, 0.5, chance), (64, 64))
            gaps = (cut.of(whole).int() - cut.of(reduced, factor).int()).abs().float()
            differences.append(float(gaps.mean()))
    assert max(differences) <= REDUCED_MEAN
