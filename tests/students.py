"""Students and teachers that must be refused, for runs from the command line on the digits."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn


class Pair(nn.Module):
    def forward(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        return logits.sum(), logits


class Awkward(LightningModule):
    """Has sub-modules that run never, twice, and give a bare tuple; learns in the usual way."""

    def __init__(self, automatic: bool = True) -> None:
        super().__init__()
        self.net = nn.Linear(3 * 64, 10)
        self.never = nn.Identity()
        self.twice = nn.Identity()
        self.pair = Pair()
        self.automatic_optimization = automatic

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        images, labels = batch
        logits = self.net(images.flatten(1).float() / 255)
        self.twice(self.twice(logits))
        self.pair(logits)
        return nn.functional.cross_entropy(logits, labels)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val/outputs", self.net(batch[0].flatten(1).float() / 255).mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Flat(nn.Module):
    """Gives the same value in every one of `columns` columns."""

    def __init__(self, columns: int = 10) -> None:
        super().__init__()
        self.columns = columns
        self.value = nn.Parameter(torch.zeros(()))

    def forward(self, images: Tensor) -> Tensor:
        return self.value.expand(len(images), self.columns)


def save_flat(path: str, value: float = math.nan) -> None:
    """Saves the state dict of a `Flat`."""
    torch.save({"value": torch.tensor(value)}, path)
