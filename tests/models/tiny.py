"""Tiny images, networks and runs for the tests of the models."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from rrr_lightning.models.image_classifier import ImageClassifier

CLASSES = 4


def pixels(count: int = 24, size: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (count, 3, size, size)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return images, torch.randint(0, CLASSES, (count,), generator=generator)


def loader(count: int = 24, batch_size: int = 4, seed: int = 0) -> DataLoader[Any]:
    dataset: Dataset[Any] = TensorDataset(*pixels(count, seed=seed))
    return DataLoader(dataset, batch_size=batch_size)


class Same:
    """A loader of one and the same batch, so that only what the model draws differs."""

    def __init__(self, count: int = 6) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Any]:
        return iter([pixels(4)] * self.count)

    def __len__(self) -> int:
        return self.count

    def state_dict(self) -> dict[str, Any]:
        """Says to Lightning that it resumes anywhere."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


class Smooth(nn.Module):
    """A network without batch norm, with dropout if asked for."""

    def __init__(self, dropout: float = 0.0, classes: int = CLASSES) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.Tanh(), nn.Flatten(), nn.Dropout(dropout))
        self.head = nn.Linear(6 * 6 * 6, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


def smooth(dropout: float = 0.0) -> dict[str, Any]:
    return {"class_path": "tests.models.tiny.Smooth", "init_args": {"dropout": dropout}}


def classifier(network: Any = "cifar_resnet8", **kwargs: Any) -> ImageClassifier:
    return ImageClassifier(network, CLASSES, **{"learning_rate": 0.1, "seed": 0, **kwargs})


def make_trainer(steps: int = 4, **kwargs: Any) -> Trainer:
    defaults: dict[str, Any] = {
        "max_steps": steps,
        "max_epochs": -1,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "limit_val_batches": 0,
    }
    return Trainer(**{**defaults, **kwargs})


def fit(
    module: ImageClassifier, ckpt_path: Any = None, loaders: Any = None, **kwargs: Any
) -> Trainer:
    trainer = make_trainer(**kwargs)
    trainer.fit(module, loaders or loader(), loader(seed=1), ckpt_path=ckpt_path)
    return trainer


def weights(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


class Steps(Callback):
    """Lists, for every optimizer step, the learning rate and the gradient."""

    def __init__(self) -> None:
        self.learning_rates: list[float] = []
        self.gradients: list[Tensor] = []

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        self.learning_rates.append(optimizer.param_groups[0]["lr"])
        gradients = [p.grad.flatten().clone() for p in pl_module.parameters()]
        self.gradients.append(torch.cat(gradients))


class Outputs(Callback):
    """Lists the output of a sub-module in every training step."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seen: list[Tensor] = []

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        part = pl_module.get_submodule(self.name)
        self.handle = part.register_forward_hook(lambda *args: self.seen.append(args[-1].detach()))

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        self.handle.remove()


class Data(LightningDataModule):
    """What a model looks at in a data module."""

    def __init__(self, num_classes: int = CLASSES, class_names: Any = None) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.class_names = class_names

    def train_dataloader(self) -> DataLoader[Any]:
        return loader()

    def val_dataloader(self) -> DataLoader[Any]:
        return loader()
