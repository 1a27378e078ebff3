"""The coming batches are those that the training steps of the run get, to the last bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from rrr_lightning.errors import InputError
from rrr_lightning.targets.batches import ComingBatches, rows_of_samples
from tests.data.toy import make_trainer
from tests.models.texts import TextData, language_model
from tests.targets.runs import classifier, digits

STEPS = 4


class Seen(Callback):
    """Notes the batches that training steps get."""

    def __init__(self) -> None:
        self.batches: list[Any] = []

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.batches.append(batch)


def parts(batch: Any) -> list[Tensor]:
    return list(batch.values() if isinstance(batch, dict) else batch)


@pytest.mark.parametrize(
    ("module", "data"),
    [
        (classifier, lambda: digits(micro_batch_size=6)),
        (lambda: classifier(mixup_alpha=0.5), lambda: digits(micro_batch_size=4)),
        (language_model, lambda: TextData(micro_batch_size=4)),
    ],
    ids=["images", "mixed", "texts"],
)
def test_coming_batches_are_those_of_the_run(tmp_path: Path, module: Any, data: Any) -> None:
    seen = Seen()
    trainer = make_trainer(tmp_path, STEPS, callbacks=[seen], limit_val_batches=0)
    trainer.fit(module(), datamodule=data())
    coming = ComingBatches(make_trainer(tmp_path, STEPS), module(), data())
    found = list(coming.of(range(STEPS)))
    accumulation = len(seen.batches) // STEPS
    assert accumulation > 1
    for one, batch in zip(found, seen.batches, strict=True):
        assert all(torch.equal(*pair) for pair in zip(parts(one.batch), parts(batch), strict=True))
    assert [one.step for one in found] == [s for s in range(STEPS) for _ in range(accumulation)]
    assert [one.is_last for one in found] == ([False] * (accumulation - 1) + [True]) * STEPS
    # Any steps in any order, each as it is in the run.
    (later,) = [one for one in coming.of([3]) if one.is_last]
    last = parts(seen.batches[-1])
    assert all(torch.equal(*pair) for pair in zip(parts(later.batch), last, strict=True))
    coming.close()


def test_rows_of_samples() -> None:
    labels = torch.tensor([[5, -100, 7], [-100, -100, -100]])
    assert rows_of_samples({"labels": labels}).tolist() == [2, 0]
    assert rows_of_samples({"labels": torch.tensor([1, 2, 3])}).tolist() == [1, 1, 1]
    assert rows_of_samples((torch.zeros(2, 3), torch.zeros(2))).tolist() == [1, 1]


def test_rows_per_step_are_estimated_from_samples(tmp_path: Path) -> None:
    coming = ComingBatches(make_trainer(tmp_path, STEPS), language_model(), TextData())
    expected = np.concatenate([one.counts for one in coming.of([0])]).sum()
    assert coming.rows_per_step(0) == expected
    coming.close()


def test_batches_without_labels_are_refused() -> None:
    with pytest.raises(InputError, match=r"^data: the batches have no labels"):
        rows_of_samples(torch.zeros(3))
