"""Two ranks train from stored targets as one does, and both as with the teachers themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from rrr_lightning.callbacks.distillation import DistillationCallback
from tests.models.texts import TextData, language_model
from tests.targets.runs import (
    Journal,
    assert_like,
    classifier,
    digits,
    sure,
    train,
    with_targets,
    with_teachers,
    write,
)

HALVES = 5e-3  # what is stored has 11 bits
FLOAT32_SUMS_REORDERED = {"rtol": 1e-4, "atol": 1e-6}

pytestmark = pytest.mark.ddp


class Leave(Callback):
    """Writes what this rank logged, and the weights, when training ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        (journal,) = (each for each in trainer.callbacks if isinstance(each, Journal))
        weights = torch.cat([p.detach().flatten() for p in module.parameters()])
        torch.save((journal.rows, weights), self.folder / f"rank{trainer.global_rank}.pt")


def run(folder: Path, ranks: int, callback: DistillationCallback, **parts: Any) -> list[Any]:
    """Returns what each rank left."""
    folder.mkdir()
    devices = {"devices": 2, "strategy": "ddp_fork"} if ranks == 2 else {}
    train(folder, callback, Leave(folder), **parts, **devices)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(ranks)]


@pytest.mark.parametrize(
    ("module", "data", "teacher"),
    [(classifier, digits, sure(7)), (language_model, TextData, language_model(seed=7))],
    ids=["images", "texts"],
)
def test_ranks_read_the_targets_of_their_samples(
    tmp_path: Path, module: Any, data: Any, teacher: Any
) -> None:
    targets = tmp_path / "targets"
    write(targets, [teacher], kind="dense", module=module(), data=data())

    def trained(name: str, ranks: int, callback: DistillationCallback) -> list[Any]:
        parts = {"module": module(), "data": data(micro_batch_size=3)}
        return run(tmp_path / f"{name}{ranks}", ranks, callback, **parts)

    alone, both = (trained("stored", ranks, with_targets(targets)) for ranks in (1, 2))
    for stored in (alone, both):
        live = trained("live", len(stored), with_teachers([teacher]))
        for one, other in zip(stored, live, strict=True):
            assert_like(one, other, tolerance=HALVES)
    for _, weights in both:
        torch.testing.assert_close(weights, alone[0][1], **FLOAT32_SUMS_REORDERED)
