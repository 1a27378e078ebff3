"""`ImageClassifier` in other people's command lines and on several ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import LightningCLI
from torch.utils.data import DataLoader, Subset, TensorDataset

from rrr_lightning.models.image_classifier import ImageClassifier
from rrr_lightning.models.student import CHECKPOINT_KEY
from tests.models.tiny import CLASSES, Data, Smooth, classifier, make_trainer, pixels, weights

# jsonargparse 4.49 to 4.53 say this to lightning.pytorch.cli, not to its user
DEPRECATED = "ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning"
MODEL = ["--model.num_classes=4", "--model.seed=0", "--model.learning_rate=0.1"]
TRAINER = [
    "--trainer.max_steps=2",
    "--trainer.max_epochs=-1",
    "--trainer.accelerator=cpu",
    "--trainer.logger=false",
    "--trainer.enable_checkpointing=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
    "--trainer.limit_val_batches=0",
]


def foreign_cli(patch: pytest.MonkeyPatch, *arguments: str) -> LightningCLI:
    patch.setattr("sys.argv", ["train.py", "fit", *MODEL, *TRAINER, *arguments])
    return LightningCLI(
        ImageClassifier,
        Data,
        save_config_callback=None,
        auto_configure_optimizers=False,
        seed_everything_default=False,
    )


@pytest.mark.filterwarnings(DEPRECATED)
@pytest.mark.parametrize(
    "network",
    [
        ["--model.network=cifar_resnet8"],
        ["--model.network.class_path=tests.models.tiny.Smooth"],
        ['--model.network={"class_path": "tests.models.tiny.Smooth", "init_args": {"classes": 4}}'],
    ],
)
def test_the_command_line_leaves_the_network_to_the_keyed_construction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, network: list[str]
) -> None:
    cli = foreign_cli(monkeypatch, *network)
    assert cli.trainer.global_step == 2
    assert not isinstance(cli.model.network_spec, torch.nn.Module)
    cli.trainer.save_checkpoint(tmp_path / "end.ckpt")
    torch.load(tmp_path / "end.ckpt", weights_only=True)
    loaded = ImageClassifier.load_from_checkpoint(tmp_path / "end.ckpt")
    assert torch.equal(weights(loaded), weights(cli.model))


@pytest.mark.filterwarnings(DEPRECATED)
def test_the_command_line_gives_optimizer_factories(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cli = foreign_cli(
        monkeypatch,
        "--model.network=cifar_resnet8",
        "--model.optimizer=torch.optim.AdamW",
        "--model.optimizer.lr=0.01",
        "--model.lr_scheduler=torch.optim.lr_scheduler.ExponentialLR",
        "--model.lr_scheduler.gamma=0.5",
    )
    (group,) = cli.trainer.optimizers[0].param_groups
    assert isinstance(cli.trainer.optimizers[0], torch.optim.AdamW)
    assert group["lr"] == 0.01 * 0.5**2
    cli.trainer.save_checkpoint(tmp_path / "end.ckpt")
    ImageClassifier.load_from_checkpoint(tmp_path / "end.ckpt")


class Width(ImageClassifier):
    """A user's own student, with an argument that no checkpoint can hold."""

    def __init__(self, make: Any, learning_rate: float = 0.1) -> None:
        super().__init__(make(), CLASSES, learning_rate=learning_rate, seed=0)


def test_a_subclass_keeps_checkpoints_plain(tmp_path: Path) -> None:
    module = Width(Smooth)
    trainer = make_trainer(steps=1)
    trainer.fit(module, datamodule=Data())
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    stored = torch.load(tmp_path / "end.ckpt", weights_only=True)
    assert stored[CHECKPOINT_KEY]["class"] == "ImageClassifier"
    assert "make" not in stored["hyper_parameters"]
    loaded = Width.load_from_checkpoint(tmp_path / "end.ckpt", make=Smooth)
    assert torch.equal(weights(loaded), weights(module))


class UnequalShares(Data):
    """17 images for rank 0, 7 for rank 1."""

    def val_dataloader(self) -> DataLoader[Any]:
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        shares = [range(17), range(17, 24)] if ranks == 2 else [range(24)]
        return DataLoader(Subset(TensorDataset(*pixels(24)), shares[rank]), batch_size=5)


class Leave(Callback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
        torch.save(metrics, self.path / f"{trainer.world_size}-{trainer.global_rank}.pt")


@pytest.mark.ddp
def test_evaluation_is_exact_over_unequal_ranks(tmp_path: Path) -> None:
    for devices in ({}, {"devices": 2, "strategy": "ddp_fork", "use_distributed_sampler": False}):
        trainer = make_trainer(callbacks=[Leave(tmp_path)], limit_val_batches=1.0, **devices)
        trainer.validate(classifier(), datamodule=UnequalShares(), verbose=False)
    alone, *ranks = (torch.load(tmp_path / name) for name in ("1-0.pt", "2-0.pt", "2-1.pt"))
    assert set(alone) == {"val/loss", "val/accuracy"}
    for rank in ranks:
        assert rank == pytest.approx(alone, rel=1e-5)
