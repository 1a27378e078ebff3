"""What a view takes of an image, and how it becomes pixels.

A cut is a box of the image, the size that the box is brought to, and perhaps a window of that and a
flip. It is drawn from the size of the image alone, before anything is decoded. Boxes are resized as
by torchvision on tensors of bytes, to the last bit: bilinear, with antialiasing. Pillow's pixels
differ from these by 2 of 255 levels at most.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.nn.functional import interpolate

Pixels = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
FACTORS = (8, 4, 2)  # the reductions that libjpeg-turbo has vector code for


@dataclass(frozen=True)
class Cut:
    """A part of an image and the view to make of it.

    Args:
        box: (left, upper, right, lower) of the part, in pixels of the image.
        size: (width, height) that the part is brought to.
        window: What is left of that in the end; by default all.
        flip: The view is turned left to right.
    """

    box: Box
    size: tuple[int, int]
    window: Box | None = None
    flip: bool = False

    def reduction(self) -> int:
        """Returns by how much an image may be reduced and still not be enlarged by this cut."""
        left, upper, right, lower = self.box
        width, height = self.size
        enough = min((right - left) / width, (lower - upper) / height)
        return next((factor for factor in FACTORS if factor <= enough), 1)

    def of(self, pixels: Pixels, factor: int = 1) -> torch.Tensor:
        """Returns the view of an image."""
        if factor == 1:
            views = _resized(pixels, self.box, self.size)
        else:
            box = tuple(edge / factor for edge in self.box)
            views = _resized_between(pixels, box, self.size)
        if self.window is not None:
            left, upper, right, lower = self.window
            views = views[..., upper:lower, left:right]
        if self.flip:
            views = views.flip(3)
        return views[0].permute(1, 2, 0)


def _resized(pixels: Pixels, box: Box, size: tuple[int, int]) -> torch.Tensor:
    left, upper, right, lower = box
    # With the batch in front before the channels come to theirs, torch sees channels-last memory.
    part = torch.from_numpy(pixels[upper:lower, left:right])[None].permute(0, 3, 1, 2)
    return interpolate(part, size[::-1], mode="bilinear", antialias=True)


def _resized_between(pixels: Pixels, box: tuple[float, ...], size: tuple[int, int]) -> torch.Tensor:
    """The same for a box with edges between two pixels; Pillow sees no pixels outside of it."""
    left, upper = math.floor(box[0]), math.floor(box[1])
    right, lower = math.ceil(box[2]), math.ceil(box[3])
    part = Image.fromarray(pixels[upper:lower, left:right])
    inner = (box[0] - left, box[1] - upper, box[2] - left, box[3] - upper)
    view = part.resize(size, Image.Resampling.BILINEAR, box=inner)
    return torch.from_numpy(np.array(view))[None].permute(0, 3, 1, 2)
