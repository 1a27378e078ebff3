"""Data sets of images: a list of (epoch, index) keys becomes a batch of views and labels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from PIL import Image

from rrr_lightning.data.image_cuts import Cut
from rrr_lightning.data.image_decoding import decode, decoded_view
from rrr_lightning.data.image_sources import Images
from rrr_lightning.data.image_views import ShiftedViews, View
from rrr_lightning.data.sampling import Key
from rrr_lightning.errors import InputError

Batch = tuple[torch.Tensor, torch.Tensor] | torch.Tensor


class ViewedImages:
    """Images of any size, decoded when asked for and brought to one size by a view.

    Args:
        source: Where the images are.
        chosen: Indices into the source, int64 of shape [N].
        view: Makes the view of an image.
    """

    def __init__(self, source: Images, chosen: torch.Tensor, view: View) -> None:
        self.source = source
        self.chosen = chosen
        self.view = view

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, keys: Sequence[Key]) -> Batch:
        indices = self.chosen[[index for _, index in keys]]
        name = self.source.name
        images = zip(keys, indices.tolist(), self.source.encoded(indices.tolist()), strict=True)
        views = [
            decoded_view(encoded, partial(name, index), partial(self._cut, key))
            for key, index, encoded in images
        ]
        return _batch(torch.stack(views), self.source, indices)

    def _cut(self, key: Key, width: int, height: int) -> Cut:
        return self.view(width, height, *key)


class SmallImages:
    """Images of one small size, decoded once and held in memory: [N, H, W, 3] bytes.

    Args:
        source: Where the images are.
        chosen: Indices into the source, int64 of shape [N].
        views: Makes the views of a batch; None leaves images as they are.
    """

    def __init__(self, source: Images, chosen: torch.Tensor, views: ShiftedViews | None) -> None:
        self.source = source
        self.chosen = chosen
        self.views = views
        self._pixels: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, keys: Sequence[Key]) -> Batch:
        epochs, indices = torch.tensor(keys).unbind(1)
        images = self.decode()[indices]
        if self.views is not None:
            images = self.views(images, epochs, indices)
        return _batch(images, self.source, self.chosen[indices])

    def decode(self) -> torch.Tensor:
        """Returns all images, decoded when first asked for: uint8 of shape [N, H, W, 3]."""
        if self._pixels is None:
            chosen = self.chosen.tolist()
            images: list[Image.Image] = []
            for start in range(0, len(chosen), 1000):
                part = chosen[start : start + 1000]
                for index, encoded in zip(part, self.source.encoded(part), strict=True):
                    images.append(decode(encoded, self.source.name(index)))
                    self._check_size(images, index)
            pixels = np.stack([np.asarray(image) for image in images])
            self._pixels = torch.from_numpy(pixels)
        return self._pixels

    def _check_size(self, images: list[Image.Image], index: int) -> None:
        if images[-1].size != images[0].size:
            raise InputError(
                f"cifar needs images of one size, here that of the first, {images[0].size}; "
                f"{self.source.name(index)} has another",
                key="data.transform",
                found=images[-1].size,
                accepted="imagenet for images of different sizes",
            )


def _batch(images: torch.Tensor, source: Images, indices: torch.Tensor) -> Batch:
    """Images in channels-last memory, with their labels where there are any."""
    images = images.permute(0, 3, 1, 2)
    return images if source.labels is None else (images, source.labels[indices])
