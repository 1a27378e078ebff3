"""A project that knows nothing of this library: a module with its own step, loss and optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.distillation.schedule import DistillationSchedule

CLASSES = 5
FEATURES = 8


def make_net(dropout: float = 0.0, width: int = 16) -> nn.Module:
    return nn.Sequential(
        nn.Linear(FEATURES, width), nn.Tanh(), nn.Dropout(dropout), nn.Linear(width, CLASSES)
    )


class Foreign(LightningModule):
    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.net = make_net(dropout)
        self.losses: list[float] = []
        self.gradients: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        inputs, labels = batch
        loss = nn.functional.cross_entropy(self.net(inputs), labels)
        self.log("train/loss", loss)
        self.losses.append(float(loss.detach()))
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        grads = [parameter.grad for parameter in self.parameters() if parameter.grad is not None]
        if grads:
            self.gradients.append(torch.cat([grad.flatten() for grad in grads]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class DictForeign(Foreign):
    def training_step(self, batch: Any, batch_idx: int) -> Any:
        inputs, labels = batch
        logits = self.net(inputs)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits, "extra": 1}


def make_module(cls: type[Foreign] = Foreign, **kwargs: Any) -> Foreign:
    torch.manual_seed(0)
    return cls(**kwargs)


def make_teacher(seed: int = 1, **kwargs: Any) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make_net(width=24, **kwargs)


def make_data(rows: int = 64) -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(rows, FEATURES, generator=generator)
    return TensorDataset(inputs, inputs[:, :CLASSES].argmax(dim=1))


def make_trainer(steps: int = 8, callbacks: Any = (), **kwargs: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "max_steps": steps,
        "max_epochs": -1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return Trainer(callbacks=list(callbacks), **{**defaults, **kwargs})


def fit(module: LightningModule, *callbacks: Any, batch_size: int = 8, **kwargs: Any) -> Trainer:
    trainer = make_trainer(callbacks=callbacks, **kwargs)
    torch.manual_seed(11)  # the stream of dropout
    trainer.fit(module, DataLoader(make_data(), batch_size=batch_size))
    return trainer


@contextmanager
def counted_forwards(network: nn.Module) -> Iterator[list[bool]]:
    """Lists the training flag of the network at each of its forwards."""
    calls: list[bool] = []
    handle = network.register_forward_hook(lambda module, *_: calls.append(module.training))
    try:
        yield calls
    finally:
        handle.remove()


def weights(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def distil(teachers: Any, **kwargs: Any) -> DistillationCallback:
    schedule = DistillationSchedule(**kwargs.pop("schedule", {}))
    kwargs.setdefault("student_logits", "net")
    return DistillationCallback(teachers, schedule=schedule, **kwargs)
