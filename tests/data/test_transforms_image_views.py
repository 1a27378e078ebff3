from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from rrr_lightning.data.transforms import (
    EvaluationView,
    ShiftedViews,
    TrainingView,
    View,
    random_box,
)
from rrr_lightning.keyed_rng import key_seed

# Of torchvision's transforms on images, on a scale of 0 to 255; on tensors there is no difference.
MOST = 2
SIZES = [(500, 375), (77, 300), (300, 77), (224, 224), (1000, 40), (1, 1)]


@pytest.fixture(scope="module")
def photos(natural_photos: Path) -> list[Image.Image]:
    paths = sorted(natural_photos.glob("train/*/*.jpg"))[::10]
    return [Image.open(path).convert("RGB") for path in paths]


def view_of(photo: Image.Image, view: View, epoch: int, index: int) -> torch.Tensor:
    return view(*photo.size, epoch, index).of(np.array(photo))


def gap(view: torch.Tensor, expected: Image.Image) -> int:
    return int(np.abs(view.numpy().astype(int) - np.asarray(expected)).max())


@pytest.mark.parametrize("size", SIZES)
def test_boxes_lie_inside_the_image(size: tuple[int, int]) -> None:
    chance = random.Random(1)
    for _ in range(500):
        left, upper, right, lower = random_box(*size, 0.08, chance)
        assert 0 <= left < right <= size[0]
        assert 0 <= upper < lower <= size[1]


@pytest.mark.parametrize("size", SIZES[:5])
def test_boxes_are_distributed_as_in_torchvision(size: tuple[int, int]) -> None:
    from torchvision.transforms import RandomResizedCrop

    chance, image = random.Random(2), torch.empty(3, size[1], size[0])
    ours, theirs = [], []
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for _ in range(3000):
            left, upper, right, lower = random_box(*size, 0.08, chance)
            ours.append((upper, left, lower - upper, right - left))
            theirs.append(RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]))
    for mine, other in zip(np.sort(ours, axis=0).T, np.sort(theirs, axis=0).T, strict=True):
        # Kolmogorov-Smirnov at the 0.1 % level: 1.95 * sqrt(2 / 3000)
        places = np.union1d(mine, other)
        gaps = np.searchsorted(mine, places, "right") - np.searchsorted(other, places, "right")
        assert abs(gaps).max() / 3000 < 0.05


def test_training_views_are_torchvisions_of_the_drawn_box(photos: list[Image.Image]) -> None:
    from torchvision.transforms.v2 import functional

    flipped = 0
    for index, photo in enumerate(photos):
        view = view_of(photo, TrainingView(96, 0.08, seed=4), 1, index)
        chance = random.Random(key_seed(4, "view", 1, index))
        left, upper, right, lower = random_box(*photo.size, 0.08, chance)
        box = (upper, left, lower - upper, right - left)
        expected = functional.resized_crop(photo, *box, [96, 96])
        turned = chance.random() < 0.5
        flipped += turned
        assert gap(view.flip(1) if turned else view, expected) <= MOST
    assert 0 < flipped < len(photos)


def test_evaluation_views_are_torchvisions(photos: list[Image.Image]) -> None:
    from torchvision.transforms import v2

    reference = v2.Compose([v2.Resize(128, antialias=True), v2.CenterCrop(112)])
    for photo in photos:
        view = view_of(photo, EvaluationView(128, 112), 0, 0)
        assert gap(view, reference(photo)) <= MOST
        tensor = torch.from_numpy(np.array(photo)).permute(2, 0, 1)
        assert torch.equal(view.permute(2, 0, 1), reference(tensor))


def test_a_training_view_is_a_function_of_its_key(photos: list[Image.Image]) -> None:
    view, photo = TrainingView(32, 0.08, seed=1), photos[0]
    views = [view_of(photo, view, epoch, index) for epoch in range(3) for index in range(3)]
    views.append(view_of(photo, TrainingView(32, 0.08, seed=2), 0, 0))
    assert len({pixels.numpy().tobytes() for pixels in views}) == 10
    random.seed(5)
    assert torch.equal(view_of(photo, view, 2, 1), views[7])


def test_half_of_the_training_views_are_flipped() -> None:
    ramp = np.arange(0, 256, 8, dtype=np.uint8)[None, :, None].repeat(32, 0).repeat(3, 2)
    image, view = Image.fromarray(ramp), TrainingView(16, 0.5, seed=1)
    views = [view_of(image, view, 0, index) for index in range(1000)]
    flipped = sum(int(pixels[0, 0, 0]) > int(pixels[0, -1, 0]) for pixels in views)
    assert 440 < flipped < 560  # 3.8 standard deviations


def test_shifted_views_are_a_crop_of_the_padded_image_and_a_flip() -> None:
    images = torch.randint(0, 256, (6, 5, 7, 3), dtype=torch.uint8)
    epochs, indices = torch.tensor([0, 0, 1, 1, 0, 2]), torch.tensor([3, 9, 3, 0, 11, 3])
    views = ShiftedViews(12, seed=1)
    result = views(images, epochs, indices)
    assert (result.shape, result.dtype) == (images.shape, torch.uint8)
    for place in range(6):
        down, right, flip = views.draws(int(epochs[place]))[indices[place]].tolist()
        padded = torch.zeros(13, 15, 3, dtype=torch.uint8)
        padded[4:9, 4:11] = images[place]
        crop = padded[down : down + 5, right : right + 7]
        assert torch.equal(result[place], crop.flip(1) if flip else crop)


def test_shifts_and_flips_are_uniform_and_new_in_every_epoch() -> None:
    views = ShiftedViews(16200, seed=1)
    draws = views.draws(0)
    counts = torch.bincount(draws @ torch.tensor([18, 2, 1]), minlength=162).double()
    assert ((counts - 100) ** 2 / 100).sum() < 225  # 161 degrees of freedom, level 0.1 %
    assert not torch.equal(draws, views.draws(1))
    assert torch.equal(draws, ShiftedViews(16200, seed=1).draws(0))
