"""The views of an image: keyed random crops for training, one fixed crop for evaluation.

A training view is a function of (seed, epoch, index) and of the image's size alone, so it does not
change with the number of workers, the rank or a resume, and is known before the image is decoded.
Boxes are distributed as in torchvision's `RandomResizedCrop`.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from rrr_lightning.data.image_cuts import Box, Cut
from rrr_lightning.random import key_seed, keyed_generator

RATIOS = (3 / 4, 4 / 3)


class View(Protocol):
    """Says what to take of an image of any size; the results are of one size."""

    def __call__(self, width: int, height: int, epoch: int, index: int) -> Cut:
        """Returns the cut of an image of width x height pixels."""


def random_box(width: int, height: int, min_scale: float, chance: random.Random) -> Box:
    """Draws (left, upper, right, lower) of a random resized crop.

    Source:
        torchvision `RandomResizedCrop.get_params`: ten attempts, then the largest central box.
    """
    for _ in range(10):
        area = width * height * (min_scale + (1 - min_scale) * chance.random())
        low, high = (math.log(ratio) for ratio in RATIOS)
        ratio = math.exp(low + (high - low) * chance.random())
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            left = int(chance.random() * (width - wide + 1))
            upper = int(chance.random() * (height - tall + 1))
            return left, upper, left + wide, upper + tall
    ratio = min(max(width / height, RATIOS[0]), RATIOS[1])
    wide, tall = min(width, round(height * ratio)), min(height, round(width / ratio))
    left, upper = (width - wide) // 2, (height - tall) // 2
    return left, upper, left + wide, upper + tall


@dataclass(frozen=True)
class TrainingView:
    """A random resized crop and a flip, keyed by (seed, epoch, index).

    Args:
        crop_size: Side of the result in pixels.
        min_scale: Least share of the image's area in a crop.
        seed: Seed of all views.
    """

    crop_size: int
    min_scale: float
    seed: int

    def __call__(self, width: int, height: int, epoch: int, index: int) -> Cut:
        """Returns the cut of an image of width x height pixels."""
        chance = random.Random(key_seed(self.seed, "view", epoch, index))
        box = random_box(width, height, self.min_scale, chance)
        return Cut(box, (self.crop_size, self.crop_size), flip=chance.random() < 0.5)


@dataclass(frozen=True)
class EvaluationView:
    """The shorter side resized, then the centre.

    Args:
        resize_size: Length of the shorter side after resizing.
        crop_size: Side of the result in pixels.
    """

    resize_size: int
    crop_size: int

    def __call__(self, width: int, height: int, epoch: int, index: int) -> Cut:
        """Returns the cut of an image of width x height pixels; the key has no effect."""
        shorter, crop = min(width, height), self.crop_size
        wide, tall = (int(self.resize_size * side / shorter) for side in (width, height))
        left, upper = round((wide - crop) / 2), round((tall - crop) / 2)
        window = (left, upper, left + crop, upper + crop)
        return Cut((0, 0, width, height), (wide, tall), window)


class ShiftedViews:
    """Small images, a batch at a time: a shift by up to four pixels over black, and a flip.

    Args:
        length: Number of images.
        seed: Seed of all views.
    """

    border = 4

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self.seed = seed
        self._drawn: tuple[int, torch.Tensor] | None = None

    def draws(self, epoch: int) -> torch.Tensor:
        """Returns (down, right, flip) of every image in an epoch, int64 of shape [length, 3]."""
        if self._drawn is None or self._drawn[0] != epoch:
            generator = keyed_generator(self.seed, "view", epoch)
            span = 2 * self.border + 1
            draws = torch.randint(2 * span * span, (self.length,), generator=generator)
            parts = (draws // 2 // span, draws // 2 % span, draws % 2)
            self._drawn = (epoch, torch.stack(parts, dim=1))
        return self._drawn[1]

    def __call__(
        self, images: torch.Tensor, epochs: torch.Tensor, indices: torch.Tensor
    ) -> torch.Tensor:
        """Returns the views of a batch."""
        batch, height, width, _ = images.shape
        draws = torch.empty(batch, 3, dtype=torch.int64)
        for epoch in set(epochs.tolist()):
            chosen = epochs == epoch
            draws[chosen] = self.draws(epoch)[indices[chosen]]
        down, right, flip = draws.numpy().T
        edge = self.border
        padded = np.pad(images.numpy(), ((0, 0), (edge, edge), (edge, edge), (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2))
        views = np.moveaxis(windows, 3, 5)[np.arange(batch), down, right]
        views[flip == 1] = views[flip == 1, :, ::-1]
        return torch.from_numpy(views)
