"""A data module of numbered samples, and a module that notes which of them each step saw."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from rrr_lightning.data.module import KeyedDataModule
from rrr_lightning.data.sampling import Key
from rrr_lightning.keyed_rng import keyed_generator

Step = tuple[int, list[int]]


class Numbered:
    """Sample i in epoch e is a vector drawn from (e, i); batches are (vectors, indices)."""

    def __init__(self, length: int) -> None:
        self.length = length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, keys: Sequence[Key]) -> tuple[torch.Tensor, torch.Tensor]:
        rows = [torch.randn(6, generator=keyed_generator("toy", *key)) for key in keys]
        return torch.stack(rows), torch.tensor([index for _, index in keys])


class NumberedData(KeyedDataModule):
    def __init__(self, length: int = 46, **settings: Any) -> None:
        super().__init__(**{"global_batch_size": 12, "seed": 3, **settings})
        self.length = length

    def load(self) -> tuple[Numbered, Numbered]:
        return Numbered(self.length), Numbered(10)


class Notes(LightningModule):
    """A linear network under momentum and a schedule; `seen` holds (step, indices) in order."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(5)
            self.net = nn.Linear(6, 3)
        self.seen: list[Step] = []
        self.evaluated: list[int] = []

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        rows, indices = batch
        self.seen.append((self.trainer.global_step, indices.tolist()))
        return nn.functional.cross_entropy(self.net(rows), indices % 3)

    def validation_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.evaluated += batch[1].tolist()

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.05)
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }


def make_trainer(folder: Path, max_steps: int, **settings: Any) -> Trainer:
    return Trainer(
        **{
            "max_steps": max_steps,
            "accelerator": "cpu",
            "devices": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "default_root_dir": folder,
            "num_sanity_val_steps": 0,
            **settings,
        }
    )


def by_step(seen: list[Step]) -> dict[int, list[int]]:
    """All indices of each step, sorted."""
    steps: dict[int, list[int]] = {}
    for step, indices in seen:
        steps[step] = sorted(steps.get(step, []) + indices)
    return steps
