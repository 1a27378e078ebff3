"""The training loss reaches loggers and progress bars."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn
from torch.utils.data import DataLoader

from rrr_lightning.errors import InputError
from rrr_lightning.models.student import TrainingLoss
from tests.models.tiny import make_trainer


class Halves(TrainingLoss):
    """Its loss is the number in the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        loss = self.weight * batch
        self.log_training_loss(loss, 1)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Bar(Callback):
    """Notes what a progress bar would show, and what other callbacks may read."""

    def __init__(self) -> None:
        self.shown: list[object] = []
        self.known: list[float] = []

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        self.shown.append(trainer.progress_bar_metrics.get("train/loss"))
        if "train/loss" in trainer.callback_metrics:
            self.known.append(trainer.callback_metrics["train/loss"].item())


def fit(module: LightningModule, **settings: Any) -> Bar:
    bar = Bar()
    batches: Any = [torch.tensor(float(number)) for number in range(1, 7)]
    loader = DataLoader(batches, batch_size=None)
    make_trainer(6, callbacks=[bar], **settings).fit(module, loader)
    return bar


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_progress_bar_shows_the_loss_of_the_last_logging_step(accumulate: int) -> None:
    bar = fit(Halves(), log_every_n_steps=2, max_epochs=1, accumulate_grad_batches=accumulate)
    by_steps = {1: [None, None, 2.0, 2.0, 4.0, 4.0], 2: [None, None, None, 3.0, 4.0, 4.0]}
    assert bar.shown == by_steps[accumulate]


def test_callbacks_read_the_loss_of_every_step() -> None:
    assert fit(Halves(), log_every_n_steps=100).known == [1.0, 2.0, 3.0, 4.0, 5.0]


def test_no_graph_is_kept() -> None:
    module = Halves()
    fit(module)
    assert not module._recent_losses


class Diverges(Halves):
    def __init__(self, loss_at: int = -1, weights_at: int = -1) -> None:
        super().__init__()
        self.loss_at, self.weights_at = loss_at, weights_at

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return super().training_step(batch * (math.nan if batch_idx == self.loss_at else 1), 0)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        if self.trainer.global_step == self.weights_at:
            self.weight.grad = torch.full((), math.inf)


@pytest.mark.parametrize("every", [1, 3, 100])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(every: int) -> None:
    with pytest.raises(InputError, match=r"^loss: the task's loss is not finite at step 3, so"):
        fit(Diverges(loss_at=3), log_every_n_steps=every)


def test_weights_that_are_not_finite_are_not_the_end_of_a_run() -> None:
    with pytest.raises(InputError, match=r"^model: the weights 'weight' are not finite after 6 s"):
        fit(Diverges(weights_at=5), log_every_n_steps=100)


def test_no_checkpoint_callback_saves_what_is_not_finite(tmp_path: Path) -> None:
    saves = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1)
    batches: Any = [torch.tensor(1.0)] * 6
    trainer = make_trainer(6, callbacks=[saves], enable_checkpointing=True, log_every_n_steps=100)
    with pytest.raises(InputError, match="loss is not finite at step 3"):
        trainer.fit(Diverges(loss_at=3), DataLoader(batches, batch_size=None))
    assert [path.name for path in tmp_path.iterdir()] == ["epoch=0-step=2.ckpt"]
