"""Real data that every installation has: no download, nothing on disk to prepare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rrr_lightning.data.base import KeyedDataModule
from rrr_lightning.data.sampling import Key
from rrr_lightning.random import keyed_permutation


class StoredImages:
    """Images and labels held in memory.

    Args:
        images: uint8 of shape [N, 3, H, W].
        labels: int64 of shape [N].
    """

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, keys: Sequence[Key]) -> tuple[torch.Tensor, torch.Tensor]:
        indices = torch.tensor([index for _, index in keys])
        return self.images[indices], self.labels[indices]


class EmbeddedDigits(KeyedDataModule):
    """The 1,797 handwritten digits of 8 × 8 pixels that come with scikit-learn.

    400 to train and 1,397 to validate, the same for every seed. Batches are
    `(images, labels)`: uint8 [B, 3, 8, 8] with three equal channels, int64 [B].

    Args:
        global_batch_size: Samples of one optimizer step, over all devices and micro-batches.
        micro_batch_size: The most samples per device and forward pass; by default a device's share.
        eval_batch_size: Samples per device in evaluation.
        num_workers: Processes that load data, per device.
        seed: Seed of the order; by default that of `seed_everything`, or 0.
    """

    num_classes = 10
    class_names = tuple(str(digit) for digit in range(10))

    def __init__(
        self,
        global_batch_size: int = 40,
        micro_batch_size: int | None = None,
        eval_batch_size: int | None = 512,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(global_batch_size, micro_batch_size, eval_batch_size, num_workers, seed)

    def load(self) -> tuple[StoredImages, StoredImages]:
        """Returns the two parts of the digits."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
        images = torch.from_numpy(grey).unsqueeze(1).expand(-1, 3, -1, -1).contiguous()
        labels = torch.from_numpy(digits.target).long()
        order = keyed_permutation(len(labels), "digits")
        train, rest = order[:400], order[400:]
        return StoredImages(images[train], labels[train]), StoredImages(images[rest], labels[rest])
