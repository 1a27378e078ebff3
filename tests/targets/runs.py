"""Short runs on the digits and on a small corpus, with live teachers or with their targets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from rrr_lightning.callbacks.distillation import DistillationCallback
from rrr_lightning.data.embedded import EmbeddedDigits
from rrr_lightning.distillation.losses import KLDivergence
from rrr_lightning.distillation.schedule import DistillationSchedule
from rrr_lightning.models.image_classifier import ImageClassifier
from rrr_lightning.targets.plan import Choice
from rrr_lightning.targets.write import write_targets
from tests.data.toy import make_trainer

STEPS = 6
KEYS = ("task_loss", "distillation_loss", "distillation_weight", "agreement", "teacher")


def digits(**settings: Any) -> EmbeddedDigits:
    return EmbeddedDigits(**{"global_batch_size": 12, "seed": 3, **settings})


def classifier(seed: int = 1, **settings: Any) -> ImageClassifier:
    return ImageClassifier(
        **{
            "network": "cifar_resnet8",
            "num_classes": 10,
            "initialization": "default",
            "learning_rate": 0.02,
            "seed": seed,
            **settings,
        }
    )


def sure(seed: int) -> ImageClassifier:
    """A teacher that prefers some classes clearly."""
    teacher = classifier(seed)
    head = [part for part in teacher.modules() if isinstance(part, nn.Linear)][-1]
    head.weight.data *= 10
    return teacher


def options(**settings: Any) -> dict[str, Any]:
    """Arguments of the callback: KL at T = 2, and a window of two thirds of the run."""
    schedule = {"weight": 0.8, "until": 2 / 3, **settings.pop("schedule", {})}
    return {"loss": KLDivergence(2.0), "schedule": DistillationSchedule(**schedule), **settings}


def write(
    folder: Path,
    teachers: list[Any],
    *,
    kind: Any = None,
    classes: int | None = None,
    steps: int = STEPS,
    module: LightningModule | None = None,
    data: Any = None,
    say: Any = None,
    **settings: Any,
) -> list[str]:
    """Writes targets; returns the lines that were said."""
    lines: list[str] = []
    write_targets(
        make_trainer(folder, steps, limit_val_batches=0),
        module or classifier(),
        data or digits(),
        DistillationCallback(teachers, **options(**settings)),
        Choice(folder, kind, classes),
        say or lines.append,
    )
    return lines


class Journal(Callback):
    """Notes what each step logged, nothing once distillation is over. Goes after its callback."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        is_over = "training_step" not in vars(pl_module)
        logged = {} if is_over else trainer.callback_metrics
        known = {key: logged.get(f"train/{key}") for key in KEYS}
        self.rows.append({key: float(value) for key, value in known.items() if value is not None})


def train(
    folder: Path,
    callback: DistillationCallback,
    *others: Callback,
    steps: int = STEPS,
    module: LightningModule | None = None,
    data: Any = None,
    **settings: Any,
) -> tuple[list[dict[str, float]], Tensor]:
    """Trains; returns what was logged at every step, and how far the weights have moved."""
    module, journal = module or classifier(), Journal()
    start = weights(module)
    given = {"log_every_n_steps": 1, "limit_val_batches": 0, **settings}
    checkpoint = given.pop("ckpt_path", None)
    trainer = make_trainer(folder, steps, callbacks=[callback, journal, *others], **given)
    trainer.fit(module, datamodule=data or digits(), ckpt_path=checkpoint)
    return journal.rows, weights(module) - start


def with_teachers(teachers: list[Any], **settings: Any) -> DistillationCallback:
    return DistillationCallback(teachers, **options(**settings))


def with_targets(folder: Path, **settings: Any) -> DistillationCallback:
    return DistillationCallback(targets=str(folder), **options(**settings))


def weights(module: nn.Module) -> Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def assert_like(found: Any, expected: Any, tolerance: float) -> None:
    """Holds logged rows, and weights, against those of another run.

    Args:
        found: What `train` returned.
        expected: The same of the other run.
        tolerance: By how much losses may differ; weights by ten times that of how far they moved.
    """
    assert [sorted(row) for row in found[0]] == [sorted(row) for row in expected[0]]
    for one, other in zip(found[0], expected[0], strict=True):
        for key, value in one.items():
            assert abs(value - other[key]) <= tolerance * (0.1 + abs(other[key])), (key, one, other)
    assert float((found[1] - expected[1]).norm() / expected[1].norm()) <= 10 * tolerance
